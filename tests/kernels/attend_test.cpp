// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/kernels/attend_reference.h"

namespace stipple::test {
namespace {

constexpr EdgeForm kForms[] = {EdgeForm::kBits, EdgeForm::kCsr};

/// The specification's tolerances of outputs: a part of the largest value, one of the output
/// itself, and something.
struct Tolerance {
  double of_values;
  double of_output;
  double any;
  double lse;
};

class Attend : public AttendTest {
 protected:
  static Tolerance tolerance(EdgeForm form) {
    if (!is_bf16()) return {2e-6, 0.0, 1e-6, 4e-6};
    if (form == EdgeForm::kCsr) return {5e-6, 0x1p-8, 0.0, 4e-6};
    return {8e-3, 0.0, 0.0, 1e-5};
  }

  static void expect_exact(const Attended& actual, const AttendSetup& s, EdgeForm form,
                           const ForwardResult& expected) {
    const Tolerance t = tolerance(form);
    double largest = 0;
    for (float x : s.v.values()) largest = std::max(largest, std::abs(double{x}));
    for (int64_t i = 0; i < actual.o.numel(); ++i) {
      const double allowed = t.of_values * largest + t.of_output * std::abs(expected.o[i]) + t.any;
      ASSERT_NEAR(actual.o[i], expected.o[i], allowed) << "o, element " << i;
    }
    for (int64_t i = 0; i < actual.lse.numel(); ++i) {
      if (std::isinf(expected.lse[i])) {
        ASSERT_EQ(actual.lse[i], -std::numeric_limits<float>::infinity()) << "row " << i;
      } else {
        ASSERT_NEAR(actual.lse[i], expected.lse[i], t.lse * (1 + std::abs(expected.lse[i])));
      }
    }
  }
  static void expect_dense_exact(const Attended& actual, const AttendSetup& s) {
    expect_exact(actual, s, EdgeForm::kBits, reference_forward(s));
  }
  static void expect_both_forms_exact(const AttendSetup& s) {
    const ForwardResult expected = reference_forward(s);
    for (EdgeForm form : kForms) expect_exact(attend(s, form), s, form, expected);
  }

