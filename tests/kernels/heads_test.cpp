// SPDX-License-Identifier: Apache-2.0
#include "kernels/heads.h"

#include <gtest/gtest.h>

#include <array>

#include "core/error.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::random_normal;
using test::rounded;
using test::test_devices;
using test::test_storages;

TEST(Heads, SplitMovesColumnsToHeadsAndMergeMovesThemBack) {
  for (const auto [batch, heads, tokens, width] :
       {std::array<int64_t, 4>{1, 1, 1, 1}, {2, 3, 131, 5}, {3, 2, 65, 32}, {2, 4, 9, 4}}) {
    for (Device device : test_devices()) {
      for (Precision storage : test_storages(device)) {
        const Array<float> x = rounded(random_normal({batch, tokens, heads * width}, 1), storage);
        DeviceMemory memory(device, {.threads = 2});
        const RealView on_device = memory.fresh({batch, heads, tokens, width}, storage);
        const RealView merged = memory.fresh(x.shape(), storage);
        split_heads(memory.stream(), {.y = on_device, .x = memory.put(x, storage)});
        const Array<float> split = memory.get(on_device);
        for (int64_t i = 0; i < split.numel(); ++i) {
          const int64_t d = i % width, n = i / width % tokens;
          const int64_t h = i / width / tokens % heads, b = i / width / tokens / heads;
          ASSERT_EQ(split[i], x[(b * tokens + n) * heads * width + h * width + d]);
        }
        merge_heads(memory.stream(), {.y = merged, .x = on_device});
        EXPECT_EQ(memory.get(merged).values(), x.values());
      }
    }
  }
}

TEST(Heads, RefuseShapesThatDoNotFit) {
  Array<float> joined({2, 5, 6}), split({2, 4, 5, 2});
  EXPECT_THROW(split_heads(Stream(kCpuDevice), {.y = split, .x = joined}), ShapeError);
  EXPECT_THROW(merge_heads(Stream(kMetaDevice), {.y = joined, .x = split}), ShapeError);
  Array<float> fp32({2, 5, 6});
  Array<bf16> half({2, 3, 5, 2});
  EXPECT_THROW(split_heads(Stream(kMetaDevice), {.y = half, .x = fp32}), Error);
}

}  // namespace
}  // namespace stipple::kernels
