// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "core/error.h"
#include "tests/support/arrays.h"
#include "trainer/checkpoint/host_tensors.h"
#include "trainer/checkpoint/scalars.h"

namespace stipple::trainer {
namespace {

using model::Decay;
using model::Init;
using test::Array;

/// Tensors of odd sizes whose decay alternates, so that runs begin and end at padding.
void declare(model::ParameterStore& store, Device device = kCpuDevice) {
  store.declare("a.weight", {3, 37}, Init::normal(1.0), Decay::kYes);
  store.declare("a.bias", {37}, Init::normal(1.0), Decay::kNo);
  store.declare("norm", {5}, Init::normal(1.0), Decay::kNo);
  store.declare("b.weight", {20000}, Init::normal(1.0), Decay::kYes);
  store.declare("c.weight", {1}, Init::normal(1.0), Decay::kYes);
  store.allocate(device);
  store.initialize(Stream(kCpuDevice), 7);
}

/// A store whose layout is fixed before an optimizer is made for it.
struct DeclaredStore {
  explicit DeclaredStore(Device device = kCpuDevice) { declare(store, device); }
  model::ParameterStore store;
};

/// A store, its optimizer, and memory to work in.
struct Bench : DeclaredStore {
  explicit Bench(const OptimizerConfig& config, int threads = 1)
      : stream(kCpuDevice, {.threads = threads}), optimizer(config, store, kCpuDevice) {}

  /// Random gradients, zero in the padding as backward leaves it.
  Array<float> gradients(uint64_t seed, double scale = 1.0) const {
    const Array<float> random = test::random_normal({store.numel()}, seed, scale);
    Array<float> grads({store.numel()});
    for (const auto& entry : store.entries()) {
      for (int64_t i = entry.range.begin; i < entry.range.end; ++i) grads[i] = random[i];
    }
    return grads;
  }

  Optimizer::Outcome step(const Array<float>& grads, const StepRates& rates) {
    optimizer.set_rates(stream, rates);
    optimizer.measure(stream, grads, scratch);
    optimizer.apply(stream, grads, scratch);
    return optimizer.read_outcome(stream);
  }

  std::vector<float> state() const {
    std::vector<float> all;
    for (const View<float> flat :
         {store.values(), optimizer.first_moment(), optimizer.second_moment()}) {
      all.insert(all.end(), flat.span().begin(), flat.span().end());
    }
    return all;
  }

  Stream stream;
  Arena scratch{"scratch", kCpuDevice, 1 << 20};
  Optimizer optimizer;
};

std::vector<Range> ranges_of(const model::ParameterStore& store) {
  std::vector<Range> ranges;
  for (const auto& entry : store.entries()) ranges.push_back(entry.range);
  return ranges;
}

double norm_of(const Array<float>& grads) {
  double sum = 0;
  for (const float g : grads.values()) sum += static_cast<double>(g) * static_cast<double>(g);
  return std::sqrt(sum);
}

/// AdamW of one tensor in double, straight from the formulas.
struct AdamWReference {
  std::vector<double> x, m, v;

