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
    optimizer.apply(stream, grads);
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
  Bench bench({.weight_decay = 0.1});
  bench.step(bench.gradients(1), {.learning_rate = 0.1});
  const std::vector<float> before = bench.state();
  const Array<float> grads = bench.gradients(2);
  bench.optimizer.set_rates(bench.stream, {.learning_rate = 0.1}, false);
  bench.optimizer.measure(bench.stream, grads, bench.scratch);
  bench.optimizer.apply(bench.stream, grads);
  EXPECT_EQ(bench.state(), before);
  EXPECT_EQ(bench.optimizer.read_outcome(bench.stream).applied_steps, 1);
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
  const OptimizerConfig config{.weight_decay = 0.1, .clip_norm = 1.0};
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
  const Scalars impossible{.counts = {{"applied_steps", -1}}};
  EXPECT_THROW(restore_scalars(
                   impossible,
                   [&](StateVisitor& v) { resumed.optimizer.describe_state(resumed.stream, v); }),
               CheckpointError);
}

TEST(Optimizer, GivesTheSameBitsForAnyNumberOfThreads) {
  const OptimizerConfig config{.weight_decay = 0.1, .clip_norm = 1.0};
  std::vector<std::vector<float>> states;
  for (const int threads : {1, 2, 3}) {
    Bench bench(config, threads);
    for (uint64_t t = 0; t < 3; ++t) bench.step(bench.gradients(t), {.learning_rate = 0.1});
    states.push_back(bench.state());
  }
  EXPECT_EQ(states[0], states[1]);
  EXPECT_EQ(states[0], states[2]);
}

TEST(Optimizer, PaddingStaysZero) {
  Bench bench({.weight_decay = 0.1});
  for (uint64_t t = 0; t < 3; ++t) bench.step(bench.gradients(t), {.learning_rate = 0.1});
  std::vector<bool> is_padding(static_cast<size_t>(bench.store.numel()), true);
  for (const auto& entry : bench.store.entries()) {
    std::fill(is_padding.begin() + entry.range.begin, is_padding.begin() + entry.range.end, false);
  }
  EXPECT_GT(std::count(is_padding.begin(), is_padding.end(), true), 50);
  for (int64_t i = 0; i < bench.store.numel(); ++i) {
    EXPECT_TRUE(!is_padding[static_cast<size_t>(i)] || bench.store.values()[i] == 0.0f) << i;
  }
}

TEST(Optimizer, PlansTheScratchMemoryThatItUses) {
  for (const int threads : {1, 4}) {
    DeclaredStore meta(kMetaDevice);
    Optimizer planned({}, meta.store, kMetaDevice);
    Arena counted("scratch");
    planned.plan(Stream(kMetaDevice, {.threads = threads}), counted);

    Bench bench({}, threads);
    Arena scratch("scratch", kCpuDevice, counted.peak());
    bench.optimizer.measure(bench.stream, bench.gradients(1), scratch);
    EXPECT_GT(bench.optimizer.read_outcome(bench.stream).norm(), 0.0);
    EXPECT_EQ(scratch.peak(), counted.peak());
  }
}

TEST(Optimizer, RefusesGradientsOfAnotherModel) {
  Bench bench({});
  const Array<float> grads({bench.store.numel() + 1});
  EXPECT_THROW(bench.optimizer.measure(bench.stream, grads, bench.scratch), ShapeError);
  EXPECT_THROW(bench.optimizer.apply(bench.stream, grads), ShapeError);
}

}  // namespace
}  // namespace stipple::trainer
