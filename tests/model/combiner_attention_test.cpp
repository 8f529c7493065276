// SPDX-License-Identifier: Apache-2.0
// Combiner as the model has it: against its definition in double precision, and the identities that
// hold for it.
#include "model/attention/combiner/combiner_attention.h"

#include <limits>

#include "core/error.h"
#include "kernels/combine_reference.h"
#include "tests/model/attention_reference.h"
#include "tests/model/slope.h"

namespace stipple::model {
namespace {

using kernels::PartitionKind;
using kernels::RegionKey;
using kernels::RegionPool;
using test::AttentionCase;
using test::AttentionRun;
using test::differences;
using test::Doubles;
using test::expect_gradient;
using test::pad_second_example;
using test::to_doubles;

constexpr CombinerVariant kVariants[] = {CombinerVariant::kFixed,    CombinerVariant::kLogsparse,
                                         CombinerVariant::kVertical, CombinerVariant::kHorizontal,
                                         CombinerVariant::kAxial,    CombinerVariant::kMixture};

AttentionConfig config_of(const CombinerConfig& combiner) {
  return {.kind = AttentionKind::kCombiner, .dropout = 0.0, .combiner = combiner};
}

CombinerConfig small_cut(CombinerVariant variant) {
  return {.variant = variant, .block = 4, .columns = 4, .row_key = CombinerRowKey::kNone};
}

Doubles rectified(Doubles x) {
  for (double& value : x) value = std::max(value, 0.0);
  return x;
}

/// Rows of x [*, D] times the transpose of w [D, D].
Doubles mapped(const Doubles& x, const Doubles& w, size_t d) {
  Doubles y(x.size());
  for (size_t e = 0; e < x.size(); ++e)
    for (size_t c = 0; c < d; ++c) y[e] += x[e / d * d + c] * w[e % d * d + c];
  return y;
}

/// What a configuration means, in the words of the oracle.
struct Meaning {
  kernels::Partition partition;
  RegionPool pool = RegionPool::kMax;
  RegionKey key = RegionKey::kPooled;
  bool rectifies = false;
  bool maps = false;
  double mass = 0;
};

struct Oracle {
  const AttentionRun& run;
  AttentionCase c;
  Meaning meaning;

  /// q, k, v [B, H, N, D] of problem p; content is what regions are made of and scored by.
  kernels::reference::Combiner problem(const Doubles& q, const Doubles& k, const Doubles& v,
                                       const Doubles& content_q, int64_t p) const {
    const auto part = [&](const Doubles& all) {
      const auto first = all.begin() + p * c.length * c.head_dim;
      return Doubles(first, first + c.length * c.head_dim);
    };
    kernels::reference::Combiner x{.partition = meaning.partition,
                                   .d = c.head_dim,
                                   .scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim)),
                                   .q = part(q),
                                   .k = part(k),
                                   .v = part(v),
                                   .pool = meaning.pool,
                                   .key = meaning.key,
                                   .mass = meaning.mass};
    const auto made_of = [&](const Doubles& rows, const char* weight) {
      const auto d = static_cast<size_t>(c.head_dim);
      if (meaning.maps) return rectified(mapped(rows, to_doubles(run.value(weight).span()), d));
      return meaning.rectifies ? rectified(rows) : rows;
    };
    x.pooled_q = made_of(part(content_q), "attention.pool_query.weight");
    x.pooled_k = made_of(part(k), "attention.pool_key.weight");
    x.region_q = part(content_q);
    const uint8_t* mask = &run.mask[p / c.heads * c.length];
    x.mask = {mask, mask + c.length};
    return x;
  }
  Doubles output(const Doubles& q, const Doubles& k, const Doubles& v) const {
    Doubles o;
    for (int64_t p = 0; p < c.batch * c.heads; ++p) {
      const Doubles own = kernels::reference::combine(problem(q, k, v, q, p)).o;
      o.insert(o.end(), own.begin(), own.end());
    }
    return o;
  }
  double loss(const Doubles& q, const Doubles& k, const Doubles& v) const {
    const Doubles o = output(q, k, v), dout = to_doubles(run.dout.values());
    double sum = 0;
    for (size_t x = 0; x < o.size(); ++x) sum += o[x] * dout[x];
    return sum;
  }
};