  void step(std::span<const float> grads, const OptimizerConfig& c, const StepRates& rates,
            double scale, bool decays, int t) {
    const double b1 = rates.beta1.value_or(c.beta1);
    for (size_t i = 0; i < x.size(); ++i) {
      const double g = static_cast<double>(grads[i]) * scale;
      m[i] = b1 * m[i] + (1 - b1) * g;
      v[i] = c.beta2 * v[i] + (1 - c.beta2) * g * g;
      const double mean = m[i] / (1 - std::pow(b1, t));
      const double root = std::sqrt(v[i] / (1 - std::pow(c.beta2, t)));
      x[i] -= rates.learning_rate * (mean / (root + c.eps) + (decays ? c.weight_decay : 0) * x[i]);
    }
  }
};

TEST(Optimizer, FollowsAdamWInDoubleWithClippingDecayAndACycledBeta1) {
  const OptimizerConfig config{.weight_decay = 0.05,
                               .clip_norm = 20.0,
                               .schedule = {.kind = ScheduleKind::kOneCycle, .warmup_steps = 10}};
  Bench bench(config);
  std::vector<AdamWReference> references;
  for (const auto& entry : bench.store.entries()) {
    const auto size = static_cast<size_t>(entry.range.size());
    const float* first = bench.store.values().data + entry.range.begin;
    references.push_back(
        {{first, first + size}, std::vector<double>(size, 0.0), std::vector<double>(size, 0.0)});
  }
  int clipped = 0;
  for (int t = 1; t <= 30; ++t) {
    const Array<float> grads = bench.gradients(static_cast<uint64_t>(t), t % 2 == 0 ? 1.0 : 0.1);
    const double norm = norm_of(grads);
    const StepRates rates = rates_at(config.schedule, 1e-2, t - 1, 30);
    const Optimizer::Outcome outcome = bench.step(grads, rates);
    EXPECT_TRUE(outcome.is_applied());
    EXPECT_EQ(outcome.is_clipped(), norm > 20.0);
    clipped += outcome.is_clipped();
    for (size_t i = 0; i < references.size(); ++i) {
      const auto& entry = bench.store.entries()[i];
      references[i].step({&grads[entry.range.begin], references[i].x.size()}, config, rates,
                         std::min(1.0, 20.0 / norm), entry.decay == Decay::kYes, t);
    }
  }
  EXPECT_EQ(clipped, 15);
  for (size_t i = 0; i < references.size(); ++i) {
    const auto& entry = bench.store.entries()[i];
    for (int64_t k = 0; k < entry.range.size(); ++k) {
      const double expected = references[i].x[static_cast<size_t>(k)];
      // Thirty roundings of a float.
      EXPECT_NEAR(bench.store.values()[entry.range.begin + k], expected,
                  1e-6 * (1 + std::abs(expected)))
          << entry.name << " " << k;
    }
  }
}

/// AdamW and LAMB as they are configured most.
std::vector<OptimizerConfig> both_kinds() {
  return {{.weight_decay = 0.1, .clip_norm = 1.0},
          {.kind = OptimizerKind::kLamb, .weight_decay = 0.1, .clip_norm = 1.0}};
}

TEST(Optimizer, WithoutBiasCorrectionFollowsTheOptimizerOfBert) {
  // One element by hand, with Google's formula: m = 0.1 g, v = 0.001 g^2, no correction.
  model::ParameterStore store;
  store.declare("w", {1}, Init::constant(2.0), Decay::kYes);
  store.allocate(kCpuDevice);
  const Stream stream(kCpuDevice);
  store.initialize(stream, 1);
  Optimizer optimizer({.eps = 1e-6, .bias_correction = false, .weight_decay = 0.01}, store,
                      kCpuDevice);
  Array<float> grads({store.numel()});
  Arena scratch("scratch", kCpuDevice, 1 << 16);
  double x = 2.0, m = 0, v = 0;
  for (const float g : {0.5F, -0.25F, 1.0F}) {
    grads[0] = g;
    optimizer.set_rates(stream, {.learning_rate = 0.1});
    optimizer.measure(stream, grads, scratch);
    optimizer.apply(stream, grads, scratch);
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    x -= 0.1 * (m / (std::sqrt(v) + 1e-6) + 0.01 * x);
    EXPECT_NEAR(store.values()[0], x, 1e-5);  // 1 - 0.999F has 4 digits
  }
  // The first step alone: 0.05 / (0.0158114 + 1e-6) + 0.02 = 3.182100, 2 - 0.31821.
  EXPECT_NEAR(2.0 - 0.1 * (0.05 / (std::sqrt(0.00025) + 1e-6) + 0.02), 1.68179, 1e-5);
}

/// LAMB of one tensor in double, straight from the formulas.
double lamb_in_double(AdamWReference& t, std::span<const float> grads, const OptimizerConfig& c,
                      double rate, double scale, bool decays, int step) {
  const double decay = decays ? c.weight_decay : 0;
  std::vector<double> u(t.x.size());
  double of_x = 0, of_u = 0;
  for (size_t i = 0; i < t.x.size(); ++i) {
    const double g = static_cast<double>(grads[i]) * scale;
    t.m[i] = c.beta1 * t.m[i] + (1 - c.beta1) * g;
    t.v[i] = c.beta2 * t.v[i] + (1 - c.beta2) * g * g;
    const double mean = t.m[i] / (1 - std::pow(c.beta1, step));
    u[i] = mean / (std::sqrt(t.v[i] / (1 - std::pow(c.beta2, step))) + c.eps) + decay * t.x[i];
    of_x += t.x[i] * t.x[i];
    of_u += u[i] * u[i];
  }
  const bool adapts = decay > 0 || c.lamb.variant == LambVariant::kPaper;
  const double ratio = adapts && of_x > 0 && of_u > 0 ? std::sqrt(of_x / of_u) : 1.0;
  for (size_t i = 0; i < t.x.size(); ++i) t.x[i] -= rate * ratio * u[i];
  return ratio;
}

TEST(Optimizer, FollowsBothVariantsOfLambInDouble) {
  for (const LambVariant variant : {LambVariant::kPaper, LambVariant::kNvidia}) {
    const OptimizerConfig config{.kind = OptimizerKind::kLamb,
                                 .eps = 1e-6,
                                 .weight_decay = 0.05,
                                 .lamb = {.variant = variant}};
    Bench bench(config, 2);
    std::vector<AdamWReference> references;
    for (const auto& entry : bench.store.entries()) {
      const auto size = static_cast<size_t>(entry.range.size());
      const float* first = bench.store.values().data + entry.range.begin;
      references.push_back(
          {{first, first + size}, std::vector<double>(size, 0.0), std::vector<double>(size, 0.0)});
    }
    for (int t = 1; t <= 20; ++t) {
      const Array<float> grads = bench.gradients(static_cast<uint64_t>(t), t % 2 == 0 ? 1.0 : 1e-3);
      const double norm = norm_of(grads);
      const bool clips = variant == LambVariant::kNvidia && norm > 1;
      const Optimizer::Outcome outcome = bench.step(grads, {.learning_rate = 1e-2});
      EXPECT_EQ(outcome.is_clipped(), clips);
      double sum = 0, least = 1e9, adapting = 0;
      for (size_t i = 0; i < references.size(); ++i) {
        const auto& entry = bench.store.entries()[i];
        const bool decays = entry.decay == Decay::kYes;
        const double ratio =
            lamb_in_double(references[i], {&grads[entry.range.begin], references[i].x.size()},
                           config, 1e-2, clips ? 1 / norm : 1.0, decays, t);
        if (!decays && variant == LambVariant::kNvidia) continue;
        sum += ratio, least = std::min(least, ratio), ++adapting;
      }
      EXPECT_NEAR(outcome.trust.mean, sum / adapting, 1e-4 * sum / adapting);
      EXPECT_NEAR(outcome.trust.min, least, 1e-4 * least);
    }
    for (size_t i = 0; i < references.size(); ++i) {
      const auto& entry = bench.store.entries()[i];
      for (int64_t k = 0; k < entry.range.size(); ++k) {
        const double expected = references[i].x[static_cast<size_t>(k)];
        EXPECT_NEAR(bench.store.values()[entry.range.begin + k], expected,
                    2e-6 * (1 + std::abs(expected)))
            << entry.name << " " << k;
      }
    }
  }
}

TEST(Optimizer, NvidiasLambClipsAtTheLimitThatIsSet) {
  Bench bench(
      {.kind = OptimizerKind::kLamb, .clip_norm = 1e6, .lamb = {.variant = LambVariant::kNvidia}});
  EXPECT_FALSE(bench.step(bench.gradients(1), {.learning_rate = 0}).is_clipped());
}

TEST(Optimizer, DecayReachesOnlyTheTensorsThatWantIt) {
  Bench bench({.weight_decay = 0.5});
  const std::vector<float> before = bench.state();
  bench.step(Array<float>({bench.store.numel()}), {.learning_rate = 0.1});
  for (const auto& entry : bench.store.entries()) {
    const float factor = entry.decay == Decay::kYes ? 0.95f : 1.0f;
    for (int64_t i = entry.range.begin; i < entry.range.end; ++i) {
      EXPECT_FLOAT_EQ(bench.store.values()[i], factor * before[static_cast<size_t>(i)])
          << entry.name;
    }
  }
}

TEST(Optimizer, GroupsTakeStepsOfTheirOwn) {
  for (OptimizerConfig config : both_kinds()) {
    const auto after = [](const OptimizerConfig& c, double rate) {
      Bench bench(c);
      for (uint64_t t = 0; t < 3; ++t) bench.step(bench.gradients(t), {.learning_rate = rate});
      return bench.state();
    };
    Bench layout(config);
    const auto range_of = [&](const char* name) {
      return layout.store.entry(*layout.store.find(name)).range;
    };
    // Steps depend on the tensor alone, but for LAMB's ratio, which is the tensor's own.
    const std::vector<float> plain = after(config, 0.1), slow = after(config, 0.05);
    OptimizerConfig decays = config;
    decays.weight_decay = 0.02;
    const std::vector<float> other_decay = after(decays, 0.1);
    config.groups = {{"slow", {.tensors = "a.weight", .rate_factor = 0.5}},
                     {"lasting", {.tensors = "b.*", .weight_decay = 0.02}}};
    const std::vector<float> grouped = after(config, 0.1);
    const auto expect_equal = [&](const char* name, const std::vector<float>& expected,
                                  const std::vector<float>& different) {
      const auto begin = static_cast<std::ptrdiff_t>(range_of(name).begin);
      const auto end = static_cast<std::ptrdiff_t>(range_of(name).end);
      const auto part = [&](const std::vector<float>& all) {
        return std::vector<float>(all.begin() + begin, all.begin() + end);
      };
      EXPECT_EQ(part(grouped), part(expected)) << name;
      EXPECT_NE(part(grouped), part(different)) << name;
    };
    expect_equal("a.weight", slow, plain);
    expect_equal("b.weight", other_decay, plain);
    expect_equal("c.weight", plain, slow);
    expect_equal("norm", plain, slow);
  }
}

TEST(Optimizer, MeasuresTheNormOfAllGradients) {
  Bench bench({});
  const Array<float> grads = bench.gradients(1);
  EXPECT_NEAR(bench.step(grads, {.learning_rate = 0}).norm(), norm_of(grads), 1e-9);
}

TEST(Optimizer, ClipsTheGlobalNormAndNotLess) {
  Bench bench({.beta1 = 0.5, .clip_norm = 1.0});
  const Array<float> grads = bench.gradients(2);
  EXPECT_TRUE(bench.step(grads, {.learning_rate = 0}).is_clipped());
  double sum = 0;
  for (const float m : bench.optimizer.first_moment().span()) sum += 4.0 * m * m;
  EXPECT_NEAR(std::sqrt(sum), 1.0, 1e-6);
}

TEST(Optimizer, LeavesSmallGradientsAndUnlimitedOnesAlone) {
  for (const double clip : {0.0, 1e6}) {
    Bench bench({.beta1 = 0.5, .clip_norm = clip});
    const Array<float> grads = bench.gradients(2);
    EXPECT_FALSE(bench.step(grads, {.learning_rate = 0}).is_clipped());
    for (int64_t i = 0; i < grads.numel(); ++i) {
      ASSERT_EQ(bench.optimizer.first_moment()[i], 0.5f * grads[i]);
    }
  }
}

TEST(Optimizer, AnUnwantedUpdateChangesNothing) {
  for (const OptimizerConfig& config : both_kinds()) {
    Bench bench(config);
    bench.step(bench.gradients(1), {.learning_rate = 0.1});
    const std::vector<float> before = bench.state();
    const Array<float> grads = bench.gradients(2);
    bench.optimizer.set_rates(bench.stream, {.learning_rate = 0.1}, false);
    bench.optimizer.measure(bench.stream, grads, bench.scratch);
    bench.optimizer.apply(bench.stream, grads, bench.scratch);
    EXPECT_EQ(bench.state(), before);
    EXPECT_EQ(bench.optimizer.read_outcome(bench.stream).applied_steps, 1);
  }
}

TEST(Optimizer, SkipsAStepWithANonFiniteGradient) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    Bench bench({.weight_decay = 0.1});
    bench.step(bench.gradients(1), {.learning_rate = 0.1});
    const std::vector<float> before = bench.state();
    Array<float> grads = bench.gradients(2);
    grads[bench.store.entries()[0].range.begin + 11] = bad;
    const Optimizer::Outcome outcome = bench.step(grads, {.learning_rate = 0.1});
    EXPECT_FALSE(outcome.is_applied());
    EXPECT_EQ(bench.state(), before);
    EXPECT_EQ(outcome.applied_steps, 1);
  }
}

