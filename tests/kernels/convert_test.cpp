// SPDX-License-Identifier: Apache-2.0
#include "kernels/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::name_of;
using test::random_normal;
using test::rounded;
using test::test_devices;

constexpr Precision kStorages[] = {Precision::kFp32, Precision::kBf16};

float float_of(uint32_t bits) { return std::bit_cast<float>(bits); }

Array<float> converted(Device device, const Array<float>& x, Precision from, Precision to) {
  DeviceMemory memory(device);
  const RealView y = memory.fresh(x.shape(), to);
  convert(memory.stream(), {.y = y, .x = memory.put(x, from)});
  return memory.get(y);
}

TEST(Convert, RoundsOrCopiesOddSizesOnEveryDevice) {
  for (int64_t n : {1, 7, 8, 2051}) {
    const Array<float> x = random_normal({n}, 1);
    for (Device device : test_devices()) {
      for (Precision from : kStorages) {
        for (Precision to : kStorages) {
          SCOPED_TRACE(testing::Message() << name_of(device) << ", " << n << " of " << name_of(from)
                                          << " to " << name_of(to));
          EXPECT_EQ(converted(device, x, from, to).values(),
                    rounded(rounded(x, from), to).values());
        }
      }
    }
  }
}

TEST(Convert, RoundsToNearestAndTiesToEven) {
  // Ties below and above an even last place, their neighbours, and what overflows.
  const Array<float> x({8}, {float_of(0x3F808000), float_of(0x3F818000), float_of(0x3F808001),
                             float_of(0x3F807FFF), float_of(0xBF818000), float_of(0x7F7FFFFF),
                             -std::numeric_limits<float>::infinity(), -0.0f});
  const Array<float> expected(
      {8}, {float_of(0x3F800000), float_of(0x3F820000), float_of(0x3F810000), float_of(0x3F800000),
            float_of(0xBF820000), std::numeric_limits<float>::infinity(),
            -std::numeric_limits<float>::infinity(), -0.0f});
  for (Device device : test_devices()) {
    const Array<float> y = converted(device, x, Precision::kFp32, Precision::kBf16);
    for (int64_t i = 0; i < 8; ++i) {
      EXPECT_EQ(std::bit_cast<uint32_t>(y[i]), std::bit_cast<uint32_t>(expected[i]))
          << name_of(device) << " " << i;
    }
  }
}

TEST(Convert, KeepsNan) {
  Array<float> x({9});
  x.fill(std::numeric_limits<float>::quiet_NaN());
  x[8] = float_of(0x7F800001);  // all that tells it from infinity is cut off
  for (Device device : test_devices()) {
    const Array<float> y = converted(device, x, Precision::kFp32, Precision::kBf16);
    for (float value : y.values()) EXPECT_TRUE(std::isnan(value)) << name_of(device);
  }
}

TEST(Convert, MayStartAtAnyAddress) {
  const Array<float> x = random_normal({301}, 1);
  for (Device device : test_devices()) {
    for (int64_t first : {1, 2, 3}) {
      DeviceMemory memory(device);
      const View<float> from = memory.put(x);
      const View<bf16> to = memory.fresh<bf16>({301});
      const Shape shape{301 - first};
      convert(memory.stream(), {.y = View<bf16>{to.data + first, shape},
                                .x = View<float>{from.data + first, shape}});
      const Array<bf16> y = memory.get(to);
      for (int64_t i = first; i < 301; ++i) EXPECT_EQ(y[i].bits, to_bf16(x[i]).bits);
    }
  }
}

TEST(Convert, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena&) {
    const Array<float> x = random_normal({50021}, 1);
    Array<bf16> half({50021});
    Array<float> y({50021});
    convert(stream, {.y = half, .x = x});
    convert(stream, {.y = y, .x = half});
    return y.values();
  });
}

TEST(Convert, RefusesArraysOfDifferentSizes) {
  Array<float> x({4});
  Array<bf16> y({5});
  EXPECT_THROW(convert(Stream(kMetaDevice), {.y = y, .x = x}), ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
