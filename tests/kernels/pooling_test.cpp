// SPDX-License-Identifier: Apache-2.0
#include "kernels/pooling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::expect_close;
using test::name_of;
using test::random_normal;
using test::rounded;
using test::test_devices;
using test::test_storages;

constexpr std::array kMeans{MeanOver::kPadded, MeanOver::kValid, MeanOver::kCls};
constexpr int64_t kPaddedLength = 300;

/// Sequence b has 1 + 37 b mod N real tokens; the last sequence is empty.
Array<uint8_t> lengths_mask(int64_t batch, int64_t tokens) {
  Array<uint8_t> mask({batch, tokens});
  for (int64_t b = 0; b + 1 < batch; ++b) {
    for (int64_t n = 0; n <= 37 * b % tokens; ++n) mask[b * tokens + n] = 1;
  }
  return mask;
}

std::vector<double> oracle(const std::vector<double>& x, const Array<uint8_t>& mask,
                           MeanOver mean_over, size_t channels) {
  const auto batch = static_cast<size_t>(mask.shape()[0]);
  const auto tokens = static_cast<size_t>(mask.shape()[1]);
  std::vector<double> y(batch * channels);
  for (size_t b = 0; b < batch; ++b) {
    const auto first = mask.values().begin() + static_cast<int64_t>(b * tokens);
    const auto valid = std::count(first, first + static_cast<int64_t>(tokens), uint8_t{1});
    for (size_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (size_t n = 0; n < tokens; ++n) {
        sum += mask.values()[b * tokens + n] * x[(b * tokens + n) * channels + c];
      }
      double& out = y[b * channels + c];
      if (mean_over == MeanOver::kPadded) out = sum / double{kPaddedLength};
      if (mean_over == MeanOver::kValid) out = valid == 0 ? 0.0 : sum / static_cast<double>(valid);
      if (mean_over == MeanOver::kCls) out = x[b * tokens * channels + c];
    }
  }
  return y;
}

TEST(Pooling, MatchesOracleForOddSizes) {
  for (MeanOver mean_over : kMeans) {
    for (const auto [batch, tokens, channels] :
         {std::array<int64_t, 3>{1, 1, 1}, {3, 131, 37}, {5, 64, 64}, {2, 300, 4}}) {
      const Array<float> x = random_normal({batch, tokens, channels}, 1);
      const Array<uint8_t> mask = lengths_mask(batch, tokens);
      Array<double> expected({batch, channels});
      expected.values() =
          oracle(test::to_double(x), mask, mean_over, static_cast<size_t>(channels));
      for (Device device : test_devices()) {
        SCOPED_TRACE(testing::Message()
                     << name_of(device) << ", " << static_cast<int>(mean_over) << ", " << tokens);
        DeviceMemory memory(device);
        const View<float> y = memory.fresh<float>({batch, channels});
        pooling(memory.stream(), {.y = y,
                                  .x = memory.put(x),
                                  .mask = memory.put(mask),
                                  .mean_over = mean_over,
                                  .padded_length = kPaddedLength});
        expect_close(memory.get(y), expected, 1e-6);
      }
    }
  }
}

Array<float> spread(Device device, const Array<float>& dy, const Array<uint8_t>& mask,
                    MeanOver mean_over) {
  DeviceMemory memory(device);
  const View<float> dx = memory.fresh<float>({mask.shape()[0], mask.shape()[1], dy.shape()[1]});
  pooling_backward(memory.stream(), {.dx = dx,
                                     .dy = memory.put(dy),
                                     .mask = memory.put(mask),
                                     .mean_over = mean_over,
                                     .padded_length = kPaddedLength});
  return memory.get(dx);
}

TEST(Pooling, BackwardIsTheDerivative) {
  for (MeanOver mean_over : kMeans) {
    const Array<float> x = random_normal({3, 11, 5}, 1), dy = random_normal({3, 5}, 2);
    const Array<uint8_t> mask = lengths_mask(3, 11);
    const Array<double> expected = test::central_differences(
        x, [&](const auto& at) { return test::dot(dy, oracle(at, mask, mean_over, 5)); });
    for (Device device : test_devices()) {
      expect_close(spread(device, dy, mask, mean_over), expected, 1e-6);
    }
  }
}

TEST(Pooling, BackwardOnEveryDeviceIsThatOfTheCpu) {
  for (MeanOver mean_over : kMeans) {
    for (int64_t channels : {8, 9}) {
      const Array<float> dy = random_normal({3, channels}, 2);
      const Array<uint8_t> mask = lengths_mask(3, 290);
      const Array<float> expected = spread(kCpuDevice, dy, mask, mean_over);
      for (Device device : test_devices()) {
        EXPECT_EQ(spread(device, dy, mask, mean_over).values(), expected.values());
      }
    }
  }
}

TEST(Pooling, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena&) {
    const Array<float> x = random_normal({5, 203, 70}, 1);
    const Array<uint8_t> mask = lengths_mask(5, 203);
    Array<float> y({5, 70}), dx(x.shape());
    pooling(stream, {.y = y, .x = x, .mask = mask, .mean_over = MeanOver::kValid});
    pooling_backward(stream, {.dx = dx, .dy = y, .mask = mask, .mean_over = MeanOver::kValid});
    std::vector<float> all = y.values();
    all.insert(all.end(), dx.values().begin(), dx.values().end());
    return all;
  });
}

TEST(Pooling, RefusesShapesThatDoNotFit) {
  Array<float> x({2, 3, 4}), y({2, 3});
  const Array<uint8_t> mask({2, 3});
  EXPECT_THROW(pooling(Stream(kMetaDevice), {.y = y, .x = x, .mask = mask, .padded_length = 3}),
               ShapeError);
  Array<float> right({2, 4});
  EXPECT_THROW(pooling(Stream(kCpuDevice), {.y = right, .x = x, .mask = mask, .padded_length = 2}),
               Error);
  EXPECT_THROW(
      pooling_backward(Stream(kCpuDevice), {.dx = x, .dy = y, .mask = mask, .padded_length = 3}),
      ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
