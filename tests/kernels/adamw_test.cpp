// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::expect_close;
using test::name_of;
using test::random_normal;
using test::test_devices;

constexpr UpdateRates kRates{.learning_rate = 0.01f, .beta1 = 0.9f, .is_wanted = 1};

struct Prepared {
  UpdateScalars scalars;
  int64_t applied_steps;
};

Prepared prepare(Device device, double squared_norm, int64_t applied_before, double clip_norm = 0,
                 UpdateRates rates = kRates) {
  DeviceMemory memory(device);
  const View<UpdateScalars> scalars = memory.fresh<UpdateScalars>({1});
  const View<int64_t> applied = memory.put(Array<int64_t>({1}, {applied_before}));
  prepare_update(memory.stream(), {.scalars = scalars,
                                   .applied_steps = applied,
                                   .squared_norm = memory.put(Array<double>({1}, {squared_norm})),
                                   .rates = memory.put(Array<UpdateRates>({1}, {rates})),
                                   .clip_norm = clip_norm,
                                   .beta2 = 0.98,
                                   .eps = 1e-6f});
  return {memory.get(scalars)[0], memory.get(applied)[0]};
}

TEST(PrepareUpdate, CorrectsTheMomentsByTheUpdatesAppliedWithThisOne) {
  for (Device device : test_devices()) {
    for (int64_t before : {0, 1, 9, 5000}) {
      SCOPED_TRACE(testing::Message() << name_of(device) << ", " << before);
      const auto [scalars, applied] = prepare(device, 4.0, before);
      const auto updates = static_cast<double>(before + 1);
      EXPECT_FLOAT_EQ(scalars.inverse_correction1,
                      static_cast<float>(1 / (1 - std::pow(double{0.9f}, updates))));
      EXPECT_FLOAT_EQ(scalars.inverse_correction2,
                      static_cast<float>(1 / (1 - std::pow(0.98, updates))));
      EXPECT_EQ(scalars.learning_rate, 0.01f);
      EXPECT_EQ(scalars.beta1, 0.9f);
      EXPECT_EQ(scalars.beta2, 0.98f);
      EXPECT_EQ(scalars.eps, 1e-6f);
      EXPECT_EQ(scalars.grad_scale, 1.0f);
      EXPECT_EQ(scalars.is_applied, 1);
      EXPECT_EQ(applied, before + 1);
    }
  }
}

TEST(PrepareUpdate, ClipsOnlyNormsAboveTheLimit) {
  for (Device device : test_devices()) {
    EXPECT_FLOAT_EQ(prepare(device, 16.0, 0, 1.0).scalars.grad_scale, 0.25f);
    EXPECT_EQ(prepare(device, 0.25, 0, 1.0).scalars.grad_scale, 1.0f);
    EXPECT_EQ(prepare(device, 0.0, 0, 1.0).scalars.grad_scale, 1.0f);
  }
}

TEST(PrepareUpdate, DoesNotCountWhatIsNotApplied) {
  UpdateRates vetoed = kRates;
  vetoed.is_wanted = 0;
  for (Device device : test_devices()) {
    for (const Prepared& p :
         {prepare(device, std::numeric_limits<double>::infinity(), 7, 1.0),
          prepare(device, std::nan(""), 7), prepare(device, 1.0, 7, 0, vetoed)}) {
      EXPECT_EQ(p.scalars.is_applied, 0);
      EXPECT_EQ(p.applied_steps, 7);
    }
  }
}

TEST(PrepareUpdate, RefusesArraysThatAreNotOneElement) {
  Array<UpdateScalars> scalars({1});
  Array<UpdateRates> rates({1});
  Array<int64_t> applied({1}), two({2});
  Array<double> norm({1});
  PrepareUpdate args{
      .scalars = scalars, .applied_steps = applied, .squared_norm = norm, .rates = rates};
  EXPECT_NO_THROW(prepare_update(Stream(kMetaDevice), args));
  args.applied_steps = two;
  EXPECT_THROW(prepare_update(Stream(kMetaDevice), args), ShapeError);
}

UpdateScalars scalars_of(int step) {
  return {.learning_rate = 0.01f,
          .beta1 = 0.9f,
          .beta2 = 0.98f,
          .eps = 1e-6f,
          .grad_scale = 0.5f,
          .inverse_correction1 = static_cast<float>(1 / (1 - std::pow(0.9, step))),
          .inverse_correction2 = static_cast<float>(1 / (1 - std::pow(0.98, step))),
          .is_applied = 1};
}

/// Parameters and moments in one piece of memory each, all shifted by `first` elements.
struct State {
  Array<float> x, m, v, grad;
  int64_t first;
  explicit State(int64_t n, int64_t shift = 0)
      : x(random_normal({n + shift}, 1)),
        m({n + shift}),
        v({n + shift}),
        grad(random_normal({n + shift}, 2)),
        first(shift) {}

