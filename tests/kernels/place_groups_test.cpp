// SPDX-License-Identifier: Apache-2.0
#include "kernels/place_groups.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>

#include "core/error.h"
#include "kernels/group_edges.h"
#include "kernels/predict.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/graphs.h"

namespace stipple::kernels {
namespace {

using math::PlaceRule;
using math::PlaceRuleKind;
using test::Array;
using test::DeviceMemory;
using test::get_graph;
using test::graph_defect;
using test::HostGraph;
using test::put_empty_graph;
using test::test_devices;

/// Two samples of n places, the second with padding at its end, with two heads.
struct Places {
  int64_t n;
  Array<uint8_t> mask;
  Array<float> draws{{2}, {0.25f, -0.75f}};

  explicit Places(int64_t tokens) : n(tokens), mask({2, tokens}) {
    mask.fill(1);
    for (int64_t i = real(1); i < n; ++i) mask[n + i] = 0;
  }
  int64_t real(int64_t sample) const { return sample == 0 ? n : n - n / 3; }
};

HostGraph graph_of(DeviceMemory& memory, const Places& places, const PlaceRule& rule) {
  const int64_t slots = groups_of_place(rule);
  const View<int32_t> queries = memory.fresh<int32_t>({2, 2, places.n, slots});
  const View<int32_t> keys = memory.fresh<int32_t>({2, 2, places.n, slots});
  const View<uint8_t> mask = memory.put(places.mask);
  place_groups(memory.stream(), {.query_groups = queries,
                                 .key_groups = keys,
                                 .draws = memory.put(places.draws),
                                 .mask = mask,
                                 .rule = rule});
  const EdgeSet edges = put_empty_graph(memory, 4, places.n, places.n, {.tile_density = 2.0});
  write_group_edges(memory.stream(), {.edges = edges,
                                      .query_groups = queries,
                                      .key_groups = keys,
                                      .num_groups = num_place_groups(rule, places.n),
                                      .is_causal = rule.is_causal,
                                      .query_mask = mask,
                                      .key_mask = mask,
                                      .scratch = &memory.scratch()});
  return get_graph(memory, edges);
}

/// Calls check(sample, row of the dense graph, query) for each real query.
void for_each_row(const HostGraph& graph, const Places& places,
                  const std::function<void(int64_t, const uint8_t*, int64_t)>& check) {
  ASSERT_EQ(graph_defect(graph.edges()), "");
  for (int64_t p = 0; p < 4; ++p) {
    const Array<uint8_t> dense = graph.dense(p);
    for (int64_t i = 0; i < places.real(p / 2); ++i) check(p / 2, &dense[i * places.n], i);
  }
}

TEST(PlaceGroups, RandomBlocksAreSoManyDifferentWholeBlocksOfEachQuery) {
  for (const int64_t size : {1, 3}) {
    for (const bool is_causal : {false, true}) {
      const Places places(40);
      const PlaceRule rule{
          .kind = PlaceRuleKind::kRandomBlocks, .size = size, .count = 3, .is_causal = is_causal};
      for (const Device device : test_devices()) {
        DeviceMemory memory(device, {.threads = 2});
        std::set<std::vector<int64_t>> choices;
        for_each_row(graph_of(memory, places, rule), places,
                     [&](int64_t sample, const uint8_t* row, int64_t i) {
                       const int64_t end = is_causal ? i + 1 : places.real(sample);
                       const int64_t among = PlaceRule::blocks(end, size);
                       std::vector<int64_t> chosen;
                       for (int64_t block = 0; block < among; ++block) {
                         const int64_t last = std::min((block + 1) * size, end);
                         for (int64_t j = block * size; j < last; ++j)
                           ASSERT_EQ(row[j], row[block * size]) << "a part of a block";
                         if (row[block * size] != 0) chosen.push_back(block);
                       }
                       ASSERT_EQ(static_cast<int64_t>(chosen.size()), std::min<int64_t>(3, among));
                       choices.insert(chosen);
                     });
        EXPECT_GT(choices.size(), 30u) << "rows choose alike";
      }
    }
  }
}

TEST(PlaceGroups, RandomBlocksAreUniform) {
  const int64_t n = 600;
  const Places places(n);
  const PlaceRule rule{.kind = PlaceRuleKind::kRandomBlocks, .size = 60, .count = 2};
  DeviceMemory memory(kCpuDevice);
  std::vector<int64_t> times(10);
  for_each_row(graph_of(memory, places, rule), places,
               [&](int64_t sample, const uint8_t* row, int64_t) {
                 if (sample != 0) return;
                 for (int64_t block = 0; block < 10; ++block)
                   times[static_cast<size_t>(block)] += row[block * 60];
               });
  // Of 1200 rows each takes 2 of 10: 240 times, with a standard deviation of 14.
  for (const int64_t count : times) EXPECT_NEAR(static_cast<double>(count), 240, 70);
}

TEST(PlaceGroups, RandomTokensSeeAllAndAreSeenByAll) {
  for (const bool is_causal : {false, true}) {
    const Places places(30);
    const PlaceRule rule{.kind = PlaceRuleKind::kRandomTokens,
                         .count = 4,
                         .longest = places.n,
                         .is_causal = is_causal};
    for (const Device device : test_devices()) {
      DeviceMemory memory(device, {.threads = 2});
      const HostGraph graph = graph_of(memory, places, rule);
      ASSERT_EQ(graph_defect(graph.edges()), "");
      std::set<std::vector<int64_t>> choices;
      for (int64_t p = 0; p < 4; ++p) {
        const int64_t real = places.real(p / 2);
        const Array<uint8_t> dense = graph.dense(p);
        const auto sees = [&](int64_t i, int64_t j) { return dense[i * places.n + j] != 0; };
        // The last query is seen by itself alone unless it is chosen, and sees who is.
        std::vector<int64_t> chosen;
        for (int64_t j = 0; j < real; ++j)
          if (sees(j, j)) chosen.push_back(j);
        // Where causal, of a shorter sequence some may lie behind its end.
        if (!is_causal || real == places.n) {
          EXPECT_EQ(chosen.size(), 4u);
        }
        choices.insert(chosen);
        const auto is_chosen = [&](int64_t j) { return std::ranges::count(chosen, j) != 0; };
        for (int64_t i = 0; i < real; ++i)
          for (int64_t j = 0; j < real; ++j)
            ASSERT_EQ(sees(i, j), (is_chosen(i) || is_chosen(j)) && (!is_causal || j <= i));
      }
      EXPECT_GT(choices.size(), 1u) << "heads choose alike";
    }
  }
}

TEST(PlaceGroups, ACausalGraphDoesNotDependOnWhatComesLater) {
  const Places longer(40);
  Places cut(40);
  for (int64_t i = 20; i < 40; ++i) cut.mask[i] = cut.mask[40 + i] = 0;
  for (const PlaceRule& rule :
       {PlaceRule{.kind = PlaceRuleKind::kRandomBlocks, .size = 2, .count = 2, .is_causal = true},
        PlaceRule{
            .kind = PlaceRuleKind::kRandomTokens, .count = 4, .longest = 40, .is_causal = true}}) {
    for (const Device device : test_devices()) {
      DeviceMemory memory(device);
      const HostGraph whole = graph_of(memory, longer, rule), part = graph_of(memory, cut, rule);
      for (int64_t p = 0; p < 4; ++p) {
        const Array<uint8_t> a = whole.dense(p), b = part.dense(p);
        for (int64_t i = 0; i < 20; ++i)
          for (int64_t j = 0; j < 20; ++j) ASSERT_EQ(a[i * 40 + j], b[i * 40 + j]) << p << i << j;
      }
    }
  }
}

TEST(PlaceGroups, FixedIsTheOwnBlockAndTheLastKeysOfEachBlock) {
  const Places places(23);
  for (const int64_t summary : {0, 1, 2, 5}) {
    const PlaceRule rule{.kind = PlaceRuleKind::kFixed, .size = 5, .summary = summary};
    for (const Device device : test_devices()) {
      DeviceMemory memory(device);
      for_each_row(graph_of(memory, places, rule), places,
                   [&](int64_t sample, const uint8_t* row, int64_t i) {
                     for (int64_t j = 0; j < places.real(sample); ++j)
                       ASSERT_EQ(row[j] != 0, i / 5 == j / 5 || j % 5 >= 5 - summary);
                   });
    }
  }
}

TEST(PlaceGroups, StridedAreKeysAMultipleAway) {
  const Places places(23);
  const PlaceRule rule{.kind = PlaceRuleKind::kStrided, .size = 4};
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    for_each_row(graph_of(memory, places, rule), places,
                 [&](int64_t sample, const uint8_t* row, int64_t i) {
                   for (int64_t j = 0; j < places.real(sample); ++j)
                     ASSERT_EQ(row[j] != 0, (i - j) % 4 == 0);
                 });
  }
}

TEST(PlaceGroups, AreTheSameOnEveryDevice) {
  const Places places(300);
  for (const PlaceRuleKind kind : {PlaceRuleKind::kRandomBlocks, PlaceRuleKind::kRandomTokens}) {
    const PlaceRule rule{.kind = kind, .size = 2, .count = 20, .longest = 300};
    DeviceMemory host(kCpuDevice, {.threads = 1});
    const HostGraph expected = graph_of(host, places, rule);
    for (const Device device : test_devices()) {
      DeviceMemory memory(device, {.threads = 3});
      const HostGraph actual = graph_of(memory, places, rule);
      for (int64_t p = 0; p < 4; ++p)
        EXPECT_EQ(actual.dense(p).values(), expected.dense(p).values()) << test::name_of(device);
    }
  }
}

TEST(PlaceGroups, RefusesWhatDoesNotFit) {
  const Stream meta(kMetaDevice);
  const auto ints = [](const Shape& shape) { return View<int32_t>{nullptr, shape}; };
  const View<float> draws{nullptr, {2}};
  const auto run = [&](int64_t slots, const PlaceRule& rule) {
    place_groups(meta, {.query_groups = ints({1, 2, 5, slots}),
                        .key_groups = ints({1, 2, 5, slots}),
                        .draws = draws,
                        .rule = rule});
  };
  EXPECT_NO_THROW(run(1, {.kind = PlaceRuleKind::kStrided, .size = 4}));
  EXPECT_THROW(run(2, {.kind = PlaceRuleKind::kStrided, .size = 4}), ShapeError);
  EXPECT_THROW(run(1, {.kind = PlaceRuleKind::kStrided, .size = 0}), Error);
  EXPECT_THROW(run(2, {.kind = PlaceRuleKind::kFixed, .size = 4, .summary = 5}), Error);
  EXPECT_THROW(run(2, {.kind = PlaceRuleKind::kRandomTokens, .count = 65}), Error);
}

}  // namespace
}  // namespace stipple::kernels
