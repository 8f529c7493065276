// SPDX-License-Identifier: Apache-2.0
// Graphs that an attention tells, and whether what it draws agrees on the average with what it
// says of the probabilities.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "model/attention/graph.h"

namespace stipple::test {

/// Keeps every graph, or those of one row.
class GraphCollection final : public model::GraphSink {
 public:
  static constexpr int64_t kEveryRow = -1;
  explicit GraphCollection(int64_t only_row = kEveryRow) : only_row_(only_row) {}
  bool wants(int64_t row) const override { return only_row_ == kEveryRow || row == only_row_; }
  void take(std::unique_ptr<model::AttentionGraph> graph) override {
    graphs.push_back(std::move(graph));
  }
  std::vector<std::unique_ptr<model::AttentionGraph>> graphs;

 private:
  int64_t only_row_;
};

/// [H, n, n] how often each edge was drawn.
inline std::vector<double> drawn(const model::AttentionGraph& graph) {
  const auto n = static_cast<size_t>(graph.tokens);
  std::vector<double> mask(graph.edges.size() * n * n);
  for (size_t h = 0; h < graph.edges.size(); ++h) {
    const kernels::EdgeList& edges = graph.edges[h];
    for (size_t i = 0; i < n; ++i) {
      for (auto e = static_cast<size_t>(edges.row_ptr[i]);
           e < static_cast<size_t>(edges.row_ptr[i + 1]); ++e) {
        mask[(h * n + i) * n + static_cast<size_t>(edges.columns[e])] =
            edges.multiplicity.empty() ? 1.0 : edges.multiplicity[e];
      }
    }
  }
  return mask;
}

/// [H, n, n]
inline std::vector<double> probabilities(const model::AttentionGraph& graph) {
  const auto n = static_cast<size_t>(graph.tokens);
  std::vector<double> all(graph.edges.size() * n * n);
  for (size_t row = 0; row < graph.edges.size() * n; ++row) {
    graph.probabilities(static_cast<int64_t>(row / n), static_cast<int64_t>(row % n),
                        std::span(all).subspan(row * n, n));
  }
  return all;
}

/// Of sums over `draws` graphs: every entry within 5.5 standard deviations, and their mean square
/// as the law has it. Where nothing is drawn, every entry is certain. False alarms are below one in a million; seeds are fixed anyway.
inline void expect_means(const std::vector<double>& sums, const std::vector<double>& means,
                         bool is_poisson, int draws) {
  ASSERT_EQ(sums.size(), means.size());
  double squares = 0;
  double count = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    const double variance = is_poisson ? means[i] : means[i] * (1 - means[i]);
    const double excess = sums[i] - draws * means[i];
    if (variance < 1e-9) {
      EXPECT_NEAR(excess, 0, 1e-6 * draws) << "entry " << i << " is certain";
      continue;
    }
    const double z = excess / std::sqrt(draws * variance);
    EXPECT_LT(std::abs(z), 5.5) << "entry " << i << " has mean " << sums[i] / draws
                                << " instead of " << means[i];
    squares += z * z;
    count += 1;
  }
  if (count == 0) return;
  EXPECT_NEAR(squares / count, 1.0, 5 * std::sqrt(2 / count));
}

}  // namespace stipple::test
