// SPDX-License-Identifier: Apache-2.0
// The samplers draw what they say: the groups T1 to T12 of docs/attention/sbm.md that count thousands of graphs. What one graph shows is in
// sampler_test.cpp, the wrong samplers that the same checks must reject in sampler_mutants_test.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "kernels/math/poisson.h"
#include "tests/support/sampler_checks.h"

namespace stipple::test {
namespace {

namespace math = kernels::math;

constexpr int kDraws = 8000;
constexpr int kMainDraws = 20000;

void replicate(SbmCase& c, int64_t batch, int64_t heads) {
  const std::vector<float> mu = c.mu;
  const std::vector<float> z = c.z;
  for (int64_t p = 1; p < batch * heads; ++p) {
    c.mu.insert(c.mu.end(), mu.begin(), mu.end());
    c.z.insert(c.z.end(), z.begin(), z.end());
  }
  c.batch = batch;
  c.heads = heads;
}

TEST(Sampler, EntriesSizesDegreesAndIndependenceFollowTheLaw) {
  SbmCase c = structured_cases().front().value;
  c.delta = 0.01f;
  for_each_sampler(c, [](const SbmCase& law_case, const EdgeSampler& sampler) {
    EXPECT_EQ(check_law(sampler, law_case, kMainDraws), "");
  });
}

TEST(Sampler, StructuredProbabilitiesAreMetExactly) {
  for (const NamedCase& named : structured_cases()) {
    SCOPED_TRACE(named.name);
    for_each_sampler(named.value, [](const SbmCase& c, const EdgeSampler& sampler) {
      EXPECT_EQ(check_law(sampler, c, kDraws), "");
    });
  }
}

TEST(Sampler, ManyKeysAndClustersFollowTheLaw) {
  // Several sweeps of tables and a search of three steps for the cluster.
  const SbmCase c = make_case(
      2, 8300, 70, [](int64_t i, int64_t u) { return u % 3 == i ? 0.0 : scatter(i, u, 11); },
      [](int64_t u, int64_t v) { return u == v ? 0.01 : 0.0; },
      [](int64_t j, int64_t v) { return j % 7 == v % 7 ? 0.0 : scatter(j, v, 12); });
  for_each_sampler(c, [](const SbmCase& wide, const EdgeSampler& sampler) {
    EXPECT_EQ(check_law(sampler, wide, 800), "");
  });
}

TEST(Sampler, HeadsSamplesLayersAndStepsAreIndependent) {
  SbmCase c = structured_cases()[1].value;
  replicate(c, 2, 2);
  const std::function<void(DrawName&)> same = [](DrawName&) {};
  for_each_sampler(c, [&](const SbmCase& twin, const EdgeSampler& sampler) {
    constexpr int kPairs = 3000;
    EXPECT_EQ(check_independent(sampler, twin, 1, same, kPairs), "") << "heads";
    EXPECT_EQ(check_independent(sampler, twin, 2, same, kPairs), "") << "samples";
    EXPECT_EQ(check_independent(
                  sampler, twin, 0, [](DrawName& d) { ++d.layer; }, kPairs),
              "");
    EXPECT_EQ(check_independent(
                  sampler, twin, 0, [](DrawName& d) { ++d.step; }, kPairs),
              "");
  });
}

TEST(Sampler, NoEdgeTouchesPaddingWhateverItsRowsHold) {
  SbmCase base = structured_cases()[3].value;
  base.delta = 0.02f;
  for (const auto& [queries, keys] : {std::pair{25, 20}, {1, 1}, {0, 5}, {5, 0}, {40, 37}}) {
    SCOPED_TRACE(std::to_string(queries) + " queries, " + std::to_string(keys) + " keys");
    SbmCase c = base;
    // Real tokens are spread out: padding need not be a suffix.
    for (int64_t i = 0; i < c.n; ++i) c.query_mask.push_back(i * 7 % c.n < queries ? 1 : 0);
    for (int64_t j = 0; j < c.m; ++j) c.key_mask.push_back(j * 5 % c.m < keys ? 1 : 0);
    for (int64_t i = 0; i < c.n * c.k; ++i) {
      if (c.query_mask[static_cast<size_t>(i / c.k)] == 0)
        c.mu[static_cast<size_t>(i)] = i % 2 ? 9.0f : NAN;
    }
    for (int64_t j = 0; j < c.m * c.k; ++j) {
      if (c.key_mask[static_cast<size_t>(j / c.k)] == 0)
        c.z[static_cast<size_t>(j)] = j % 2 ? 9.0f : NAN;
    }
    for_each_sampler(c, [](const SbmCase& padded, const EdgeSampler& sampler) {
      EXPECT_EQ(check_law(sampler, padded, 4000), "");
    });
  }
}

TEST(Sampler, ExplorationAloneHasDensityDelta) {
  SbmCase c = make_case(
      150, 130, 3, [](int64_t, int64_t) { return 0.0; }, [](int64_t, int64_t) { return 0.0; },
      [](int64_t, int64_t) { return 0.0; });
  for (float delta : {0.0f, 1e-4f, 0.01f, 1.0f}) {
    SCOPED_TRACE(delta);
    c.delta = delta;
    for_each_sampler(c, [](const SbmCase& explored, const EdgeSampler& sampler) {
      const Tally result = tally(sampler, explored, 200);
      EXPECT_EQ(result.size(), "");
      // With a handful of edges in all, a degree is too far from normal for its score.
      if (explored.delta == 0.0f || explored.delta >= 0.01f) {
        EXPECT_EQ(result.degrees(), "");
      }
    });
  }
}

// G-test against the exact probabilities; the statistic is turned into a normal score (Wilson and
// Hilferty).
double poisson_score(double rate, int64_t draws, const std::function<int64_t(uint32_t row)>& draw) {
  std::vector<double> seen(static_cast<size_t>(rate + 12 * std::sqrt(rate) + 20));
  for (int64_t r = 0; r < draws; ++r) {
    const auto n = static_cast<size_t>(draw(static_cast<uint32_t>(r)));
    seen[std::min(n, seen.size() - 1)] += 1;
  }
  struct Bin {
    double expected = 0, observed = 0;
  };
  std::vector<Bin> bins(1);
  double left = static_cast<double>(draws);
  for (size_t n = 0; n < seen.size(); ++n) {
    constexpr double kLeastExpected = 20;
    if (bins.back().expected >= kLeastExpected && left >= kLeastExpected) bins.emplace_back();
    const auto x = static_cast<double>(n);
    const double p = rate > 0 ? std::exp(x * std::log(rate) - rate - std::lgamma(x + 1)) : n == 0;
    bins.back().expected += static_cast<double>(draws) * p;
    bins.back().observed += seen[n];
    left -= static_cast<double>(draws) * p;
  }
  if (bins.size() == 1) {
    const double nonzero = static_cast<double>(draws) - seen[0];
    const double expected = static_cast<double>(draws) * rate;
    return (nonzero - expected) / std::sqrt(std::max(1.0, expected));
  }
  double statistic = 0;
  for (const Bin& bin : bins) {
    statistic += bin.observed > 0 ? 2 * bin.observed * std::log(bin.observed / bin.expected) : 0;
  }
  const auto dof = static_cast<double>(bins.size() - 1);
  const double spread = 2 / (9 * dof);
  return (std::cbrt(std::max(0.0, statistic) / dof) - (1 - spread)) / std::sqrt(spread);
}

TEST(PoissonTables, PassAGTestAtEveryRate) {
  for (double rate : {0.0, 1e-6, 1e-3, 0.5, 1.0, 9.99, 10.0, 50.0, 1e3, 4096.0, 40000.0}) {
    const auto fixed = static_cast<uint64_t>(rate * 0x1p40);
    const double score = poisson_score(rate, 200000, [fixed](uint32_t row) {
      const math::UniformSequence uniforms({1, 2}, row, 0, stream_word(0, 0, Purpose::kEdgeCount));
      return math::PoissonTables::shared().draw(fixed, uniforms);
    });
    constexpr double kOneInAMillion = 4.75;
    EXPECT_LT(score, kOneInAMillion) << "rate " << rate;
    if (rate == 0.0) {
      EXPECT_EQ(score, 0.0);
    }
  }
}

TEST(PoissonTables, AGTestTellsRatesOneInAHundredApart) {
  const double score = poisson_score(10.0, 200000, [](uint32_t row) {
    const math::UniformSequence uniforms({1, 2}, row, 0, 0);
    return math::PoissonTables::shared().draw(static_cast<uint64_t>(10.1 * 0x1p40), uniforms);
  });
  EXPECT_GT(score, 4.75);
}

TEST(Sampler, BothSamplersHaveTheSameLaw) {
  const SbmCase base = structured_cases()[3].value;
  for (MaskLaw law : kAllLaws) {
    SCOPED_TRACE(law_name(law));
    SbmCase c = base;
    c.law = law;
    const EdgeSampler rows(SamplerKind::kRows);
    // Other steps: the same uniforms of two samplers may not be compared.
    const GraphSampler later = [rows](const SbmCase& x, const DrawName& name,
                                      std::vector<uint8_t>& counts) {
      rows(x, {.step = name.step + 1000000}, counts);
    };
    EXPECT_EQ(check_same_law(EdgeSampler(SamplerKind::kTiles), later, c, kDraws), "");
  }
}

}  // namespace
}  // namespace stipple::test
