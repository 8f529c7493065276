// SPDX-License-Identifier: Apache-2.0
#include "kernels/group_edges.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/error.h"
#include "kernels/predict.h"
#include "kernels/write_edges.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/graphs.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using math::AlwaysThere;
using test::Array;
using test::DeviceMemory;
using test::get_graph;
using test::graph_defect;
using test::HostGraph;
using test::put_empty_graph;
using test::random_normal;
using test::test_devices;

/// CSR at any density.
constexpr EdgeCapacity kAlwaysCsr{.tile_density = 2.0};

/// Two samples with two heads, padding in both, groups at random.
struct GroupCase {
  int64_t n = 1, m = 1, slots = 1, groups = 1;
  Array<int32_t> query_groups, key_groups;
  Array<uint8_t> query_mask, key_mask;

  GroupCase(int64_t queries, int64_t keys, int64_t of_token, int64_t all, uint64_t seed)
      : n(queries),
        m(keys),
        slots(of_token),
        groups(all),
        query_groups({2, 2, n, slots}),
        key_groups({2, 2, m, slots}),
        query_mask({2, n}),
        key_mask({2, m}) {
    std::mt19937_64 generator(seed);
    const auto draw = [&](Array<int32_t>& own) {
      // Slots have groups of their own, so that a token has none twice.
      for (int64_t e = 0; e < own.numel(); ++e) {
        const int64_t in_slot = groups / slots;
        own[e] = static_cast<int32_t>(
            e % slots * in_slot +
            static_cast<int64_t>(generator() % static_cast<uint64_t>(in_slot)));
        if (generator() % 11 == 0) own[e] = kNoGroup;
      }
    };
    draw(query_groups);
    draw(key_groups);
    query_mask.fill(1);
    key_mask.fill(1);
    for (int64_t i = n / 2; i < n; i += 3) query_mask[n + i] = 0;
    for (int64_t j = 0; j < m; j += 4) key_mask[j] = 0;
    for (int64_t j = m - m / 3; j < m; ++j) key_mask[m + j] = 0;
  }
  bool share(int64_t p, int64_t i, int64_t j) const {
    for (int64_t s = 0; s < slots; ++s) {
      for (int64_t t = 0; t < slots; ++t) {
        const int32_t own = query_groups[(p * n + i) * slots + s];
        if (own != kNoGroup && own == key_groups[(p * m + j) * slots + t]) return true;
      }
    }
    return false;
  }
  bool is_real(int64_t p, int64_t i, int64_t j) const {
    return query_mask[p / 2 * n + i] != 0 && key_mask[p / 2 * m + j] != 0;
  }
};

bool always_has(const AlwaysThere& always, int64_t i, int64_t j) {
  return std::abs(i - j) <= always.radius || i < always.globals || j < always.globals;
}

using Has = std::function<bool(int64_t p, int64_t i, int64_t j)>;

/// Each pair of `has` is there, once, and no other.
void expect_pairs(const HostGraph& graph, const Has& has) {
  ASSERT_EQ(graph_defect(graph.edges()), "");
  const int64_t n = graph.edges().num_queries, m = graph.edges().num_keys;
  for (int64_t p = 0; p < graph.edges().num_problems(); ++p) {
    EXPECT_EQ(graph.edges().form[p], EdgeForm::kCsr);
    const Array<uint8_t> dense = graph.dense(p);
    int64_t edges = 0;
    for (int64_t e = 0; e < n * m; ++e) {
      const bool expected = has(p, e / m, e % m);
      ASSERT_EQ(dense[e] != 0, expected) << p << ": " << e / m << ", " << e % m;
      edges += expected ? 1 : 0;
    }
    EXPECT_EQ(graph.edges().num_edges(p), edges);
  }
}

WriteGroupEdges put_case(DeviceMemory& memory, const GroupCase& c, const EdgeSet& edges) {
  return {.edges = edges,
          .query_groups = memory.put(c.query_groups),
          .key_groups = memory.put(c.key_groups),
          .num_groups = c.groups,
          .query_mask = memory.put(c.query_mask),
          .key_mask = memory.put(c.key_mask),
          .scratch = &memory.scratch()};
}

void check_case(const GroupCase& c, const AlwaysThere& always, bool is_causal) {
  for (const Device device : test_devices()) {
    SCOPED_TRACE(test::name_of(device));
    DeviceMemory memory(device, {.threads = 2});
    const EdgeSet edges = put_empty_graph(memory, 4, c.n, c.m, kAlwaysCsr);
    WriteGroupEdges args = put_case(memory, c, edges);
    args.always = always;
    args.is_causal = is_causal;
    write_group_edges(memory.stream(), args);
    expect_pairs(get_graph(memory, edges), [&](int64_t p, int64_t i, int64_t j) {
      return c.is_real(p, i, j) && (!is_causal || j <= i) &&
             (c.share(p, i, j) || always_has(always, i, j));
    });
  }
}

