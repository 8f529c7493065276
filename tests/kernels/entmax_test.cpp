// SPDX-License-Identifier: Apache-2.0
#include "kernels/entmax.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "core/cpu/isa.h"
#include "core/error.h"
#include "tests/kernels/entmax_reference.h"
#include "tests/support/arrays.h"

namespace stipple::test {
namespace {

/// Above alpha 2 weights rise steeply at the edge of the support: what is rounded of x shows, there
/// and through their sum everywhere.
double tolerance_of_weights(float alpha) {
  return alpha > 2.0f ? 2 * std::pow(1e-6, 1 / (double{alpha} - 1)) : 4e-6;
}

constexpr float kAlphas[] = {1.05f, 1.33f, 1.5f, 1.7f, 2.0f, 2.5f, 4.0f};

struct Solved {
  Array<float> p, tau;
  Array<int32_t> size;
  Array<uint32_t> columns;
};

class Entmax : public ::testing::TestWithParam<cpu::Isa> {
 protected:
  Entmax() : before_(cpu::isa()) { cpu::set_isa(GetParam()); }
  ~Entmax() override { cpu::set_isa(before_); }

  static Solved solve(const Array<float>& z, const Array<float>& alpha, int threads = 1,
                      int64_t room = 32) {
    const int64_t rows = z.shape()[0];
    Solved s{Array<float>(z.shape()), Array<float>({rows}), Array<int32_t>({rows}),
             Array<uint32_t>({rows, room})};
    Arena scratch("scratch", kCpuDevice, size_t{4} << 20);
    kernels::entmax(Stream(kCpuDevice, {.threads = threads}),
                    {.p = s.p,
                     .tau = s.tau,
                     .support = {.size = s.size, .columns = s.columns},
                     .z = z,
                     .alpha = alpha,
                     .scratch = &scratch});
    return s;
  }
  static Solved solve(const Array<float>& z, float alpha) {
    return solve(z, Array<float>({1}, {alpha}));
  }

  struct Differentiated {
    Array<float> dz, dalpha;
  };
  static Differentiated differentiate(const Array<float>& p, const Array<float>& dp, float alpha) {
    Differentiated d{Array<float>(p.shape()), Array<float>({p.shape()[0]})};
    Arena scratch("scratch", kCpuDevice, size_t{4} << 20);
    kernels::entmax_backward(Stream(kCpuDevice), {.dz = d.dz,
                                                  .dalpha = d.dalpha,
                                                  .p = p,
                                                  .dp = dp,
                                                  .alpha = Array<float>({1}, {alpha}),
                                                  .scratch = &scratch});
    return d;
  }

  static std::vector<double> row_of(const Array<float>& a, int64_t i) {
    const int64_t length = a.shape()[1];
    return {&a[i * length], &a[i * length] + length};
  }

