// SPDX-License-Identifier: Apache-2.0
// Tiles by products of bytes draw the bits of the plain sampler whatever the memberships are, and
// the bound that makes them do so cannot be much smaller.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "core/arena.h"
#include "core/cpu/isa.h"
#include "kernels/cpu/sample/sample.h"
#include "kernels/cpu/sample/scratch.h"
#include "kernels/math/poisson.h"

namespace stipple::test {
namespace {

using kernels::MaskLaw;
using kernels::cpu::SampleKernels;
using kernels::cpu::SampleProblem;
using kernels::cpu::TileScratch;
using kernels::cpu::TileWork;

/// Puts the instruction set back.
struct IsaGuard {
  stipple::cpu::Isa before = stipple::cpu::isa();
  ~IsaGuard() {
    stipple::cpu::set_isa(before);
    stipple::cpu::allow_vnni(true);
  }
};

/// The kernels with VNNI that this machine can run.
std::vector<const SampleKernels*> kernels_with_bytes() {
  const IsaGuard guard;
  stipple::cpu::allow_vnni(true);
  std::vector<const SampleKernels*> kernels;
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    if (stipple::cpu::has_vnni()) kernels.push_back(&kernels::cpu::sample_kernels());
  }
  return kernels;
}

#define SKIP_WITHOUT_VNNI()         \
  if (kernels_with_bytes().empty()) \
  GTEST_SKIP() << "this CPU has no VNNI: nothing to compare with the plain sampler"

struct Memberships {
  int64_t n = 0;
  int64_t m = 0;
  int64_t k = 0;
  std::vector<float> mu{};  // [N, K]
  std::vector<float> z{};   // [M, K]
  std::vector<uint8_t> query_mask{}, key_mask{};
  float delta = 0.0f;

  SampleProblem problem(MaskLaw law) const {
    return {.mu = mu.data(),
            .z = z.data(),
            .query_mask = query_mask.empty() ? nullptr : query_mask.data(),
            .key_mask = key_mask.empty() ? nullptr : key_mask.data(),
            .num_queries = n,
            .num_keys = m,
            .num_clusters = k,
            .law = law,
            .delta = delta,
            .key = {11, 12},
            .sample = 3,
            .layer = 1,
            .head = 2};
  }
};

/// The way memberships are filled, and what a product with them is scaled to.
struct Kind {
  const char* name;
  float (*mu)(std::mt19937&, int64_t token, int64_t cluster);
  float (*z)(std::mt19937&, int64_t token, int64_t cluster);
};

float uniform(std::mt19937& random) { return static_cast<float>(random() >> 8) * 0x1p-24f; }
float sigmoid(std::mt19937& random, float mean, float spread) {
  return 1.0f / (1.0f + std::exp(-mean - spread * 4.0f * (uniform(random) - 0.5f)));
}
float flat(std::mt19937& random, int64_t, int64_t) { return sigmoid(random, 0.0f, 1.0f); }
float wild(std::mt19937& random, int64_t, int64_t) { return sigmoid(random, 0.0f, 6.0f); }
float peaked(std::mt19937& random, int64_t token, int64_t cluster) {
  return token * 7 % 5 == cluster % 5 ? sigmoid(random, 3.0f, 1.0f) : sigmoid(random, -4.0f, 1.0f);
}
float one_hot(std::mt19937&, int64_t token, int64_t cluster) {
  return token * 7 % 5 == cluster ? 0.7f : 0.0f;
}
float zero(std::mt19937&, int64_t, int64_t) { return 0.0f; }
float of_either_sign(std::mt19937& random, int64_t, int64_t) {
  return 2.0f * uniform(random) - 1.0f;
}
float constant(std::mt19937&, int64_t, int64_t) { return 0.37f; }
float nearly_constant(std::mt19937& random, int64_t, int64_t) {
  return 0.37f + 0x1p-24f * static_cast<float>(random() % 4);
}
float denormal(std::mt19937& random, int64_t, int64_t) { return 1e-40f * uniform(random); }
float tiny(std::mt19937& random, int64_t, int64_t) { return 1e-25f * uniform(random); }
float large(std::mt19937& random, int64_t, int64_t) { return 1e20f * uniform(random); }
float huge(std::mt19937& random, int64_t, int64_t) { return 3e38f * of_either_sign(random, 0, 0); }
float broken(std::mt19937& random, int64_t token, int64_t cluster) {
  const float values[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f};
  return token % 5 == 1 && cluster % 3 == 0 ? values[random() % 5] : uniform(random);
}
/// Every magnitude at once, in the same row.
float mixed(std::mt19937& random, int64_t, int64_t) {
  return std::ldexp(uniform(random), -static_cast<int>(random() % 40));
}

constexpr Kind kKinds[] = {{"flat", flat, flat},
                           {"wild", wild, wild},
                           {"peaked", peaked, peaked},
                           {"one-hot", one_hot, one_hot},
                           {"one-hot queries", one_hot, flat},
                           {"zero queries", zero, flat},
                           {"zero", zero, zero},
                           {"signed", of_either_sign, of_either_sign},
                           {"constant", constant, flat},
                           {"nearly constant", nearly_constant, nearly_constant},
                           {"denormal", denormal, denormal},
                           {"denormal queries", denormal, large},
                           {"tiny queries", tiny, large},
                           {"tiny keys", large, tiny},
                           {"large", large, large},
                           {"huge", huge, huge},
                           {"broken queries", broken, flat},
                           {"broken keys", flat, broken},
                           {"mixed", mixed, mixed}};

Memberships fill(const Kind& kind, int64_t n, int64_t m, int64_t k, uint32_t seed) {
  Memberships in{.n = n, .m = m, .k = k};
  std::mt19937 random(seed);
  // Sums of K terms of about 1 become about 1.
  const float scale = 1.0f / static_cast<float>(std::max<int64_t>(1, k / 4));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < k; ++c) in.mu.push_back(scale * kind.mu(random, i, c));
  }
  for (int64_t j = 0; j < m; ++j) {
    for (int64_t c = 0; c < k; ++c) in.z.push_back(kind.z(random, j, c));
  }
  return in;
}