TEST(Optimizer, SkippedStepsDoNotCountInTheBiasCorrection) {
  Bench plain({});
  Bench interrupted({});
  Array<float> broken = interrupted.gradients(9);
  broken[0] = std::numeric_limits<float>::quiet_NaN();
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    plain.step(plain.gradients(seed), {.learning_rate = 0.1});
    interrupted.step(broken, {.learning_rate = 0.1});
    interrupted.step(interrupted.gradients(seed), {.learning_rate = 0.1});
  }
  EXPECT_EQ(plain.state(), interrupted.state());
}

/// By name, as a checkpoint does it.
void restore(Bench& from, Bench& to) {
  const auto describe = [](Bench& bench) {
    return [&bench](StateVisitor& v) {
      bench.store.describe_state(v, "parameter", bench.store.values());
      bench.optimizer.describe_state(bench.stream, v);
    };
  };
  const HostTensors saved(from.stream, describe(from));
  const HostTensors restored(to.stream, describe(to));
  ASSERT_EQ(saved.refs().size(), restored.refs().size());
  for (size_t i = 0; i < saved.refs().size(); ++i) {
    EXPECT_EQ(saved.refs()[i].name, restored.refs()[i].name);
    std::ranges::copy(saved.refs()[i].data, restored.refs()[i].data.begin());
  }
  restore_scalars(scalars_of(describe(from)), describe(to));
}

