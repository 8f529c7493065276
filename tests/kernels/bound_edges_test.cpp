// SPDX-License-Identifier: Apache-2.0
#include "kernels/bound_edges.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/attend_entmax.h"
#include "kernels/predict.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/graphs.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::get_graph;
using test::graph_defect;
using test::HostGraph;
using test::put_empty_graph;
using test::random_normal;
using test::test_devices;

constexpr int64_t kBatch = 2, kHeads = 2, kProblems = kBatch * kHeads, kGroups = 40;
constexpr float kScale = 0.5f;

/// Tokens around centres, one a group; the groups of keys are those, but for one key in nine. The
/// second sample ends in padding.
struct BoundCase {
  int64_t n = 130, d = 6;
  Array<float> q, k, tau{{kBatch, kHeads, 130}}, alpha{{kHeads}, {1.5f, 2.0f}};
  Array<float> temperature{{kHeads}, {1.0f, 1.5f}};
  Array<int32_t> groups{{kBatch, kHeads, 130, 2}};
  Array<uint8_t> mask{{kBatch, 130}};
  bool is_causal = false;

  explicit BoundCase(uint64_t seed)
      : q(random_normal({kBatch, kHeads, 130, 6}, seed)),
        k(random_normal({kBatch, kHeads, 130, 6}, seed + 1)) {
    const Array<float> centres = random_normal({kProblems, kGroups, d}, seed + 2);
    for (int64_t row = 0; row < kProblems * n; ++row) {
      const int64_t group = row * 7 % kGroups;
      for (int64_t c = 0; c < d; ++c) {
        const float centre = 2.0f * centres[(row / n * kGroups + group) * d + c];
        q[row * d + c] = centre + 0.3f * q[row * d + c];
        k[row * d + c] = centre + 0.3f * k[row * d + c];
      }
      groups[row * 2] = static_cast<int32_t>(row % 9 == 0 ? (group + 1) % kGroups : group);
      groups[row * 2 + 1] = kNoGroup;
    }
    mask.fill(1);
    for (int64_t j = 100; j < n; ++j) mask[n + j] = 0;
    for (int64_t p = 0; p < kProblems; ++p)
      for (int64_t i = 0; i < n; ++i) tau[p * n + i] = largest(p, i) - 1.0f;
  }
  double x(int64_t p, int64_t i, int64_t j) const {
    double sum = 0;
    for (int64_t c = 0; c < d; ++c)
      sum +=
          static_cast<double>(q[(p * n + i) * d + c]) * static_cast<double>(k[(p * n + j) * d + c]);
    const int64_t h = p % kHeads;
    return sum * static_cast<double>(kScale * (alpha[h] - 1.0f) * temperature[h]);
  }
  bool sees(int64_t p, int64_t i, int64_t j) const {
    const uint8_t* real = &mask[p / kHeads * n];
    return real[i] != 0 && real[j] != 0 && (!is_causal || j <= i);
  }
  /// Of the keys that the query sees; below any tau.
  float largest(int64_t p, int64_t i) const {
    double most = -1e9;
    for (int64_t j = 0; j < n; ++j)
      if (sees(p, i, j)) most = std::max(most, x(p, i, j));
    return static_cast<float>(most);
  }
};

EdgeSet write(DeviceMemory& memory, const BoundCase& c) {
  const EdgeSet edges = put_empty_graph(memory, kProblems, c.n, c.n, {.tile_density = 2.0});
  write_bound_edges(memory.stream(), {.edges = edges,
                                      .q = memory.put(c.q),
                                      .k = memory.put(c.k),
                                      .tau = memory.put(c.tau),
                                      .key_groups = memory.put(c.groups),
                                      .num_groups = kGroups,
                                      .heads = {.alpha = memory.put(c.alpha),
                                                .temperature = memory.put(c.temperature)},
                                      .scale = kScale,
                                      .is_causal = c.is_causal,
                                      .query_mask = memory.put(c.mask),
                                      .key_mask = memory.put(c.mask),
                                      .scratch = &memory.scratch()});
  return edges;
}

TEST(WriteBoundEdges, EveryKeyAboveTauIsThereAndFarGroupsAreNot) {
  for (const bool is_causal : {false, true}) {
    BoundCase c(1);
    c.is_causal = is_causal;
    for (const Device device : test_devices()) {
      DeviceMemory memory(device, {.threads = 2});
      const HostGraph graph = get_graph(memory, write(memory, c));
      ASSERT_EQ(graph_defect(graph.edges()), "");
      int64_t edges = 0, pairs = 0;
      for (int64_t p = 0; p < kProblems; ++p) {
        const Array<uint8_t> dense = graph.dense(p);
        for (int64_t e = 0; e < c.n * c.n; ++e) {
          const int64_t i = e / c.n, j = e % c.n;
          if (!c.sees(p, i, j)) {
            ASSERT_EQ(dense[e], 0);
            continue;
          }
          ++pairs;
          edges += dense[e];
          const bool is_above = c.x(p, i, j) > static_cast<double>(c.tau[p * c.n + i]);
          ASSERT_TRUE(dense[e] == 1 || !is_above) << p << ": " << i << ", " << j;
        }
      }
      EXPECT_LT(edges, pairs / 3) << test::name_of(device);
    }
  }
}

