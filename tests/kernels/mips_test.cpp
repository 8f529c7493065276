// SPDX-License-Identifier: Apache-2.0
#include "kernels/mips.h"

#include <gtest/gtest.h>

#include <algorithm>
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

constexpr int64_t kMipsBatch = 2, kMipsHeads = 2, kMipsTokens = 150, kMipsChannels = 5;

Array<uint8_t> padded() {
  Array<uint8_t> mask({kMipsBatch, kMipsTokens});
  mask.fill(1);
  for (int64_t i = 100; i < kMipsTokens; ++i) mask[kMipsTokens + i] = 0;
  return mask;
}

Array<float> run(DeviceMemory& memory, const Array<float>& x, Precision storage, bool are_keys) {
  const View<float> y =
      memory.fresh<float>({kMipsBatch, kMipsHeads, kMipsTokens, kMipsChannels + 1});
  mips_tokens(
      memory.stream(),
      {.y = y, .x = memory.put(x, storage), .mask = memory.put(padded()), .are_keys = are_keys});
  return memory.get(y);
}

TEST(MipsTokens, DistancesFollowProductsAndAllRealKeysHaveOneLength) {
  const Shape shape = {kMipsBatch, kMipsHeads, kMipsTokens, kMipsChannels};
  for (const Device device : test_devices()) {
    for (const Precision storage : test::test_storages(device)) {
      DeviceMemory memory(device, {.threads = 2});
      Array<float> keys = test::rounded(random_normal(shape, 1), storage);
      // Of padding, which is longer than any real key.
      for (int64_t e = 0; e < kMipsChannels; ++e)
        keys[((kMipsHeads * kMipsTokens) + kMipsTokens - 1) * kMipsChannels + e] = 100.0f;
      const Array<float> queries = test::rounded(random_normal(shape, 2), storage);
      const Array<float> q = run(memory, queries, storage, false);
      const Array<float> k = run(memory, keys, storage, true);
      const auto at = [](const Array<float>& x, int64_t row, int64_t c) {
        return static_cast<double>(x[row * (kMipsChannels + 1) + c]);
      };
      for (int64_t p = 0; p < kMipsBatch * kMipsHeads; ++p) {
        const int64_t real = p < kMipsHeads ? kMipsTokens : 100;
        double largest = 0;
        for (int64_t j = 0; j < real; ++j) {
          double squares = 0;
          for (int64_t c = 0; c < kMipsChannels; ++c)
            squares += at(k, p * kMipsTokens + j, c) * at(k, p * kMipsTokens + j, c);
          largest = std::max(largest, squares);
        }
        for (int64_t j = 0; j < real; ++j) {
          const int64_t i = (7 * j + 3) % real;
          double product = 0, distance = 0, length = 0, of_query = 0;
          for (int64_t c = 0; c <= kMipsChannels; ++c) {
            const double a = at(q, p * kMipsTokens + i, c), b = at(k, p * kMipsTokens + j, c);
            product += a * b;
            distance += (a - b) * (a - b);
            length += b * b;
            of_query += a * a;
          }
          ASSERT_NEAR(length, largest, 1e-5 * largest);
          ASSERT_NEAR(distance, of_query + largest - 2 * product, 1e-5 * largest);
          ASSERT_EQ(at(q, p * kMipsTokens + i, kMipsChannels), 0.0);
          for (int64_t c = 0; c < kMipsChannels; ++c)
            ASSERT_EQ(k[(p * kMipsTokens + j) * (kMipsChannels + 1) + c],
                      keys[(p * kMipsTokens + j) * kMipsChannels + c]);
        }
      }
      // Nothing is longer than the longest real key as far as the coordinate goes.
      EXPECT_EQ(at(k, kMipsHeads * kMipsTokens + kMipsTokens - 1, kMipsChannels), 0.0);
    }
  }
}

TEST(MipsTokens, HasTheSameBitsOnEveryDevice) {
  const Array<float> x = random_normal({kMipsBatch, kMipsHeads, kMipsTokens, kMipsChannels}, 3);
  DeviceMemory host(kCpuDevice);
  const auto expected = run(host, x, Precision::kFp32, true).values();
  for (const Device device : test_devices()) {
    DeviceMemory memory(device, {.threads = 3});
    EXPECT_TRUE(run(memory, x, Precision::kFp32, true).values() == expected)
        << test::name_of(device);
  }
}

TEST(MipsTokens, RefusesWhatDoesNotFit) {
  const Stream meta(kMetaDevice);
  const View<float> x{nullptr, {2, 3, 5, 4}};
  EXPECT_THROW(mips_tokens(meta, {.y = View<float>{nullptr, {2, 3, 5, 4}}, .x = x}), ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