struct Draw {
  std::vector<uint32_t> bits;
  TileWork work;
};

Draw draw(const SampleKernels& kernels, const SampleProblem& problem, bool is_always_bytes = true,
          float bound_scale = 1.0f) {
  Arena arena("scratch", kCpuDevice, size_t{1} << 22);
  kernels::EdgeSet graph;
  graph.num_queries = problem.num_queries;
  graph.num_keys = problem.num_keys;
  const kernels::SampleEdges args{
      .edges = graph,
      .mu = {problem.mu, {1, 1, problem.num_queries, problem.num_clusters}},
      .z = {problem.z, {1, 1, problem.num_keys, problem.num_clusters}},
      .expected = {},
      .samples = {},
      .sampler = kernels::SamplerKind::kTiles};
  TileScratch scratch = kernels::cpu::alloc_sample_scratch(arena, args, /*threads=*/1).tiles(0);
  Draw result;
  scratch.work = &result.work;
  scratch.is_always_bytes = is_always_bytes;
  scratch.bound_scale = bound_scale;
  const int64_t words = (problem.num_keys + 31) / 32;
  result.bits.assign(static_cast<size_t>(problem.num_queries * words), 0xdeadbeef);
  for (int64_t i = 0; i < problem.num_queries; i += kernels::cpu::kMaxTileRows) {
    const Range rows{i, std::min(problem.num_queries, i + kernels::cpu::kMaxTileRows)};
    kernels.tile_rows(problem, rows, scratch, result.bits.data() + i * words);
  }
  return result;
}

void expect_plain_bits(const Memberships& in, int64_t* open = nullptr) {
  for (MaskLaw law : {MaskLaw::kBernoulli, MaskLaw::kPoissonCollapse}) {
    const SampleProblem problem = in.problem(law);
    const std::vector<uint32_t> expected = draw(kernels::cpu::kSampleScalar, problem).bits;
    for (const SampleKernels* kernels : kernels_with_bytes()) {
      for (bool is_always_bytes : {false, true}) {
        const Draw by_bytes = draw(*kernels, problem, is_always_bytes);
        ASSERT_EQ(by_bytes.bits, expected)
            << "law " << static_cast<int>(law) << (is_always_bytes ? " always" : "") << " bytes";
        if (open != nullptr) *open += by_bytes.work.open;
      }
    }
  }
}

TEST(SamplerBytes, AnyMembershipsGiveThePlainBits) {
  SKIP_WITHOUT_VNNI();
  for (const Kind& kind : kKinds) {
    for (int64_t k : {7, 130}) {
      SCOPED_TRACE(std::string(kind.name) + ", K = " + std::to_string(k));
      expect_plain_bits(fill(kind, 61, 150, k, 1));
    }
  }
}