TEST(WriteBoundEdges, AttentionOverThemIsThatOverAllPairs) {
  // Of a lower bound: attention over every third key.
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    BoundCase c(5);
    std::vector<test::GraphProblem> third;
    for (int64_t p = 0; p < kProblems; ++p) {
      Array<uint8_t> dense({c.n, c.n});
      for (int64_t e = 0; e < c.n * c.n; ++e)
        dense[e] = e % c.n % 3 == 0 && c.sees(p, e / c.n, e % c.n) ? 1 : 0;
      third.push_back({EdgeForm::kCsr, dense});
    }
    const EntmaxHeads heads{.alpha = memory.put(c.alpha), .temperature = memory.put(c.temperature)};
    const auto attend = [&](const EdgeSet& edges, View<float> o, View<float> tau) {
      attend_entmax(memory.stream(), {.o = o,
                                      .tau = tau,
                                      .q = memory.put(c.q),
                                      .k = memory.put(c.k),
                                      .v = memory.put(random_normal(c.k.shape(), 9)),
                                      .heads = heads,
                                      .edges = edges,
                                      .key_mask = memory.put(c.mask),
                                      .scale = kScale,
                                      .scratch = &memory.scratch()});
    };
    const auto output = [&] { return memory.fresh<float>(c.q.shape()); };
    const auto taus = [&] { return memory.fresh<float>(c.tau.shape()); };
    const View<float> lower = taus(), all = output(), tau = taus(), bounded = output(),
                      own = taus();
    attend(test::put_graph(memory, HostGraph(third, {.tile_density = 2.0}, device.type)), output(),
           lower);
    attend({}, all, tau);
    c.tau = memory.get(lower);
    const EdgeSet edges = write(memory, c);
    attend(edges, bounded, own);
    const Array<float> expected = memory.get(all), actual = memory.get(bounded),
                       expected_tau = memory.get(tau), actual_tau = memory.get(own);
    for (int64_t row = 0; row < kProblems * c.n; ++row) {
      if (c.mask[row / (kHeads * c.n) * c.n + row % c.n] == 0) continue;
      ASSERT_EQ(actual_tau[row], expected_tau[row]) << row;
      for (int64_t e = row * c.d; e < (row + 1) * c.d; ++e) ASSERT_EQ(actual[e], expected[e]);
    }
  }
}

TEST(WriteBoundEdges, WhatIsNoNumberIsKept) {
  BoundCase c(2);
  const float infinity = std::numeric_limits<float>::infinity();
  c.tau[3] = infinity;  // of a row without keys
  c.tau[4] = std::numeric_limits<float>::quiet_NaN();
  c.k[(c.n + 11) * c.d + 2] = std::numeric_limits<float>::quiet_NaN();
  c.k[(c.n + 19) * c.d] = -infinity;
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    const HostGraph graph = get_graph(memory, write(memory, c));
    EXPECT_EQ(graph.edges().degree(0, 3), c.n);
    EXPECT_EQ(graph.edges().degree(0, 4), c.n);
    const Array<uint8_t> dense = graph.dense(1);
    for (const int64_t odd : {11, 19}) {
      for (int64_t j = 0; j < c.n; ++j) {
        if (c.groups[(c.n + j) * 2] != c.groups[(c.n + odd) * 2]) continue;
        for (int64_t i = 0; i < c.n; ++i) ASSERT_EQ(dense[i * c.n + j], 1) << i << " " << j;
      }
    }
  }
}

TEST(WriteBoundEdges, PlansItsScratchAndRefusesWhatDoesNotFit) {
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    const EdgeSet edges = put_empty_graph(memory, 2, 9, 9, {.tile_density = 2.0});
    const View<float> x = memory.zeros<float>({1, 2, 9, 4}), tau = memory.zeros<float>({1, 2, 9});
    const View<float> alpha = memory.put(Array<float>({2}, {1.5f, 1.5f}));
    const View<int32_t> groups = memory.zeros<int32_t>({1, 2, 9, 1});
    const auto run = [&](const Stream& stream, Arena& scratch, int64_t count) {
      write_bound_edges(stream, {.edges = edges,
                                 .q = x,
                                 .k = x,
                                 .tau = tau,
                                 .key_groups = groups,
                                 .num_groups = count,
                                 .heads = {.alpha = alpha},
                                 .scratch = &scratch});
    };
    test::expect_meta_counts_scratch(
        device, [&](const Stream& stream, Arena& scratch) { run(stream, scratch, 3); });
    Arena scratch("scratch");
    EXPECT_THROW(run(Stream(kMetaDevice), scratch, 0), Error);
  }
}

}  // namespace
}  // namespace stipple::kernels
