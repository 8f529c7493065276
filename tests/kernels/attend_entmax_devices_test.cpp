// SPDX-License-Identifier: Apache-2.0
// Attention with entmax on every device, in every storage and by every kind of pairs, against the
// double-precision reference of the product; rows of entmax on every device.
#include <gtest/gtest.h>

#include <optional>

#include "kernels/attend_entmax.h"
#include "kernels/attend_entmax_reference.h"
#include "tests/kernels/attend_reference.h"

namespace stipple::test {
namespace {

using kernels::reference::Doubles;

enum class Pairs : uint8_t { kPattern, kCsr, kBits };
constexpr Pairs kEveryPairs[] = {Pairs::kPattern, Pairs::kCsr, Pairs::kBits};

std::optional<EdgeForm> form_of(Pairs pairs) {
  if (pairs == Pairs::kPattern) return std::nullopt;
  return pairs == Pairs::kCsr ? EdgeForm::kCsr : EdgeForm::kBits;
}

struct EntmaxCase {
  AttendSetup setup;
  Array<float> alpha, temperature;  // [H]
  Pairs pairs = Pairs::kPattern;
  int64_t room = kernels::kEntmaxRoom;
};

struct EntmaxArrays {
  Array<float> o, o2, tau;
  Array<int32_t> size;
  Array<uint32_t> columns;
  Array<float> dq, dk, dv, dalpha, dtemperature;
};

/// Forward and backward at a place.
EntmaxArrays run(const EntmaxCase& c, const AttendPlace& place) {
  const AttendSetup& s = c.setup;
  AttendMemory memory(s, place);
  const RealView o = memory.room(s.q.shape()), o2 = memory.room(s.q.shape());
  const RealView dq = memory.room(s.q.shape());
  const RealView dk = memory.room(s.k.shape()), dv = memory.room(s.k.shape());
  const View<float> tau = memory.room_for_lse();
  const View<float> dalpha = memory.room_for_lse(), dtemperature = memory.room_for_lse();
  const kernels::EntmaxSupport support = {
      .size = memory.fresh<int32_t>({s.batch, s.heads, s.n}),
      .columns = memory.fresh<uint32_t>({s.batch, s.heads, s.n, c.room})};
  kernels::AttendEntmax forward{
      .o = o,
      .o2 = o2,
      .tau = tau,
      .support = support,
      .q = memory.store(s.q),
      .k = memory.store(s.k),
      .v = memory.store(s.v),
      .heads = {.alpha = memory.put(c.alpha), .temperature = memory.put(c.temperature)},
      .key_mask = memory.key_mask(),
      .pattern = memory.pattern(),
      .scale = s.scale,
      .dropout = memory.dropout(),
      .scratch = &memory.scratch()};
  if (form_of(c.pairs)) forward.edges = memory.edges(*form_of(c.pairs));
  kernels::attend_entmax(memory.stream(), forward);
  kernels::attend_entmax_backward(memory.stream(), {.dq = dq,
                                                    .dk = dk,
                                                    .dv = dv,
                                                    .dalpha = dalpha,
                                                    .dtemperature = dtemperature,
                                                    .q = forward.q,
                                                    .k = forward.k,
                                                    .v = forward.v,
                                                    .o2 = o2,
                                                    .dout = memory.store(s.dout),
                                                    .tau = tau,
                                                    .support = support,
                                                    .heads = forward.heads,
                                                    .edges = forward.edges,
                                                    .key_mask = forward.key_mask,
                                                    .pattern = forward.pattern,
                                                    .scale = s.scale,
                                                    .dropout = forward.dropout,
                                                    .scratch = &memory.scratch()});
  const auto real = [&](const RealView& x) { return memory.get(ConstRealView(x)); };
  return {
      real(o),  real(o2), memory.get(tau), memory.get(support.size), memory.get(support.columns),
      real(dq), real(dk), real(dv),        memory.get(dalpha),       memory.get(dtemperature)};
}

struct EntmaxExpected {
  Array<double> o, o2, dq, dk, dv, dalpha, dtemperature;
  Array<int32_t> size;
};

void copy_to(Array<double>& to, int64_t problem, const Doubles& from) {
  std::copy(from.begin(), from.end(),
            to.values().begin() + problem * static_cast<int64_t>(from.size()));
}

EntmaxExpected expected_of(const EntmaxCase& c) {
  const AttendSetup& s = c.setup;
  const Shape rows{s.batch, s.heads, s.n};
  EntmaxExpected e{Array<double>(s.q.shape()), Array<double>(s.q.shape()),
                   Array<double>(s.q.shape()), Array<double>(s.k.shape()),
                   Array<double>(s.k.shape()), Array<double>(rows),
                   Array<double>(rows),        Array<int32_t>(rows)};
  for (int64_t p = 0; p < s.problems(); ++p) {
    const kernels::reference::Attention a = reference(s, p);
    const kernels::reference::EntmaxAttention attention{
        .attention = a,
        .alpha = double{c.alpha[p % s.heads]},
        .temperature = double{c.temperature[p % s.heads]}};
    const auto first = s.dout.values().begin() + p * s.n * s.d;
    const kernels::reference::EntmaxOutput out = kernels::reference::attend_entmax(attention);
    const kernels::reference::EntmaxGradients g =
        kernels::reference::attend_entmax_backward(attention, Doubles(first, first + s.n * s.d));
    copy_to(e.o, p, out.o);
    copy_to(e.o2, p, out.o2);
    copy_to(e.dq, p, g.dq);
    copy_to(e.dk, p, g.dk);
    copy_to(e.dv, p, g.dv);
    copy_to(e.dalpha, p, g.dalpha);
    copy_to(e.dtemperature, p, g.dtemperature);
    for (int64_t pair = 0; pair < s.n * s.m; ++pair)
      e.size[p * s.n + pair / s.m] += out.weights[static_cast<size_t>(pair)] > 0.0 ? 1 : 0;
  }
  return e;
}

class AttendEntmaxDevices : public AttendTest {
 protected:
  /// alpha of head 0, and of head 1 a little more.
  static EntmaxCase make_case(const AttendSize& size, float alpha, uint64_t seed) {
    EntmaxCase c{.setup = make_setup(size, seed),
                 .alpha = Array<float>({size.heads}),
                 .temperature = Array<float>({size.heads})};
    for (int64_t h = 0; h < size.heads; ++h) {
      c.alpha[h] = alpha + 0.05f * static_cast<float>(h);
      c.temperature[h] = h == 0 ? 1.0f : 1.7f;
    }
    return c;
  }

