// SPDX-License-Identifier: Apache-2.0
// The double-precision oracle of entmax attention against what is known without it: worked values,
// the closed forms that sorting gives, the properties of the map, and central differences.
#include "kernels/attend_entmax_reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "tests/support/arrays.h"

namespace stipple::kernels::reference {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();
const Doubles kAlphas = {1.1, 4.0 / 3, 1.5, 1.75, 2.0, 2.5, 4.0};

Doubles normal_doubles(size_t count, uint64_t seed, double stddev = 1.0) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal(0.0, stddev);
  Doubles values(count);
  for (double& x : values) x = normal(generator);
  return values;
}

double sum_of(const Doubles& x) { return std::accumulate(x.begin(), x.end(), 0.0); }
double product(const Doubles& a, const Doubles& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

void expect_near(const Doubles& actual, const Doubles& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i)
    EXPECT_NEAR(actual[i], expected[i], tolerance) << "element " << i;
}

/// tau of alpha 1.5 or 2 from the sorted row (Peters et al. 2019).
double tau_by_sorting(const Doubles& z, double alpha) {
  Doubles x;
  for (const double score : z) x.push_back((alpha - 1) * score);
  std::sort(x.begin(), x.end(), std::greater<>());
  double sum = 0.0, squares = 0.0, tau = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    sum += x[i], squares += x[i] * x[i];
    const auto k = static_cast<double>(i + 1);
    const double spread = squares - sum * sum / k;
    const double at =
        alpha == 2.0 ? (sum - 1) / k : sum / k - std::sqrt(std::max(0.0, (1 - spread) / k));
    if (at <= x[i]) tau = at;
  }
  return tau;
}

TEST(EntmaxReference, WorkedValues) {
  const Doubles z = {-2, 0, 0.5};
  expect_near(entmax(z, 1.0).p, {0.0486, 0.3592, 0.5922}, 5e-5);
  expect_near(entmax(z, 1.5).p, {0, 0.3260, 0.6740}, 5e-5);
  expect_near(entmax(z, 2.0).p, {0, 0.25, 0.75}, 1e-12);
}

TEST(EntmaxReference, SortingGivesTheSameThreshold) {
  for (const double stddev : {0.1, 1.0, 30.0}) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const Doubles z = normal_doubles(1 + 7 * seed, seed, stddev);
      for (const double alpha : {1.5, 2.0})
        EXPECT_NEAR(entmax(z, alpha).tau, tau_by_sorting(z, alpha), 1e-12 * (1 + stddev));
    }
  }
}

TEST(EntmaxReference, RowsSumToOneOverTheSupportAlone) {
  for (const double alpha : kAlphas) {
    const Doubles z = normal_doubles(50, 3, 2.45);
    const EntmaxRow row = entmax(z, alpha);
    EXPECT_NEAR(sum_of(row.p), 1.0, 1e-12);
    for (size_t j = 0; j < z.size(); ++j)
      EXPECT_EQ(row.has(j), (alpha - 1) * z[j] > row.tau) << alpha << " " << j;
    // Keys outside the support do not matter.
    Doubles fewer = z;
    for (size_t j = 0; j < z.size(); ++j)
      if (!row.has(j)) fewer[j] = kNone;
    EXPECT_EQ(entmax(fewer, alpha).p, row.p);
  }
}

TEST(EntmaxReference, NoKeyOneKeyEqualKeysAndLargeScores) {
  for (const double alpha : kAlphas) {
    EXPECT_EQ(entmax(Doubles{}, alpha).tau, -kNone);
    EXPECT_EQ(entmax(Doubles{kNone, kNone}, alpha).p, (Doubles{0, 0}));
    EXPECT_EQ(entmax(Doubles{kNone, 7}, alpha).p, (Doubles{0, 1}));
    EXPECT_EQ(entmax(Doubles{1e4, 1e4 - 20, -1e4}, alpha).p, (Doubles{1, 0, 0}));
    for (const double p : entmax(Doubles(9, -1e4), alpha).p) EXPECT_NEAR(p, 1.0 / 9, 1e-12);
  }
}

TEST(EntmaxReference, NearOneItIsNearSoftmax) {
  const Doubles z = normal_doubles(30, 5);
  expect_near(entmax(z, 1 + 1e-4).p, entmax(z, 1.0).p, 1e-3);
}

