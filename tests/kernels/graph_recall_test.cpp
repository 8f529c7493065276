// SPDX-License-Identifier: Apache-2.0
#include "kernels/graph_recall.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "core/error.h"
#include "kernels/attend_entmax_reference.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/graphs.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::GraphProblem;
using test::HostGraph;
using test::random_normal;
using test::test_devices;

constexpr int64_t kRecallBatch = 2, kRecallHeads = 2, kRecallTokens = 41, kRecallDim = 8;
constexpr float kScale = 0.9f;
constexpr EdgeCapacity kCsrOnly{.tile_density = 2.0};

/// Exact attention of a problem in double, and a graph that has some of its pairs.
struct RecallCase {
  Array<float> q = random_normal({kRecallBatch, kRecallHeads, kRecallTokens, kRecallDim}, 1);
  Array<float> k = random_normal({kRecallBatch, kRecallHeads, kRecallTokens, kRecallDim}, 2);
  Array<float> alpha{{kRecallHeads}, {1.5f, 1.8f}}, temperature{{kRecallHeads}, {1.3f, 0.7f}};
  Array<uint8_t> mask{{kRecallBatch, kRecallTokens}};
  Array<float> tau{{kRecallBatch, kRecallHeads, kRecallTokens}};
  Array<int32_t> support_size{{kRecallBatch, kRecallHeads, kRecallTokens}};
  std::vector<std::vector<double>> weights;  // by problem [N, N]
  std::vector<GraphProblem> graphs;

  explicit RecallCase(double density) {
    mask.fill(1);
    for (int64_t i = kRecallTokens - 6; i < kRecallTokens; ++i) mask[kRecallTokens + i] = 0;
    for (int64_t p = 0; p < kRecallBatch * kRecallHeads; ++p) {
      graphs.push_back({EdgeForm::kCsr, test::random_graph(kRecallTokens, kRecallTokens, density,
                                                           static_cast<uint64_t>(p))});
      std::vector<double>& all = weights.emplace_back();
      for (int64_t i = 0; i < kRecallTokens; ++i) add_row(p, i, all);
    }
  }
  bool is_real(int64_t p, int64_t i) const {
    return mask[p / kRecallHeads * kRecallTokens + i] != 0;
  }

  double weight(int64_t p, int64_t i, int64_t j) const {
    return weights[static_cast<size_t>(p)][static_cast<size_t>(i * kRecallTokens + j)];
  }
  /// As attention over the graph sees a pair.
  double graph_score(int64_t p, int64_t i, int64_t j) const {
    return is_edge(p, i, j) ? score(p, i, j) : kNever;
  }
  bool is_edge(int64_t p, int64_t i, int64_t j) const {
    return graphs[static_cast<size_t>(p)].dense[i * kRecallTokens + j] != 0;
  }

 private:
  static constexpr double kNever = -std::numeric_limits<double>::infinity();

  double score(int64_t p, int64_t i, int64_t j) const {
    double dot = 0;
    for (int64_t e = 0; e < kRecallDim; ++e)
      dot += static_cast<double>(q[(p * kRecallTokens + i) * kRecallDim + e]) *
             static_cast<double>(k[(p * kRecallTokens + j) * kRecallDim + e]);
    return dot * static_cast<double>(kScale * temperature[p % kRecallHeads]);
  }
  void add_row(int64_t p, int64_t i, std::vector<double>& all) {
    std::vector<double> z;
    for (int64_t j = 0; j < kRecallTokens; ++j) {
      z.push_back(is_real(p, j) ? score(p, i, j) : kNever);
      // No edge leads to padding.
      if (!is_real(p, j) || !is_real(p, i)) graphs.back().dense[i * kRecallTokens + j] = 0;
    }
    const reference::EntmaxRow row =
        reference::entmax(z, static_cast<double>(alpha[p % kRecallHeads]));
    tau[p * kRecallTokens + i] = static_cast<float>(row.tau);
    support_size[p * kRecallTokens + i] = static_cast<int32_t>(
        std::count_if(row.p.begin(), row.p.end(), [](double x) { return x > 0; }));
    all.insert(all.end(), row.p.begin(), row.p.end());
  }
};

struct Told {
  Array<int64_t> support{{kRecallHeads}}, found{{kRecallHeads}}, edges{{kRecallHeads}},
      exact{{kRecallHeads}}, rows{{kRecallHeads}};
  Array<double> dropped{{kRecallHeads}};
  bool operator==(const Told& other) const {
    const auto counts = [](const Told& t) {
      return std::tie(t.support.values(), t.found.values(), t.edges.values(), t.exact.values(),
                      t.rows.values(), t.dropped.values());
    };
    return counts(*this) == counts(other);
  }
};