void check(const CombinerConfig& combiner, Meaning meaning, AttentionCase c) {
  AttentionRun run(config_of(combiner), c);
  meaning.partition.length = c.length;
  meaning.partition.is_causal = c.is_causal;
  pad_second_example(run);
  run.forward();
  run.backward();
  const Oracle oracle{run, c, meaning};
  Doubles q = to_doubles(run.q.values()), k = to_doubles(run.k.values()),
          v = to_doubles(run.v.values());
  const auto loss = [&] { return oracle.loss(q, k, v); };
  expect_gradient(run.out.values(), oracle.output(q, k, v), 1e-5, "out");
  expect_gradient(run.dq.values(), differences(q, loss), 2e-4, "dq");
  expect_gradient(run.dk.values(), differences(k, loss), 2e-4, "dk");
  expect_gradient(run.dv.values(), differences(v, loss), 2e-4, "dv");
}

AttentionCase small(bool causal = false) {
  return {.heads = 2, .length = 11, .head_dim = 3, .seed = 31, .is_causal = causal};
}

TEST(CombinerAttention, EveryVariantIsItsDefinition) {
  const PartitionKind kinds[] = {PartitionKind::kFixed,    PartitionKind::kLogsparse,
                                 PartitionKind::kVertical, PartitionKind::kHorizontal,
                                 PartitionKind::kRowMajor, PartitionKind::kMixture};
  for (size_t x = 0; x < std::size(kVariants); ++x) {
    for (const bool causal : {false, true}) {
      SCOPED_TRACE(x);
      check(small_cut(kVariants[x]), {.partition = {.kind = kinds[x], .block = 4, .columns = 4}},
            small(causal));
    }
  }
}

TEST(CombinerAttention, EveryPoolIsItsDefinition) {
  const RegionPool pools[] = {RegionPool::kMax, RegionPool::kMean, RegionPool::kSum};
  for (int x = 0; x < 9; ++x) {
    SCOPED_TRACE(x);
    CombinerConfig config = small_cut(CombinerVariant::kFixed);
    config.pool = static_cast<CombinerPool>(x);
    const Meaning meaning{
        .partition = {.block = 4}, .pool = pools[x % 3], .rectifies = x >= 3, .maps = x >= 6};
    check(config, meaning, small());
  }
}

TEST(CombinerAttention, TheMatricesOfADeepsetPoolLearn) {
  CombinerConfig config = small_cut(CombinerVariant::kFixed);
  config.pool = CombinerPool::kDeepsetMean;
  AttentionRun run(config_of(config), small());
  EXPECT_EQ(run.store.num_parameters(), 2 * 3 * 3);
  run.forward();
  run.backward();
  const Oracle oracle{
      run,
      small(),
      {.partition = {.length = 11, .block = 4}, .pool = RegionPool::kMean, .maps = true}};
  const Doubles q = to_doubles(run.q.values()), k = to_doubles(run.k.values()),
                v = to_doubles(run.v.values());
  for (const char* name : {"attention.pool_query.weight", "attention.pool_key.weight"}) {
    Doubles expected;
    for (float& w : run.value(name).span()) {
      const float at = w;
      w = at + 0x1p-12f;
      const double above = oracle.loss(q, k, v);
      w = at - 0x1p-12f;
      expected.push_back((above - oracle.loss(q, k, v)) / 0x1p-11);
      w = at;
    }
    expect_gradient(run.grad(name).span(), expected, 2e-3, name);
  }
}

TEST(CombinerAttention, AMixtureMayBeTheMeanOfTwoAttentions) {
  for (const bool rotary : {false, true}) {
    const auto run_of = [&](CombinerVariant variant) {
      CombinerConfig config = small_cut(variant);
      config.mix = CombinerMix::kAverage;
      auto run = std::make_unique<AttentionRun>(config_of(config), small());
      run->rotary = rotary;
      run->forward();
      run->backward();
      return run;
    };
    const auto vertical = run_of(CombinerVariant::kVertical),
               horizontal = run_of(CombinerVariant::kHorizontal),
               both = run_of(CombinerVariant::kMixture);
    for (const auto array :
         {&AttentionRun::out, &AttentionRun::dq, &AttentionRun::dk, &AttentionRun::dv,
          &AttentionRun::dcontent_q, &AttentionRun::dcontent_k}) {
      const auto& actual = (*both).*array;
      for (int64_t x = 0; x < actual.numel(); ++x) {
        const float mean = (((*vertical).*array)[x] + ((*horizontal).*array)[x]) / 2;
        ASSERT_NEAR(actual[x], mean, 1e-5f) << x;
      }
    }
  }
}