TEST(SamplerBytes, AnyNumberOfClustersGivesThePlainBits) {
  SKIP_WITHOUT_VNNI();
  for (int64_t k : {2, 3, 4, 5, 8, 15, 16, 17, 21, 31, 63, 64, 65, 128, 200, 2048, 2049}) {
    SCOPED_TRACE(k);
    expect_plain_bits(fill(kKinds[0], 13, 70, k, 2));
  }
}

TEST(SamplerBytes, AnyShapeGivesThePlainBits) {
  SKIP_WITHOUT_VNNI();
  for (int64_t n : {1, 2, 5, 6, 7, 13}) {
    for (int64_t m : {1, 31, 32, 33, 63, 64, 65, 129}) {
      SCOPED_TRACE(std::to_string(n) + " queries, " + std::to_string(m) + " keys");
      expect_plain_bits(fill(kKinds[0], n, m, 24, 3));
    }
  }
  expect_plain_bits(fill(kKinds[0], 800, 40, 24, 4));
}

TEST(SamplerBytes, PaddingIsNeitherReadNorDrawn) {
  SKIP_WITHOUT_VNNI();
  Memberships in = fill(kKinds[0], 100, 300, 40, 5);
  in.delta = 0.02f;
  in.query_mask.assign(100, 1);
  in.key_mask.assign(300, 1);
  for (size_t i = 0; i < 100; ++i) in.query_mask[i] = i % 3 != 0 && i < 90;
  for (size_t j = 0; j < 300; ++j) in.key_mask[j] = j % 4 != 1 && (j < 128 || j > 200);
  int64_t clean = 0;
  expect_plain_bits(in, &clean);
  for (size_t i = 0; i < 100 * 40; ++i) {
    if (in.query_mask[i / 40] == 0) in.mu[i] = i % 2 ? NAN : 1e30f;
  }
  for (size_t j = 0; j < 300 * 40; ++j) {
    if (in.key_mask[j / 40] == 0) in.z[j] = j % 2 ? NAN : 1e30f;
  }
  int64_t dirty = 0;
  expect_plain_bits(in, &dirty);
  EXPECT_EQ(clean, dirty);  // bounds do not look at padding
}

TEST(SamplerBytes, ExplorationIsPartOfTheBound) {
  SKIP_WITHOUT_VNNI();
  for (float delta : {1e-30f, 0.01f, 1.0f}) {
    Memberships in = fill(kKinds[2], 61, 150, 64, 6);
    in.delta = delta;
    expect_plain_bits(in);
  }
}

/// Memberships whose rounding errors all point the same way: `rounded` has numbers just beside the middle between two codes, above it where
/// the other side is large and below it where that is 0, or the other way round, so that no better bound exists for the norms. The first two
/// clusters set the grid.
Memberships at_the_bound(bool rounds_queries, bool upwards) {
  constexpr int64_t kTokens = 300, kClusters = 130;
  Memberships in{.n = kTokens, .m = kTokens, .k = kClusters};
  std::vector<float>& rounded = rounds_queries ? in.mu : in.z;
  std::vector<float>& exact = rounds_queries ? in.z : in.mu;
  const float scale = 1.0f / 128;
  for (int64_t i = 0; i < kTokens; ++i) {
    for (int64_t c = 0; c < kClusters; ++c) {
      const bool is_large = c % 2 == 0;
      const float code = static_cast<float>(40 + (i * 13 + c * 29) % 170) +
                         (is_large == upwards ? 0.502f : 0.498f);
      const float value = c == 0 ? 0.0f : c == 1 ? 255.0f : code;
      rounded.push_back(value / 255.0f * (rounds_queries ? scale : 1.0f));
      exact.push_back((is_large ? 1.0f : 0.0f) * (rounds_queries ? 1.0f : scale));
    }
  }
  return in;
}

int64_t num_different(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  int64_t bits = 0;
  for (size_t w = 0; w < a.size(); ++w) bits += __builtin_popcount(a[w] ^ b[w]);
  return bits;
}

