// SPDX-License-Identifier: Apache-2.0
// Whether the groups of a drawn graph mean anything, in numbers: graphs of an untrained model are
// told from random ones by neither picture nor density.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "model/attention/graph.h"

namespace stipple::model {

/// A number per head of a graph with groups. `baseline`: the figure that it is to be held against.
struct GraphFigure {
  std::string_view name;  ///< the key in metrics.jsonl
  std::string_view title;
  std::string_view unit;
  std::string_view baseline = {};
  double (*of)(const AttentionGraph&, int64_t head, uint64_t seed);
};
/// block_contrast, modularity, modularity_random. `seed` names the random graphs. O(E + n G + G²);
/// NaN where there is nothing to tell: no edge, one group.
std::span<const GraphFigure> graph_figures();

/// Mean of the diagonal of blocks [G, G] over the mean of the rest: 1 where groups are linked to
/// all groups alike.
double block_contrast(std::span<const float> blocks, int64_t groups);

/// The group of each token in memberships [n, G]; the first of equally strong ones.
std::vector<int32_t> strongest_groups(std::span<const float> memberships, int64_t groups);

/// Newman's modularity (PNAS 2006), in the form for directed graphs (Leicht and Newman 2008), with
/// queries as sources and keys as targets, each counted once: the sum over groups c of
/// e_cc / m - out_c in_c / m². 0: edges fall as if groups did not matter; at most 1.
double modularity(const kernels::EdgeList&, std::span<const int32_t> query_groups,
                  std::span<const int32_t> key_groups, int64_t groups);

/// Every pair is an edge with probability num_edges / pairs, independently. O(E)
kernels::EdgeList random_graph(int64_t num_queries, int64_t num_keys, int64_t num_edges,
                               uint64_t seed);

}  // namespace stipple::model
