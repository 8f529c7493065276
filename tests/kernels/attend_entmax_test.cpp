// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend_entmax.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/kernels/attend_entmax_setup.h"

namespace stipple::test {
namespace {

using kernels::PatternKind;

double tolerance(float alpha) { return alpha > 2 ? 3e-4 : 6e-6; }

void expect_definition(const EntmaxSetup& s, std::optional<EdgeForm> form) {
  SCOPED_TRACE(testing::Message() << "alpha " << s.alpha[0] << " d " << s.d << " form "
                                  << (form ? static_cast<int>(*form) : -1));
  const EntmaxForward expected = entmax_reference_forward(s);
  const EntmaxAttended forward = attend_entmax(s, form);
  expect_close(forward.o, expected.o, tolerance(s.alpha[0]));
  expect_close(forward.o2, expected.o2, 3 * tolerance(s.alpha[0]));
  const EntmaxGradients<double> g = entmax_reference_backward(s, expected);
  const EntmaxGradients<float> actual = differentiate_entmax(s, forward, form);
  const double allowed = s.alpha[0] > 2 ? 2e-3 : 2e-5;
  expect_close(actual.dq, g.dq, allowed, 2e-2);
  expect_close(actual.dk, g.dk, allowed, 2e-2);
  expect_close(actual.dv, g.dv, allowed, 1e-3);
  expect_close(actual.dalpha, g.dalpha, 10 * allowed, 1e-1);
  expect_close(actual.dtemperature, g.dtemperature, 10 * allowed, 1e-1);
}

void expect_definition_in_all_forms(const EntmaxSetup& s) {
  for (const EdgeForm form : kForms) expect_definition(s, form);
}

TEST_P(AttendEntmax, AgreesWithTheDefinitionAtAnyWidthAlphaAndDensity) {
  for (const int64_t d : {1, 7, 32, 64, 141}) {
    for (const float alpha : {1.2f, 1.5f, 2.0f, 2.5f}) {
      EntmaxSetup s = make_entmax_setup({.n = 19, .m = 147, .d = d, .density = 0.3}, alpha, 1);
      expect_definition_in_all_forms(s);
      s.drawn.fill(1);
      expect_definition(s, {});
    }
  }
}

TEST_P(AttendEntmax, AgreesWithTheDefinitionAtOddLengths) {
  for (const auto& [n, m] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {1, 2}, {2, 1}, {7, 31}, {8, 32}, {9, 33}, {13, 64}, {3, 1031}, {515, 5}}) {
    EntmaxSetup s = make_entmax_setup({.n = n, .m = m, .d = 8, .density = 0.7}, 1.5f, 2);
    expect_definition_in_all_forms(s);
    s.drawn.fill(1);
    expect_definition(s, {});
  }
  // Equal ones: whole rows, which fill the room of a batch to its last pair.
  EntmaxSetup s = make_entmax_setup({.n = 40, .m = 2049, .d = 16, .density = 1}, 1.5f, 3);
  s.q.fill(0);
  s.drawn.fill(1);
  expect_definition(s, {});
}

// Near-equal scores: supports with no room, over several blocks of keys.
TEST_P(AttendEntmax, AgreesWithTheDefinitionOnLongSupports) {
  for (const float alpha : {1.33f, 1.5f, 2.0f}) {
    EntmaxSetup s = make_entmax_setup({.n = 21, .m = 1300, .d = 16, .density = 0.5}, alpha, 3);
    for (float& x : s.q.values()) x *= 0.1f;
    expect_definition_in_all_forms(s);
    s.drawn.fill(1);
    expect_definition(s, {});
  }
  // Equal ones: whole rows, which fill the room of a batch to its last pair.
  EntmaxSetup s = make_entmax_setup({.n = 40, .m = 2049, .d = 16, .density = 1}, 1.5f, 3);
  s.q.fill(0);
  s.drawn.fill(1);
  expect_definition(s, {});
}

TEST_P(AttendEntmax, AgreesWithTheDefinitionOnPatterns) {
  for (const kernels::Pattern& pattern :
       {kernels::Pattern{.is_causal = true},
        kernels::Pattern{.kind = PatternKind::kWindow, .radius = 20},
        kernels::Pattern{
            .kind = PatternKind::kWindow, .is_causal = true, .radius = 30, .dilation = 3},
        kernels::Pattern{.kind = PatternKind::kOwnGroup},
        kernels::Pattern{.kind = PatternKind::kOtherGroups, .is_causal = true}}) {
    EntmaxSetup s = make_entmax_setup({.n = 150, .m = 170, .d = 16, .density = 1.0}, 1.5f, 4);
    s.query_group = Array<int32_t>({s.n});
    s.key_group = Array<int32_t>({s.m});
    for (int64_t i = 0; i < s.n; ++i) s.query_group[i] = static_cast<int32_t>(i % 5);
    for (int64_t j = 0; j < s.m; ++j) s.key_group[j] = static_cast<int32_t>(j / 20);
    set_pattern(s, pattern);
    expect_definition(s, {});
    s.use_key_mask = true;
    for (int64_t j = 0; j < 9; ++j) s.key_mask[j] = 0;  // padding at the front
    for (int64_t j = 151; j < s.m; ++j) s.key_mask[j] = 0;
    expect_definition(s, {});
  }
}

TEST_P(AttendEntmax, GivesMaskedKeysNoWeight) {
  EntmaxSetup s = make_entmax_setup(
      {.n = 20, .m = 150, .d = 16, .density = 0.4, .batch = 3, .heads = 2}, 1.5f, 5);
  s.use_key_mask = true;
  for (int64_t j = 90; j < s.m; ++j) s.key_mask[j] = 0;
  for (int64_t j = 0; j < s.m; j += 3) s.key_mask[s.m + j] = 0;
  for (int64_t j = 0; j < s.m; ++j) s.key_mask[2 * s.m + j] = 0;
  expect_definition_in_all_forms(s);
  s.drawn.fill(1);
  expect_definition(s, {});
  // What is masked is never looked at.
  const EntmaxAttended before = attend_entmax(s);
  for (int64_t j = 90; j < s.m; ++j) s.k[j * s.d] = s.v[j * s.d] = kNan;
  EXPECT_EQ(attend_entmax(s).o.values(), before.o.values());
}

TEST_P(AttendEntmax, GivesRowsWithoutKeysNothingAndOneKeyAll) {
  EntmaxSetup s =
      make_entmax_setup({.n = 20, .m = 70, .d = 32, .density = 0.3, .heads = 1}, 1.5f, 6);
  for (int64_t j = 0; j < s.m; ++j) {
    s.drawn[5 * s.m + j] = 0;
    s.drawn[6 * s.m + j] = j == 11 ? 1 : 0;
  }
  for (const EdgeForm form : kForms) {
    const EntmaxAttended result = attend_entmax(s, form);
    const EntmaxGradients<float> g = differentiate_entmax(s, result, form);
    for (int64_t x = 0; x < s.d; ++x) {
      EXPECT_EQ(result.o[5 * s.d + x], 0.0f);
      EXPECT_EQ(g.dq[5 * s.d + x], 0.0f);
      EXPECT_EQ(result.o[6 * s.d + x], s.v[11 * s.d + x]);
      EXPECT_NEAR(g.dq[6 * s.d + x], 0.0f, 1e-6);
    }
    EXPECT_EQ(result.tau[5], kInfinity);
    EXPECT_EQ(g.dalpha[5], 0.0f);
    EXPECT_EQ(g.dtemperature[5], 0.0f);
  }
}

TEST_P(AttendEntmax, DropsTheDocumentedPairs) {
  for (const double density : {0.25, 1.0}) {
    EntmaxSetup s = make_entmax_setup(
        {.n = 33, .m = 301, .d = 16, .density = density, .batch = 2, .heads = 2}, 1.5f, 7);
    s.dropout = 0.3f;
    for (const int first_head : {0, 3}) {  // of the layer
      s.first_head = first_head;
      expect_definition_in_all_forms(s);
      if (density == 1.0) expect_definition(s, {});
    }
  }
}

TEST_P(AttendEntmax, TakesAlphaAndTemperatureOfEachHead) {
  EntmaxSetup s = make_entmax_setup(
      {.n = 30, .m = 90, .d = 32, .density = 1.0, .batch = 2, .heads = 4}, 1.5f, 8);
  s.alpha = Array<float>({4}, {1.5f, 1.25f, 2.0f, 1.8f});
  s.temperature = Array<float>({4}, {0.5f, 2.0f, 1.0f, -1.5f});
  expect_definition(s, {});
}

TEST(AttendEntmaxReference, HasTheGradientsOfDifferences) {
  for (const float alpha : {1.2f, 1.5f, 2.0f}) {
    EntmaxSetup s =
        make_entmax_setup({.n = 5, .m = 12, .d = 3, .density = 1.0, .heads = 1}, alpha, 9);
    s.temperature = Array<float>({1}, {1.25f});
    s.dropout = 0.2f;
    const EntmaxGradients<double> g = entmax_reference_backward(s, entmax_reference_forward(s));
    const auto loss = [&](const EntmaxSetup& at) {
      const EntmaxForward out = entmax_reference_forward(at);
      double sum = 0.0;
      for (int64_t x = 0; x < out.o.numel(); ++x) sum += out.o[x] * double{s.dout[x]};
      return sum;
    };
    const auto check = [&](Array<float> EntmaxSetup::*array, double expected, int64_t x) {
      constexpr float kStep = 0x1p-11f;
      EntmaxSetup up = s, down = s;
      (up.*array)[x] += kStep;
      (down.*array)[x] -= kStep;
      EXPECT_NEAR(expected, (loss(up) - loss(down)) / double{(up.*array)[x] - (down.*array)[x]},
                  2e-3 * std::max(1.0, std::abs(expected)))
          << alpha;
    };
    const auto total = [](const Array<double>& a) {
      double sum = 0.0;
      for (const double x : a.values()) sum += x;
      return sum;
    };
    for (const int64_t x : {0, 4, 8, 14}) {
      check(&EntmaxSetup::q, g.dq[x], x);
      check(&EntmaxSetup::k, g.dk[x], x);
      check(&EntmaxSetup::v, g.dv[x], x);
    }
    check(&EntmaxSetup::alpha, total(g.dalpha), 0);
    check(&EntmaxSetup::temperature, total(g.dtemperature), 0);
  }
}

/// The pairs that the definition gives weight, or that stand at the edge, and others at random.
EntmaxSetup with_part_of_pairs(const EntmaxSetup& s, const EntmaxAttended& all, int others) {
  EntmaxSetup part = s;
  std::mt19937 generator(10);
  const EntmaxForward exact = entmax_reference_forward(s);
  for (int64_t row = 0; row < s.problems() * s.n; ++row) {
    for (int64_t j = 0; j < s.m; ++j) {
      const bool near = exact.x[row * s.m + j] > double{all.tau[row]} - 1e-4;
      part.drawn[row * s.m + j] = near || static_cast<int>(generator() % 100) < others ? 1 : 0;
    }
  }
  return part;
}

TEST_P(AttendEntmax, GivesTheSameBitsForAnyEdgesThatHoldTheSupport) {
  for (const float alpha : {1.33f, 1.5f, 2.0f, 2.5f}) {
    for (const float size : {1.0f, 0.1f}) {
      EntmaxSetup s = make_entmax_setup({.n = 24, .m = 700, .d = 32, .density = 1.0}, alpha, 11);
      for (float& x : s.q.values()) x *= size;
      const EntmaxAttended all = attend_entmax(s);
      const EntmaxGradients<float> g = differentiate_entmax(s, all, {});
      for (const int others : {0, 10, 60}) {
        const EntmaxSetup part = with_part_of_pairs(s, all, others);
        for (const EdgeForm form : kForms) {
          SCOPED_TRACE(testing::Message() << alpha << ' ' << size << ' ' << others);
          const EntmaxAttended some = attend_entmax(part, form);
          ASSERT_EQ(some.tau.values(), all.tau.values());
          ASSERT_EQ(some.o.values(), all.o.values());
          ASSERT_EQ(some.o2.values(), all.o2.values());
          const EntmaxGradients<float> own = differentiate_entmax(part, some, form);
          ASSERT_EQ(own.dq.values(), g.dq.values());
          ASSERT_EQ(own.dk.values(), g.dk.values());
          ASSERT_EQ(own.dv.values(), g.dv.values());
        }
      }
    }
  }
}

TEST_P(AttendEntmax, GivesTheSameOutputWithoutBackwardAndSupport) {
  EntmaxSetup s = make_entmax_setup({.n = 40, .m = 700, .d = 32, .density = 1.0}, 1.5f, 12);
  const EntmaxAttended full = attend_entmax(s);
  AttendMemory memory(s, {});
  const RealView o = memory.room(s.q.shape());
  kernels::attend_entmax(memory.stream(), {.o = o,
                                           .tau = memory.room_for_lse(),
                                           .q = memory.store(s.q),
                                           .k = memory.store(s.k),
                                           .v = memory.store(s.v),
                                           .heads = {.alpha = memory.put(s.alpha)},
                                           .scale = s.scale,
                                           .scratch = &memory.scratch()});
  EXPECT_EQ(memory.get(ConstRealView(o)).values(), full.o.values());
}

TEST_P(AttendEntmax, GivesTheSameBitsForAnyNumberOfThreads) {
  for (const float size : {1.0f, 0.1f}) {
    for (const int64_t heads : {1, 3}) {
      EntmaxSetup s = make_entmax_setup(
          {.n = 140, .m = 260, .d = 16, .density = 0.6, .heads = heads}, 1.5f, 13);
      for (float& x : s.q.values()) x *= size;
      s.dropout = 0.2f;
      for (const std::optional<EdgeForm> form :
           {std::optional<EdgeForm>{}, std::optional{EdgeForm::kBits},
            std::optional{EdgeForm::kCsr}}) {
        const EntmaxAttended one = attend_entmax(s, form);
        const EntmaxGradients<float> g = differentiate_entmax(s, one, form);
        for (const int threads : {2, 5}) {
          const AttendPlace place = {.threads = threads};
          const EntmaxAttended other = attend_entmax(s, form, place);
          ASSERT_EQ(one.o.values(), other.o.values());
          ASSERT_EQ(one.tau.values(), other.tau.values());
          const EntmaxGradients<float> own = differentiate_entmax(s, other, form, place);
          ASSERT_EQ(own.dq.values(), g.dq.values());
          ASSERT_EQ(own.dk.values(), g.dk.values());
          ASSERT_EQ(own.dv.values(), g.dv.values());
          ASSERT_EQ(own.dalpha.values(), g.dalpha.values());
        }
      }
    }
  }
}

TEST_P(AttendEntmax, SurvivesLargeScores) {
  for (const float size : {1e2f, 1e5f, 1e8f}) {
    EntmaxSetup s = make_entmax_setup({.n = 17, .m = 300, .d = 16, .density = 1.0}, 1.5f, 14);
    for (float& x : s.q.values()) x *= size;
    const EntmaxAttended result = attend_entmax(s);
    const EntmaxGradients<float> g = differentiate_entmax(s, result, {});
    expect_close(result.o, entmax_reference_forward(s).o, 1e-3);
    for (const float x : g.dk.values()) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST_P(AttendEntmax, PassesANanInAQueryOnToItsRowAndNoOther) {
  for (const float odd : {kNan, kInfinity}) {
    EntmaxSetup s =
        make_entmax_setup({.n = 40, .m = 130, .d = 16, .density = 0.3, .heads = 1}, 1.5f, 15);
    s.drawn[6 * s.m + 100] = 1;
    s.q[6 * s.d + 2] = odd;
    for (const std::optional<EdgeForm> form :
         {std::optional<EdgeForm>{}, std::optional{EdgeForm::kBits},
          std::optional{EdgeForm::kCsr}}) {
      const EntmaxAttended result = attend_entmax(s, form);
      const EntmaxGradients<float> g = differentiate_entmax(s, result, form);
      for (int64_t x = 0; x < s.n * s.d; ++x) {
        ASSERT_EQ(std::isnan(result.o[x]), x / s.d == 6) << "element " << x;
        ASSERT_EQ(std::isnan(g.dq[x]), x / s.d == 6) << "element " << x;
      }
      EXPECT_TRUE(std::isnan(result.tau[6]));
      EXPECT_EQ(result.size[6], 0);
    }
  }
}

TEST_P(AttendEntmax, PassesANanInAKeyOnToAllThatSeeIt) {
  EntmaxSetup s =
      make_entmax_setup({.n = 40, .m = 130, .d = 16, .density = 0.3, .heads = 1}, 1.5f, 16);
  s.k[77 * s.d + 3] = kNan;
  for (const EdgeForm form : kForms) {
    const EntmaxAttended result = attend_entmax(s, form);
    for (int64_t i = 0; i < s.n; ++i) {
      ASSERT_EQ(std::isnan(result.o[i * s.d]), s.drawn[i * s.m + 77] != 0) << "row " << i;
    }
  }
}

TEST_P(AttendEntmax, PlansTheScratchItUses) {
  const EntmaxSetup s = make_entmax_setup({.n = 20, .m = 65, .d = 7, .density = 0.5}, 1.5f, 17);
  for (const std::optional<EdgeForm> form :
       {std::optional<EdgeForm>{}, std::optional{EdgeForm::kBits}, std::optional{EdgeForm::kCsr}}) {
    for (const int threads : {1, 3}) {
      Array<float> o(s.q.shape()), o2(s.q.shape()), dq(s.q.shape()), dk(s.k.shape()),
          dv(s.k.shape());
      Array<float> tau({s.batch, s.heads, s.n});
      Arena kept("kept", kCpuDevice, size_t{1} << 20);
      const kernels::EntmaxSupport support =
          kernels::alloc_entmax_support(kept, s.batch, s.heads, s.n);
      std::optional<HostGraph> graph;
      if (form) graph.emplace(graph_of(s, *form, DeviceType::kCpu));
      Arena used("used", kCpuDevice, size_t{64} << 20);
      Arena planned("planned");
      for (Arena* arena : {&used, &planned}) {
        const Stream stream(arena == &used ? kCpuDevice : kMetaDevice, {.threads = threads});
        kernels::AttendEntmax forward = {.o = o,
                                         .o2 = o2,
                                         .tau = tau,
                                         .support = support,
                                         .q = s.q,
                                         .k = s.k,
                                         .v = s.v,
                                         .heads = {.alpha = s.alpha},
                                         .scratch = arena};
        kernels::AttendEntmaxBackward backward = {.dq = dq,
                                                  .dk = dk,
                                                  .dv = dv,
                                                  .q = s.q,
                                                  .k = s.k,
                                                  .v = s.v,
                                                  .o2 = o2,
                                                  .dout = s.dout,
                                                  .tau = tau,
                                                  .support = support,
                                                  .heads = {.alpha = s.alpha},
                                                  .scratch = arena};
        if (graph) forward.edges = backward.edges = graph->edges();
        kernels::attend_entmax(stream, forward);
        EXPECT_EQ(arena->used(), 0u);
        kernels::attend_entmax_backward(stream, backward);
      }
      EXPECT_EQ(used.peak(), planned.peak());
      EXPECT_GT(used.peak(), 0u);
    }
  }
}

TEST(AttendEntmaxInput, MustFit) {
  const EntmaxSetup s = make_entmax_setup({.n = 4, .m = 5, .d = 3}, 1.5f, 18);
  const Stream stream(kCpuDevice);
  Arena scratch("scratch", kCpuDevice, size_t{8} << 20);
  Array<float> o(s.q.shape()), tau({1, 2, 4}), wrong({1, 2, 4, 4}), alpha = s.alpha;
  Array<float> dq(s.q.shape()), dk(s.k.shape()), dv(s.k.shape());
  Array<uint8_t> wrong_mask({1, 4});
  Arena kept("kept", kCpuDevice, size_t{1} << 20);
  const kernels::EntmaxSupport support = kernels::alloc_entmax_support(kept, 1, 2, 4);
  const kernels::AttendEntmax good = {.o = o,
                                      .o2 = dq,
                                      .tau = tau,
                                      .support = support,
                                      .q = s.q,
                                      .k = s.k,
                                      .v = s.v,
                                      .heads = {.alpha = alpha},
                                      .scratch = &scratch};
  EXPECT_NO_THROW(kernels::attend_entmax(stream, good));
  const auto rejects = [&](auto change) {
    kernels::AttendEntmax bad = good;
    change(bad);
    EXPECT_THROW(kernels::attend_entmax(stream, bad), ShapeError);
  };
  rejects([&](auto& a) { a.o = wrong; });
  rejects([&](auto& a) { a.o2 = wrong; });
  rejects([&](auto& a) { a.tau = wrong; });
  rejects([&](auto& a) { a.q = tau.view(); });
  rejects([&](auto& a) { a.k = wrong.view(); });
  rejects([&](auto& a) { a.v = wrong.view(); });
  rejects([&](auto& a) { a.heads.alpha = wrong.view(); });
  rejects([&](auto& a) { a.heads.temperature = wrong.view(); });
  rejects([&](auto& a) { a.key_mask = wrong_mask.view(); });
  rejects([&](auto& a) { a.support.size = {a.support.size.data, {4}}; });
  rejects([&](auto& a) { a.support.columns = {a.support.columns.data, {1, 2, 4, 0}}; });
  rejects([&](auto& a) { a.support.columns = {a.support.columns.data, {1, 2, 3, 64}}; });
  rejects([&](auto& a) { a.dropout.rate = 0.5f; });
  alpha[1] = 1.0f;
  EXPECT_THROW(kernels::attend_entmax(stream, good), Error);
  alpha[1] = 1.5f;
  EntmaxSetup drawn_often = s;
  drawn_often.multiplicity = true;
  const HostGraph graph = graph_of(drawn_often, EdgeForm::kCsr, DeviceType::kCpu);
  kernels::AttendEntmax with_edges = good;
  with_edges.edges = graph.edges();
  EXPECT_THROW(kernels::attend_entmax(stream, with_edges), Error);

  const kernels::AttendEntmaxBackward backward = {.dq = dq,
                                                  .dk = dk,
                                                  .dv = dv,
                                                  .q = s.q,
                                                  .k = s.k,
                                                  .v = s.v,
                                                  .o2 = o,
                                                  .dout = s.dout,
                                                  .tau = tau,
                                                  .support = support,
                                                  .heads = {.alpha = alpha},
                                                  .scratch = &scratch};
  EXPECT_NO_THROW(kernels::attend_entmax_backward(stream, backward));
  const auto rejects_backward = [&](auto change) {
    kernels::AttendEntmaxBackward bad = backward;
    change(bad);
    EXPECT_THROW(kernels::attend_entmax_backward(stream, bad), ShapeError);
  };
  rejects_backward([&](auto& a) { a.dq = wrong; });
  rejects_backward([&](auto& a) { a.dk = wrong; });
  rejects_backward([&](auto& a) { a.dv = wrong; });
  rejects_backward([&](auto& a) { a.o2 = wrong.view(); });
  rejects_backward([&](auto& a) { a.dout = wrong.view(); });
  rejects_backward([&](auto& a) { a.dalpha = wrong; });
  rejects_backward([&](auto& a) { a.dtemperature = wrong; });
}

}  // namespace
}  // namespace stipple::test