TEST(Optimizer, RestoredStateGoesOnWithTheSameBits) {
  for (const OptimizerConfig& config : both_kinds()) {
    Bench whole(config);
    for (uint64_t t = 0; t < 5; ++t) whole.step(whole.gradients(t), {.learning_rate = 0.1});

    Bench resumed(config);
    restore(whole, resumed);
    for (uint64_t t = 5; t < 8; ++t) {
      whole.step(whole.gradients(t), {.learning_rate = 0.1});
      resumed.step(resumed.gradients(t), {.learning_rate = 0.1});
    }
    EXPECT_EQ(whole.state(), resumed.state());
    EXPECT_EQ(resumed.optimizer.read_outcome(resumed.stream).applied_steps, 8);
  }
  Bench resumed({});
  const Scalars impossible{.counts = {{"applied_steps", -1}}};
  EXPECT_THROW(restore_scalars(
                   impossible,
                   [&](StateVisitor& v) { resumed.optimizer.describe_state(resumed.stream, v); }),
               CheckpointError);
}

TEST(Optimizer, GivesTheSameBitsForAnyNumberOfThreads) {
  for (const OptimizerConfig& config : both_kinds()) {
    std::vector<std::vector<float>> states;
    for (const int threads : {1, 2, 3}) {
      Bench bench(config, threads);
      for (uint64_t t = 0; t < 3; ++t) bench.step(bench.gradients(t), {.learning_rate = 0.1});
      states.push_back(bench.state());
    }
    EXPECT_EQ(states[0], states[1]);
    EXPECT_EQ(states[0], states[2]);
  }
}

