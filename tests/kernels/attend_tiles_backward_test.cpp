// SPDX-License-Identifier: Apache-2.0
// Backward of CUDA's tile attention against the CPU's, and against the definition in double
// precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "core/bf16.h"
#include "kernels/cuda/attend_parts.h"
#include "tests/kernels/attend_reference.h"
#include "tests/support/graphs.h"

#if defined(STIPPLE_CUDA_EMULATED)
#include "cuda_on_cpu/host.h"
#endif

namespace stipple::kernels {
namespace {

using test::Array;
using test::Attended;
using test::AttendSetup;
using test::DeviceMemory;
using test::Gradients;
using test::GraphProblem;
using test::HostGraph;
using test::make_setup;

constexpr double kTolerance = 1e-5;
constexpr double kBf16Tolerance = 1.5e-2;

/// A call of the tile kernels on a device: a setup and how its graph is stored.
class OnDevice {
 public:
  struct Options {
    Precision precision = Precision::kFp32;
    bool dense = false;                ///< all pairs, no graph
    std::vector<EdgeForm> forms = {};  ///< all bits when empty
  };

  explicit OnDevice(const AttendSetup& s) : OnDevice(s, Options{}) {}
  OnDevice(const AttendSetup& s, const Options& options)
      : s_(s), memory_(cuda_device(0), {.precision = options.precision}, 16 << 20) {
    a_ = {.batch = s.batch,
          .heads = s.heads,
          .num_queries = s.n,
          .num_keys = s.m,
          .dim = s.d,
          .q = memory_.put(s.q).data,
          .k = memory_.put(s.k).data,
          .v = memory_.put(s.v).data,
          .key_mask = s.use_key_mask ? memory_.put(s.key_mask).data : nullptr,
          .scale = s.scale,
          .dropout = put_dropout()};
    if (!options.dense) put_edges(options.forms);
  }

  /// Outputs start `shift` floats behind an aligned address.
  Gradients<float> backward(const Attended& forward, int64_t shift = 0) {
    const auto output = [&](Shape shape) {
      return View<float>{memory_.fresh<float>({shape.numel() + shift}).data + shift, shape};
    };
    const View<float> dq = output(s_.q.shape());
    const View<float> dk = output(s_.k.shape());
    const View<float> dv = output(s_.k.shape());
    const View<float> row_grad = output({s_.batch, s_.heads, s_.n, s_.clusters});
    const View<float> column_grad = output({s_.batch, s_.heads, s_.m, s_.clusters});
    a_.lse = memory_.put(forward.lse).data;
    a_.dout = memory_.put(s_.dout).data;
    a_.delta = memory_.put(delta(forward)).data;
    a_.dq = dq.data;
    a_.dk = dk.data;
    a_.dv = dv.data;
    a_.ste = {.clusters = s_.clusters,
              .row_grad = row_grad.data,
              .column_grad = column_grad.data,
              .y = memory_.put(s_.y).data,
              .z = memory_.put(s_.z).data,
              .rule = s_.rule,
              .regularizer = s_.regularizer,
              .clip = s_.clip,
              .self_loop = s_.self_loop};
    cuda::attend_tiles_backward(memory_.stream(), a_, memory_.scratch());
    return {memory_.get(dq), memory_.get(dk), memory_.get(dv), memory_.get(row_grad),
            memory_.get(column_grad)};
  }

  const cuda::AttendArrays& arrays() const { return a_; }
  size_t scratch_bytes() { return memory_.scratch().peak(); }

 private:
  cuda::WeightDropout put_dropout() {
    if (s_.dropout == 0.0f) return {};
    const AttentionDropout dropout = s_.attention_dropout();
    return {.is_on = true,
            .drop_below = static_cast<uint32_t>(double{dropout.rate} * 4294967296.0),
            .rescale = 1.0f / (1.0f - dropout.rate),
            .rng = dropout.rng,
            .layer = dropout.layer,
            .samples = memory_.put(s_.samples).data};
  }

