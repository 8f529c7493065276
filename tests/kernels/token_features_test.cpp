// SPDX-License-Identifier: Apache-2.0
#include "kernels/token_features.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::random_normal;
using test::test_devices;

constexpr int64_t kFeatureBatch = 2, kFeatureHeads = 3, kFeatureTokens = 71, kFeatureChannels = 5,
                  kFeatureHidden = 7;

Array<float> hide(DeviceMemory& memory, const Array<float>& x, const Array<float>& weight,
                  const Array<float>& bias, Precision storage) {
  const View<float> y =
      memory.fresh<float>({kFeatureBatch, kFeatureHeads, kFeatureTokens, kFeatureHidden});
  hidden_tokens(memory.stream(), {.y = y,
                                  .x = memory.put(x, storage),
                                  .weight = memory.put(weight),
                                  .bias = memory.put(bias)});
  return memory.get(y);
}

TEST(HiddenTokens, AreTheTangentOfTheProjectionAndItsBiasOfTheirHead) {
  const Array<float> weight = random_normal({kFeatureHeads, kFeatureChannels, kFeatureHidden}, 2);
  const Array<float> bias = random_normal({kFeatureHeads, kFeatureHidden}, 3);
  for (const Device device : test_devices()) {
    for (const Precision storage : test::test_storages(device)) {
      DeviceMemory memory(device, {.threads = 2});
      const Array<float> x = test::rounded(
          random_normal({kFeatureBatch, kFeatureHeads, kFeatureTokens, kFeatureChannels}, 1),
          storage);
      const Array<float> y = hide(memory, x, weight, bias, storage);
      for (int64_t row = 0; row < kFeatureBatch * kFeatureHeads * kFeatureTokens; ++row) {
        const int64_t h = row / kFeatureTokens % kFeatureHeads;
        for (int64_t e = 0; e < kFeatureHidden; ++e) {
          double sum = bias[h * kFeatureHidden + e];
          for (int64_t c = 0; c < kFeatureChannels; ++c)
            sum += double{x[row * kFeatureChannels + c]} *
                   weight[(h * kFeatureChannels + c) * kFeatureHidden + e];
          ASSERT_NEAR(y[row * kFeatureHidden + e], std::tanh(sum), 2e-6);
        }
      }
    }
  }
}

TEST(HiddenTokens, HaveTheSameBitsOnEveryDevice) {
  const Array<float> x =
      random_normal({kFeatureBatch, kFeatureHeads, kFeatureTokens, kFeatureChannels}, 1);
  const Array<float> weight = random_normal({kFeatureHeads, kFeatureChannels, kFeatureHidden}, 2);
  const Array<float> bias = random_normal({kFeatureHeads, kFeatureHidden}, 3);
  DeviceMemory host(kCpuDevice);
  const auto expected = hide(host, x, weight, bias, Precision::kFp32).values();
  for (const Device device : test_devices()) {
    DeviceMemory memory(device, {.threads = 3});
    EXPECT_TRUE(hide(memory, x, weight, bias, Precision::kFp32).values() == expected)
        << test::name_of(device);
  }
}

TEST(HiddenTokens, RefuseWhatDoesNotFit) {
  const Stream meta(kMetaDevice);
  const View<float> x{nullptr, {2, 3, 5, 4}}, y{nullptr, {2, 3, 5, 6}}, weight{nullptr, {3, 4, 6}};
  hidden_tokens(meta, {.y = y, .x = x, .weight = weight, .bias = View<float>{nullptr, {3, 6}}});
  EXPECT_THROW(
      hidden_tokens(meta, {.y = y, .x = x, .weight = weight, .bias = View<float>{nullptr, {6}}}),
      ShapeError);
  EXPECT_THROW(hidden_tokens(meta, {.y = y,
                                    .x = x,
                                    .weight = View<float>{nullptr, {3, 6, 4}},
                                    .bias = View<float>{nullptr, {3, 6}}}),
               ShapeError);
}

TEST(JoinTokens, PutsTheChannelsOfOneBehindThoseOfTheOther) {
  for (const Device device : test_devices()) {
    for (const Precision storage : test::test_storages(device)) {
      DeviceMemory memory(device, {.threads = 2});
      const Array<float> first = test::rounded(
          random_normal({kFeatureBatch, kFeatureHeads, kFeatureTokens, kFeatureChannels}, 1),
          storage);
      const Array<float> second = test::rounded(
          random_normal({kFeatureBatch, kFeatureHeads, kFeatureTokens, 3}, 2), storage);
      const View<float> y =
          memory.fresh<float>({kFeatureBatch, kFeatureHeads, kFeatureTokens, kFeatureChannels + 3});
      join_tokens(
          memory.stream(),
          {.y = y, .first = memory.put(first, storage), .second = memory.put(second, storage)});
      const Array<float> joined = memory.get(y);
      for (int64_t row = 0; row < kFeatureBatch * kFeatureHeads * kFeatureTokens; ++row) {
        for (int64_t c = 0; c < kFeatureChannels; ++c)
          ASSERT_EQ(joined[row * (kFeatureChannels + 3) + c], first[row * kFeatureChannels + c]);
        for (int64_t c = 0; c < 3; ++c)
          ASSERT_EQ(joined[row * (kFeatureChannels + 3) + kFeatureChannels + c],
                    second[row * 3 + c]);
      }
    }
  }
}

TEST(JoinTokens, RefusesWhatDoesNotFit) {
  const Stream meta(kMetaDevice);
  const View<float> first{nullptr, {2, 3, 5, 4}}, y{nullptr, {2, 3, 5, 6}};
  EXPECT_THROW(join_tokens(meta, {.y = y, .first = first, .second = first}), ShapeError);
  EXPECT_THROW(
      join_tokens(meta, {.y = y, .first = first, .second = View<float>{nullptr, {2, 3, 4, 2}}}),
      ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