  /// largest: of the numbers in q, to which rounding of its row's gradients is relative.
  static void check(const EntmaxCase& c, double largest = 1.0) {
    const EntmaxArrays actual = run(c, place());
    const EntmaxExpected expected = expected_of(c);
    // Above alpha 2 weights rise steeply at the edge of the support, gradients endlessly.
    const bool is_steep = c.alpha[c.setup.heads - 1] > 2.1f;
    const double forward = is_steep ? 2e-3 : 2e-5;
    const double backward = (is_steep ? 3e-2 : 2e-4) + 1e-7 * largest;
    const auto compare = [&](const char* what, const auto& a, const auto& e, double tolerance) {
      SCOPED_TRACE(what);
      expect_close_as_stored(a, e, place().storage, tolerance, 1e-3);
    };
    compare("o", actual.o, expected.o, forward);
    compare("o2", actual.o2, expected.o2, backward);
    // The rounding of o2 goes through delta into every gradient of the row.
    const double rounding = is_bf16() ? is_steep ? 0.2 : 1.5e-2 : 0.0;
    compare("dq", actual.dq, expected.dq, backward + rounding);
    compare("dk", actual.dk, expected.dk, backward + rounding);
    compare("dv", actual.dv, expected.dv, backward + rounding);
    compare("dalpha", actual.dalpha, expected.dalpha, 5 * backward);
    compare("dtemperature", actual.dtemperature, expected.dtemperature, backward + rounding);
  }
};
INSTANTIATE_TEST_SUITE_P(Place, AttendEntmaxDevices, ::testing::ValuesIn(all_params()),
                         name_of_param);

TEST_P(AttendEntmaxDevices, AgreesWithTheDefinitionForEveryKindOfPairs) {
  for (const Pairs pairs : kEveryPairs) {
    for (const float alpha : {1.2f, 1.5f, 1.95f}) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(pairs) << " alpha " << alpha);
      EntmaxCase c = make_case({.n = 19, .m = 147, .d = 33, .density = 0.4, .batch = 2}, alpha, 1);
      c.pairs = pairs;
      if (pairs == Pairs::kPattern) set_pattern(c.setup, {});
      c.setup.use_key_mask = true;
      for (int64_t j = 0; j < c.setup.m; j += 5) c.setup.key_mask[j] = 0;
      for (int64_t j = 0; j < c.setup.m; ++j) c.setup.key_mask[c.setup.m + j] = j < 60 ? 1 : 0;
      check(c);
    }
  }
}