  void put_edges(const std::vector<EdgeForm>& forms) {
    std::vector<GraphProblem> problems;
    for (int64_t p = 0; p < s_.problems(); ++p) {
      GraphProblem problem = {EdgeForm::kBits, Array<uint8_t>({s_.n, s_.m})};
      if (!forms.empty()) problem.form = forms[static_cast<size_t>(p)];
      std::copy_n(&s_.drawn[p * s_.n * s_.m], s_.n * s_.m, &problem.dense[0]);
      problems.push_back(problem);
    }
    const double tile_density = forms.empty() ? 0.0 : 0.9;
    edges_ =
        put_graph(memory_, HostGraph(problems, {.tile_density = tile_density}, DeviceType::kCuda));
    a_.graph = {.form = edges_.form.data,
                .row_ptr = edges_.row_ptr.data,
                .column_ptr = edges_.column_ptr.data,
                .by_query = edges_.storage.data,
                .by_key = edges_.transposed.data,
                .query_stride = edges_.storage.shape[1],
                .key_stride = edges_.transposed.shape[1],
                .may_have_bits = true,
                .may_have_csr = !forms.empty()};
  }

  Array<float> delta(const Attended& forward) const {
    Array<float> result({s_.batch, s_.heads, s_.n});
    for (int64_t i = 0; i < result.numel(); ++i) {
      double sum = 0;
      for (int64_t x = 0; x < s_.d; ++x) {
        sum += double{s_.dout[i * s_.d + x]} * double{forward.o[i * s_.d + x]};
      }
      result[i] = static_cast<float>(sum);
    }
    return result;
  }

