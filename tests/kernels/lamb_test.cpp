// SPDX-License-Identifier: Apache-2.0
#include "kernels/lamb.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/runs.h"
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

/// A tensor of the arena, and what is done with it.
struct Place {
  int64_t begin, size;
  float decay = 0.1f, factor = 1.0f;
  bool adapts = true;
};

/// Tensors of one run and of several, with gaps before, between and after them.
std::vector<Place> places() {
  return {{1, 1},
          {32, 31, 0.0f, 1.0f, false},
          {64, 4096, 0.1f, 0.5f},
          {4224, 12345},
          {16640, 40, 0.0f}};
}
constexpr int64_t kArena = 16700;

struct LambCase {
  std::vector<Place> tensors = places();
  Array<float> x = random_normal({kArena}, 1), m{{kArena}}, v{{kArena}},
               grad = random_normal({kArena}, 2);
  Array<float> ratios{{5}};
  Array<TrustRatios> summary{{1}};

  Array<LambTensor> table() const {
    Array<LambTensor> all({static_cast<int64_t>(tensors.size())});
    int64_t first = 0;
    for (int64_t i = 0; i < all.numel(); ++i) {
      const Place& p = tensors[static_cast<size_t>(i)];
      all[i] = {first, num_runs(p.size, kNormRun), p.decay, p.factor, p.adapts ? 1 : 0};
      first += all[i].num_runs;
    }
    return all;
  }
  Array<LambRun> runs() const {
    std::vector<LambRun> all;
    for (size_t t = 0; t < tensors.size(); ++t) {
      const Place& p = tensors[t];
      for (int64_t i = 0; i < num_runs(p.size, kNormRun); ++i) {
        const Range run = nth_run(i, p.size, kNormRun);
        all.push_back({p.begin + run.begin, p.begin + run.end, static_cast<int32_t>(t)});
      }
    }
    Array<LambRun> array({static_cast<int64_t>(all.size())});
    array.values() = all;
    return array;
  }

  void update(Device device, const UpdateScalars& scalars) {
    DeviceMemory memory(device);
    const View<float> all[] = {memory.put(x), memory.put(m), memory.put(v), memory.put(grad)};
    const View<float> of_tensors = memory.put(ratios);
    const View<TrustRatios> told = memory.put(summary);
    lamb(memory.stream(), {.x = all[0],
                           .m = all[1],
                           .v = all[2],
                           .grad = all[3],
                           .scalars = memory.put(Array<UpdateScalars>({1}, {scalars})),
                           .tensors = memory.put(table()),
                           .runs = memory.put(runs()),
                           .ratios = of_tensors,
                           .summary = told,
                           .scratch = &memory.scratch()});
    x = memory.get(all[0]), m = memory.get(all[1]), v = memory.get(all[2]);
    ratios = memory.get(of_tensors), summary = memory.get(told);
  }
};

TEST(Lamb, FollowsItsFormulaTensorByTensorOverSeveralSteps) {
  for (Device device : test_devices()) {
    SCOPED_TRACE(name_of(device));
    LambCase t;
    Array<double> x(t.x.shape()), m(t.x.shape()), v(t.x.shape());
    for (int64_t i = 0; i < x.numel(); ++i) x[i] = t.x[i];
    for (int step = 1; step <= 5; ++step) {
      t.update(device, scalars_of(step));
      const double c1 = 1 - std::pow(0.9, step), c2 = 1 - std::pow(0.98, step);
      double sum = 0, least = 1e9;
      for (size_t k = 0; k < t.tensors.size(); ++k) {
        const Place& p = t.tensors[k];
        std::vector<double> u;
        double of_x = 0, of_u = 0;
        for (int64_t i = p.begin; i < p.begin + p.size; ++i) {
          const double g = 0.5 * t.grad[i];
          m[i] = 0.9 * m[i] + 0.1 * g;
          v[i] = 0.98 * v[i] + 0.02 * g * g;
          u.push_back(m[i] / c1 / (std::sqrt(v[i] / c2) + 1e-6) +
                      static_cast<double>(p.decay) * x[i]);
          of_x += x[i] * x[i];
          of_u += u.back() * u.back();
        }
        const double ratio = p.adapts ? std::sqrt(of_x / of_u) : 1.0;
        EXPECT_NEAR(t.ratios[static_cast<int64_t>(k)], ratio, 2e-6 * ratio);
        if (p.adapts) sum += ratio, least = std::min(least, ratio);
        for (int64_t i = 0; i < p.size; ++i)
          x[p.begin + i] -=
              0.01 * static_cast<double>(p.factor) * ratio * u[static_cast<size_t>(i)];
      }
      EXPECT_NEAR(t.summary[0].mean, sum / 4, 1e-6 * sum);
      EXPECT_NEAR(t.summary[0].min, least, 2e-6 * least);
    }
    expect_close(t.x, x, 1e-6);
    expect_close(t.m, m, 1e-6);
    expect_close(t.v, v, 2e-6);
  }
}