TEST_P(AttendEntmaxDevices, AgreesWithTheDefinitionForEveryPattern) {
  for (const kernels::Pattern& pattern :
       {kernels::Pattern{.is_causal = true},
        kernels::Pattern{.kind = kernels::PatternKind::kWindow, .radius = 5},
        kernels::Pattern{.kind = kernels::PatternKind::kWindow,
        .is_causal = true,
        .radius = 3,
        .dilation = 4}}) {
    EntmaxCase c = make_case({.n = 70, .m = 70, .d = 32}, 1.5f, 2);
    set_pattern(c.setup, pattern);
    check(c);
  }
}

TEST_P(AttendEntmaxDevices, DropsTheWeightsThatSoftmaxWould) {
  for (const Pairs pairs : kEveryPairs) {
    EntmaxCase c = make_case({.n = 33, .m = 65, .d = 8, .density = 1.0, .batch = 2}, 1.4f, 3);
    c.pairs = pairs;
    c.setup.dropout = 0.3f;
    for (const int first_head : {0, 3}) {  // of the layer
      c.setup.first_head = first_head;
      check(c);
    }
  }
}

TEST_P(AttendEntmaxDevices, SupportsLongerThanWhatIsKeptOfThem) {
  EntmaxCase c = make_case({.n = 9, .m = 400, .d = 16, .density = 1.0}, 1.3f, 4);
  for (float& x : c.setup.q.values()) x = is_bf16() ? to_float(to_bf16(0.1f * x)) : 0.1f * x;
  const EntmaxArrays arrays = run(c, place());
  ASSERT_GT(*std::max_element(arrays.size.values().begin(), arrays.size.values().end()),
            kernels::kEntmaxRoom);
  check(c);
}

// Of rows with few keys, with many, and with so many that they are dense.
TEST_P(AttendEntmaxDevices, KeepsAsManyKeysAsThereIsRoomFor) {
  EntmaxCase c = make_case({.n = 9, .m = 600, .d = 16, .density = 1.0}, 1.5f, 12);
  for (int64_t e = 0; e < c.setup.q.numel(); ++e) {
    const float sizes[] = {1.0f, 0.4f, 0.0625f};
    const float x = sizes[e / 16 % 3] * c.setup.q[e];
    c.setup.q[e] = is_bf16() ? to_float(to_bf16(x)) : x;
  }
  std::vector<std::vector<uint32_t>> supports;
  for (int64_t p = 0; p < 2; ++p) {
    const kernels::reference::Attention a = reference(c.setup, p);
    const Doubles weights =
        kernels::reference::attend_entmax(
            {.attention = a, .alpha = double{c.alpha[p]}, .temperature = double{c.temperature[p]}})
            .weights;
    for (int64_t i = 0; i < 9; ++i) {
      supports.emplace_back();
      for (uint32_t j = 0; j < 600; ++j)
        if (weights[static_cast<size_t>(i * 600) + j] > 0) supports.back().push_back(j);
    }
  }
  const auto sizes = [&] {
    std::vector<size_t> all;
    for (const auto& support : supports) all.push_back(support.size());
    return all;
  }();
  ASSERT_LT(*std::min_element(sizes.begin(), sizes.end()), 64u);
  ASSERT_GT(*std::max_element(sizes.begin(), sizes.end()), 100u);
  for (const Pairs pairs : kEveryPairs) {
    c.pairs = pairs;
    c.room = kernels::kEntmaxRoom;
    const EntmaxArrays expected = run(c, place());
    for (const int64_t room : {1, 100, 600}) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(pairs) << " room " << room);
      c.room = room;
      const EntmaxArrays actual = run(c, place());
      EXPECT_EQ(actual.o.values(), expected.o.values());
      EXPECT_EQ(actual.o2.values(), expected.o2.values());
      EXPECT_EQ(actual.tau.values(), expected.tau.values());
      for (size_t row = 0; row < supports.size(); ++row) {
        const auto at = static_cast<int64_t>(row);
        ASSERT_EQ(actual.size[at], static_cast<int32_t>(sizes[row]));
        if (actual.size[at] > room) continue;
        const uint32_t* columns = &actual.columns[at * room];
        EXPECT_EQ(std::vector<uint32_t>(columns, columns + sizes[row]), supports[row]);
      }
      check(c);
    }
  }
}