TEST(WriteGroupEdges, EveryPairThatSharesAGroupOrIsAlwaysThereIsThereOnce) {
  const AlwaysThere rules[] = {
      {}, {.radius = 0}, {.radius = 3}, {.globals = 2}, {.radius = 5, .globals = 3}};
  for (const int64_t slots : {1, 2, 4}) {
    for (const bool is_causal : {false, true}) {
      for (const AlwaysThere& always : rules) {
        SCOPED_TRACE(testing::Message() << slots << " groups, window " << always.radius << ", "
                                        << always.globals << " global, causal " << is_causal);
        check_case(GroupCase(33, 33, slots, 8, 1), always, is_causal);
        check_case(GroupCase(70, 130, slots, 12, 2), always, is_causal);
        check_case(GroupCase(130, 41, slots, 12, 3), always, is_causal);
      }
    }
  }
  check_case(GroupCase(1, 1, 1, 1, 4), {.radius = 1, .globals = 5}, true);
  check_case(GroupCase(256, 256, 30, 60, 5), {.radius = 40, .globals = 7}, false);
}

TEST(WriteGroupEdges, LongRowsCrossBlocksOfKeys) {
  // Three blocks of 1024 keys on CUDA, the middle one without an edge of some rows.
  GroupCase c(3, 3000, 2, 40, 6);
  for (int64_t p = 0; p < 4; ++p) {
    for (int64_t e = 1024 * 2; e < 2048 * 2; ++e) c.key_groups[p * 6000 + e] = kNoGroup;
  }
  check_case(c, {}, false);
  check_case(c, {.radius = 1500}, false);
  check_case(c, {.globals = 1}, false);
}

TEST(WriteGroupEdges, IsTheSameForAnyThreads) {
  const GroupCase c(60, 60, 2, 10, 7);
  test::expect_same_bits_for_any_threads([&](const Stream& stream, Arena& scratch) {
    HostGraph graph(4, 60, 60, kAlwaysCsr, DeviceType::kCpu);
    write_group_edges(stream, {.edges = graph.edges(),
                               .query_groups = c.query_groups,
                               .key_groups = c.key_groups,
                               .num_groups = c.groups,
                               .scratch = &scratch});
    std::vector<uint8_t> all;
    for (int64_t p = 0; p < 4; ++p) {
      const Array<uint8_t> dense = graph.dense(p);
      all.insert(all.end(), dense.values().begin(), dense.values().end());
    }
    return all;
  });
}

TEST(WriteGroupEdges, MoreEdgesThanRoomAreRefusedOrCounted) {
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    Array<int32_t> one({1, 1, 40, 1});
    const EdgeSet edges =
        put_empty_graph(memory, 1, 40, 40, {.tile_density = 2.0, .max_density = 0.0});
    const int64_t room = edges.storage.shape[1];
    const WriteGroupEdges args{.edges = edges,
                               .query_groups = memory.put(one),
                               .key_groups = memory.put(one),
                               .num_groups = 1,
                               .scratch = &memory.scratch()};
    if (device.type == DeviceType::kCpu) {
      EXPECT_THROW(write_group_edges(memory.stream(), args), EdgeRoomError);
      continue;
    }
    write_group_edges(memory.stream(), args);
    const HostGraph graph = get_graph(memory, edges);
    EXPECT_EQ(graph_defect(graph.edges()), "");
    EXPECT_EQ(graph.edges().overflow[0], 1600 - room);
  }
}

TEST(WriteGroupEdges, PlansItsScratch) {
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    const GroupCase c(40, 50, 2, 10, 8);
    const EdgeSet edges = put_empty_graph(memory, 4, 40, 50, kAlwaysCsr);
    WriteGroupEdges args = put_case(memory, c, edges);
    test::expect_meta_counts_scratch(device, [&](const Stream& stream, Arena& scratch) {
      args.scratch = &scratch;
      write_group_edges(stream, args);
    });
  }
}

TEST(WriteGroupEdges, RefusesWhatDoesNotFit) {
  Arena graphs("graphs"), scratch("scratch");
  const Stream meta(kMetaDevice);
  const EdgeSet edges = alloc_edges(graphs, 4, 5, 6, kAlwaysCsr);
  const auto groups = [](const Shape& shape) { return View<const int32_t>{nullptr, shape}; };
  WriteGroupEdges args{.edges = edges,
                       .query_groups = groups({2, 2, 5, 3}),
                       .key_groups = groups({2, 2, 6, 3}),
                       .num_groups = 9,
                       .scratch = &scratch};
  write_group_edges(meta, args);
  args.key_groups = groups({2, 2, 6, 2});
  EXPECT_THROW(write_group_edges(meta, args), ShapeError);
  args.query_groups = groups({2, 2, 6, 2});
  EXPECT_THROW(write_group_edges(meta, args), ShapeError);
  args.query_groups = groups({2, 2, 5, 31});
  args.key_groups = groups({2, 2, 6, 31});
  EXPECT_THROW(write_group_edges(meta, args), Error);
}

