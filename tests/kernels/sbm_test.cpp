// SPDX-License-Identifier: Apache-2.0
// Block matrix, memberships, expected edges, their gradients, and the statistics of a graph.
#include "kernels/sbm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/cpu/isa.h"
#include "tests/support/arrays.h"

namespace stipple::test {
namespace {

struct Block {
  Array<float> s;
  Array<float> effective_cells;
};

Block block_of(const Array<float>& clusters, int threads = 1) {
  const Shape& c = clusters.shape();
  Block block{Array<float>({c[0], c[1], c[1]}), Array<float>({c[0]})};
  const Stream stream(kCpuDevice, {.threads = threads});
  kernels::block_matrix(
      stream, {.s = block.s, .effective_cells = block.effective_cells, .clusters = clusters});
  return block;
}

TEST(BlockMatrix, IsPositiveSymmetricSumsToOneAndIsBoundedByItsDiagonal) {
  for (int64_t k : {1, 5, 128}) {
    const Block block = block_of(random_normal({2, k, 7}, 1, 0.8));
    for (int64_t head = 0; head < 2; ++head) {
      const float* s = block.s.view().at(head).data;
      double sum = 0;
      for (int64_t u = 0; u < k; ++u) {
        for (int64_t v = 0; v < k; ++v) {
          const float entry = s[u * k + v];
          sum += static_cast<double>(entry);
          ASSERT_GT(entry, 0.0f);
          ASSERT_EQ(entry, s[v * k + u]);
          ASSERT_LE(entry * entry, s[u * k + u] * s[v * k + v] * 1.00001f);
        }
      }
      EXPECT_NEAR(sum, 1.0, 1e-6);
    }
  }
}

TEST(BlockMatrix, IsTheSoftmaxOfTheGramMatrix) {
  const Array<float> clusters({1, 2, 2}, {1.0f, 0.0f, 0.5f, 2.0f});
  const Block block = block_of(clusters);
  const double gram[] = {1.0, 0.5, 0.5, 4.25};
  double sum = 0;
  for (double g : gram) sum += std::exp(g);
  double entropy = 0;
  for (int64_t e = 0; e < 4; ++e) {
    const double expected = std::exp(gram[e]) / sum;
    EXPECT_NEAR(static_cast<double>(block.s[e]), expected, 1e-6 * expected);
    entropy -= expected * std::log(expected);
  }
  EXPECT_NEAR(static_cast<double>(block.effective_cells[0]), std::exp(entropy), 1e-5);
}

TEST(BlockMatrix, EffectiveCellsCountTheCellsThatMatter) {
  constexpr int64_t k = 6;
  Array<float> clusters({2, k, k});
  // Head 0: equal clusters, all k^2 cells alike. Head 1: long orthogonal clusters, k cells alike.
  for (int64_t u = 0; u < k; ++u) clusters[k * k + u * k + u] = 6.0f;
  const Block block = block_of(clusters);
  EXPECT_NEAR(static_cast<double>(block.effective_cells[0]), k * k, 1e-3);
  EXPECT_NEAR(static_cast<double>(block.effective_cells[1]), k, 1e-3);
}

TEST(BlockMatrix, LargeClustersDoNotOverflow) {
  const Block block = block_of(Array<float>({1, 2, 1}, {30.0f, -30.0f}));
  EXPECT_NEAR(static_cast<double>(block.s[0]), 0.5, 1e-6);
  EXPECT_EQ(block.s[1], 0.0f);
  EXPECT_NEAR(static_cast<double>(block.effective_cells[0]), 2.0, 1e-5);
}

TEST(BlockMatrix, MisshapenArgumentsAreRefused) {
  Array<float> s({1, 3, 3}), cells({1}), clusters({1, 2, 4});
  const Stream stream(kCpuDevice);
  EXPECT_THROW(
      kernels::block_matrix(stream, {.s = s, .effective_cells = cells, .clusters = clusters}),
      ShapeError);
}

// S in double, from clusters plus step * direction.
std::vector<double> exact_block(const Array<float>& clusters, const Array<float>& direction,
                                double step) {
  const int64_t k = clusters.shape()[1];
  const int64_t d = clusters.shape()[2];
  const auto c = [&](int64_t head, int64_t u, int64_t x) {
    const int64_t e = (head * k + u) * d + x;
    return static_cast<double>(clusters[e]) + step * static_cast<double>(direction[e]);
  };
  std::vector<double> s;
  for (int64_t head = 0; head < clusters.shape()[0]; ++head) {
    double sum = 0;
    const size_t first = s.size();
    for (int64_t u = 0; u < k; ++u) {
      for (int64_t v = 0; v < k; ++v) {
        double dot = 0;
        for (int64_t x = 0; x < d; ++x) dot += c(head, u, x) * c(head, v, x);
        s.push_back(std::exp(dot));
        sum += s.back();
      }
    }
    for (size_t e = first; e < s.size(); ++e) s[e] /= sum;
  }
  return s;
}

TEST(BlockMatrix, GradientMatchesCentralDifferencesAndIsAdded) {
  const Shape shape{2, 5, 3};
  const Array<float> clusters = random_normal(shape, 1, 0.7);
  const Array<float> ds = random_normal({2, 5, 5}, 2);  // not symmetric
  const Array<float> direction = random_normal(shape, 3);
  const Block block = block_of(clusters);
  Array<float> dclusters(shape);
  dclusters.fill(1.0f);
  Arena scratch("scratch", kCpuDevice, 1 << 16);
  for (int threads : {1, 3}) {
    Array<float> added(shape);
    added.fill(1.0f);
    const Stream stream(kCpuDevice, {.threads = threads});
    kernels::block_matrix_backward(
        stream,
        {.dclusters = added, .ds = ds, .s = block.s, .clusters = clusters, .scratch = &scratch});
    if (threads == 1) dclusters = added;
    EXPECT_EQ(added.values(), dclusters.values());
  }
  double analytic = 0;
  for (int64_t e = 0; e < shape.numel(); ++e) {
    analytic += (static_cast<double>(dclusters[e]) - 1.0) * static_cast<double>(direction[e]);
  }
  constexpr double kStep = 1e-4;
  const std::vector<double> above = exact_block(clusters, direction, kStep);
  const std::vector<double> below = exact_block(clusters, direction, -kStep);
  double numeric = 0;
  for (size_t e = 0; e < above.size(); ++e) {
    numeric += static_cast<double>(ds.values()[e]) * (above[e] - below[e]) / (2 * kStep);
  }
  EXPECT_GT(std::abs(numeric), 1e-3);
  EXPECT_NEAR(analytic, numeric, 2e-6 * std::max(1.0, std::abs(numeric)));
}

TEST(Memberships, AreTheSigmoidOfRealTokensAndZeroOnPadding) {
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    const Shape shape{2, 3, 131, 5};
    const Array<float> logits = random_normal(shape, 4, 6.0);
    Array<uint8_t> mask({2, 131});
    for (int64_t i = 0; i < mask.numel(); ++i) mask[i] = i % 3 != 1;
    Array<float> y(shape);
    kernels::memberships(Stream(kCpuDevice, {.threads = 2}),
                         {.y = y, .logits = logits, .mask = mask});
    for (int64_t e = 0; e < y.numel(); ++e) {
      const int64_t token = e / 5 % 131;
      const int64_t b = e / (5 * 131 * 3);
      const double expected = mask[b * 131 + token] == 0
                                  ? 0.0
                                  : 1.0 / (1.0 + std::exp(-static_cast<double>(logits[e])));
      ASSERT_NEAR(static_cast<double>(y[e]), expected, 1e-6 * expected) << e;
    }
  }
}

TEST(Memberships, MayOverwriteTheirLogitsAndSurviveExtremes) {
  Array<float> x({1, 1, 1, 5}, {-1000.0f, -20.0f, 0.0f, 20.0f, 1000.0f});
  kernels::memberships(Stream(kCpuDevice), {.y = x, .logits = x});
  EXPECT_NEAR(static_cast<double>(x[0]), 0.0, 1e-30);
  EXPECT_NEAR(static_cast<double>(x[1]), 2.0611536e-9, 1e-15);
  EXPECT_EQ(x[2], 0.5f);
  EXPECT_NEAR(static_cast<double>(x[3]), 1.0, 1e-7);
  EXPECT_EQ(x[4], 1.0f);
}

/// y S zᵀ over two samples and two heads.
struct Model {
  Array<float> y, z, s;
  Array<double> expected{Shape{4}}, y_sum, z_sum;
  explicit Model(int64_t n = 9, int64_t m = 7, int64_t k = 4)
      : y(random_uniform({2, 2, n, k}, 1, 0, 1)),
        z(random_uniform({2, 2, m, k}, 2, 0, 1)),
        s(random_uniform({2, k, k}, 3, 0, 0.1)),
        y_sum({4, k}),
        z_sum({4, k}) {}
  void evaluate(int threads = 1) {
    kernels::expected_edges(
        Stream(kCpuDevice, {.threads = threads}),
        {.expected = expected, .y_sum = y_sum, .z_sum = z_sum, .y = y, .z = z, .s = s});
  }
  /// Sum over all pairs of p_ij.
  double pair_by_pair(int64_t p) const {
    const int64_t k = s.shape()[1];
    const auto yp = y.view().at(p / 2).at(p % 2);
    const auto zp = z.view().at(p / 2).at(p % 2);
    const auto sp = s.view().at(p % 2);
    double sum = 0;
    for (int64_t i = 0; i < yp.shape[0]; ++i) {
      for (int64_t j = 0; j < zp.shape[0]; ++j) {
        for (int64_t u = 0; u < k; ++u) {
          for (int64_t v = 0; v < k; ++v) {
            sum += static_cast<double>(yp[i * k + u]) * static_cast<double>(sp[u * k + v]) *
                   static_cast<double>(zp[j * k + v]);
          }
        }
      }
    }
    return sum;
  }
};

TEST(ExpectedEdges, AgreeWithTheSumOverAllPairs) {
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    Model model;
    model.evaluate(2);
    for (int64_t p = 0; p < 4; ++p)
      EXPECT_NEAR(model.expected[p], model.pair_by_pair(p), 1e-12 * model.expected[p]);
  }
}

