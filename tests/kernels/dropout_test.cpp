// SPDX-License-Identifier: Apache-2.0
#include "kernels/dropout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/cpu/isa.h"
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
using test::test_storage_pairs;
using test::test_storages;

constexpr RngKey kKey{.seed = 11, .step = 5};

/// Element by element, straight from the contract.
Array<float> oracle(const Array<float>& x, const Array<uint32_t>& samples, float rate, int layer,
                    int site) {
  Array<float> y(x.shape());
  const int64_t tokens = x.shape()[1], channels = x.shape()[2];
  for (int64_t i = 0; i < x.numel(); ++i) {
    const auto c = static_cast<uint32_t>(i % channels);
    const auto n = static_cast<uint32_t>(i / channels % tokens);
    const PhiloxCounter bits = philox4x32(
        {c / 4, n, samples[i / channels / tokens], stream_word(layer, site, Purpose::kDropout)},
        kKey.philox());
    y[i] = to_unit_float(bits[c % 4]) >= rate ? x[i] * (1.0f / (1.0f - rate)) : 0.0f;
  }
  return y;
}

Dropout arguments(Array<float>& y, const Array<float>& x, const Array<uint32_t>& samples,
                  float rate) {
  return {.y = y, .x = x, .samples = samples, .rate = rate, .rng = kKey, .layer = 3, .site = 2};
}

TEST(Dropout, FollowsItsContractForOddSizesOnEveryInstructionSet) {
  const stipple::cpu::Isa before = stipple::cpu::isa();
  const Array<uint32_t> samples({3}, {70, 5, 4000000000u});
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    for (const auto [tokens, channels] :
         {std::array<int64_t, 2>{1, 1}, {7, 5}, {131, 4}, {50, 64}, {9, 100}, {3, 67}}) {
      for (float rate : {0.1f, 0.5f, 0.9f}) {
        SCOPED_TRACE(testing::Message() << stipple::cpu::isa_name(isa) << ", " << tokens << " x "
                                        << channels << ", rate " << rate);
        const Array<float> x = random_normal({3, tokens, channels}, 1);
        Array<float> y(x.shape());
        dropout(Stream(kCpuDevice), arguments(y, x, samples, rate));
        EXPECT_EQ(y.values(), oracle(x, samples, rate, 3, 2).values());
      }
    }
  }
  stipple::cpu::set_isa(before);
}

struct Site {
  int layer = 3;
  int site = 2;
};

/// storages: of y, of x.
Array<float> drop(Device device, const Array<float>& x, const Array<uint32_t>& samples, float rate,
                  Site site = {}, const std::array<Precision, 2>& storages = {}) {
  DeviceMemory memory(device);
  const RealView y = memory.fresh(x.shape(), storages[0]);
  dropout(memory.stream(), {.y = y,
                            .x = memory.put(x, storages[1]),
                            .samples = memory.put(samples),
                            .rate = rate,
                            .rng = kKey,
                            .layer = site.layer,
                            .site = site.site});
  return memory.get(y);
}

TEST(Dropout, FollowsItsContractForOddSizesOnEveryDevice) {
  const Array<uint32_t> samples({3}, {70, 5, 4000000000u});
  for (Device device : test_devices()) {
    for (const auto [tokens, channels] :
         {std::array<int64_t, 2>{1, 1}, {7, 5}, {131, 4}, {9, 100}, {3, 67}, {2, 1100}}) {
      SCOPED_TRACE(testing::Message() << name_of(device) << ", " << tokens << " x " << channels);
      const Array<float> x = random_normal({3, tokens, channels}, 1);
      EXPECT_EQ(drop(device, x, samples, 0.3f).values(), oracle(x, samples, 0.3f, 3, 2).values());
    }
  }
}

TEST(Dropout, TakesAndGivesEitherStorage) {
  const Array<uint32_t> samples({3}, {70, 5, 4000000000u});
  for (Device device : test_devices()) {
    for (const auto& storages : test_storage_pairs(device)) {
      for (const auto [tokens, channels] : {std::array<int64_t, 2>{7, 5}, {31, 4}, {9, 100}}) {
        for (float rate : {0.0f, 0.3f}) {
          SCOPED_TRACE(testing::Message()
                       << name_of(device) << ", " << tokens << " x " << channels << ", "
                       << name_of(storages[1]) << " to " << name_of(storages[0]));
          const Array<float> x = rounded(random_normal({3, tokens, channels}, 1), storages[1]);
          EXPECT_EQ(drop(device, x, samples, rate, {}, storages).values(),
                    rounded(oracle(x, samples, rate, 3, 2), storages[0]).values());
        }
      }
    }
  }
}

TEST(Dropout, ReadsItsStepFromTheDevice) {
  const Array<float> x = random_normal({1, 7, 24}, 1);
  const Array<uint32_t> samples({1}, {8});
  for (Device device : test_devices()) {
    DeviceMemory memory(device);
    const View<float> y = memory.fresh<float>(x.shape());
    const View<uint64_t> step = memory.put(Array<uint64_t>({1}, {kKey.step}));
    dropout(memory.stream(), {.y = y,
                              .x = memory.put(x),
                              .samples = memory.put(samples),
                              .rate = 0.5f,
                              .rng = {.seed = kKey.seed, .step = 99, .device_step = step.data},
                              .layer = 3,
                              .site = 2});
    EXPECT_EQ(memory.get(y).values(), oracle(x, samples, 0.5f, 3, 2).values()) << name_of(device);
  }
}