// --- buckets of independent coordinates ----------------------------------------------------------

TEST(WriteGroupEdges, BucketsOfIndependentCoordinatesHaveTheDensityThatTheFormulaSays) {
  const int64_t n = 256, r = 4;
  for (const int64_t buckets : {4, 8, 16}) {
    DeviceMemory memory(kCpuDevice);
    const auto groups_of = [&](uint64_t seed) {
      const View<int32_t> groups = memory.fresh<int32_t>({4, 2, n, r});
      quantise_tokens(memory.stream(), {.groups = groups,
                                        .x = memory.put(random_normal({4, 2, n, r}, seed)),
                                        .buckets = buckets,
                                        .scratch = &memory.scratch()});
      return groups;
    };
    const EdgeSet edges = put_empty_graph(memory, 8, n, n, kAlwaysCsr);
    write_group_edges(memory.stream(), {.edges = edges,
                                        .query_groups = groups_of(1),
                                        .key_groups = groups_of(2),
                                        .num_groups = r * buckets,
                                        .scratch = &memory.scratch()});
    double total = 0;
    for (int64_t p = 0; p < 8; ++p) total += static_cast<double>(edges.num_edges(p));
    const double b = static_cast<double>(buckets);
    EXPECT_NEAR(total / static_cast<double>(8 * n * n), 1 - std::pow(1 - 1 / b, 4), 0.02)
        << buckets;
  }
}

// --- near pairs ----------------------------------------------------------------------------------

TEST(WriteNearEdges, PairsBelowTheThresholdAndThoseAlwaysThereAreThere) {
  const int64_t n = 50, m = 60, r = 3;
  const Array<float> q = random_normal({2, 2, n, r}, 10), k = random_normal({2, 2, m, r}, 11);
  const GroupCase masks(n, m, 1, 1, 12);
  for (const auto nearness : {math::Nearness::kSquaredDistance, math::Nearness::kCosine}) {
    const float threshold = nearness == math::Nearness::kCosine ? 0.3f : 1.5f;
    const auto is_near = [&](int64_t p, int64_t i, int64_t j) {
      double squared = 0, dot = 0, qq = 0, kk = 0;
      for (int64_t e = 0; e < r; ++e) {
        const auto a = static_cast<double>(q[(p * n + i) * r + e]);
        const auto b = static_cast<double>(k[(p * m + j) * r + e]);
        squared += (a - b) * (a - b), dot += a * b, qq += a * a, kk += b * b;
      }
      if (nearness == math::Nearness::kCosine) return 1 - dot / std::sqrt(qq * kk) < 0.3;
      return squared < 1.5;
    };
    for (const bool is_causal : {false, true}) {
      const AlwaysThere always{.radius = 1, .globals = 1};
      for (const Device device : test_devices()) {
        DeviceMemory memory(device, {.threads = 2});
        const EdgeSet edges = put_empty_graph(memory, 4, n, m, kAlwaysCsr);
        write_near_edges(memory.stream(), {.edges = edges,
                                           .q = memory.put(q),
                                           .k = memory.put(k),
                                           .nearness = nearness,
                                           .threshold = threshold,
                                           .always = always,
                                           .is_causal = is_causal,
                                           .query_mask = memory.put(masks.query_mask),
                                           .key_mask = memory.put(masks.key_mask),
                                           .scratch = &memory.scratch()});
        expect_pairs(get_graph(memory, edges), [&](int64_t p, int64_t i, int64_t j) {
          return masks.is_real(p, i, j) && (!is_causal || j <= i) &&
                 (is_near(p, i, j) || always_has(always, i, j));
        });
      }
    }
  }
}

TEST(WriteNearEdges, WhatIsNothingHasNoDirectionAndIsNearToNobody) {
  DeviceMemory memory(kCpuDevice);
  const EdgeSet edges = put_empty_graph(memory, 1, 2, 2, kAlwaysCsr);
  write_near_edges(memory.stream(), {.edges = edges,
                                     .q = memory.put(Array<float>({1, 1, 2, 2}, {0, 0, 1, 0})),
                                     .k = memory.put(Array<float>({1, 1, 2, 2}, {0, 0, 1, 0})),
                                     .nearness = math::Nearness::kCosine,
                                     .threshold = 1.0f,
                                     .scratch = &memory.scratch()});
  expect_pairs(get_graph(memory, edges), [](int64_t, int64_t i, int64_t j) { return i + j == 2; });
}

}  // namespace
}  // namespace stipple::kernels