TEST(CombinerAttention, PresetsAreWhatThePaperAndTheReleaseDo) {
  CombinerConfig config{.compat = CombinerCompat::kOfficial, .global_tokens = 3};
  EXPECT_TRUE(config.resolved().overlap_own);
  EXPECT_EQ(config.resolved().mix, CombinerMix::kJoint);
  EXPECT_EQ(config.resolved().global_tokens, 0);
  config.compat = CombinerCompat::kPaper;
  EXPECT_FALSE(config.resolved().overlap_own);
  EXPECT_EQ(config.resolved().mix, CombinerMix::kAverage);
  config.compat = CombinerCompat::kNone;
  EXPECT_EQ(config.resolved().global_tokens, 3);
}

TEST(CombinerAttention, OptionsMeanWhatTheySay) {
  CombinerConfig config = small_cut(CombinerVariant::kFixed);
  config.overlap_own = true;
  check(config, {.partition = {.overlaps_own = true, .block = 4}}, small());
  config = small_cut(CombinerVariant::kFixed);
  config.mass_bias = CombinerMassBias::kLogSize;
  check(config, {.partition = {.block = 4}, .mass = 1}, small());
  config = small_cut(CombinerVariant::kFixed);
  config.global_tokens = 2;
  check(config, {.partition = {.globals = 2, .block = 4}}, small());
  config = small_cut(CombinerVariant::kFixed);
  config.shift_odd_layers = true;  // AttentionRun's layer is odd
  check(config, {.partition = {.block = 4, .shift = 2}}, small());
  config = small_cut(CombinerVariant::kAxial);
  config.row_key = CombinerRowKey::kWeighted;
  check(
      config,
      {.partition = {.kind = PartitionKind::kRowMajor, .columns = 4}, .key = RegionKey::kWeighted},
      small());
}

TEST(CombinerAttention, ALearnedMassBeginsAtNothingAndLearns) {
  CombinerConfig config = small_cut(CombinerVariant::kFixed);
  AttentionRun plain(config_of(config), small());
  config.mass_bias = CombinerMassBias::kLearned;
  AttentionRun run(config_of(config), small());
  for (AttentionRun* each : {&plain, &run}) each->forward();
  EXPECT_EQ(run.out.values(), plain.out.values());
  run.value("attention.mass")[1] = 0.7f;
  run.forward();
  run.backward();
  const Oracle oracle{run, small(), {.partition = {.length = 11, .block = 4}}};
  const Doubles q = to_doubles(run.q.values()), k = to_doubles(run.k.values()),
                v = to_doubles(run.v.values());
  const auto loss_at = [&](double mass) {
    double sum = 0;
    for (int64_t b : {0, 1}) {
      kernels::reference::Combiner problem = oracle.problem(q, k, v, q, 2 * b + 1);
      problem.mass = mass;
      const Doubles o = kernels::reference::combine(problem).o;
      for (size_t x = 0; x < o.size(); ++x)
        sum += o[x] * static_cast<double>(
                          run.dout.values()[static_cast<size_t>(2 * b + 1) * o.size() + x]);
    }
    return sum;
  };
  const double slope = (loss_at(0.7 + 1e-5) - loss_at(0.7 - 1e-5)) / 2e-5;
  EXPECT_NEAR(static_cast<double>(run.grad("attention.mass")[1]), slope, 1e-3 * std::abs(slope));
}

// --- projected keys of rows ----------------------------------------------------------------------

/// The oracle of `axial` whose regions' keys are projected, token by token.
class ProjectedRows {
 public:
  ProjectedRows(const AttentionRun& run, const AttentionCase& c, bool of_keys)
      : run_(run), c_(c), of_keys_(of_keys) {}

  Doubles output() const {
    const Doubles q = to_doubles(run_.q.values()), k = to_doubles(run_.k.values()),
                  v = to_doubles(run_.v.values());
    const Oracle oracle{run_,
                        c_,
                        {.partition = {.kind = PartitionKind::kRowMajor,
                                       .is_causal = c_.is_causal,
                                       .length = c_.length,
                                       .columns = 4}}};
    Doubles o;
    for (int64_t p = 0; p < c_.batch * c_.heads; ++p) {
      kernels::reference::Combiner problem = oracle.problem(q, k, v, q, p);
      problem.pooled_k.clear();
      for (int64_t i = 0; i < c_.length; ++i) {
        const Doubles key = project(p / c_.heads, i);
        const auto first = key.begin() + p % c_.heads * c_.head_dim;
        problem.pooled_k.insert(problem.pooled_k.end(), first, first + c_.head_dim);
      }
      const Doubles own = kernels::reference::combine(problem).o;
      o.insert(o.end(), own.begin(), own.end());
    }
    return o;
  }