TEST(Dropout, DropsTheAskedShareAndKeepsTheMean) {
  Array<float> x({4, 500, 64}), y(x.shape());
  x.fill(1.0f);
  const Array<uint32_t> samples({4}, {1, 2, 3, 4});
  dropout(Stream(kCpuDevice), arguments(y, x, samples, 0.3f));
  double sum = 0, dropped = 0;
  for (float value : y.values()) sum += value, dropped += value == 0.0f ? 1 : 0;
  const double n = static_cast<double>(y.numel());
  const double deviation = std::sqrt(0.3 * 0.7 / n);
  EXPECT_NEAR(dropped / n, 0.3, 5 * deviation);
  EXPECT_NEAR(sum / n, 1.0, 5 * deviation / 0.7);
}

TEST(Dropout, DoesNotDependOnHowTheBatchWasCut) {
  const Array<float> x = random_normal({2, 10, 24}, 1);
  Array<float> second({1, 10, 24});
  std::copy_n(x.values().begin() + 240, 240, second.values().begin());
  for (Device device : test_devices()) {
    const Array<float> whole = drop(device, x, Array<uint32_t>({2}, {8, 9}), 0.5f);
    const Array<float> part = drop(device, second, Array<uint32_t>({1}, {9}), 0.5f);
    EXPECT_TRUE(
        std::equal(part.values().begin(), part.values().end(), whole.values().begin() + 240));
  }
}

TEST(Dropout, LayersAndSitesDropDifferentElements) {
  Array<float> x({1, 10, 24});
  x.fill(1.0f);
  const Array<uint32_t> samples({1}, {8});
  for (Device device : test_devices()) {
    const Array<float> here = drop(device, x, samples, 0.5f);
    EXPECT_NE(here.values(), drop(device, x, samples, 0.5f, {.layer = 4, .site = 2}).values());
    EXPECT_NE(here.values(), drop(device, x, samples, 0.5f, {.layer = 3, .site = 1}).values());
  }
}

TEST(Dropout, KeepsAnElementWhoseDrawEqualsTheRate) {
  const Array<uint32_t> samples({1}, {8});
  Array<float> x({1, 1, 4});
  x.fill(1.0f);
  const PhiloxCounter bits =
      philox4x32({0, 0, 8, stream_word(3, 2, Purpose::kDropout)}, kKey.philox());
  for (Device device : test_devices()) {
    for (int64_t c = 0; c < 4; ++c) {
      const float draw = to_unit_float(bits[static_cast<size_t>(c)]);
      EXPECT_GT(drop(device, x, samples, draw)[c], 0.0f);
      EXPECT_EQ(drop(device, x, samples, std::nextafter(draw, 1.0f))[c], 0.0f);
    }
  }
}

TEST(Dropout, IsItsOwnDerivative) {
  const Array<float> x = random_normal({1, 5, 7}, 1), dy = random_normal({1, 5, 7}, 2);
  const Array<uint32_t> samples({1}, {8});
  for (Device device : test_devices()) {
    const Array<float> dx = drop(device, dy, samples, 0.4f);
    // Linear in x, so any step is exact: the derivative in x[i] is what dropout makes of the i-th
    // unit vector.
    for (int64_t i = 0; i < x.numel(); ++i) {
      Array<float> unit(x.shape());
      unit[i] = 1.0f;
      EXPECT_FLOAT_EQ(dx[i], drop(device, unit, samples, 0.4f)[i] * dy[i]);
    }
  }
}

TEST(Dropout, RateZeroCopies) {
  const Array<float> x = random_normal({2, 3, 5}, 1);
  const Array<uint32_t> samples({2}, {1, 2});
  for (Device device : test_devices()) {
    EXPECT_EQ(drop(device, x, samples, 0.0f).values(), x.values());
    DeviceMemory memory(device);
    const View<float> y = memory.put(x);
    dropout(memory.stream(), {.y = y, .x = y, .samples = memory.put(samples), .rng = kKey});
    EXPECT_EQ(memory.get(y).values(), x.values());
  }
}

TEST(Dropout, MayOverwriteItsInput) {
  const Array<uint32_t> samples({2}, {1, 2});
  for (int64_t channels : {5, 8}) {
    for (Device device : test_devices()) {
      for (Precision storage : test_storages(device)) {
        const Array<float> x = rounded(random_normal({2, 30, channels}, 1), storage);
        DeviceMemory memory(device);
        const RealView y = memory.put(x, storage);
        dropout(memory.stream(), {.y = y,
                                  .x = y,
                                  .samples = memory.put(samples),
                                  .rate = 0.5f,
                                  .rng = kKey,
                                  .layer = 3,
                                  .site = 2});
        EXPECT_EQ(memory.get(y).values(),
                  rounded(oracle(x, samples, 0.5f, 3, 2), storage).values());
      }
    }
  }
}

TEST(Dropout, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena&) {
    const Array<float> x = random_normal({3, 301, 32}, 1);
    const Array<uint32_t> samples({3}, {1, 2, 3});
    Array<float> y(x.shape());
    dropout(stream, arguments(y, x, samples, 0.5f));
    return y.values();
  });
}

TEST(Dropout, RefusesWrongShapesAndRates) {
  Array<float> x({2, 3, 5}), wrong({2, 5, 3});
  const Array<uint32_t> samples({2}), three({3});
  EXPECT_THROW(dropout(Stream(kCpuDevice), arguments(wrong, x, samples, 0.5f)), ShapeError);
  EXPECT_THROW(dropout(Stream(kCpuDevice), arguments(x, x, three, 0.5f)), ShapeError);
  EXPECT_THROW(dropout(Stream(kMetaDevice), arguments(x, x, samples, 1.0f)), Error);
}

}  // namespace
}  // namespace stipple::kernels
