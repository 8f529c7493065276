// SPDX-License-Identifier: Apache-2.0
#include "kernels/group_occupancy.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "kernels/predict.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::test_devices;

TEST(GroupOccupancy, IsTheMeanEntropyOfSequencesThatHaveTokens) {
  // Two heads of three sequences; the third is padding.
  constexpr int32_t kNo = kNoGroup;
  const Array<int32_t> queries({3, 2, 2, 1}, {0, 1, 2, 2, 3, 3, 0, kNo, kNo, kNo, kNo, kNo});
  const Array<int32_t> keys({3, 2, 3, 1},
                            {2, 3, kNo, 2, 2, 2, 3, 3, 3, 1, 1, kNo, kNo, kNo, kNo, kNo, kNo, kNo});
  // Head 0: sizes 1 1 1 1, then 5 of one group. Head 1: 5 of one, then 1 and 2 of three.
  const double uneven = -(std::log(1.0 / 3) / 3 + 2 * std::log(2.0 / 3) / 3) / std::log(4.0);
  for (const Device device : test_devices()) {
    DeviceMemory memory(device, {.threads = 2});
    const View<double> entropy = memory.fresh<double>({2});
    const View<int64_t> sequences = memory.fresh<int64_t>({2});
    group_occupancy(memory.stream(), {.entropy = entropy,
                                      .sequences = sequences,
                                      .query_groups = memory.put(queries),
                                      .key_groups = memory.put(keys),
                                      .num_groups = 4,
                                      .scratch = &memory.scratch()});
    EXPECT_EQ(memory.get(sequences).values(), (std::vector<int64_t>{2, 2}));
    EXPECT_NEAR(memory.get(entropy)[0], 1.0, 1e-12);
    EXPECT_NEAR(memory.get(entropy)[1], uneven, 1e-12);
  }
}

TEST(GroupOccupancy, OneGroupIsFullAndSlotsCountEach) {
  const Array<int32_t> groups({1, 1, 2, 2}, {0, 1, 0, kNoGroup});
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    const auto entropy_of = [&](const Array<int32_t>& of_tokens, int64_t count) {
      const View<double> entropy = memory.fresh<double>({1});
      group_occupancy(memory.stream(), {.entropy = entropy,
                                        .sequences = memory.fresh<int64_t>({1}),
                                        .query_groups = memory.put(of_tokens),
                                        .key_groups = memory.put(of_tokens),
                                        .num_groups = count,
                                        .scratch = &memory.scratch()});
      return memory.get(entropy)[0];
    };
    EXPECT_EQ(entropy_of(Array<int32_t>({1, 1, 2, 1}, {0, 0}), 1), 1.0);
    EXPECT_NEAR(entropy_of(groups, 2),
                -(2 * std::log(2.0 / 3) / 3 + std::log(1.0 / 3) / 3) / std::log(2.0), 1e-12);
  }
}

TEST(GroupOccupancy, PlansItsScratchAndRefusesWhatDoesNotFit) {
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    const View<int32_t> groups = memory.zeros<int32_t>({1, 2, 5, 2});
    const View<double> entropy = memory.zeros<double>({2});
    const View<int64_t> sequences = memory.zeros<int64_t>({2});
    test::expect_meta_counts_scratch(device, [&](const Stream& stream, Arena& scratch) {
      group_occupancy(stream, {.entropy = entropy,
                               .sequences = sequences,
                               .query_groups = groups,
                               .key_groups = groups,
                               .num_groups = 3,
                               .scratch = &scratch});
    });
    Arena scratch("scratch");
    EXPECT_THROW(group_occupancy(Stream(kMetaDevice), {.entropy = entropy,
                                                       .sequences = View<int64_t>{nullptr, {3}},
                                                       .query_groups = groups,
                                                       .key_groups = groups,
                                                       .scratch = &scratch}),
                 ShapeError);
  }
}

}  // namespace
}  // namespace stipple::kernels