  const AttendSetup& s_;
  DeviceMemory memory_;
  EdgeSet edges_;
  cuda::AttendArrays a_;
};

void round_to_bf16(Array<float>& a) {
  for (float& x : a.values()) x = to_float(to_bf16(x));
}

/// In fp32 as it is; then in bf16, with inputs that bf16 can hold.
void expect_agrees_with_cpu(AttendSetup s) {
  {
    SCOPED_TRACE("fp32");
    test::expect_close_gradients(OnDevice(s).backward(test::attend(s, EdgeForm::kBits)),
                                 test::differentiate(s, EdgeForm::kBits), kTolerance);
  }
  SCOPED_TRACE("bf16");
  for (Array<float>* a : {&s.q, &s.k, &s.v, &s.dout, &s.y, &s.z}) round_to_bf16(*a);
  test::expect_close_gradients(
      OnDevice(s, {.precision = Precision::kBf16}).backward(test::attend(s, EdgeForm::kBits)),
      test::differentiate(s, EdgeForm::kBits), kBf16Tolerance);
}

class AttendTilesBackward : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test::test_devices().size() < 2) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(AttendTilesBackward, AgreesWithTheCpuAtEveryWidth) {
  const std::pair<int64_t, int64_t> kWidths[] = {{16, 1},    {24, 10}, {32, 32}, {64, 128},
                                                 {128, 200}, {64, 0},  {7, 200}, {101, 33}};
  for (const auto& [d, clusters] : kWidths) {
    SCOPED_TRACE(testing::Message() << "D " << d << ", K " << clusters);
    expect_agrees_with_cpu(make_setup(
        {.n = 37, .m = 75, .d = d, .clusters = clusters, .density = 0.3, .heads = 1}, 1));
  }
}

TEST_F(AttendTilesBackward, AgreesWithTheCpuOverSeveralBlocksOfRowsAndTiles) {
  for (double density : {0.02, 0.5}) {
    expect_agrees_with_cpu(make_setup(
        {.n = 131, .m = 213, .d = 16, .clusters = 10, .density = density, .batch = 2}, 2));
  }
}

TEST_F(AttendTilesBackward, IsTheDefinitionsGradientInDoublePrecision) {
  for (SteRule rule : {SteRule::kScoreGradient, SteRule::kPaper}) {
    AttendSetup s =
        make_setup({.n = 40, .m = 70, .d = 32, .clusters = 40, .density = 0.4, .heads = 1}, 3);
    s.rule = rule;
    s.regularizer = 0.01f;
    s.clip = 0.2f;
    s.dropout = 0.2f;
    const test::ForwardResult exact = test::reference_forward(s);
    Attended forward = {Array<float>(s.q.shape()), Array<float>({s.batch, s.heads, s.n})};
    std::transform(exact.o.values().begin(), exact.o.values().end(), forward.o.values().begin(),
                   [](double x) { return static_cast<float>(x); });
    std::transform(exact.lse.values().begin(), exact.lse.values().end(),
                   forward.lse.values().begin(), [](double x) { return static_cast<float>(x); });
    test::expect_close_gradients(OnDevice(s).backward(forward), test::reference_backward(s),
                                 kTolerance);
  }
}

TEST_F(AttendTilesBackward, ClipsAndSparesForcedPairsUnderBothRules) {
  for (SteRule rule : {SteRule::kScoreGradient, SteRule::kPaper}) {
    for (float clip : {0.05f, std::numeric_limits<float>::infinity()}) {
      AttendSetup s =
          make_setup({.n = 70, .m = 70, .d = 16, .clusters = 3, .density = 0.3, .heads = 1}, 4);
      for (int64_t i = 0; i < s.n; ++i) s.drawn[i * s.m + i] = 1;
      s.rule = rule;
      s.clip = clip;
      s.regularizer = 0.02f;
      s.self_loop = true;
      expect_agrees_with_cpu(s);
    }
  }
}

TEST_F(AttendTilesBackward, GivesEdgesToMaskedKeysTheRegularizerOnly) {
  for (SteRule rule : {SteRule::kScoreGradient, SteRule::kPaper}) {
    AttendSetup s = make_setup(
        {.n = 30, .m = 140, .d = 32, .clusters = 10, .density = 0.3, .batch = 3, .heads = 1}, 5);
    s.use_key_mask = true;
    for (int64_t j = 0; j < s.m; ++j) {
      s.key_mask[j] = j % 3 == 0 ? 0 : 1;
      s.key_mask[s.m + j] = j < 60 ? 1 : 0;
      s.key_mask[2 * s.m + j] = 0;
    }
    s.rule = rule;
    s.regularizer = 0.3f;
    s.clip = 0.5f;
    expect_agrees_with_cpu(s);
  }
}

TEST_F(AttendTilesBackward, DropsTheSameWeightsAsTheCpu) {
  AttendSetup s = make_setup({.n = 50, .m = 150, .d = 16, .clusters = 10, .batch = 2}, 6);
  s.dropout = 0.3f;
  expect_agrees_with_cpu(s);
}

TEST_F(AttendTilesBackward, WritesZerosWhereThereAreNoEdges) {
  AttendSetup s =
      make_setup({.n = 20, .m = 200, .d = 16, .clusters = 5, .density = 0.3, .heads = 1}, 7);
  for (int64_t j = 0; j < s.m; ++j) s.drawn[4 * s.m + j] = 0;
  for (int64_t i = 0; i < s.n; ++i) {
    for (int64_t j = 60; j < 190; ++j) s.drawn[i * s.m + j] = 0;  // a whole tile and more
  }
  expect_agrees_with_cpu(s);
  for (Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const Gradients<float> g =
        OnDevice(s, {.precision = precision}).backward(test::attend(s, EdgeForm::kBits));
    EXPECT_EQ(g.dq[4 * s.d], 0.0f);
    EXPECT_EQ(g.row_grad[4 * s.clusters], 0.0f);
    for (int64_t j : {60, 100, 189}) {
      EXPECT_EQ(g.dk[j * s.d], 0.0f);
      EXPECT_EQ(g.dv[j * s.d], 0.0f);
      EXPECT_EQ(g.column_grad[j * s.clusters], 0.0f);
    }
  }
}

TEST_F(AttendTilesBackward, TakesAllPairsWhereThereIsNoGraph) {
  AttendSetup s =
      make_setup({.n = 35, .m = 150, .d = 24, .density = 1.0, .batch = 2, .heads = 1}, 8);
  for (bool masked : {false, true}) {
    s.use_key_mask = masked;
    s.dropout = masked ? 0.2f : 0.0f;
    for (int64_t j = 3; j < s.m; j += 5) s.key_mask[j] = 0;
    for (int64_t j = 50; j < s.m; ++j) s.key_mask[s.m + j] = 0;
    test::expect_close_gradients(OnDevice(s, {.dense = true}).backward(test::attend_dense(s)),
                                 test::differentiate_dense(s), kTolerance);
    test::expect_close_gradients(
        OnDevice(s, {.precision = Precision::kBf16, .dense = true}).backward(test::attend_dense(s)),
        test::differentiate_dense(s), kBf16Tolerance);
  }
}

TEST_F(AttendTilesBackward, LeavesProblemsStoredAsCsrAlone) {
  const AttendSetup s =
      make_setup({.n = 9, .m = 33, .d = 16, .clusters = 3, .density = 0.2, .heads = 2}, 9);
  OnDevice on_device(s, {.forms = {EdgeForm::kBits, EdgeForm::kCsr}});
  const Gradients<float> g = on_device.backward(test::attend(s, EdgeForm::kBits));
  for (const Array<float>* a : {&g.dq, &g.dk, &g.dv, &g.row_grad, &g.column_grad}) {
    for (int64_t i = 0; i < a->numel(); ++i) {
      ASSERT_EQ(std::isnan((*a)[i]), i >= a->numel() / 2) << i;
    }
  }
}

bool same_bits(const Array<float>& a, const Array<float>& b) {
  return std::memcmp(a.values().data(), b.values().data(), a.values().size() * sizeof(float)) == 0;
}

TEST_F(AttendTilesBackward, GivesTheSameBitsEveryTime) {
  AttendSetup s = make_setup({.n = 70, .m = 190, .d = 32, .clusters = 10, .heads = 1}, 10);
  s.dropout = 0.1f;
  const Attended forward = test::attend(s, EdgeForm::kBits);
  for (Precision precision : {Precision::kFp32, Precision::kBf16}) {
    OnDevice on_device(s, {.precision = precision});
    const Gradients<float> first = on_device.backward(forward);
    for (uint64_t seed : {1u, 2u, 3u}) {
#if defined(STIPPLE_CUDA_EMULATED)
      cuda_on_cpu::set_seed(seed);
#endif
      SCOPED_TRACE(seed);
      const Gradients<float> g = on_device.backward(forward);
      EXPECT_TRUE(same_bits(g.dq, first.dq));
      EXPECT_TRUE(same_bits(g.dk, first.dk));
      EXPECT_TRUE(same_bits(g.dv, first.dv));
      EXPECT_TRUE(same_bits(g.row_grad, first.row_grad));
      EXPECT_TRUE(same_bits(g.column_grad, first.column_grad));
    }
  }
}

TEST_F(AttendTilesBackward, WritesGradientsThatStartAnywhere) {
  const AttendSetup s =
      test::make_setup({.n = 20, .m = 70, .d = 16, .clusters = 4, .density = 0.3}, 21);
  const Attended forward = test::attend(s, EdgeForm::kBits);
  const Gradients<float> aligned = OnDevice(s).backward(forward);
  const Gradients<float> shifted = OnDevice(s).backward(forward, 1);
  EXPECT_EQ(shifted.dq.values(), aligned.dq.values());
  EXPECT_EQ(shifted.dk.values(), aligned.dk.values());
  EXPECT_EQ(shifted.dv.values(), aligned.dv.values());
  EXPECT_EQ(shifted.row_grad.values(), aligned.row_grad.values());
  EXPECT_EQ(shifted.column_grad.values(), aligned.column_grad.values());
}

TEST_F(AttendTilesBackward, PlansTheScratchThatItTakes) {
  AttendSetup s = make_setup({.n = 20, .m = 40, .d = 24, .clusters = 10, .batch = 2}, 11);
  s.use_key_mask = true;
  for (Precision precision : {Precision::kFp32, Precision::kBf16}) {
    OnDevice on_device(s, {.precision = precision});
    on_device.backward(test::attend(s, EdgeForm::kBits));
    const Device meta = meta_device(DeviceType::kCuda);
    Arena plan("plan", meta);
    cuda::attend_tiles_backward(Stream(meta, {.precision = precision}), on_device.arrays(), plan);
    EXPECT_EQ(plan.peak(), on_device.scratch_bytes());
    EXPECT_GT(plan.peak(), 0u);
  }
}

}  // namespace
}  // namespace stipple::kernels