 private:
  double at(const test::Array<float>& x, int64_t p, int64_t i, int64_t e) const {
    return static_cast<double>(x[(p * c_.length + i) * c_.head_dim + e]);
  }
  /// What token i finds in its row, all heads side by side.
  Doubles found(int64_t b, int64_t i) const {
    Doubles all;
    for (int64_t h = 0; h < c_.heads; ++h) {
      const int64_t p = b * c_.heads + h;
      Doubles sum(static_cast<size_t>(c_.head_dim));
      double total = 0;
      for (int64_t j = i / 4 * 4; j < std::min(i / 4 * 4 + 4, c_.length); ++j) {
        if (run_.mask[b * c_.length + j] == 0) continue;
        double score = 0;
        for (int64_t e = 0; e < c_.head_dim; ++e)
          score += at(run_.q, p, i, e) * at(run_.k, p, j, e);
        const double weight = std::exp(score / std::sqrt(static_cast<double>(c_.head_dim)));
        total += weight;
        for (int64_t e = 0; e < c_.head_dim; ++e)
          sum[static_cast<size_t>(e)] += weight * at(of_keys_ ? run_.k : run_.v, p, j, e);
      }
      for (double value : sum) all.push_back(value / total);
    }
    return all;
  }
  Doubles linear(const std::string& name, const Doubles& x) const {
    const View<float> weight = run_.value("attention.row_key." + name + ".weight");
    const View<float> bias = run_.value("attention.row_key." + name + ".bias");
    Doubles y = mapped(x, to_doubles(weight.span()), x.size());
    for (size_t e = 0; e < y.size(); ++e) y[e] += static_cast<double>(bias.data[e]);
    return y;
  }
  Doubles project(int64_t b, int64_t i) const {
    Doubles z = linear("in", found(b, i));
    const auto width = static_cast<int64_t>(z.size());
    double mean = 0, variance = 0;
    for (int64_t e = 0; e < width; ++e)
      z[static_cast<size_t>(e)] += static_cast<double>(run_.x[(b * c_.length + i) * width + e]);
    for (double value : z) mean += value / static_cast<double>(width);
    for (double value : z) variance += (value - mean) * (value - mean) / static_cast<double>(width);
    for (double& value : z) value = (value - mean) / std::sqrt(variance + 1e-5);
    return linear("out", z);
  }

  const AttentionRun& run_;
  AttentionCase c_;
  bool of_keys_;
};

TEST(CombinerAttention, AxialProjectsTheKeysOfRows) {
  for (const bool of_keys : {false, true}) {
    for (const bool causal : {false, true}) {
      CombinerConfig config = small_cut(CombinerVariant::kAxial);
      config.row_key = of_keys ? CombinerRowKey::kWeightedProj : CombinerRowKey::kProj;
      AttentionRun run(config_of(config), small(causal));
      pad_second_example(run);
      run.forward();
      expect_gradient(run.out.values(), ProjectedRows(run, small(causal), of_keys).output(), 1e-5,
                      "out");
    }
  }
}

TEST(CombinerAttention, ProjectedKeysOfRowsHaveTheirGradients) {
  for (const CombinerRowKey row_key : {CombinerRowKey::kProj, CombinerRowKey::kWeightedProj}) {
    CombinerConfig config = small_cut(CombinerVariant::kAxial);
    config.row_key = row_key;
    config.global_tokens = 1;
    AttentionRun run(config_of(config), small());
    pad_second_example(run);
    run.forward();
    run.backward();
    const auto loss = [&] {
      run.forward();
      double sum = 0;
      for (int64_t e = 0; e < run.out.numel(); ++e)
        sum += static_cast<double>(run.out[e]) * static_cast<double>(run.dout[e]);
      return sum;
    };
    const auto check_slopes = [&](std::span<float> x, std::span<const float> gradient,
                                  const std::string& what) {
      const std::vector<float> actual(gradient.begin(), gradient.end());
      Doubles expected(x.size(), std::numeric_limits<double>::quiet_NaN());
      for (size_t i = 0; i < x.size(); i += test::slopes_apart(x.size()))
        expected[i] = test::slope(x[i], loss);
      expect_gradient(actual, expected, 3e-3, what);
    };
    check_slopes(run.q.values(), run.dq.values(), "dq");
    check_slopes(run.k.values(), run.dk.values(), "dk");
    check_slopes(run.v.values(), run.dv.values(), "dv");
    check_slopes(run.x.values(), run.dx.values(), "dx");
    for (const ParameterStore::Entry& entry : run.store.entries())
      check_slopes(run.value(entry.name).span(), run.grad(entry.name).span(), entry.name);
  }
}