TEST(SamplerBytes, AtTheBoundBitsArePlainAndNoSmallerBoundWillDo) {
  SKIP_WITHOUT_VNNI();
  for (const bool rounds_queries : {false, true}) {
    for (const bool upwards : {false, true}) {
      SCOPED_TRACE(std::string(rounds_queries ? "queries" : "keys") + (upwards ? " up" : " down"));
      const Memberships in = at_the_bound(rounds_queries, upwards);
      expect_plain_bits(in);
      for (MaskLaw law : {MaskLaw::kBernoulli, MaskLaw::kPoissonCollapse}) {
        const SampleProblem problem = in.problem(law);
        const std::vector<uint32_t> plain = draw(kernels::cpu::kSampleScalar, problem).bits;
        for (const SampleKernels* kernels : kernels_with_bytes()) {
          // Mutants: no bound at all, and one that is a little too small. The slope of 1 - e^-p is
          // 0.78 at p = 0.25.
          EXPECT_GT(num_different(draw(*kernels, problem, true, 0.0f).bits, plain), 30);
          const float smaller = law == MaskLaw::kBernoulli ? 0.9f : 0.7f;
          EXPECT_GT(num_different(draw(*kernels, problem, true, smaller).bits, plain), 0);
        }
      }
    }
  }
}

TEST(SamplerBytes, SumsThatCancelAreAddedUpInTheCanonicalOrder) {
  SKIP_WITHOUT_VNNI();
  // Numbers of a thousand that add up to 0: what is left is the rounding of the order.
  Memberships in = fill(kKinds[7], 61, 150, 128, 7);
  for (size_t i = 0; i < in.mu.size(); ++i) in.mu[i] *= 32e3f;
  for (size_t i = 64; i < in.mu.size(); i += 128) {
    for (size_t v = 0; v < 64; ++v) in.mu[i + v] = -in.mu[i - 64 + v * 5 % 64];
  }
  std::fill(in.z.begin(), in.z.end(), 1.0f);
  in.delta = 0.5f;
  for (MaskLaw law : {MaskLaw::kBernoulli, MaskLaw::kPoissonCollapse}) {
    const SampleProblem problem = in.problem(law);
    const std::vector<uint32_t> plain = draw(kernels::cpu::kSampleScalar, problem).bits;
    for (const SampleKernels* kernels : kernels_with_bytes()) {
      const Draw by_bytes = draw(*kernels, problem);
      EXPECT_EQ(by_bytes.bits, plain);
      EXPECT_GT(by_bytes.work.canonical, 0);
    }
  }
}

TEST(SamplerBytes, FewPairsStayOpen) {
  SKIP_WITHOUT_VNNI();
  const SampleKernels& kernels = *kernels_with_bytes().back();
  const auto open_share = [&](const Kind& kind) {
    const Memberships in = fill(kind, 300, 300, 128, 8);
    const TileWork work = draw(kernels, in.problem(MaskLaw::kBernoulli), false).work;
    EXPECT_EQ(work.wide_pairs, 0) << kind.name;
    EXPECT_LT(work.canonical, 90) << kind.name;
    return static_cast<double>(work.open) / (300.0 * 300.0);
  };
  EXPECT_LT(open_share(kKinds[0]), 0.005);
  EXPECT_LT(open_share(kKinds[3]), 0.001);
}

TEST(SamplerBytes, TheLawsFunctionsKeepTheirErrors) {
  constexpr int kSteps = 1 << 16;
  for (int step = 0; step <= kSteps; ++step) {
    const float rate = 2.0f * static_cast<float>(step) / kSteps;
    const double exact = -std::expm1(-static_cast<double>(rate));
    float rough = kernels::math::kRoughPositive[4];
    for (int power = 3; power >= 0; --power) {
      rough = std::fma(rough, rate, kernels::math::kRoughPositive[power]);
    }
    ASSERT_NEAR(static_cast<double>(rough * rate), exact, 2e-5) << rate;
    const float wide = 20.0f * rate;
    const double wide_exact = -std::expm1(-static_cast<double>(wide));
    ASSERT_NEAR(static_cast<double>(kernels::math::positive_probability(wide)), wide_exact,
                1e-6 * wide_exact)
        << wide;
  }
}

TEST(SamplerBytes, CanBeForbidden) {
  const IsaGuard guard;
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    stipple::cpu::allow_vnni(false);
    EXPECT_FALSE(stipple::cpu::has_vnni());
    const SampleKernels* plain = &kernels::cpu::sample_kernels();
    stipple::cpu::allow_vnni(true);
    EXPECT_EQ(plain != &kernels::cpu::sample_kernels(), stipple::cpu::has_vnni());
  }
}

}  // namespace
}  // namespace stipple::test