TEST(Lamb, TakesTheStepThatIsComputedByHand) {
  // x = (3, 4), g = (1, -2), first step, corrected: m^ = g, v^ = g^2, so m^ / sqrt(v^) = (1, -1);
  // u = (1.3, -0.6), |u| = sqrt(2.05), r = 5 / 1.4317821 = 3.4921515; x -= 0.01 r u.
  for (Device device : test_devices()) {
    LambCase t;
    t.tensors = {{0, 2}};
    t.ratios = Array<float>({1});
    t.x[0] = 3, t.x[1] = 4, t.grad[0] = 2, t.grad[1] = -4;  // grad_scale halves them
    UpdateScalars scalars = scalars_of(1);
    scalars.eps = 1e-12f;
    t.update(device, scalars);
    EXPECT_NEAR(t.ratios[0], 3.4921515, 5e-6);
    EXPECT_NEAR(t.x[0], 2.9546020, 1e-6);
    EXPECT_NEAR(t.x[1], 4.0209529, 1e-6);
  }
}

TEST(Lamb, ATensorOfZerosTakesAdamsStep) {
  for (Device device : test_devices()) {
    LambCase t;
    t.tensors = {{0, 1}};
    t.ratios = Array<float>({1});
    t.x[0] = 0, t.grad[0] = 1;
    t.update(device, scalars_of(1));
    EXPECT_EQ(t.ratios[0], 1.0f);
    EXPECT_NEAR(t.x[0], -0.01, 1e-7);
    t.tensors = {{0, 1, 0.0f}};
    t.x[0] = 3, t.m[0] = 0, t.v[0] = 0, t.grad[0] = 0;  // no direction either
    t.update(device, scalars_of(1));
    EXPECT_EQ(t.ratios[0], 1.0f);
    EXPECT_EQ(t.x[0], 3.0f);
  }
}

TEST(Lamb, LeavesWhatIsInNoTensorAlone) {
  for (Device device : test_devices()) {
    LambCase t;
    const LambCase before = t;
    t.update(device, scalars_of(1));
    std::vector<bool> is_inside(kArena, false);
    for (const Place& p : t.tensors) std::fill_n(is_inside.begin() + p.begin, p.size, true);
    for (int64_t i = 0; i < kArena; ++i) {
      EXPECT_EQ(t.x[i] != before.x[i] || t.m[i] != 0, is_inside[static_cast<size_t>(i)]) << i;
    }
  }
}

TEST(Lamb, ChangesNothingWhereTheUpdateIsNotApplied) {
  UpdateScalars scalars = scalars_of(3);
  scalars.is_applied = 0;
  scalars.grad_scale = std::nanf("");
  for (Device device : test_devices()) {
    LambCase t;
    t.m.fill(0.25f), t.v.fill(0.5f), t.ratios.fill(7.0f), t.summary[0] = {3.0f, 2.0f};
    const LambCase before = t;
    t.update(device, scalars);
    EXPECT_EQ(t.x.values(), before.x.values());
    EXPECT_EQ(t.m.values(), before.m.values());
    EXPECT_EQ(t.v.values(), before.v.values());
    EXPECT_EQ(t.ratios.values(), before.ratios.values());
    EXPECT_EQ(t.summary[0].mean, 3.0f);
  }
}

/// Operands that lie on the host.
struct HostLamb : LambCase {
  Array<UpdateScalars> scalars{{1}, {scalars_of(1)}};
  Array<LambTensor> of_tensors = table();
  Array<LambRun> of_runs = runs();
  Lamb args(Arena& scratch) {
    return {.x = x,
            .m = m,
            .v = v,
            .grad = grad,
            .scalars = scalars,
            .tensors = of_tensors,
            .runs = of_runs,
            .ratios = ratios,
            .summary = summary,
            .scratch = &scratch};
  }
};

TEST(Lamb, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena& scratch) {
    HostLamb t;
    for (int step : {1, 2}) {
      t.scalars[0] = scalars_of(step);
      lamb(stream, t.args(scratch));
    }
    return t.x.values();
  });
}

TEST(Lamb, PlansTheScratchMemoryThatItUses) {
  HostLamb t;
  test::expect_meta_counts_scratch(
      [&](const Stream& stream, Arena& scratch) { lamb(stream, t.args(scratch)); });
}

TEST(Lamb, RefusesArraysThatDoNotBelongTogether) {
  HostLamb t;
  Arena scratch("scratch");
  Array<float> four({4});
  Lamb args = t.args(scratch);
  args.v = four;
  EXPECT_THROW(lamb(Stream(kMetaDevice), args), ShapeError);
  args = t.args(scratch);
  args.ratios = four;
  EXPECT_THROW(lamb(Stream(kMetaDevice), args), ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