GraphRecall arguments(DeviceMemory& memory, const RecallCase& c) {
  const HostGraph host(c.graphs, kCsrOnly, memory.stream().device().backend());
  const auto counts = [&] { return memory.fresh<int64_t>({kRecallHeads}); };
  return {.support = counts(),
          .found = counts(),
          .edges = counts(),
          .exact_rows = counts(),
          .rows = counts(),
          .dropped = memory.fresh<double>({kRecallHeads}),
          .graph = put_graph(memory, host),
          .q = memory.put(c.q),
          .k = memory.put(c.k),
          .tau = memory.put(c.tau),
          .support_size = memory.put(c.support_size),
          .heads = {.alpha = memory.put(c.alpha), .temperature = memory.put(c.temperature)},
          .query_mask = memory.put(c.mask),
          .scale = kScale,
          .scratch = &memory.scratch()};
}

Told ask(DeviceMemory& memory, const RecallCase& c) {
  const GraphRecall args = arguments(memory, c);
  graph_recall(memory.stream(), args);
  Told told;
  told.support = memory.get(args.support);
  told.found = memory.get(args.found);
  told.edges = memory.get(args.edges);
  told.exact = memory.get(args.exact_rows);
  told.rows = memory.get(args.rows);
  told.dropped = memory.get(args.dropped);
  return told;
}

Told expected_of(const RecallCase& c) {
  Told told;
  for (int64_t p = 0; p < kRecallBatch * kRecallHeads; ++p) {
    const int64_t h = p % kRecallHeads;
    for (int64_t i = 0; i < kRecallTokens; ++i) {
      if (!c.is_real(p, i)) continue;
      int64_t found = 0, support = 0;
      for (int64_t j = 0; j < kRecallTokens; ++j) {
        const double weight = c.weight(p, i, j);
        const bool is_edge = c.is_edge(p, i, j);
        support += weight > 0 ? 1 : 0;
        found += is_edge && weight > 0 ? 1 : 0;
        told.edges[h] += is_edge ? 1 : 0;
        told.dropped[h] += is_edge ? 0 : weight;
      }
      ++told.rows[h];
      told.support[h] += support;
      told.found[h] += found;
      told.exact[h] += found == support ? 1 : 0;
    }
  }
  return told;
}

TEST(GraphRecall, CountsWhatAGraphHoldsOfTheSupport) {
  for (const double density : {0.0, 0.3, 0.9, 1.0}) {
    const RecallCase c(density);
    const Told expected = expected_of(c);
    for (const Device device : test_devices()) {
      DeviceMemory memory(device, {.threads = 2});
      const Told told = ask(memory, c);
      EXPECT_EQ(told.support.values(), expected.support.values());
      EXPECT_EQ(told.found.values(), expected.found.values());
      EXPECT_EQ(told.edges.values(), expected.edges.values());
      EXPECT_EQ(told.exact.values(), expected.exact.values());
      EXPECT_EQ(told.rows.values(), expected.rows.values());
      for (int64_t h = 0; h < kRecallHeads; ++h)
        EXPECT_NEAR(told.dropped[h], expected.dropped[h], 2e-4) << density;
    }
    if (density == 1.0) {
      EXPECT_EQ(expected.exact.values(), expected.rows.values());
    }
  }
}

/// Of row i of problem p, ||p - p'||_1 with p' the attention over the graph alone.
double change_of_row(const RecallCase& c, int64_t p, int64_t i) {
  std::vector<double> z;
  for (int64_t j = 0; j < kRecallTokens; ++j) z.push_back(c.graph_score(p, i, j));
  const reference::EntmaxRow row =
      reference::entmax(z, static_cast<double>(c.alpha[p % kRecallHeads]));
  double change = 0;
  for (int64_t j = 0; j < kRecallTokens; ++j)
    change += std::abs(row.p[static_cast<size_t>(j)] - c.weight(p, i, j));
  return change;
}

/// The identity that makes the figure a bound of the error.
TEST(GraphRecall, TheDroppedMassIsHalfOfWhatAttentionOverTheGraphChanges) {
  const RecallCase c(0.4);
  std::vector<double> changes(kRecallHeads);
  for (int64_t p = 0; p < kRecallBatch * kRecallHeads; ++p) {
    for (int64_t i = 0; i < kRecallTokens; ++i) {
      if (c.is_real(p, i)) changes[static_cast<size_t>(p % kRecallHeads)] += change_of_row(c, p, i);
    }
  }
  for (const Device device : test_devices()) {
    DeviceMemory memory(device, {.threads = 2});
    const Told told = ask(memory, c);
    for (int64_t h = 0; h < kRecallHeads; ++h)
      EXPECT_NEAR(2 * told.dropped[h], changes[static_cast<size_t>(h)], 4e-4);
  }
}

TEST(GraphRecall, IsTheSameForAnyThreads) {
  const RecallCase c(0.3);
  DeviceMemory one(kCpuDevice, {.threads = 1}), three(kCpuDevice, {.threads = 3});
  EXPECT_TRUE(ask(one, c) == ask(three, c));
}

TEST(GraphRecall, PlansItsScratch) {
  const RecallCase c(0.3);
  for (const Device device : test_devices()) {
    DeviceMemory memory(device, {.threads = 2});
    GraphRecall args = arguments(memory, c);
    test::expect_meta_counts_scratch(device, [&](const Stream& stream, Arena& scratch) {
      args.scratch = &scratch;
      graph_recall(stream, args);
    });
  }
}

}  // namespace
}  // namespace stipple::kernels