TEST(EntmaxReference, GradientsOfARowAreItsSlopes) {
  constexpr double kStep = 1e-6;
  for (const double alpha : {1.0, 1.1, 4.0 / 3, 1.5, 1.75, 2.0, 2.5}) {
    Doubles z = normal_doubles(12, 8);
    const Doubles dp = normal_doubles(12, 9);
    const auto loss = [&](double at) { return product(dp, entmax(z, at).p); };
    const Doubles dz = entmax_backward(entmax(z, alpha), dp, alpha);
    EXPECT_NEAR(sum_of(dz), 0.0, 1e-12);
    for (size_t j = 0; j < z.size(); ++j) {
      const double middle = z[j];
      z[j] = middle + kStep;
      const double above = loss(alpha);
      z[j] = middle - kStep;
      const double below = loss(alpha);
      z[j] = middle;
      EXPECT_NEAR(dz[j], (above - below) / (2 * kStep), 1e-7) << alpha << " " << j;
    }
    if (alpha == 1.0) continue;
    const double slope = (loss(alpha + kStep) - loss(alpha - kStep)) / (2 * kStep);
    EXPECT_NEAR(entmax_alpha_gradient(entmax(z, alpha), dp, alpha), slope, 1e-7) << alpha;
  }
}

TEST(EntmaxReference, TheGradientOfAlphaHasALimitAtOne) {
  const Doubles z = normal_doubles(12, 8), dp = normal_doubles(12, 9);
  const double limit = entmax_alpha_gradient(entmax(z, 1.0), dp, 1.0);
  EXPECT_GT(std::abs(limit), 1e-3);
  for (const double above : {1e-6, 2e-5, 1e-4})
    EXPECT_NEAR(entmax_alpha_gradient(entmax(z, 1 + above), dp, 1 + above), limit, 10 * above);
  const double ahead = product(dp, entmax(z, 1.001).p) - product(dp, entmax(z, 1.0).p);
  EXPECT_NEAR(ahead / 1e-3, limit, 1e-3);
}

Attention attention_of(int64_t n, int64_t m, int64_t d) {
  const auto numbers = [&](int64_t rows, uint64_t seed) {
    return normal_doubles(static_cast<size_t>(rows * d), seed);
  };
  Attention a{.n = n,
              .m = m,
              .d = d,
              .scale = 0.8,
              .q = numbers(n, 1),
              .k = numbers(m, 2),
              .v = numbers(m, 3),
              .weight = pairs_of({.is_causal = true}, 0, n, m)};
  a.weight[0] = 0.0;  // the first query has no key
  a.keep = Doubles(a.weight.size(), 1.25);
  for (size_t pair = 2; pair < a.keep.size(); pair += 5) a.keep[pair] = 0.0;
  return a;
}

TEST(EntmaxReference, GradientsOfAttentionAreItsSlopes) {
  constexpr double kStep = 1e-6;
  for (const double alpha : {1.2, 1.5, 2.0, 2.5}) {
    Attention a = attention_of(6, 8, 4);
    EntmaxAttention e{.attention = a, .alpha = alpha, .temperature = 1.3};
    const Doubles dout = normal_doubles(a.q.size(), 4);
    const EntmaxGradients g = attend_entmax_backward(e, dout);
    const auto slope = [&](double& x) {
      const double middle = x;
      x = middle + kStep;
      const double above = product(dout, attend_entmax(e).o);
      x = middle - kStep;
      const double below = product(dout, attend_entmax(e).o);
      x = middle;
      return (above - below) / (2 * kStep);
    };
    for (const auto& [x, dx] : {std::pair{&a.q, &g.dq}, {&a.k, &g.dk}, {&a.v, &g.dv}})
      for (size_t i = 0; i < x->size(); ++i) EXPECT_NEAR((*dx)[i], slope((*x)[i]), 2e-7) << alpha;
    EXPECT_NEAR(sum_of(g.dalpha), slope(e.alpha), 2e-7) << alpha;
    EXPECT_NEAR(sum_of(g.dtemperature), slope(e.temperature), 2e-7) << alpha;
  }
}

TEST(EntmaxReference, O2MakesTheMeanOfAWeightsGradients) {
  const Attention a = attention_of(6, 8, 4);
  const EntmaxAttention e{.attention = a};
  const EntmaxOutput out = attend_entmax(e);
  const Doubles dout = normal_doubles(a.q.size(), 4);
  const EntmaxGradients g = attend_entmax_backward(e, dout);
  const Doubles means = delta(a, dout, out.o2);
  EXPECT_EQ(out.tau[0], -kNone);
  EXPECT_EQ(means[0], 0.0);
  for (int64_t i = 0; i < a.n; ++i) {
    for (int64_t j = 0; j < a.m; ++j) {
      const auto pair = static_cast<size_t>(i * a.m + j);
      double dp = 0.0;
      for (int64_t c = 0; c < a.d; ++c)
        dp += a.keep[pair] * dout[static_cast<size_t>(i * a.d + c)] *
              a.v[static_cast<size_t>(j * a.d + c)];
      const double u = std::sqrt(out.weights[pair]);
      EXPECT_NEAR(g.ds[pair], u * (dp - means[static_cast<size_t>(i)]), 1e-12);
    }
  }
}

}  // namespace
}  // namespace stipple::kernels::reference
