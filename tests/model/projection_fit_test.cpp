// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/projection_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "model/attention/sparsefinder/kmeans.h"
#include "tests/support/arrays.h"
#include "tests/support/edge_lists.h"

namespace stipple::model {
namespace {

using kernels::EdgeList;
using test::edges_of;

std::vector<int32_t> row_of(const EdgeList& edges, size_t i) {
  return {edges.columns.begin() + edges.row_ptr[i], edges.columns.begin() + edges.row_ptr[i + 1]};
}

Projection random_projection(const ProjectionShape& shape, bool is_shared, uint64_t seed) {
  Projection p{.shape = shape, .is_shared = is_shared};
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal(0, 1 / std::sqrt(static_cast<double>(shape.r)));
  for (int64_t e = 0; e < shape.numel(); ++e) p.query.push_back(normal(generator));
  for (int64_t e = 0; e < shape.numel() && !is_shared; ++e) p.key.push_back(normal(generator));
  return p;
}

Projection no_gradient(const Projection& p) {
  Projection g = p;
  std::fill(g.query.begin(), g.query.end(), 0.0);
  std::fill(g.key.begin(), g.key.end(), 0.0);
  return g;
}

// --- other keys ----------------------------------------------------------------------------------

TEST(DrawOthers, AreAsManyAsTheGoldKeysAndNoneOfThem) {
  const EdgeList gold = edges_of({{0, 3}, {}, {1, 2, 3, 4}, {0, 1, 2, 3, 4}, {2}});
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const EdgeList others = draw_others(gold, false, seed);
    const size_t expected[] = {2, 0, 1, 0, 1};  // of the third row's five keys one is left
    for (size_t i = 0; i < 5; ++i) {
      const std::vector<int32_t> own = row_of(others, i), keys = row_of(gold, i);
      ASSERT_EQ(own.size(), expected[i]) << i;
      EXPECT_TRUE(std::is_sorted(own.begin(), own.end()));
      for (size_t e = 0; e < own.size(); ++e) {
        EXPECT_FALSE(std::binary_search(keys.begin(), keys.end(), own[e]));
        EXPECT_TRUE(e == 0 || own[e] != own[e - 1]);
      }
    }
  }
}

TEST(DrawOthers, OfACausalModelLieBeforeTheQuery) {
  const EdgeList gold = edges_of({{0}, {1}, {0, 2}, {3}});
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const EdgeList others = draw_others(gold, true, seed);
    EXPECT_TRUE(row_of(others, 0).empty());
    EXPECT_EQ(row_of(others, 1), std::vector<int32_t>{0});
    EXPECT_EQ(row_of(others, 2), std::vector<int32_t>{1});
    EXPECT_LT(row_of(others, 3).at(0), 3);
  }
}

TEST(DrawOthers, EveryKeyIsDrawnAsOften) {
  const EdgeList gold = edges_of({{0, 1}, {}, {}, {}, {}, {}});
  std::vector<int> counts(6);
  for (uint64_t seed = 0; seed < 3000; ++seed)
    for (const int32_t j : row_of(draw_others(gold, false, seed), 0))
      ++counts[static_cast<size_t>(j)];
  // 1500 expected each, with a standard deviation of 27.
  for (size_t j = 2; j < 6; ++j) EXPECT_NEAR(counts[j], 1500, 140) << j;
}

// --- loss ----------------------------------------------------------------------------------------

ProjectionExample random_example(int64_t n, int64_t d, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<std::vector<int32_t>> rows(static_cast<size_t>(n));
  for (auto& row : rows)
    for (int32_t j = 0; j < n; ++j)
      if (generator() % 5 == 0) row.push_back(j);
  return {.q = test::random_normal({n, d}, seed + 1).values(),
          .k = test::random_normal({n, d}, seed + 2).values(),
          .gold = edges_of(rows)};
}