// --- identities ----------------------------------------------------------------------------------

/// Every variant with every pool; axial pools nothing.
std::vector<CombinerConfig> every_cut() {
  std::vector<CombinerConfig> cuts;
  for (const CombinerVariant variant : kVariants) {
    for (int pool = 0; pool <= static_cast<int>(CombinerPool::kDeepsetSum); ++pool) {
      if (variant == CombinerVariant::kAxial && pool > 0) break;
      cuts.push_back(small_cut(variant));
      cuts.back().pool = static_cast<CombinerPool>(pool);
    }
  }
  return cuts;
}

std::vector<float> output_of(const AttentionConfig& config, const AttentionCase& c,
                             const std::function<void(AttentionRun&)>& change = {}) {
  AttentionRun run(config, c);
  if (change) change(run);
  run.forward();
  return run.out.values();
}

void expect_near(const std::vector<float>& a, const std::vector<float>& b, float tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t x = 0; x < a.size(); ++x) ASSERT_NEAR(a[x], b[x], tolerance) << x;
}

TEST(CombinerAttention, IsSoftmaxWhereNothingIsSummarised) {
  for (const bool causal : {false, true}) {
    const auto check_same = [&](const CombinerConfig& combiner, int64_t length, double dropout) {
      const AttentionCase c{.length = length, .head_dim = 8, .seed = 41, .is_causal = causal};
      AttentionConfig own = config_of(combiner);
      AttentionConfig softmax{.kind = AttentionKind::kSoftmax, .dropout = dropout};
      own.dropout = dropout;
      AttentionRun a(own, c), b(softmax, c);
      for (AttentionRun* run : {&a, &b}) {
        pad_second_example(*run);
        run->forward();
        run->backward();
      }
      expect_near(a.out.values(), b.out.values(), 2e-6f);
      expect_near(a.dq.values(), b.dq.values(), 1e-5f);
      expect_near(a.dk.values(), b.dk.values(), 1e-5f);
      expect_near(a.dv.values(), b.dv.values(), 1e-5f);
    };
    check_same({.block = 1}, 13, 0.0);
    check_same({.block = 13}, 13, 0.3);
    check_same({.block = 64}, 13, 0.3);
    check_same({.variant = CombinerVariant::kAxial, .columns = 13}, 13, 0.3);
    check_same({.variant = CombinerVariant::kAxial, .columns = 1, .row_key = CombinerRowKey::kNone},
               13, 0.0);
    check_same(
        {.variant = CombinerVariant::kAxial, .columns = 1, .row_key = CombinerRowKey::kWeighted},
        13, 0.0);
    check_same({.variant = CombinerVariant::kLogsparse}, 2, 0.3);
    check_same({.variant = CombinerVariant::kLogsparse}, 1, 0.3);
    check_same({.variant = CombinerVariant::kVertical, .columns = 1}, 13, 0.3);
    check_same({.variant = CombinerVariant::kVertical, .columns = 7}, 13, 0.0);
    check_same({.variant = CombinerVariant::kHorizontal, .columns = 13}, 13, 0.3);
    check_same({.variant = CombinerVariant::kHorizontal, .columns = 2}, 13, 0.0);
  }
}