TEST_P(AttendEntmaxDevices, AlphaMayBeSteepOrNearOne) {
  for (const float alpha : {1.01f, 2.5f, 3.9f}) {
    SCOPED_TRACE(alpha);
    EntmaxCase c = make_case({.n = 7, .m = 40, .d = 6, .density = 1.0}, alpha, 5);
    check(c);
  }
}

TEST_P(AttendEntmaxDevices, TheSupportIsWhatHasAWeight) {
  const EntmaxCase c = make_case({.n = 40, .m = 90, .d = 16, .density = 1.0}, 1.5f, 6);
  const EntmaxArrays arrays = run(c, place());
  const EntmaxExpected expected = expected_of(c);
  EXPECT_EQ(arrays.size.values(), expected.size.values());
}

TEST_P(AttendEntmaxDevices, AnyPairsThatHoldTheSupportGiveTheSameBits) {
  for (const float alpha : {1.25f, 1.5f, 2.0f}) {
    EntmaxCase all = make_case({.n = 40, .m = 120, .d = 16, .density = 1.0}, alpha, 7);
    for (float& x : all.setup.q.values()) x *= 2.0f;
    const EntmaxArrays expected = run(all, place());
    for (const Pairs pairs : {Pairs::kCsr, Pairs::kBits}) {
      EntmaxCase some = all;
      some.pairs = pairs;
      std::mt19937_64 generator(8);
      for (uint8_t& drawn : some.setup.drawn.values()) drawn = generator() % 10 == 0 ? 1 : 0;
      for (int64_t row = 0; row < expected.size.numel(); ++row) {
        ASSERT_LE(expected.size[row], kernels::kEntmaxRoom);
        for (int64_t e = 0; e < expected.size[row]; ++e) {
          const uint32_t key = expected.columns[row * kernels::kEntmaxRoom + e];
          some.setup.drawn[row * some.setup.m + key] = 1;
        }
      }
      const EntmaxArrays actual = run(some, place());
      EXPECT_EQ(actual.o.values(), expected.o.values());
      EXPECT_EQ(actual.o2.values(), expected.o2.values());
      EXPECT_EQ(actual.tau.values(), expected.tau.values());
      EXPECT_EQ(actual.size.values(), expected.size.values());
      EXPECT_EQ(actual.dq.values(), expected.dq.values());
      EXPECT_EQ(actual.dk.values(), expected.dk.values());
      EXPECT_EQ(actual.dv.values(), expected.dv.values());
    }
  }
}

TEST_P(AttendEntmaxDevices, RowsWithoutKeysWithOneKeyAndWithLargeScores) {
  EntmaxCase c = make_case({.n = 4, .m = 33, .d = 8, .density = 1.0, .heads = 1}, 1.5f, 9);
  c.pairs = Pairs::kCsr;
  for (int64_t j = 0; j < 33; ++j) {
    c.setup.drawn[j] = 0;
    c.setup.drawn[33 + j] = j == 7 ? 1 : 0;
  }
  for (int64_t x = 0; x < 8; ++x) c.setup.q[2 * 8 + x] *= is_bf16() ? 16384.0f : 1e4f;
  check(c, /*largest=*/3e4);
  const EntmaxArrays arrays = run(c, place());
  EXPECT_EQ(arrays.size[0], 0);
  EXPECT_EQ(arrays.size[1], 1);
  EXPECT_EQ(arrays.size[2], 1);
  EXPECT_EQ(arrays.tau[0], std::numeric_limits<float>::infinity());
  for (int64_t x = 0; x < 8; ++x) {
    EXPECT_EQ(arrays.o[x], 0.0f);
    EXPECT_EQ(arrays.o[8 + x], c.setup.v[7 * 8 + x]);
    EXPECT_EQ(arrays.dq[x], 0.0f);
  }
}