TEST(ProjectionLoss, GradientIsTheSlope) {
  struct Kind {
    int64_t hidden;
    bool is_shared, is_joined;
  };
  for (const Kind kind : {Kind{0, true, false}, Kind{0, false, false}, Kind{4, true, false},
                          Kind{4, false, false}, Kind{0, true, true}}) {
    SCOPED_TRACE(testing::Message() << "hidden " << kind.hidden << (kind.is_shared ? " shared" : "")
                                    << (kind.is_joined ? " joined" : ""));
    ProjectionExample example = random_example(12, 5, 7);
    if (kind.is_joined) example = joined(std::move(example), 5);
    const EdgeList others = draw_others(example.gold, false, 1);
    const ProjectionShape shape{.d = kind.is_joined ? 10 : 5, .r = 3, .hidden = kind.hidden};
    Projection w = random_projection(shape, kind.is_shared, 9);
    Projection gradient = no_gradient(w);
    projection_loss(example, others, 1.0, w, gradient);
    const auto check = [&](std::vector<double>& x, const std::vector<double>& dx) {
      for (size_t e = 0; e < x.size(); ++e) {
        const double at = x[e], step = 1e-6;
        Projection ignored = no_gradient(w);
        x[e] = at + step;
        const double up = projection_loss(example, others, 1.0, w, ignored);
        x[e] = at - step;
        const double down = projection_loss(example, others, 1.0, w, ignored);
        x[e] = at;
        EXPECT_NEAR(dx[e], (up - down) / (2 * step), 1e-6 * (1 + std::abs(dx[e])));
      }
    };
    check(w.query, gradient.query);
    check(w.key, gradient.key);
  }
}

TEST(ProjectionLoss, IsZeroWhereOthersAreFartherByTheMargin) {
  // One dimension, the identity: query 0 has its key at 0.1 and another at 2.
  const ProjectionExample example{.q = {0, 5}, .k = {0.1f, 2}, .gold = edges_of({{0}, {}})};
  const EdgeList others = edges_of({{1}, {}});
  const Projection w{.shape = {.d = 1, .r = 1}, .query = {1.0}};
  Projection gradient = no_gradient(w);
  EXPECT_EQ(projection_loss(example, others, 1.0, w, gradient), 0.0);
  EXPECT_EQ(gradient.query[0], 0.0);
  EXPECT_NEAR(projection_loss(example, others, 5.0, w, gradient), (5 + 0.01 - 4) / 2, 1e-6);
  EXPECT_NE(gradient.query[0], 0.0);
}

TEST(ProjectionLoss, AQueryWithoutOtherKeysCountsForNothing) {
  const ProjectionExample example{.q = {0, 5}, .k = {3, 2}, .gold = edges_of({{0, 1}, {}})};
  const EdgeList others = draw_others(example.gold, false, 0);
  EXPECT_EQ(others.num_edges(), 0);
  const Projection w{.shape = {.d = 1, .r = 1}, .query = {1.0}};
  Projection gradient = no_gradient(w);
  EXPECT_EQ(projection_loss(example, others, 1.0, w, gradient), 0.0);
  EXPECT_EQ(gradient.query[0], 0.0);
}

// --- what fitting is worth -----------------------------------------------------------------------

/// Sequences whose tokens attend by topic: a few directions carry topics, the others noise.
struct Toy {
  static constexpr int64_t kTokens = 128, kDim = 64, kTopics = 24, kTopicDim = 8, kProjected = 4;

  static std::vector<ProjectionExample> examples(int64_t count, uint64_t seed) {
    const test::Array<float> topics = test::random_normal({kTopics, kTopicDim}, 77, 1.0);
    const test::Array<float> basis = test::random_normal({kTopicDim, kDim}, 78, 1.0);
    std::vector<ProjectionExample> all;
    for (int64_t x = 0; x < count; ++x) {
      std::mt19937_64 generator(seed + static_cast<uint64_t>(x));
      std::vector<int64_t> topic(kTokens);
      for (int64_t& t : topic) t = static_cast<int64_t>(generator() % kTopics);
      const auto tokens = [&](uint64_t noise_seed) {
        std::vector<float> rows = test::random_normal({kTokens, kDim}, noise_seed, 0.7).values();
        for (size_t i = 0; i < kTokens; ++i)
          for (size_t t = 0; t < kTopicDim; ++t)
            for (size_t c = 0; c < kDim; ++c)
              rows[i * kDim + c] += 0.35f * topics[topic[i] * kTopicDim + static_cast<int64_t>(t)] *
                                    basis[static_cast<int64_t>(t * kDim + c)];
        return rows;
      };
      ProjectionExample example{.q = tokens(generator()), .k = tokens(generator()), .gold = {}};
      example.gold = support(example);
      all.push_back(std::move(example));
    }
    return all;
  }

