// SPDX-License-Identifier: Apache-2.0
// Backward of CUDA's tile attention against the CPU's, and against the definition in double
// precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "core/real_view.h"
#include "tests/kernels/attend_on_device.h"

#if defined(STIPPLE_CUDA_EMULATED)
#include "cuda_on_cpu/host.h"
#endif

namespace stipple::kernels {
namespace {

using test::Array;
using test::Attended;
using test::AttendSetup;
using test::Gradients;
using test::HostGraph;
using test::make_setup;

constexpr double kTolerance = 1e-5;
constexpr double kBf16Tolerance = 1.5e-2;
constexpr double kBf16MeanTolerance = 6e-3;  ///< of root mean squares
/// The tile kernels on a device, over a setup's graph or, when dense, all pairs.
class BackwardOnDevice : public test::AttendOnDevice {
 public:
  struct Options {
    Precision storage = Precision::kFp32;
    bool dense = false;
    std::vector<EdgeForm> forms = {EdgeForm::kBits};  ///< of each problem, or of all
    int64_t output_shift = 0;
  };

  explicit BackwardOnDevice(const AttendSetup& s) : BackwardOnDevice(s, Options{}) {}
  BackwardOnDevice(const AttendSetup& s, const Options& options)
      : BackwardOnDevice(
            s, options,
            graph_of(s, options.forms, {.tile_density = options.forms.size() == 1 ? 0.0 : 0.9},
                     DeviceType::kCuda)) {}

 private:
  BackwardOnDevice(const AttendSetup& s, const Options& options, const HostGraph& graph)
      : AttendOnDevice(s, {.forward = cuda::attend_tiles, .backward = cuda::attend_tiles_backward},
                       options.dense ? nullptr : &graph,
                       {.storage = options.storage, .output_shift = options.output_shift}) {}
};

/// sqrt(sum (a - b)^2) <= tolerance sqrt(sum b^2)
template <class A, class B>
void expect_close_on_average(const A& actual, const B& expected, double tolerance) {
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < expected.values().size(); ++i) {
    const double e = static_cast<double>(expected.values()[i]);
    const double d = static_cast<double>(actual.values()[i]) - e;
    difference += d * d;
    size += e * e;
  }
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(size));
}

void expect_close_in(Precision storage, const Gradients<float>& actual,
                     const Gradients<float>& expected) {
  SCOPED_TRACE(name_of(storage));
  if (storage == Precision::kFp32) {
    return test::expect_close_gradients(actual, expected, kTolerance);
  }
  test::expect_close_gradients(actual, expected, kBf16Tolerance);
  expect_close_on_average(actual.dq, expected.dq, kBf16MeanTolerance);
  expect_close_on_average(actual.dk, expected.dk, kBf16MeanTolerance);
  expect_close_on_average(actual.dv, expected.dv, kBf16MeanTolerance);
}

/// In both storages; the CPU computes with the same numbers.
void expect_agrees_with_cpu(const AttendSetup& setup) {
  for (Precision storage : test::kStorages) {
    const AttendSetup s = stored_as(setup, storage);
    expect_close_in(
        storage,
        BackwardOnDevice(s, {.storage = storage}).backward(test::attend(s, EdgeForm::kBits)),
        test::differentiate(s, EdgeForm::kBits));
  }
}

class AttendTilesBackward : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test::test_devices().size() < 2) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(AttendTilesBackward, AgreesWithTheCpuAtEveryWidth) {
  const std::pair<int64_t, int64_t> kWidths[] = {{16, 1},    {24, 10}, {32, 130}, {64, 128},
                                                 {128, 200}, {64, 0},  {7, 200},  {101, 33}};
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

TEST_F(AttendTilesBackward, TakesFurtherPassesOverMoreBlocksThanRunAtOnce) {
  expect_agrees_with_cpu(make_setup(
      {.n = 9, .m = 11, .d = 16, .clusters = 70, .density = 0.5, .batch = 5, .heads = 3}, 12));
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
    test::expect_close_gradients(BackwardOnDevice(s).backward(forward), test::reference_backward(s),
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
      s.window_radius = 9;
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
  for (Precision storage : test::kStorages) {
    const Gradients<float> g =
        BackwardOnDevice(s, {.storage = storage}).backward(test::attend(s, EdgeForm::kBits));
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
    for (Precision storage : test::kStorages) {
      const AttendSetup stored = stored_as(s, storage);
      expect_close_in(storage,
                      BackwardOnDevice(stored, {.storage = storage, .dense = true})
                          .backward(test::attend_dense(stored)),
                      test::differentiate_dense(stored));
    }
  }
}

TEST_F(AttendTilesBackward, LeavesProblemsStoredAsCsrAlone) {
  const AttendSetup s =
      make_setup({.n = 9, .m = 33, .d = 16, .clusters = 3, .density = 0.2, .heads = 2}, 9);
  BackwardOnDevice on_device(s, {.forms = {EdgeForm::kBits, EdgeForm::kCsr}});
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

void expect_same_bits(const Gradients<float>& a, const Gradients<float>& b) {
  EXPECT_TRUE(same_bits(a.dq, b.dq));
  EXPECT_TRUE(same_bits(a.dk, b.dk));
  EXPECT_TRUE(same_bits(a.dv, b.dv));
  EXPECT_TRUE(same_bits(a.row_grad, b.row_grad));
  EXPECT_TRUE(same_bits(a.column_grad, b.column_grad));
}

TEST_F(AttendTilesBackward, GivesTheSameBitsEveryTime) {
  AttendSetup s = make_setup({.n = 70, .m = 190, .d = 32, .clusters = 10, .heads = 1}, 10);
  s.dropout = 0.1f;
  const Attended forward = test::attend(s, EdgeForm::kBits);
  for (Precision storage : test::kStorages) {
    BackwardOnDevice on_device(s, {.storage = storage});
    const Gradients<float> first = on_device.backward(forward);
    for (uint64_t seed : {1u, 2u, 3u}) {
#if defined(STIPPLE_CUDA_EMULATED)
      cuda_on_cpu::set_seed(seed);
#endif
      SCOPED_TRACE(seed);
      expect_same_bits(on_device.backward(forward), first);
    }
  }
}

TEST_F(AttendTilesBackward, WritesGradientsThatStartAnywhere) {
  const AttendSetup s =
      test::make_setup({.n = 20, .m = 70, .d = 16, .clusters = 4, .density = 0.3}, 21);
  const Attended forward = test::attend(s, EdgeForm::kBits);
  for (Precision storage : test::kStorages) {
    SCOPED_TRACE(name_of(storage));
    expect_same_bits(BackwardOnDevice(s, {.storage = storage, .output_shift = 1}).backward(forward),
                     BackwardOnDevice(s, {.storage = storage}).backward(forward));
  }
}

TEST_F(AttendTilesBackward, PlansTheScratchThatItTakes) {
  AttendSetup s = make_setup({.n = 20, .m = 40, .d = 24, .clusters = 10, .batch = 2}, 11);
  s.use_key_mask = true;
  for (Precision storage : test::kStorages) {
    BackwardOnDevice on_device(s, {.storage = storage});
    on_device.backward(test::attend(s, EdgeForm::kBits));
    const Device meta = meta_device(DeviceType::kCuda);
    Arena plan("plan", meta);
    cuda::attend_tiles_backward(Stream(meta), on_device.arrays(), plan);
    EXPECT_EQ(plan.peak(), on_device.memory().scratch().peak());
    EXPECT_GT(plan.peak(), 0u);
  }
}

}  // namespace
}  // namespace stipple::kernels