TEST_P(AttendEntmaxDevices, WhatIsNotANumberStaysInItsRow) {
  EntmaxCase c = make_case({.n = 5, .m = 20, .d = 4, .density = 1.0, .heads = 1}, 1.5f, 10);
  c.setup.q[2 * 4] = std::numeric_limits<float>::quiet_NaN();
  const EntmaxArrays arrays = run(c, place());
  for (int64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(std::isnan(arrays.tau[i]), i == 2);
    EXPECT_EQ(std::isnan(arrays.o[i * 4]), i == 2);
    EXPECT_EQ(std::isnan(arrays.dq[i * 4]), i == 2);
    EXPECT_EQ(arrays.size[i] == 0, i == 2);
  }
  for (const float x : arrays.dk.values()) EXPECT_FALSE(std::isnan(x));
  for (const float x : arrays.dv.values()) EXPECT_FALSE(std::isnan(x));
}

TEST_P(AttendEntmaxDevices, TwoRunsGiveTheSameBits) {
  const EntmaxCase c = make_case({.n = 50, .m = 77, .d = 20, .density = 1.0}, 1.5f, 11);
  const EntmaxArrays first = run(c, place()), second = run(c, place());
  EXPECT_EQ(first.o.values(), second.o.values());
  EXPECT_EQ(first.dq.values(), second.dq.values());
  EXPECT_EQ(first.dk.values(), second.dk.values());
  EXPECT_EQ(first.dv.values(), second.dv.values());
}

// --- rows ----------------------------------------------------------------------------------------

TEST(EntmaxDevices, RowsAgreeWithTheDefinition) {
  for (const Device device : test_devices()) {
    for (const int64_t length : {1, 31, 33, 500}) {
      for (const float alpha : {1.001f, 1.2f, 1.5f, 2.0f, 3.0f}) {
        SCOPED_TRACE(testing::Message() << name_of(device) << " " << length << " " << alpha);
        constexpr int64_t kRows = 3;
        DeviceMemory memory(device);
        Array<float> z = random_normal({kRows, length}, 1, 2.45);
        for (int64_t j = 1; j < length; j += 3) z[j] = -std::numeric_limits<float>::infinity();
        const Array<float> dp = random_normal({kRows, length}, 2);
        const View<float> p = memory.fresh<float>(z.shape()), dz = memory.fresh<float>(z.shape());
        const View<float> tau = memory.fresh<float>({kRows}), dalpha = memory.fresh<float>({kRows});
        const View<const float> alphas = memory.put(Array<float>({1}, {alpha}));
        const kernels::EntmaxSupport support{.size = memory.fresh<int32_t>({kRows}),
                                             .columns = memory.fresh<uint32_t>({kRows, length})};
        kernels::entmax(memory.stream(), {.p = p,
                                          .tau = tau,
                                          .support = support,
                                          .z = memory.put(z),
                                          .alpha = alphas,
                                          .scratch = &memory.scratch()});
        kernels::entmax_backward(memory.stream(), {.dz = dz,
                                                   .dalpha = dalpha,
                                                   .p = p,
                                                   .dp = memory.put(dp),
                                                   .alpha = alphas,
                                                   .scratch = &memory.scratch()});
        const Array<float> actual = memory.get(p), gradient = memory.get(dz);
        const bool is_steep = alpha > 2.0f;
        for (int64_t i = 0; i < kRows; ++i) {
          const Doubles scores(&z[i * length], &z[i * length] + length);
          const Doubles dweights(&dp[i * length], &dp[i * length] + length);
          const auto row = kernels::reference::entmax(scores, double{alpha});
          const Doubles expected =
              kernels::reference::entmax_backward(row, dweights, double{alpha});
          int32_t size = 0;
          for (int64_t j = 0; j < length; ++j) {
            const auto key = static_cast<size_t>(j);
            ASSERT_NEAR(actual[i * length + j], row.p[key], is_steep ? 3e-3 : 2e-5);
            const double slope_tolerance = is_steep ? 1e9 : 1e-3;
            ASSERT_NEAR(gradient[i * length + j], expected[key], slope_tolerance);
            size += actual[i * length + j] > 0.0f ? 1 : 0;
          }
          EXPECT_GE(memory.get(support.size)[i], size);  // near 1, weights may be too small
          if (is_steep) continue;
          const double slope =
              kernels::reference::entmax_alpha_gradient(row, dweights, double{alpha});
          const double tolerance = alpha < 1.01f ? 5e-2 : 2e-3;
          EXPECT_NEAR(memory.get(dalpha)[i], slope, tolerance * (1 + std::abs(slope)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace stipple::test