  /// Of 1.5-entmax of q k / sqrt(D), by bisection.
  static EdgeList support(const ProjectionExample& example) {
    std::vector<std::vector<int32_t>> rows;
    for (size_t i = 0; i < kTokens; ++i) {
      std::vector<double> x(kTokens);
      for (size_t j = 0; j < kTokens; ++j)
        for (size_t c = 0; c < kDim; ++c)
          x[j] += static_cast<double>(example.q[i * kDim + c]) *
                  static_cast<double>(example.k[j * kDim + c]) / 16;
      double low = *std::max_element(x.begin(), x.end()) - 1, high = low + 1;
      for (int step = 0; step < 60; ++step) {
        const double tau = (low + high) / 2;
        double sum = 0;
        for (const double value : x) sum += std::pow(std::max(value - tau, 0.0), 2);
        (sum >= 1 ? low : high) = tau;
      }
      std::vector<int32_t>& row = rows.emplace_back();
      for (size_t j = 0; j < kTokens; ++j)
        if (x[j] > low) row.push_back(static_cast<int32_t>(j));
    }
    return edges_of(rows);
  }
};

/// Groups [N, T] of queries and of keys of one example.
struct Grouped {
  std::vector<std::vector<int64_t>> q, k;
};
struct Score {
  double recall = 0, density = 0;
};

template <class Group>
Score score(const std::vector<ProjectionExample>& examples, const Group& group) {
  double found = 0, gold = 0, edges = 0, pairs = 0;
  for (const ProjectionExample& example : examples) {
    const Grouped groups = group(example);
    const auto share = [&](size_t i, size_t j) {
      for (const int64_t own : groups.q[i])
        if (std::count(groups.k[j].begin(), groups.k[j].end(), own) > 0) return true;
      return false;
    };
    for (size_t i = 0; i < Toy::kTokens; ++i) {
      const std::vector<int32_t> keys = row_of(example.gold, i);
      gold += static_cast<double>(keys.size());
      for (size_t j = 0; j < Toy::kTokens; ++j) {
        const bool has = share(i, j);
        edges += has ? 1 : 0;
        if (has && std::binary_search(keys.begin(), keys.end(), static_cast<int32_t>(j))) ++found;
      }
    }
    pairs += static_cast<double>(Toy::kTokens * Toy::kTokens);
  }
  return {.recall = found / gold, .density = edges / pairs};
}

std::vector<float> project(const std::vector<float>& x, const std::vector<double>& w) {
  std::vector<float> y;
  for (size_t i = 0; i < Toy::kTokens; ++i) {
    for (size_t e = 0; e < Toy::kProjected; ++e) {
      double sum = 0;
      for (size_t c = 0; c < Toy::kDim; ++c)
        sum += static_cast<double>(x[i * Toy::kDim + c]) * w[c * Toy::kProjected + e];
      y.push_back(static_cast<float>(sum));
    }
  }
  return y;
}

std::vector<float> centroids_of(const std::vector<ProjectionExample>& examples, const Projection& w,
                                int64_t clusters) {
  std::vector<float> points;
  for (const ProjectionExample& example : examples) {
    for (const std::vector<float>* side : {&example.q, &example.k}) {
      const std::vector<float> y = project(*side, w.query);
      points.insert(points.end(), y.begin(), y.end());
    }
  }
  return kmeans({.values = points, .dim = Toy::kProjected}, {.clusters = clusters, .seed = 1},
                Ranks());
}

Score cluster_score(const std::vector<ProjectionExample>& examples, const Projection& w,
                    const std::vector<float>& centroids) {
  return score(examples, [&](const ProjectionExample& example) {
    const auto group = [&](const std::vector<float>& x) {
      std::vector<std::vector<int64_t>> groups;
      const std::vector<float> y = project(x, w.query);
      for (size_t i = 0; i < Toy::kTokens; ++i)
        groups.push_back({nearest(y.data() + i * Toy::kProjected, centroids, Toy::kProjected)});
      return groups;
    };
    return Grouped{.q = group(example.q), .k = group(example.k)};
  });
}