  /// Results of two ways that differ by rounding only.
  static void expect_alike(const Attended& a, const Attended& b) {
    expect_close(a.o, b.o, is_bf16() ? 2e-2 : 1e-5);
    expect_close(a.lse, b.lse, 1e-5);
  }
};
INSTANTIATE_TEST_SUITE_P(Place, Attend, ::testing::ValuesIn(all_params()), name_of_param);

/// What only the CPU knows, and what takes an emulated GPU too long.
class AttendOnCpu : public Attend {};
INSTANTIATE_TEST_SUITE_P(Isa, AttendOnCpu, ::testing::ValuesIn(cpu_params()), name_of_param);

TEST_P(Attend, AgreesWithTheDefinitionAtAnyWidthAndDensity) {
  for (int64_t d : {1, 7, 16, 32, 33, 64, 128, 141}) {
    if (d > 128 && !is_cpu()) continue;
    for (double density : {0.0, 0.01, 0.25, 1.0}) {
      const AttendSetup s = make_setup({.n = 19, .m = 147, .d = d, .density = density}, 1);
      expect_both_forms_exact(s);
    }
  }
}

TEST_P(Attend, AgreesWithTheDefinitionAtOddLengths) {
  for (const auto& [n, m] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {1, 2}, {2, 1}, {7, 31}, {8, 32}, {9, 33}, {13, 64}, {3, 1031}, {515, 5}}) {
    for (double density : {0.3, 0.9}) {
      const AttendSetup s = make_setup({.n = n, .m = m, .d = 8, .density = density}, 2);
      expect_both_forms_exact(s);
    }
  }
}

TEST_P(AttendOnCpu, AgreesWithTheDefinitionOverSeveralSweepsOfKeys) {
  for (double density : {0.4, 1.0}) {
    AttendSetup s = make_setup({.n = 3, .m = 4133, .d = 16, .density = density}, 3);
    for (float& x : s.k.values()) x *= 3.0f;
    expect_both_forms_exact(s);
  }
}

TEST_P(Attend, GivesZeroAndMinusInfinityForRowsWithoutEdges) {
  AttendSetup s = make_setup({.n = 20, .m = 70, .d = 32, .density = 0.3}, 4);
  for (int64_t j = 0; j < s.m; ++j) s.drawn[5 * s.m + j] = 0;
  for (EdgeForm form : kForms) {
    const Attended result = attend(s, form);
    expect_exact(result, s, form, reference_forward(s));
    for (int64_t x = 0; x < s.d; ++x) EXPECT_EQ(result.o[5 * s.d + x], 0.0f);
    EXPECT_EQ(result.lse[5], -std::numeric_limits<float>::infinity());
  }
}

TEST_P(Attend, GivesEdgesToMaskedKeysNoWeight) {
  for (double density : {0.2, 0.9}) {
    AttendSetup s =
        make_setup({.n = 20, .m = 150, .d = 16, .density = density, .batch = 3, .heads = 2}, 5);
    s.use_key_mask = true;
    for (int64_t j = 90; j < s.m; ++j) s.key_mask[j] = 0;           // padding at the end
    for (int64_t j = 0; j < s.m; j += 3) s.key_mask[s.m + j] = 0;   // holes
    for (int64_t j = 0; j < s.m; ++j) s.key_mask[2 * s.m + j] = 0;  // nothing left
    expect_both_forms_exact(s);
    AttendSetup all = s;
    all.drawn.fill(1);
    expect_dense_exact(attend_dense(all), all);
  }
}

TEST_P(Attend, DropsTheDocumentedPairs) {
  for (double density : {0.25, 1.0}) {
    AttendSetup s =
        make_setup({.n = 33, .m = 301, .d = 16, .density = density, .batch = 2, .heads = 2}, 6);
    s.dropout = 0.3f;
    expect_both_forms_exact(s);
  }
  AttendSetup s = make_setup({.n = 33, .m = 301, .d = 16, .density = 1.0}, 7);
  s.dropout = 0.6f;
  expect_dense_exact(attend_dense(s), s);
}

TEST_P(Attend, WeighsEdgesByHowOftenTheyWereDrawn) {
  AttendSetup s = make_setup({.n = 30, .m = 90, .d = 32, .density = 0.4}, 8);
  s.multiplicity = true;
  for (int64_t i = 0; i < s.drawn.numel(); ++i) {
    if (s.drawn[i] != 0) s.drawn[i] = static_cast<uint8_t>(1 + i % 5);
  }
  expect_exact(attend(s, EdgeForm::kCsr), s, EdgeForm::kCsr, reference_forward(s));
}

TEST_P(Attend, GivesTheSameForBitsAndCsr) {
  for (double density : {0.05, 0.25, 0.8}) {
    AttendSetup s = make_setup({.n = 64, .m = 257, .d = 32, .density = density}, 9);
    s.dropout = 0.1f;
    expect_alike(attend(s, EdgeForm::kBits), attend(s, EdgeForm::kCsr));
  }
}

TEST_P(Attend, WithAllEdgesIsDenseAttention) {
  AttendSetup s = make_setup({.n = 70, .m = 150, .d = 33, .density = 1.0}, 10);
  s.use_key_mask = true;
  for (int64_t j = 131; j < s.m; ++j) s.key_mask[j] = 0;
  const Attended dense = attend_dense(s);
  expect_dense_exact(dense, s);
  for (EdgeForm form : kForms) expect_alike(attend(s, form), dense);
}

TEST_P(Attend, IgnoresAConstantAddedToAllScoresOfARow) {
  // The last coordinate of every key is 1, so that changing it in a query shifts the query's whole
  // row.
  AttendSetup s = make_setup({.n = 40, .m = 100, .d = 17, .density = 0.3}, 11);
  for (int64_t j = 0; j < s.k.numel() / s.d; ++j) s.k[j * s.d + 16] = 1.0f;
  AttendSetup shifted = s;
  for (int64_t i = 0; i < s.q.numel() / s.d; ++i) shifted.q[i * s.d + 16] += 8.0f;
  for (EdgeForm form : kForms) {
    expect_close(attend(shifted, form).o, attend(s, form).o, is_bf16() ? 2e-2 : 1e-5);
  }
}

TEST_P(Attend, SurvivesScoresThatOverflowAnExponential) {
  for (double density : {0.2, 1.0}) {
    AttendSetup s = make_setup({.n = 17, .m = 300, .d = 16, .density = density}, 12);
    for (float& x : s.q.values()) x *= 200.0f;
    for (EdgeForm form : kForms) {
      const Attended result = attend(s, form);
      for (float x : result.o.values()) ASSERT_TRUE(std::isfinite(x));
    }
  }
}

TEST_P(Attend, PassesANanInAQueryOnToItsRowAndNoOther) {
  for (double density : {0.02, 0.2, 1.0}) {
    AttendSetup s = make_setup({.n = 40, .m = 130, .d = 16, .density = density, .heads = 1}, 13);
    s.drawn[6 * s.m + 100] = 1;
    s.q[6 * s.d + 2] = std::numeric_limits<float>::quiet_NaN();
    for (EdgeForm form : kForms) {
      const Attended result = attend(s, form);
      for (int64_t i = 0; i < s.n * s.d; ++i) {
        ASSERT_EQ(std::isnan(result.o[i]), i / s.d == 6) << "element " << i;
      }
      EXPECT_TRUE(std::isnan(result.lse[6]));
    }
  }
}

TEST_P(AttendOnCpu, GivesTheSameBitsForAnyNumberOfThreads) {
  for (double density : {0.1, 0.9}) {
    AttendSetup s =
        make_setup({.n = 600, .m = 140, .d = 16, .density = density, .batch = 2, .heads = 2}, 14);
    s.dropout = 0.2f;
    for (EdgeForm form : kForms) {
      const Attended one = attend(s, form, 1);
      for (int threads : {1, 2, 3}) {
        const Attended other = attend(s, form, threads);
        EXPECT_EQ(one.o.values(), other.o.values());
        EXPECT_EQ(one.lse.values(), other.lse.values());
      }
    }
    EXPECT_EQ(attend_dense(s, 1).o.values(), attend_dense(s, 3).o.values());
  }
}

TEST_P(AttendOnCpu, PlansTheScratchItUses) {
  const AttendSetup s = make_setup({.n = 20, .m = 65, .d = 7, .clusters = 3}, 15);
  for (EdgeForm form : kForms) {
    for (int threads : {1, 3}) {
      Array<float> o(s.q.shape()), dq(s.q.shape()), dk(s.k.shape()), dv(s.k.shape());
      Array<float> lse({s.batch, s.heads, s.n});
      const HostGraph graph = graph_of(s, form, DeviceType::kCpu);
      Arena used("used", kCpuDevice, size_t{64} << 20);
      Arena planned("planned");
      for (Arena* arena : {&used, &planned}) {
        const Device device = arena == &used ? kCpuDevice : kMetaDevice;
        const Stream stream(device, {.threads = threads});
        kernels::attend_edges(stream, {.o = o,
                                       .lse = lse,
                                       .q = s.q,
                                       .k = s.k,
                                       .v = s.v,
                                       .edges = graph.edges(),
                                       .scratch = arena});
        EXPECT_EQ(arena->used(), 0u);
        kernels::attend_edges_backward(stream, {.dq = dq,
                                                .dk = dk,
                                                .dv = dv,
                                                .q = s.q,
                                                .k = s.k,
                                                .v = s.v,
                                                .o = o,
                                                .dout = s.dout,
                                                .lse = lse,
                                                .edges = graph.edges(),
                                                .scratch = arena});
      }
      EXPECT_EQ(used.peak(), planned.peak());
      EXPECT_GT(used.peak(), 0u);
    }
  }
}

TEST_P(AttendOnCpu, PlansTheScratchThatDenseAttentionUses) {
  const AttendSetup s = make_setup({.n = 20, .m = 65, .d = 7}, 16);
  Array<float> o(s.q.shape()), dq(s.q.shape()), dk(s.k.shape()), dv(s.k.shape());
  Array<float> lse({s.batch, s.heads, s.n});
  Arena used("used", kCpuDevice, size_t{64} << 20);
  Arena planned("planned");
  for (Arena* arena : {&used, &planned}) {
    const Stream stream(arena == &used ? kCpuDevice : kMetaDevice, {.threads = 2});
    kernels::attend_dense(stream,
                          {.o = o, .lse = lse, .q = s.q, .k = s.k, .v = s.v, .scratch = arena});
    kernels::attend_dense_backward(stream, {.dq = dq,
                                            .dk = dk,
                                            .dv = dv,
                                            .q = s.q,
                                            .k = s.k,
                                            .v = s.v,
                                            .o = o,
                                            .dout = s.dout,
                                            .lse = lse,
                                            .scratch = arena});
  }
  EXPECT_EQ(used.peak(), planned.peak());
  EXPECT_GT(used.peak(), 0u);
}

TEST(AttendShapes, MustAgree) {
  const AttendSetup s = make_setup({.n = 4, .m = 5, .d = 3, .clusters = 2}, 17);
  const HostGraph graph = graph_of(s, EdgeForm::kBits, DeviceType::kCpu);
  const Stream stream(kCpuDevice);
  Arena scratch("scratch", kCpuDevice, size_t{8} << 20);
  Array<float> o(s.q.shape()), lse({1, 2, 4}), wrong({1, 2, 4, 4}), dq(s.q.shape());
  Array<float> dk(s.k.shape()), dv(s.k.shape());
  Array<uint8_t> wrong_mask({1, 4});
  kernels::AttendEdges good = {.o = o,
                               .lse = lse,
                               .q = s.q,
                               .k = s.k,
                               .v = s.v,
                               .edges = graph.edges(),
                               .scratch = &scratch};
  EXPECT_NO_THROW(kernels::attend_edges(stream, good));
  const auto rejects = [&](auto change) {
    kernels::AttendEdges bad = good;
    change(bad);
    EXPECT_THROW(kernels::attend_edges(stream, bad), ShapeError);
  };
  rejects([&](auto& a) { a.o = wrong; });
  rejects([&](auto& a) { a.lse = wrong; });
  rejects([&](auto& a) { a.q = lse.view(); });
  rejects([&](auto& a) { a.k = wrong.view(); });
  rejects([&](auto& a) { a.v = wrong.view(); });
  rejects([&](auto& a) { a.key_mask = wrong_mask.view(); });
  rejects([&](auto& a) { a.edges.num_keys = 6; });
  rejects([&](auto& a) { a.edges.form = {a.edges.form.data, {1}}; });
  rejects([&](auto& a) { a.dropout.rate = 0.5f; });
  good.scratch = nullptr;
  EXPECT_THROW(kernels::attend_edges(stream, good), Error);

  kernels::AttendEdgesBackward backward = {.dq = dq,
                                           .dk = dk,
                                           .dv = dv,
                                           .q = s.q,
                                           .k = s.k,
                                           .v = s.v,
                                           .o = o,
                                           .dout = s.dout,
                                           .lse = lse,
                                           .edges = graph.edges(),
                                           .scratch = &scratch};
  EXPECT_NO_THROW(kernels::attend_edges_backward(stream, backward));
  const auto rejects_backward = [&](auto change) {
    kernels::AttendEdgesBackward bad = backward;
    change(bad);
    EXPECT_THROW(kernels::attend_edges_backward(stream, bad), ShapeError);
  };
  rejects_backward([&](auto& a) { a.dq = wrong; });
  rejects_backward([&](auto& a) { a.dk = wrong; });
  rejects_backward([&](auto& a) { a.dv = wrong; });
  rejects_backward([&](auto& a) { a.dout = wrong.view(); });
  rejects_backward([&](auto& a) { a.ste.row_grad = wrong; });
}

}  // namespace
}  // namespace stipple::test