TEST(CombinerAttention, KeysThatAreEqualWithinRegionsGiveSoftmaxUnderMassBias) {
  const AttentionCase c{.length = 16, .head_dim = 4, .seed = 42};
  const auto make_equal = [](AttentionRun& run) {
    for (int64_t x = 0; x < run.k.numel(); ++x) {
      const int64_t row = x / 4, block_start = row / 4 * 4;
      run.k[x] = run.k[block_start * 4 + x % 4];
    }
  };
  const AttentionConfig softmax{.kind = AttentionKind::kSoftmax, .dropout = 0};
  const std::vector<float> exact = output_of(softmax, c, make_equal);
  CombinerConfig own = small_cut(CombinerVariant::kFixed);
  float worst = 0;
  const std::vector<float> without = output_of(config_of(own), c, make_equal);
  for (size_t x = 0; x < exact.size(); ++x)
    worst = std::max(worst, std::abs(exact[x] - without[x]));
  EXPECT_GT(worst, 0.05f);
  own.mass_bias = CombinerMassBias::kLogSize;
  expect_near(output_of(config_of(own), c, make_equal), exact, 5e-6f);
}

/// Where all keys are equal, they are so within any region: every token that is seen weighs the same.
TEST(CombinerAttention, EqualKeysGiveTheMeanOfWhatIsSeenUnderMassBias) {
  for (CombinerConfig own : every_cut()) {
    if (own.variant == CombinerVariant::kMixture) continue;  // sees a token twice
    if (own.pool != CombinerPool::kMax && own.pool != CombinerPool::kMean) continue;
    own.mass_bias = CombinerMassBias::kLogSize;
    for (const bool causal : {false, true}) {
      const AttentionCase c{.length = 18, .head_dim = 4, .seed = 47, .is_causal = causal};
      const auto make_equal = [](AttentionRun& run) {
        pad_second_example(run);
        for (int64_t x = 0; x < run.k.numel(); ++x) run.k[x] = run.content_k[x] = run.k[x % 4];
      };
      expect_near(output_of(config_of(own), c, make_equal),
                  output_of({.kind = AttentionKind::kSoftmax, .dropout = 0}, c, make_equal), 1e-5f);
    }
  }
}

TEST(CombinerAttention, TheFutureChangesNoBit) {
  for (CombinerConfig own : every_cut()) {
    const AttentionCase c{.length = 37, .head_dim = 5, .seed = 43, .is_causal = true};
    own.columns = 6;
    const std::vector<float> before = output_of(config_of(own), c);
    for (int64_t t : {0, 3, 4, 17, 31, 36}) {
      const std::vector<float> after = output_of(config_of(own), c, [&](AttentionRun& run) {
        for (auto* x : {&run.q, &run.k, &run.v, &run.content_q, &run.content_k}) {
          for (int64_t e = 0; e < x->numel(); ++e)
            if (e / 5 % 37 > t) (*x)[e] = 3.0f - (*x)[e];
        }
      });
      for (size_t e = 0; e < before.size(); ++e) {
        if (static_cast<int64_t>(e) / 5 % 37 <= t) {
          ASSERT_EQ(after[e], before[e]) << t << " " << e;
        }
      }
    }
  }
}

/// Sums over tokens of rows [B, H, N, D].
std::vector<double> column_sums(const std::vector<float>& rows, int64_t length, int64_t dim) {
  std::vector<double> sums(rows.size() / static_cast<size_t>(length));
  for (size_t x = 0; x < rows.size(); ++x) {
    const auto e = static_cast<int64_t>(x);
    sums[static_cast<size_t>(e / (length * dim) * dim + e % dim)] += static_cast<double>(rows[x]);
  }
  return sums;
}

TEST(CombinerAttention, MovingAllKeysOrValuesMovesNothingButTheValues) {
  for (const CombinerConfig& own : every_cut()) {
    for (const bool causal : {false, true}) {
      const AttentionCase c{.length = 19, .head_dim = 4, .seed = 44, .is_causal = causal};
      const AttentionConfig config = config_of(own);
      AttentionRun run(config, c);
      pad_second_example(run);
      run.forward();
      run.backward();
      const auto move = [](test::Array<float>& x) {
        for (float& value : x.values()) value += 0.75f;
      };
      // A maximum and a mean move with the keys, a sum and what is rectified do not.
      if (own.pool == CombinerPool::kMax || own.pool == CombinerPool::kMean) {
        expect_near(output_of(config, c,
                              [&](AttentionRun& r) {
                                pad_second_example(r), move(r.k), move(r.content_k);
                              }),
                    run.out.values(), 1e-5f);
        for (double sum : column_sums(run.dk.values(), 19, 4)) EXPECT_NEAR(sum, 0, 1e-5);
      }
      std::vector<float> moved = run.out.values();
      for (float& value : moved) value += 0.75f;
      expect_near(output_of(config, c, [&](AttentionRun& r) { pad_second_example(r), move(r.v); }),
                  moved, 1e-5f);
      const std::vector<double> dv = column_sums(run.dv.values(), 19, 4),
                                dout = column_sums(run.dout.values(), 19, 4);
      for (size_t x = 0; x < dv.size(); ++x) EXPECT_NEAR(dv[x], dout[x], 1e-4);
    }
  }
}