Score bucket_score(const std::vector<ProjectionExample>& examples, const Projection& w,
                   int64_t buckets) {
  return score(examples, [&](const ProjectionExample& example) {
    const auto group = [&](const std::vector<float>& x) {
      const std::vector<float> y = project(x, w.query);
      std::vector<std::vector<int64_t>> groups(Toy::kTokens, std::vector<int64_t>(Toy::kProjected));
      const int64_t size = (Toy::kTokens + buckets - 1) / buckets;
      for (size_t e = 0; e < Toy::kProjected; ++e) {
        std::vector<size_t> order(Toy::kTokens);
        for (size_t i = 0; i < order.size(); ++i) order[i] = i;
        std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
          return y[a * Toy::kProjected + e] < y[b * Toy::kProjected + e];
        });
        for (size_t rank = 0; rank < order.size(); ++rank)
          groups[order[rank]][e] =
              static_cast<int64_t>(e) * buckets + static_cast<int64_t>(rank) / size;
      }
      return groups;
    };
    return Grouped{.q = group(example.q), .k = group(example.k)};
  });
}

TEST(FitProjection, GainsFivePointsOfRecallAtEqualDensityAndClustersBeatBuckets) {
  const std::vector<ProjectionExample> learn = Toy::examples(24, 1000),
                                       held = Toy::examples(8, 5000);
  Projection w = random_projection({.d = Toy::kDim, .r = Toy::kProjected}, true, 3);
  const Score before = cluster_score(held, w, centroids_of(learn, w, 8));
  fit_projection(learn, {.batch = 4}, w);
  const Score after = cluster_score(held, w, centroids_of(learn, w, 8));
  const Score buckets = bucket_score(held, w, 16);
  EXPECT_GE(after.recall, before.recall + 0.05);
  EXPECT_LE(after.density, before.density + 0.01);
  EXPECT_GT(after.recall, buckets.recall);
  EXPECT_LT(after.density, buckets.density);
}

TEST(ProjectionFit, AHiddenLayerIsTheTangentOfItsProductsAndBiases) {
  // W_1 [2, 2], b [2], W_2 [2, 1]
  const std::vector<double> map = {1, -1, 0.5, 2, 0.25, -0.5, 3, -2};
  std::vector<float> rows;
  append_projected(std::vector<float>{0.5f, -1}, map, {.d = 2, .r = 1, .hidden = 2}, rows);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_NEAR(rows[0], 3 * std::tanh(0.5 - 0.5 + 0.25) - 2 * std::tanh(-0.5 - 2 - 0.5), 1e-6);
}

TEST(ProjectionFit, JoinedTokensHaveOnePlaceAsQueryAndKey) {
  const ProjectionExample both =
      joined({.q = {1, 2, 3, 4}, .k = {5, 6, 7, 8}, .gold = edges_of({{1}, {}})}, 2);
  EXPECT_EQ(both.q, (std::vector<float>{1, 2, 5, 6, 3, 4, 7, 8}));
  EXPECT_EQ(both.k, both.q);
  EXPECT_EQ(both.gold.columns, std::vector<int32_t>{1});
}

/// Who attends by topic is told by any kind of map, the better the longer it is fitted.
TEST(FitProjection, LowersTheLossOfEveryKind) {
  for (const bool is_joined : {false, true}) {
    std::vector<ProjectionExample> learn = Toy::examples(12, 1000);
    if (is_joined)
      for (ProjectionExample& example : learn) example = joined(std::move(example), Toy::kDim);
    ProjectionShape shape{.d = is_joined ? 2 * Toy::kDim : Toy::kDim, .r = Toy::kProjected};
    if (!is_joined) shape.hidden = 16;
    const auto loss = [&](int64_t epochs) {
      Projection w = random_projection(shape, true, 3);
      if (!is_joined) {
        for (size_t e = 0; e < static_cast<size_t>(shape.d * shape.hidden); ++e) w.query[e] *= 0.2;
      }
      return fit_projection(learn, {.epochs = epochs, .batch = 4}, w);
    };
    EXPECT_LT(loss(10), 0.8 * loss(1)) << (is_joined ? "joined" : "hidden");
  }
}

TEST(ProjectionFit, MipsBringsTheKeysOfAnExampleToOneLength) {
  ProjectionExample plain{.q = {1, 2, 3, 4}, .k = {3, 4, 0, 1}, .gold = {}};
  const ProjectionExample more = with_mips(plain, 2);
  EXPECT_EQ(more.q, (std::vector<float>{1, 2, 0, 3, 4, 0}));
  EXPECT_EQ(more.k, (std::vector<float>{3, 4, 0, 0, 1, std::sqrt(24.0f)}));
}

}  // namespace
}  // namespace stipple::model
