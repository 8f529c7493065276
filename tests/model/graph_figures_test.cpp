// SPDX-License-Identifier: Apache-2.0
#include "model/attention/graph_figures.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/support/edge_lists.h"

namespace stipple::model {
namespace {

using test::edges_of;

TEST(GraphFigures, BlockContrastComparesTheDiagonalWithTheRest) {
  EXPECT_DOUBLE_EQ(block_contrast(std::vector<float>(9, 0.125f), 3), 1.0);
  EXPECT_DOUBLE_EQ(block_contrast(std::vector<float>{4, 1, 1, 4}, 2), 4.0);
  EXPECT_DOUBLE_EQ(block_contrast(std::vector<float>{6, 1, 1, 1, 6, 1, 1, 1, 3}, 3), 5.0);
  EXPECT_TRUE(std::isnan(block_contrast(std::vector<float>{1}, 1)));
}

TEST(GraphFigures, ATokenBelongsToItsStrongestGroup) {
  EXPECT_EQ(strongest_groups(std::vector<float>{0.1f, 0.9f, 0.5f, 0.7f, 0.2f, 0.7f}, 3),
            (std::vector<int32_t>{1, 0}));
}

TEST(GraphFigures, ModularityIsHighWithinGroupsLowAcrossAndZeroWhereAllAreLinked) {
  const std::vector<int32_t> groups = {0, 0, 1, 1};
  const kernels::EdgeList within = edges_of({{0, 1}, {0, 1}, {2, 3}, {2, 3}});
  const kernels::EdgeList across = edges_of({{2, 3}, {2, 3}, {0, 1}, {0, 1}});
  const kernels::EdgeList all = edges_of({{0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}});
  EXPECT_DOUBLE_EQ(modularity(within, groups, groups, 2), 0.5);
  EXPECT_DOUBLE_EQ(modularity(across, groups, groups, 2), -0.5);
  EXPECT_DOUBLE_EQ(modularity(all, groups, groups, 2), 0.0);
  // Queries and keys have groups of their own: all 3 edges are within, out = in = {2, 1}.
  const kernels::EdgeList three = edges_of({{0}, {0}, {1}});
  EXPECT_DOUBLE_EQ(
      modularity(three, std::vector<int32_t>{0, 0, 1}, std::vector<int32_t>{0, 1, 1}, 2),
      1.0 - (4.0 + 1.0) / 9.0);
  EXPECT_TRUE(std::isnan(
      modularity(edges_of({{}, {}}), std::vector<int32_t>{0, 1}, std::vector<int32_t>{0, 1}, 2)));
}

TEST(GraphFigures, ARandomGraphHasTheDensityAskedForAndEveryPairAlike) {
  constexpr int kGraphs = 2000;
  constexpr int64_t kQueries = 5, kKeys = 7;
  for (const int64_t edges : {int64_t{1}, int64_t{12}, int64_t{30}}) {
    const double p = static_cast<double>(edges) / (kQueries * kKeys);
    std::vector<double> sums(kQueries * kKeys);
    for (uint64_t seed = 0; seed < kGraphs; ++seed) {
      const kernels::EdgeList graph = random_graph(kQueries, kKeys, edges, seed);
      ASSERT_EQ(graph.num_queries(), kQueries);
      for (int64_t i = 0; i < kQueries; ++i) {
        int32_t last = -1;
        for (int64_t e = graph.row_ptr[static_cast<size_t>(i)];
             e < graph.row_ptr[static_cast<size_t>(i) + 1]; ++e) {
          const int32_t column = graph.columns[static_cast<size_t>(e)];
          ASSERT_GT(column, last);
          ASSERT_LT(column, kKeys);
          last = column;
          sums[static_cast<size_t>(i * kKeys + column)] += 1;
        }
      }
    }
    for (const double sum : sums)
      EXPECT_LT(std::abs(sum - kGraphs * p), 5.5 * std::sqrt(kGraphs * p * (1 - p)));
  }
  EXPECT_EQ(random_graph(3, 4, 12, 1).num_edges(), 12);
  EXPECT_EQ(random_graph(3, 4, 0, 1).row_ptr, (std::vector<int64_t>(4, 0)));
}

/// Two groups of tokens, each linked to itself.
class TwoGroups final : public AttentionGraph {
 public:
  explicit TwoGroups(int64_t n) {
    tokens = n;
    groups = 2;
    blocks = {0.4f, 0.1f, 0.1f, 0.4f};
    std::vector<std::vector<int32_t>> rows(static_cast<size_t>(n));
    for (int32_t i = 0; i < n; ++i) {
      for (int32_t j = i % 2; j < n; j += 2) rows[static_cast<size_t>(i)].push_back(j);
      for (int32_t g = 0; g < 2; ++g) query_memberships.push_back(i % 2 == g ? 0.9f : 0.1f);
    }
    key_memberships = query_memberships;
    edges.push_back(edges_of(rows));
  }
  void probabilities(int64_t, int64_t, std::span<double>) const override {}
};

TEST(GraphFigures, TellAGraphWithGroupsFromARandomOne) {
  const TwoGroups graph(60);
  std::vector<double> values;
  for (const GraphFigure& figure : graph_figures()) values.push_back(figure.of(graph, 0, 3));
  ASSERT_EQ(values.size(), 3u);
  EXPECT_NEAR(values[0], 4.0, 1e-6);
  EXPECT_DOUBLE_EQ(values[1], 0.5);
  EXPECT_NEAR(values[2], 0.0, 0.06);
  EXPECT_EQ(graph_figures()[2].of(graph, 0, 3), values[2]);
  EXPECT_NE(graph_figures()[2].of(graph, 0, 4), values[2]);
}

}  // namespace
}  // namespace stipple::model