TEST(ExpectedEdges, OfficialInitialisationGivesAQuarter) {
  constexpr int64_t n = 64, k = 128, d = 32;
  const Array<float> clusters = random_normal({1, k, d}, 1, std::sqrt(2.0 / (k * d)));
  const Block block = block_of(clusters);
  // phi(x) of unit-scale tokens has entries of about 0.2.
  const auto members = [&](uint64_t seed) {
    const Array<float> x = random_normal({1, 1, n, d}, seed, 0.2);
    Array<float> y({1, 1, n, k});
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t u = 0; u < k; ++u) {
        for (int64_t a = 0; a < d; ++a) y[i * k + u] += x[i * d + a] * clusters[u * d + a];
      }
    }
    kernels::memberships(Stream(kCpuDevice), {.y = y, .logits = y});
    return y;
  };
  const Array<float> y = members(2);
  const Array<float> z = members(3);
  Array<double> expected({1}), y_sum({1, k}), z_sum({1, k});
  kernels::expected_edges(
      Stream(kCpuDevice),
      {.expected = expected, .y_sum = y_sum, .z_sum = z_sum, .y = y, .z = z, .s = block.s});
  EXPECT_NEAR(expected[0] / (n * n), 0.25, 0.001);
  EXPECT_GT(block.effective_cells[0], 0.99f * k * k);
}