TEST(CombinerAttention, AnOutputLiesBetweenTheValuesThatAreSeen) {
  for (const CombinerConfig& own : every_cut()) {
    const AttentionCase c{.batch = 1, .heads = 1, .length = 19, .head_dim = 4, .is_causal = true};
    AttentionRun run(config_of(own), c);
    run.forward();
    for (int64_t i = 0; i < 19; ++i) {
      for (int64_t d = 0; d < 4; ++d) {
        float low = run.v[d], high = low;
        for (int64_t j = 0; j <= i; ++j) {
          low = std::min(low, run.v[j * 4 + d]);
          high = std::max(high, run.v[j * 4 + d]);
        }
        EXPECT_GE(run.out[i * 4 + d], low - 1e-5f);
        EXPECT_LE(run.out[i * 4 + d], high + 1e-5f);
      }
    }
  }
}

/// Moves token i of every sequence to place order[i], in q, k and v.
void reorder(AttentionRun& run, const std::vector<int64_t>& order) {
  for (auto* x : {&run.q, &run.k, &run.v, &run.content_q, &run.content_k}) {
    const test::Array<float> before = *x;
    const int64_t n = x->shape()[2], d = x->shape()[3];
    for (int64_t e = 0; e < x->numel(); ++e) {
      const int64_t row = e / d, i = row % n;
      (*x)[(row - i + order[static_cast<size_t>(i)]) * d + e % d] = before[e];
    }
  }
}

TEST(CombinerAttention, BlocksAndSiblingsMayChangePlaces) {
  const AttentionCase c{.length = 8, .head_dim = 4, .seed = 45};
  const std::vector<int64_t> within = {2, 0, 3, 1, 4, 5, 7, 6}, blocks = {4, 5, 6, 7, 0, 1, 2, 3},
                             siblings = {2, 3, 0, 1, 4, 5, 6, 7}, none = {4, 1, 2, 3, 0, 5, 6, 7};
  const auto distance = [&](CombinerVariant variant, const std::vector<int64_t>& order) {
    const AttentionConfig config = config_of(small_cut(variant));
    const std::vector<float> before = output_of(config, c);
    const std::vector<float> after =
        output_of(config, c, [&](AttentionRun& run) { reorder(run, order); });
    float worst = 0;
    for (size_t e = 0; e < before.size(); ++e) {
      const size_t row = e / 4, i = row % 8;
      const size_t moved = (row - i + static_cast<size_t>(order[i])) * 4 + e % 4;
      worst = std::max(worst, std::abs(after[moved] - before[e]));
    }
    return worst;
  };
  EXPECT_LT(distance(CombinerVariant::kFixed, within), 1e-5f);
  EXPECT_LT(distance(CombinerVariant::kFixed, blocks), 1e-5f);
  EXPECT_GT(distance(CombinerVariant::kFixed, none), 1e-2f);
  EXPECT_LT(distance(CombinerVariant::kLogsparse, siblings), 1e-5f);
  EXPECT_LT(distance(CombinerVariant::kLogsparse, blocks), 1e-5f);
  EXPECT_GT(distance(CombinerVariant::kLogsparse, none), 1e-2f);
}

TEST(CombinerAttention, ABlockSeesAnotherWithProportionalWeights) {
  const kernels::Partition cut{.length = 16, .block = 4};
  const test::Array<float> q = test::random_normal({16, 3}, 1), k = test::random_normal({16, 3}, 2);
  const kernels::reference::Combiner c{.partition = cut,
                                       .d = 3,
                                       .q = to_doubles(q.values()),
                                       .k = to_doubles(k.values()),
                                       .v = to_doubles(k.values())};
  const Doubles weights = kernels::reference::combine(c).weights;
  const auto at = [&](size_t i, size_t j) { return weights[i * 16 + j]; };
  for (size_t i = 0; i < 16; ++i) {
    double sum = 0;
    for (size_t j = 0; j < 16; ++j) {
      EXPECT_GT(at(i, j), 0.0);
      sum += at(i, j);
      const size_t i0 = i / 4 * 4, j0 = j / 4 * 4;
      if (i0 != j0) {
        EXPECT_NEAR(at(i0, j0) * at(i, j) - at(i0, j) * at(i, j0), 0, 1e-15);
      }
    }
    EXPECT_NEAR(sum, 1, 1e-12);
  }
}