  void update(Device device, const UpdateScalars& scalars, float rate_factor = 1.0f) {
    DeviceMemory memory(device);
    const View<float> all[] = {memory.put(x), memory.put(m), memory.put(v), memory.put(grad)};
    const auto behind = [&](View<float> a) {
      return View<float>{a.data + first, {a.numel() - first}};
    };
    adamw(memory.stream(), {.x = behind(all[0]),
                            .m = behind(all[1]),
                            .v = behind(all[2]),
                            .grad = behind(all[3]),
                            .scalars = memory.put(Array<UpdateScalars>({1}, {scalars})),
                            .weight_decay = 0.1f,
                            .rate_factor = rate_factor});
    x = memory.get(all[0]), m = memory.get(all[1]), v = memory.get(all[2]);
  }
};

void expect_formula_over_steps(Device device, int64_t n, int64_t first) {
  State t(n, first);
  Array<double> x(t.x.shape()), m(t.x.shape()), v(t.x.shape());
  for (int64_t i = 0; i < x.numel(); ++i) x[i] = t.x[i];
  for (int step = 1; step <= 5; ++step) {
    t.update(device, scalars_of(step));
    const double c1 = 1 - std::pow(0.9, step), c2 = 1 - std::pow(0.98, step);
    for (int64_t i = first; i < x.numel(); ++i) {
      const double g = 0.5 * t.grad[i];
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.98 * v[i] + 0.02 * g * g;
      x[i] -= 0.01 * (m[i] / c1 / (std::sqrt(v[i] / c2) + 1e-6) + 0.1 * x[i]);
    }
  }
  expect_close(t.x, x, 1e-6);
  expect_close(t.m, m, 1e-6);
  expect_close(t.v, v, 2e-6);
}

TEST(AdamW, FollowsItsFormulaOverSeveralSteps) {
  for (Device device : test_devices()) {
    for (int64_t n : {1, 31, 8209}) {
      SCOPED_TRACE(testing::Message() << name_of(device) << ", " << n);
      expect_formula_over_steps(device, n, 0);
    }
  }
}

TEST(AdamW, MayStartAtAnyAddress) {
  for (Device device : test_devices()) {
    for (int64_t first : {1, 2, 3}) expect_formula_over_steps(device, 61, first);
  }
}

TEST(AdamW, AnElementWithoutGradientOnlyDecays) {
  for (Device device : test_devices()) {
    State t(1);
    t.x[0] = 2.0f;
    t.grad[0] = 0.0f;
    t.update(device, scalars_of(1));
    EXPECT_FLOAT_EQ(t.x[0], 2.0f - 0.01f * 0.1f * 2.0f);
  }
}

TEST(AdamW, TheRateFactorIsOneOfTheLearningRate) {
  UpdateScalars halved = scalars_of(1);
  halved.learning_rate *= 0.5f;
  for (Device device : test_devices()) {
    State by_factor(8209), by_rate(8209), plain(8209);
    by_factor.update(device, scalars_of(1), 0.5f);
    by_rate.update(device, halved);
    plain.update(device, scalars_of(1));
    EXPECT_EQ(by_factor.x.values(), by_rate.x.values());
    EXPECT_NE(by_factor.x.values(), plain.x.values());
    EXPECT_EQ(by_factor.m.values(), plain.m.values());
  }
}

TEST(AdamW, ChangesNothingWhereTheUpdateIsNotApplied) {
  UpdateScalars scalars = scalars_of(3);
  scalars.is_applied = 0;
  scalars.grad_scale = std::nanf("");
  for (Device device : test_devices()) {
    State t(77);
    t.m.fill(0.25f), t.v.fill(0.5f);
    const State before = t;
    t.update(device, scalars);
    EXPECT_EQ(t.x.values(), before.x.values());
    EXPECT_EQ(t.m.values(), before.m.values());
    EXPECT_EQ(t.v.values(), before.v.values());
  }
}

AdamW host_args(State& t, const Array<UpdateScalars>& scalars) {
  return {.x = t.x, .m = t.m, .v = t.v, .grad = t.grad, .scalars = scalars, .weight_decay = 0.1f};
}

TEST(AdamW, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena&) {
    State t(50021);
    for (int step : {1, 2}) {
      const Array<UpdateScalars> scalars({1}, {scalars_of(step)});
      adamw(stream, host_args(t, scalars));
    }
    return t.x.values();
  });
}

TEST(AdamW, RefusesArraysOfDifferentSizes) {
  State t(5);
  const Array<UpdateScalars> scalars({1}, {scalars_of(1)}), two({2});
  Array<float> four({4});
  AdamW args = host_args(t, scalars);
  args.v = four;
  EXPECT_THROW(adamw(Stream(kCpuDevice), args), ShapeError);
  args = host_args(t, two);
  EXPECT_THROW(adamw(Stream(kMetaDevice), args), ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