TEST(ExpectedEdges, GradientMatchesCentralDifferencesAndIsAdded) {
  Model model;
  model.evaluate();
  Array<float> dy(model.y.shape()), dz(model.z.shape()), ds(model.s.shape());
  dy.fill(2.0f);
  dz.fill(2.0f);
  ds.fill(2.0f);
  constexpr float kWeight = 0.3f;
  Arena scratch("scratch", kCpuDevice, 1 << 16);
  kernels::expected_edges_backward(Stream(kCpuDevice, {.threads = 3}), {.dy = dy,
                                                                        .dz = dz,
                                                                        .ds = ds,
                                                                        .y_sum = model.y_sum,
                                                                        .z_sum = model.z_sum,
                                                                        .s = model.s,
                                                                        .weight = kWeight,
                                                                        .scratch = &scratch});
  const auto check = [&](Array<float>& values, const Array<float>& gradient, const char* name) {
    for (int64_t e = 0; e < values.numel(); e += 3) {
      const float before = values[e];
      // Linear in each entry, so that any step is exact; these are exact in float, too.
      const auto total_at = [&](float value) {
        values[e] = value;
        double total = 0;
        for (int64_t p = 0; p < 4; ++p) total += model.pair_by_pair(p);
        return total;
      };
      const double numeric = static_cast<double>(kWeight) * (total_at(1.5f) - total_at(0.5f));
      values[e] = before;
      ASSERT_NEAR(static_cast<double>(gradient[e]) - 2.0, numeric,
                  1e-5 * std::max(1.0, std::abs(numeric)))
          << name << " " << e;
    }
  };
  check(model.y, dy, "y");
  check(model.z, dz, "z");
  check(model.s, ds, "s");
}