TEST(CombinerAttention, PaddingBehindChangesNothing) {
  for (const CombinerConfig& own : every_cut()) {
    for (const bool causal : {false, true}) {
      AttentionRun padded(
          config_of(own),
          {.batch = 1, .heads = 1, .length = 21, .head_dim = 4, .is_causal = causal});
      AttentionRun alone(
          config_of(own),
          {.batch = 1, .heads = 1, .length = 13, .head_dim = 4, .is_causal = causal});
      for (int64_t j = 13; j < 21; ++j) padded.mask[j] = 0;
      const auto copy = [](const test::Array<float>& from, test::Array<float>& to) {
        std::copy_n(from.values().begin(), to.values().size(), to.values().begin());
      };
      copy(padded.q, alone.q), copy(padded.k, alone.k), copy(padded.v, alone.v);
      copy(padded.dout, alone.dout);
      for (AttentionRun* run : {&padded, &alone}) run->forward(), run->backward();
      for (int64_t e = 0; e < 13 * 4; ++e) ASSERT_NEAR(padded.out[e], alone.out[e], 1e-6f) << e;
    }
  }
}

TEST(CombinerAttention, ASampleAndAHeadDependOnThemselvesOnly) {
  for (const CombinerConfig& own : every_cut()) {
    const AttentionCase c{.length = 14, .head_dim = 4, .seed = 46};
    const AttentionConfig config = config_of(own);
    const std::vector<float> both = output_of(config, c);
    const std::vector<float> changed = output_of(config, c, [](AttentionRun& run) {
      for (auto* x : {&run.q, &run.k, &run.v, &run.content_q, &run.content_k})
        for (int64_t e = 14 * 4; e < x->numel(); ++e) (*x)[e] = -(*x)[e];
    });
    for (size_t e = 0; e < 14 * 4; ++e) ASSERT_EQ(changed[e], both[e]);
  }
}

TEST(CombinerAttention, RegionsAreMadeAndScoredByContentUnderRotaryPositions) {
  const AttentionCase c = small();
  AttentionRun run(config_of(small_cut(CombinerVariant::kFixed)), c);
  run.rotary = true;
  run.content_q = test::random_normal(run.q.shape(), 90);
  run.content_k = run.k;
  run.forward();
  const Oracle oracle{run, c, {.partition = {.length = c.length, .block = 4}}};
  Doubles expected;
  for (int64_t p = 0; p < c.batch * c.heads; ++p) {
    const Doubles own =
        kernels::reference::combine(
            oracle.problem(to_doubles(run.q.values()), to_doubles(run.k.values()),
                           to_doubles(run.v.values()), to_doubles(run.content_q.values()), p))
            .o;
    expected.insert(expected.end(), own.begin(), own.end());
  }
  expect_gradient(run.out.values(), expected, 1e-5, "out");
}

TEST(CombinerAttention, AGridThatDoesNotFitIsRefused) {
  CombinerConfig config{.variant = CombinerVariant::kAxial, .rows = 3, .columns = 4};
  const auto message = [&](int64_t length) -> std::string {
    try {
      AttentionRun run(config_of(config), {.length = length});
      return "none";
    } catch (const ConfigError& error) {
      return error.what();
    }
  };
  EXPECT_EQ(message(12), "none");
  EXPECT_EQ(
      message(13),
      "attention.combiner.rows: a grid of 3 rows and 4 columns has no room for 13 tokens of a "
      "sequence; use rows=4, or 0 for as many as are needed");
  config.global_tokens = 1;
  EXPECT_EQ(message(13), "none");
}

TEST(CombinerAttention, HasNoParametersUnlessAsked) {
  for (const CombinerVariant variant : kVariants) {
    AttentionRun run(config_of(small_cut(variant)), {});
    EXPECT_EQ(run.store.num_parameters(), 0);
  }
}

}  // namespace
}  // namespace stipple::model