TEST(Optimizer, PaddingStaysZero) {
  for (const OptimizerConfig& config : both_kinds()) {
    Bench bench(config);
    for (uint64_t t = 0; t < 3; ++t) bench.step(bench.gradients(t), {.learning_rate = 0.1});
    std::vector<bool> is_padding(static_cast<size_t>(bench.store.numel()), true);
    for (const auto& [begin, end] : ranges_of(bench.store))
      std::fill(is_padding.begin() + begin, is_padding.begin() + end, false);
    EXPECT_GT(std::count(is_padding.begin(), is_padding.end(), true), 50);
    for (int64_t i = 0; i < bench.store.numel(); ++i) {
      EXPECT_TRUE(!is_padding[static_cast<size_t>(i)] || bench.store.values()[i] == 0.0f) << i;
    }
  }
}

TEST(Optimizer, PlansTheScratchMemoryThatItUses) {
  for (const int threads : {1, 4}) {
    DeclaredStore meta(kMetaDevice);
    for (const OptimizerConfig& config : both_kinds()) {
      Optimizer planned(config, meta.store, kMetaDevice);
      Arena counted("scratch");
      planned.plan(Stream(kMetaDevice, {.threads = threads}), counted);

      Bench bench(config, threads);
      Arena scratch("scratch", kCpuDevice, counted.peak());
      const Array<float> grads = bench.gradients(1);
      bench.optimizer.set_rates(bench.stream, {.learning_rate = 0.1});
      bench.optimizer.measure(bench.stream, grads, scratch);
      bench.optimizer.apply(bench.stream, grads, scratch);
      EXPECT_GT(bench.optimizer.read_outcome(bench.stream).norm(), 0.0);
      EXPECT_EQ(scratch.peak(), counted.peak());
    }
  }
}