 private:
  cpu::Isa before_;
};
std::string name_of_isa(const ::testing::TestParamInfo<cpu::Isa>& isa) {
  return std::string(cpu::isa_name(isa.param));
}
INSTANTIATE_TEST_SUITE_P(Isa, Entmax, ::testing::ValuesIn(cpu::available_isas()), name_of_isa);

TEST_P(Entmax, GivesThePublishedNumbers) {
  const Array<float> z({1, 3}, {-2.0f, 0.0f, 0.5f});
  const auto expect = [&](float alpha, std::vector<float> p) {
    const Solved s = solve(z, alpha);
    for (int64_t j = 0; j < 3; ++j) EXPECT_NEAR(s.p[j], p[static_cast<size_t>(j)], 5e-5f) << alpha;
  };
  expect(1.5f, {0.0f, 0.3260f, 0.6740f});
  expect(2.0f, {0.0f, 0.25f, 0.75f});
  expect(1.0001f, {0.0486f, 0.3592f, 0.5922f});
}

TEST_P(Entmax, AgreesWithSortingAndWithBisection) {
  for (const int64_t length : {1, 2, 3, 15, 16, 17, 64, 257, 1000, 3000}) {
    for (const double sigma : {0.01, 0.3, 2.45, 30.0}) {
      const Array<float> z = random_normal({2, length}, 1 + static_cast<uint64_t>(length), sigma);
      for (const float alpha : kAlphas) {
        SCOPED_TRACE(testing::Message() << length << " of sigma " << sigma << " at " << alpha);
        const Solved s = solve(z, alpha);
        for (int64_t i = 0; i < 2; ++i) {
          const std::vector<double> expected = entmax_by_definition(row_of(z, i), double{alpha});
          for (int64_t j = 0; j < length; ++j) {
            ASSERT_NEAR(s.p[i * length + j], expected[static_cast<size_t>(j)],
                        tolerance_of_weights(alpha))
                << j;
          }
        }
      }
    }
  }
}

TEST_P(Entmax, GivesWeightsThatAddUpToOneAndAreZeroExactlyUpToTau) {
  const int64_t length = 700;
  const Array<float> z = random_normal({20, length}, 2, 2.45);
  for (const float alpha : kAlphas) {
    const Solved s = solve(z, Array<float>({1}, {alpha}), 1, length);
    for (int64_t i = 0; i < 20; ++i) {
      double sum = 0.0;
      std::vector<uint32_t> support;
      for (int64_t j = 0; j < length; ++j) {
        const float p = s.p[i * length + j];
        sum += double{p};
        ASSERT_EQ(p > 0.0f, (alpha - 1.0f) * z[i * length + j] > s.tau[i]) << alpha;
        if (p > 0.0f) support.push_back(static_cast<uint32_t>(j));
      }
      ASSERT_NEAR(sum, 1.0, 1e-6);
      ASSERT_EQ(s.size[i], static_cast<int32_t>(support.size()));
      const uint32_t* columns = &s.columns[i * length];
      ASSERT_TRUE(std::equal(support.begin(), support.end(), columns));
    }
  }
}

TEST_P(Entmax, IgnoresAShiftFollowsAPermutationAndKeepsTheOrder) {
  const int64_t length = 100;
  const Array<float> z = random_normal({1, length}, 3, 1.0);
  std::vector<int64_t> order(static_cast<size_t>(length));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(4));
  Array<float> shifted = z, permuted = z;
  for (int64_t j = 0; j < length; ++j) {
    shifted[j] += 5.0f;
    permuted[j] = z[order[static_cast<size_t>(j)]];
  }
  for (const float alpha : {1.33f, 1.5f, 2.0f}) {
    const Solved s = solve(z, alpha), of_shifted = solve(shifted, alpha);
    const Solved of_permuted = solve(permuted, alpha);
    for (int64_t j = 0; j < length; ++j) {
      ASSERT_NEAR(s.p[j], of_shifted.p[j], 4e-6);
      ASSERT_NEAR(of_permuted.p[j], s.p[order[static_cast<size_t>(j)]], 4e-6);
      for (int64_t other = 0; other < length; ++other) {
        if (z[j] > z[other]) {
          ASSERT_GE(s.p[j], s.p[other]);
        }
      }
    }
  }
}

TEST_P(Entmax, GivesEqualScoresEqualWeightsAndNoneAtTheEdge) {
  for (const float alpha : kAlphas) {
    for (const int64_t length : {1, 7, 64, 1000}) {
      Array<float> z({1, length});
      z.fill(-3.5f);
      const Solved s = solve(z, alpha);
      for (const float p : s.p.values()) {
        ASSERT_NEAR(p, 1.0 / static_cast<double>(length), 4e-6 / static_cast<double>(length));
      }
    }
  }
  // tau is 0 exactly: two keys hold all, whoever stands at the edge holds nothing.
  const float half = std::sqrt(0.5f);
  Array<float> z({1, 40});
  z.fill(0.0f);
  z[3] = z[30] = 2.0f * half;
  const Solved s = solve(z, 1.5f);
  EXPECT_NEAR(s.p[3], 0.5f, 1e-6f);
  EXPECT_EQ(s.p[3], s.p[30]);
  for (int64_t j = 0; j < 40; ++j) {
    if (j != 3 && j != 30) {
      EXPECT_NEAR(s.p[j], 0.0f, 1e-12f);
    }
  }
}

TEST_P(Entmax, GivesNothingWhereNothingTakesPartAndAllToWhoIsAlone) {
  Array<float> z({3, 50});
  z.fill(-kInfinity);
  z[50 + 20] = -7.0f;
  z[100 + 5] = 1.0f;
  z[100 + 6] = 2.0f;
  for (const float alpha : kAlphas) {
    const Solved s = solve(z, alpha);
    EXPECT_EQ(s.tau[0], kInfinity);
    EXPECT_EQ(s.size[0], 0);
    for (int64_t j = 0; j < 50; ++j) ASSERT_EQ(s.p[j], 0.0f);
    EXPECT_EQ(s.p[50 + 20], 1.0f);
    EXPECT_EQ(s.size[1], 1);
    EXPECT_NEAR(s.p[100 + 5] + s.p[100 + 6], 1.0f, 1e-6f);
    const Differentiated d = differentiate(s.p, random_normal({3, 50}, 5), alpha);
    for (int64_t j = 0; j < 100; ++j) ASSERT_EQ(d.dz[j], 0.0f);
    EXPECT_EQ(d.dalpha[0], 0.0f);
    EXPECT_NEAR(d.dalpha[1], 0.0f, 1e-6f);
  }
}

TEST_P(Entmax, LetsNoNanOrInfinityLookLikeASupport) {
  for (const float odd : {kNan, kInfinity}) {
    for (const int64_t where : {0, 13, 599}) {
      Array<float> z = random_normal({3, 600}, 6);
      z[600 + where] = odd;
      for (const float alpha : {1.3f, 1.5f, 2.0f, 3.0f}) {
        const Solved s = solve(z, alpha);
        EXPECT_TRUE(std::isnan(s.tau[1]));
        EXPECT_EQ(s.size[1], 0);
        const Differentiated d = differentiate(s.p, random_normal({3, 600}, 7), alpha);
        for (int64_t j = 0; j < 1800; ++j) {
          ASSERT_EQ(std::isnan(s.p[j]), j / 600 == 1);
          ASSERT_EQ(std::isnan(d.dz[j]), j / 600 == 1);
        }
      }
    }
  }
}

TEST_P(Entmax, SurvivesLargeNumbersAndGivesAllToWhoLeadsByFar) {
  for (const float size : {1e4f, 1e8f, 1e30f}) {
    Array<float> z = random_normal({4, 300}, 8, double{size});
    for (const float alpha : kAlphas) {
      const Solved s = solve(z, alpha);
      for (int64_t i = 0; i < 4; ++i) {
        double sum = 0.0;
        for (int64_t j = 0; j < 300; ++j) sum += double{s.p[i * 300 + j]};
        ASSERT_NEAR(sum, 1.0, 1e-6);
      }
    }
  }
  Array<float> z = random_normal({1, 300}, 9);
  z[77] = 1e4f;
  const Solved s = solve(z, 1.5f);
  const Differentiated d = differentiate(s.p, random_normal({1, 300}, 10), 1.5f);
  for (int64_t j = 0; j < 300; ++j) {
    ASSERT_EQ(s.p[j], j == 77 ? 1.0f : 0.0f);
    ASSERT_EQ(d.dz[j], 0.0f);
  }
}

TEST_P(Entmax, NeverLowersTauWhenScoresComeIn) {
  const Array<float> z = random_normal({1, 2000}, 11, 2.45);
  for (const float alpha : {1.33f, 1.5f, 2.0f}) {
    float before = -kInfinity;
    for (int64_t length = 1; length <= 2000; length += 111) {
      Array<float> part({1, length});
      std::copy_n(z.values().begin(), length, part.values().begin());
      const float tau = solve(part, alpha).tau[0];
      ASSERT_GE(tau, before - 2e-6f);
      before = tau;
    }
  }
}

// Scores on a grid, and grids that differ by roundings, put many entries at the edge itself.
TEST_P(Entmax, GivesTheSameBitsForAnyPartThatHoldsTheSupport) {
  const int64_t length = 900;
  std::mt19937_64 generator(12);
  for (const float grid : {0.0f, 0.25f, 1e-3f, 1e-6f}) {
    for (const float alpha : kAlphas) {
      Array<float> z = random_normal({30, length}, generator(), grid == 1e-6f ? 1e-5 : 0.3);
      for (float& x : z.values()) {
        if (grid > 0) x = std::round(x / grid) * grid;
        if (grid == 0.25f) x += static_cast<float>(generator() % 3) * 1.5e-7f;
      }
      const Solved all = solve(z, Array<float>({1}, {alpha}), 1, length);
      Array<float> part = z;
      for (int64_t i = 0; i < 30; ++i) {
        std::vector<bool> needed(static_cast<size_t>(length));
        for (int64_t e = 0; e < all.size[i]; ++e) needed[all.columns[i * length + e]] = true;
        const bool alone = i % 2 == 0;
        for (int64_t j = 0; j < length; ++j) {
          if (!needed[static_cast<size_t>(j)] && (alone || generator() % 2 == 0)) {
            part[i * length + j] = -kInfinity;
          }
        }
      }
      const Solved some = solve(part, alpha);
      ASSERT_EQ(all.tau.values(), some.tau.values()) << grid << " at " << alpha;
      ASSERT_EQ(all.p.values(), some.p.values()) << grid << " at " << alpha;
    }
  }
}

TEST_P(Entmax, GivesWhatWasDroppedToTheRest) {
  const Array<float> z = random_normal({1, 60}, 13, 0.5);
  Array<float> part = z;
  for (int64_t j = 0; j < 60; j += 3) part[j] = -kInfinity;
  for (const float alpha : {1.33f, 1.5f, 2.0f}) {
    const Solved all = solve(z, alpha), some = solve(part, alpha);
    double dropped = 0.0, distance = 0.0;
    for (int64_t j = 0; j < 60; ++j) {
      if (j % 3 == 0) dropped += double{all.p[j]};
      if (j % 3 != 0) {
        ASSERT_GE(some.p[j], all.p[j] - 1e-6f);
      }
      distance += std::abs(double{some.p[j]} - double{all.p[j]});
    }
    EXPECT_NEAR(distance, 2 * dropped, 1e-5);
  }
}

TEST_P(Entmax, HasTheGradientsOfDifferences) {
  const int64_t length = 40;
  const Array<float> z = random_normal({1, length}, 14);
  const Array<float> dp = random_normal({1, length}, 15);
  const auto loss = [&](const std::vector<double>& at, double alpha) {
    const std::vector<double> p = entmax_by_definition(at, alpha);
    double sum = 0.0;
    for (int64_t j = 0; j < length; ++j) sum += p[static_cast<size_t>(j)] * double{dp[j]};
    return sum;
  };
  for (const float alpha : {1.1f, 1.33f, 1.5f, 1.75f, 2.0f, 2.5f}) {
    const Solved s = solve(z, alpha);
    const Differentiated d = differentiate(s.p, dp, alpha);
    constexpr double kStep = 1e-6;
    const std::vector<double> row = row_of(z, 0);
    double sum = 0.0;
    for (int64_t j = 0; j < length; ++j) {
      std::vector<double> up = row, down = row;
      up[static_cast<size_t>(j)] += kStep;
      down[static_cast<size_t>(j)] -= kStep;
      const double expected = (loss(up, double{alpha}) - loss(down, double{alpha})) / (2 * kStep);
      EXPECT_NEAR(d.dz[j], expected, 2e-5) << "entry " << j << " at " << alpha;
      if (s.p[j] == 0.0f) {
        EXPECT_EQ(d.dz[j], 0.0f);
      }
      sum += double{d.dz[j]};
    }
    EXPECT_NEAR(sum, 0.0, 1e-5);
    const double around = double{alpha};
    const double expected = (loss(row, around + kStep) - loss(row, around - kStep)) / (2 * kStep);
    EXPECT_NEAR(d.dalpha[0], expected, 1e-4 * std::max(1.0, std::abs(expected))) << alpha;
  }
}

TEST_P(Entmax, HasTheLimitsGradientOfAlphaNearOne) {
  const Array<float> z = random_normal({1, 30}, 16);
  const Array<float> dp = random_normal({1, 30}, 17);
  const auto of_alpha = [&](float alpha) {
    return differentiate(solve(z, alpha).p, dp, alpha).dalpha[0];
  };
  EXPECT_NEAR(of_alpha(1.0009f), of_alpha(1.0011f), 2e-3f * std::abs(of_alpha(1.0011f)) + 1e-4f);
  EXPECT_NEAR(of_alpha(1.0001f), of_alpha(1.002f), 2e-2f * std::abs(of_alpha(1.002f)) + 1e-3f);
}

TEST_P(Entmax, IsNearlySoftmaxNearOne) {
  const Array<float> z = random_normal({1, 200}, 18);
  const Solved s = solve(z, 1.0001f);
  double sum = 0.0;
  for (const float x : z.values()) sum += std::exp(double{x});
  for (int64_t j = 0; j < 200; ++j) EXPECT_NEAR(s.p[j], std::exp(double{z[j]}) / sum, 1e-3);
}

TEST_P(Entmax, TakesAnAlphaForEachRowAndAnyNumberOfThreads) {
  const Array<float> z = random_normal({7, 333}, 19);
  const Array<float> alpha({7}, {1.2f, 1.33f, 1.5f, 1.7f, 2.0f, 2.5f, 3.0f});
  const Solved one = solve(z, alpha, 1);
  for (int64_t i = 0; i < 7; ++i) {
    Array<float> row({1, 333});
    std::copy_n(&z[i * 333], 333, row.values().begin());
    const Solved alone = solve(row, alpha[i]);
    ASSERT_TRUE(std::equal(alone.p.values().begin(), alone.p.values().end(), &one.p[i * 333]));
  }
  EXPECT_EQ(solve(z, alpha, 3).p.values(), one.p.values());
}

TEST(EntmaxInput, MustFit) {
  const Stream stream(kCpuDevice);
  Arena scratch("scratch", kCpuDevice, size_t{1} << 20);
  Array<float> p({2, 5}), z({2, 5}), tau({2}), alpha({1}, {1.5f}), wrong({3});
  const kernels::Entmax good = {.p = p, .tau = tau, .z = z, .alpha = alpha, .scratch = &scratch};
  EXPECT_NO_THROW(kernels::entmax(stream, good));
  const auto rejects = [&](auto change) {
    kernels::Entmax bad = good;
    change(bad);
    EXPECT_THROW(kernels::entmax(stream, bad), ShapeError);
  };
  rejects([&](auto& a) { a.p = wrong; });
  rejects([&](auto& a) { a.tau = wrong; });
  rejects([&](auto& a) { a.z = wrong.view(); });
  rejects([&](auto& a) { a.alpha = wrong.view(); });
  for (const float out_of_range : {1.0f, 0.9f, 4.01f, kNan}) {
    alpha[0] = out_of_range;
    EXPECT_THROW(kernels::entmax(stream, good), Error) << out_of_range;
  }
  alpha[0] = 4.0f;
  EXPECT_NO_THROW(kernels::entmax(stream, good));
  const kernels::EntmaxBackward backward = {
      .dz = p, .p = z, .dp = z, .alpha = alpha, .scratch = &scratch};
  EXPECT_NO_THROW(kernels::entmax_backward(stream, backward));
  kernels::EntmaxBackward bad = backward;
  bad.dp = wrong.view();
  EXPECT_THROW(kernels::entmax_backward(stream, bad), ShapeError);
}

}  // namespace
}  // namespace stipple::test