TEST(ExpectedEdges, PaddingGetsNoGradient) {
  Model model;
  model.evaluate();
  Array<float> dy(model.y.shape()), dz(model.z.shape()), ds(model.s.shape());
  Array<uint8_t> queries({2, 9}), keys({2, 7});
  for (int64_t i = 0; i < queries.numel(); ++i) queries[i] = i % 2 == 0;
  for (int64_t j = 0; j < keys.numel(); ++j) keys[j] = j % 3 == 0;
  Arena scratch("scratch", kCpuDevice, 1 << 16);
  kernels::expected_edges_backward(Stream(kCpuDevice), {.dy = dy,
                                                        .dz = dz,
                                                        .ds = ds,
                                                        .y_sum = model.y_sum,
                                                        .z_sum = model.z_sum,
                                                        .s = model.s,
                                                        .query_mask = queries,
                                                        .key_mask = keys,
                                                        .weight = 1.0f,
                                                        .scratch = &scratch});
  for (int64_t e = 0; e < dy.numel(); ++e)
    EXPECT_EQ(dy[e] != 0.0f, queries[e / (9 * 4 * 2) * 9 + e / 4 % 9] != 0);
  for (int64_t e = 0; e < dz.numel(); ++e)
    EXPECT_EQ(dz[e] != 0.0f, keys[e / (7 * 4 * 2) * 7 + e / 4 % 7] != 0);
}

TEST(EdgeStatistics, CountEdgesPairsAndEmptyRowsOfRealTokens) {
  Arena memory("graphs", kCpuDevice, 1 << 16);
  kernels::EdgeSet graph = kernels::alloc_edges(memory, 4, 3, 3, {.tile_density = 0.5});
  const Array<uint8_t> two_rows({3, 3}, {1, 1, 0, 0, 1, 0, 0, 0, 0});
  const Array<uint8_t> no_rows({3, 3});
  for (int64_t p = 0; p < 4; ++p) {
    const bool bits = p % 2 == 1;
    kernels::set_edges(graph, p, bits ? kernels::EdgeForm::kBits : kernels::EdgeForm::kCsr,
                       p == 2 ? no_rows : two_rows);
  }
  const Array<uint8_t> queries({2, 3}, {1, 1, 1, 1, 1, 0});
  const Array<uint8_t> keys({2, 3}, {1, 1, 0, 1, 1, 1});
  Array<int64_t> edges({2}), pairs({2}), empty_rows({2});
  kernels::edge_statistics(Stream(kCpuDevice), {.edges = edges,
                                                .pairs = pairs,
                                                .empty_rows = empty_rows,
                                                .graph = graph,
                                                .query_mask = queries,
                                                .key_mask = keys});
  EXPECT_EQ(edges.values(), (std::vector<int64_t>{3, 6}));
  EXPECT_EQ(pairs.values(), (std::vector<int64_t>{6 + 6, 6 + 6}));
  EXPECT_EQ(empty_rows.values(), (std::vector<int64_t>{1 + 2, 1 + 0}));
  kernels::edge_statistics(
      Stream(kCpuDevice),
      {.edges = edges, .pairs = pairs, .empty_rows = empty_rows, .graph = graph});
  EXPECT_EQ(pairs.values(), (std::vector<int64_t>{18, 18}));
  EXPECT_EQ(empty_rows.values(), (std::vector<int64_t>{1 + 3, 1 + 1}));
}

}  // namespace
}  // namespace stipple::test