TEST(Optimizer, WhatIsNotLearnedNeverMoves) {
  for (const OptimizerConfig& config : both_kinds()) {
    model::ParameterStore store;
    store.declare("a.weight", {40}, Init::normal(1.0), Decay::kYes);
    store.declare_fixed("a.fixed", {40}, Init::normal(1.0));
    store.declare("b.weight", {40}, Init::normal(1.0), Decay::kYes);
    store.allocate(kCpuDevice);
    const Stream stream(kCpuDevice);
    store.initialize(stream, 3);
    Optimizer optimizer(config, store, kCpuDevice);
    const Array<float> grads = test::random_normal({store.numel()}, 4);
    const View<float> fixed = store.value(*store.find("a.fixed"));
    const View<float> learned = store.value(*store.find("b.weight"));
    const std::vector<float> before(fixed.span().begin(), fixed.span().end());
    const float first = learned[0];
    Arena scratch("scratch", kCpuDevice, 1 << 16);
    optimizer.set_rates(stream, {.learning_rate = 0.1});
    optimizer.measure(stream, grads, scratch);
    optimizer.apply(stream, grads, scratch);
    EXPECT_EQ(std::vector<float>(fixed.span().begin(), fixed.span().end()), before);
    EXPECT_NE(learned[0], first);
  }
}

TEST(Optimizer, RefusesGradientsOfAnotherModel) {
  Bench bench({});
  const Array<float> grads({bench.store.numel() + 1});
  EXPECT_THROW(bench.optimizer.measure(bench.stream, grads, bench.scratch), ShapeError);
  EXPECT_THROW(bench.optimizer.apply(bench.stream, grads, bench.scratch), ShapeError);
}

}  // namespace
}  // namespace stipple::trainer
