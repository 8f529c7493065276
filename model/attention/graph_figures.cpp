// SPDX-License-Identifier: Apache-2.0
#include "model/attention/graph_figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/rng.h"

namespace stipple::model {
namespace {

constexpr double kNothingToTell = std::numeric_limits<double>::quiet_NaN();

/// Of [H, rest].
std::span<const float> of_head(const std::vector<float>& all, int64_t heads, int64_t head) {
  const size_t size = all.size() / static_cast<size_t>(heads);
  return std::span(all).subspan(static_cast<size_t>(head) * size, size);
}

double modularity_of(const AttentionGraph& graph, int64_t head, const kernels::EdgeList& edges) {
  return modularity(
      edges, strongest_groups(of_head(graph.query_memberships, graph.heads(), head), graph.groups),
      strongest_groups(of_head(graph.key_memberships, graph.heads(), head), graph.groups),
      graph.groups);
}

const kernels::EdgeList& edges_of(const AttentionGraph& graph, int64_t head) {
  return graph.edges[static_cast<size_t>(head)];
}

constexpr std::string_view kRandom = "modularity_random";

constexpr std::array kFigures{
    GraphFigure{.name = "block_contrast",
                .title = "Block contrast",
                .unit = "mean of the block matrix on its diagonal / beside it",
                .of =
                    [](const AttentionGraph& graph, int64_t head, uint64_t) {
                      return block_contrast(of_head(graph.blocks, graph.heads(), head),
                                            graph.groups);
                    }},
    GraphFigure{.name = "modularity",
                .title = "Modularity",
                .unit = "of drawn graphs by strongest group",
                .baseline = kRandom,
                .of = [](const AttentionGraph& graph, int64_t head,
                         uint64_t) { return modularity_of(graph, head, edges_of(graph, head)); }},
    GraphFigure{.name = kRandom,
                .title = "Modularity of random graphs",
                .unit = "of random graphs of equal density",
                .of =
                    [](const AttentionGraph& graph, int64_t head, uint64_t seed) {
                      const uint64_t own = splitmix64(
                          splitmix64(seed) ^ static_cast<uint64_t>(graph.layer << 16 | head));
                      return modularity_of(graph, head,
                                           random_graph(graph.tokens, graph.tokens,
                                                        edges_of(graph, head).num_edges(), own));
                    }},
};

}  // namespace

std::span<const GraphFigure> graph_figures() { return kFigures; }

double block_contrast(std::span<const float> blocks, int64_t groups) {
  const auto k = static_cast<size_t>(groups);
  if (k < 2 || blocks.size() != k * k) return kNothingToTell;
  double diagonal = 0;
  double all = 0;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const double value = blocks[i];
    all += value;
    if (i % (k + 1) == 0) diagonal += value;
  }
  return diagonal * static_cast<double>(k - 1) / (all - diagonal);
}

std::vector<int32_t> strongest_groups(std::span<const float> memberships, int64_t groups) {
  std::vector<int32_t> strongest;
  const auto k = static_cast<size_t>(groups);
  for (size_t at = 0; at < memberships.size(); at += k) {
    const auto of_token = memberships.subspan(at, k);
    strongest.push_back(static_cast<int32_t>(std::max_element(of_token.begin(), of_token.end()) -
                                             of_token.begin()));
  }
  return strongest;
}

double modularity(const kernels::EdgeList& edges, std::span<const int32_t> query_groups,
                  std::span<const int32_t> key_groups, int64_t groups) {
  struct Group {
    double within = 0, out = 0, in = 0;
  };
  std::vector<Group> sums(static_cast<size_t>(groups));
  for (size_t i = 0; i < query_groups.size(); ++i) {
    const int32_t from = query_groups[i];
    for (auto e = static_cast<size_t>(edges.row_ptr[i]);
         e < static_cast<size_t>(edges.row_ptr[i + 1]); ++e) {
      const int32_t to = key_groups[static_cast<size_t>(edges.columns[e])];
      sums[static_cast<size_t>(from)].out += 1;
      sums[static_cast<size_t>(to)].in += 1;
      if (from == to) sums[static_cast<size_t>(from)].within += 1;
    }
  }
  const auto m = static_cast<double>(edges.num_edges());
  if (groups < 2 || m == 0) return kNothingToTell;
  double sum = 0;
  for (const Group& g : sums) sum += g.within / m - g.out / m * (g.in / m);
  return sum;
}

kernels::EdgeList random_graph(int64_t num_queries, int64_t num_keys, int64_t num_edges,
                               uint64_t seed) {
  const auto pairs = num_queries * num_keys;
  const double p =
      static_cast<double>(num_edges) / static_cast<double>(std::max<int64_t>(1, pairs));
  kernels::EdgeList list;
  list.row_ptr.push_back(0);
  const auto end_rows_before = [&](int64_t row) {
    while (static_cast<int64_t>(list.row_ptr.size()) <= row)
      list.row_ptr.push_back(list.num_edges());
  };
  // Pairs without an edge are skipped at once: their number has a geometric distribution.
  int64_t at = -1;
  for (uint64_t draw = 0; p > 0; ++draw) {
    const uint64_t bits = splitmix64(seed + draw * 0x9E3779B97F4A7C15ull);
    const double u = to_unit_double(static_cast<uint32_t>(bits >> 32), static_cast<uint32_t>(bits));
    const double skipped = p < 1 ? std::floor(std::log1p(-u) / std::log1p(-p)) : 0.0;
    if (skipped >= static_cast<double>(pairs - at - 1)) break;
    at += 1 + static_cast<int64_t>(skipped);
    end_rows_before(at / num_keys);
    list.columns.push_back(static_cast<int32_t>(at % num_keys));
  }
  end_rows_before(num_queries);
  return list;
}

}  // namespace stipple::model
