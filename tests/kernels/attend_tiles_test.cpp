// SPDX-License-Identifier: Apache-2.0
// Attention on CUDA over bits and all pairs against its definition in double precision.
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "core/real_view.h"
#include "tests/kernels/attend_reference.h"

#if defined(STIPPLE_CUDA_EMULATED)
#include "cuda_on_cpu/host.h"
#endif

namespace stipple::test {
namespace {

class AttendTiles : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test_devices().size() < 2) GTEST_SKIP() << "no CUDA device";
  }
};

/// Bits say which pairs count.
struct Call {
  const AttendSetup& s;
  Precision storage = Precision::kFp32;             ///< of q, k, v and o
  std::vector<EdgeForm> forms = {EdgeForm::kBits};  ///< of each problem, or of all

  AttendPlace place() const { return {.device = cuda_device(0), .storage = storage}; }
  HostGraph graph() const {
    return graph_of(s, forms, {.tile_density = 1.0, .max_density = 1.0}, DeviceType::kCuda);
  }
};

/// A call over bits with its arrays on the device.
class BitsOnDevice {
 public:
  explicit BitsOnDevice(const Call& call) : memory_(call.s, call.place()) {
    const AttendSetup& s = call.s;
    args_ = {.o = memory_.room(s.q.shape()),
             .lse = memory_.room_for_lse(),
             .q = memory_.store(s.q),
             .k = memory_.store(s.k),
             .v = memory_.store(s.v),
             .edges = put_graph(memory_, call.graph()),
             .key_mask = memory_.key_mask(),
             .scale = s.scale,
             .dropout = memory_.dropout(),
             .scratch = &memory_.scratch()};
  }

  const Stream& stream() const { return memory_.stream(); }
  void attend() const { kernels::attend_edges(stream(), args_); }
  void forget() const {
    fill_zero_bytes(stream(), args_.o.data, args_.o.bytes());
    fill_zero(stream(), args_.lse);
  }
  Attended result() { return {memory_.get(ConstRealView(args_.o)), memory_.get(args_.lse)}; }

 private:
  AttendMemory memory_;
  kernels::AttendEdges args_;
};

Attended attend_bits(const Call& call) {
  BitsOnDevice on_device(call);
  on_device.attend();
  return on_device.result();
}

/// The output starts `shift` elements behind an aligned address.
Attended attend_all(const Call& call, int64_t shift = 0) {
  const AttendSetup& s = call.s;
  AttendMemory memory(s, call.place());
  const RealView o = memory.room(s.q.shape(), shift);
  const View<float> lse = memory.room_for_lse();
  kernels::attend_dense(memory.stream(), {.o = o,
                                          .lse = lse,
                                          .q = memory.store(s.q),
                                          .k = memory.store(s.k),
                                          .v = memory.store(s.v),
                                          .key_mask = memory.key_mask(),
                                          .scale = s.scale,
                                          .dropout = memory.dropout(),
                                          .scratch = &memory.scratch()});
  return {memory.get(ConstRealView(o)), memory.get(lse)};
}

double largest(const Array<float>& a) {
  double most = 0;
  for (float x : a.values()) most = std::max(most, std::abs(double{x}));
  return most;
}

/// Every element within `tolerance`, and the root of the mean squared error within `relative` of
/// that of the outputs.
void expect_outputs(const Attended& actual, const ForwardResult& expected, double tolerance,
                    double relative) {
  double error = 0;
  double total = 0;
  for (int64_t i = 0; i < actual.o.numel(); ++i) {
    const double difference = double{actual.o[i]} - expected.o[i];
    ASSERT_NEAR(actual.o[i], expected.o[i], tolerance) << "o, element " << i;
    error += difference * difference;
    total += expected.o[i] * expected.o[i];
  }
  EXPECT_LE(std::sqrt(error), relative * std::sqrt(total));
}

void expect_lse(const Array<float>& actual, const Array<double>& expected, double tolerance) {
  for (int64_t i = 0; i < actual.numel(); ++i) {
    if (std::isinf(expected[i])) {
      ASSERT_EQ(actual[i], -std::numeric_limits<float>::infinity()) << "row " << i;
    } else {
      ASSERT_NEAR(actual[i], expected[i], tolerance * (1 + std::abs(expected[i]))) << "row " << i;
    }
  }
}

/// The tolerances of the kernels' specification, against the definition on the operands as stored.
void expect_exact(const Attended& actual, const Call& call) {
  SCOPED_TRACE(name_of(call.storage));
  const AttendSetup seen = stored_as(call.s, call.storage);
  const ForwardResult expected = reference_forward(seen);
  const double v = largest(seen.v);
  if (call.storage == Precision::kFp32) {
    expect_outputs(actual, expected, 2e-6 * v + 1e-6, 2e-6);
    expect_lse(actual.lse, expected.lse, 4e-6);
  } else {
    expect_outputs(actual, expected, 8e-3 * v, 4e-3);
    expect_lse(actual.lse, expected.lse, 1e-5);
  }
}

void expect_bits_exact(const AttendSetup& s) {
  for (Precision storage : test::kStorages) {
    const Call call = {s, storage};
    expect_exact(attend_bits(call), call);
  }
}

void expect_dense_exact(AttendSetup s) {
  s.drawn.fill(1);
  for (Precision storage : test::kStorages) {
    const Call call = {s, storage};
    expect_exact(attend_all(call), call);
  }
}

bool same_bits(const Attended& a, const Attended& b) {
  return a.o.values() == b.o.values() && a.lse.values() == b.lse.values();
}

TEST_F(AttendTiles, AgreeWithTheDefinitionAtAnyHeadDimension) {
  for (int64_t d : {1, 7, 16, 24, 32, 64, 100, 128}) {
    SCOPED_TRACE(d);
    expect_bits_exact(make_setup({.n = 37, .m = 130, .d = d, .density = 0.25, .heads = 1}, 1));
  }
}

TEST_F(AttendTiles, AgreeWithTheDefinitionAtAnyLength) {
  for (const auto& [n, m] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {1, 300}, {300, 1}, {130, 37}, {64, 64}, {128, 128}, {300, 130}}) {
    SCOPED_TRACE(std::to_string(n) + " x " + std::to_string(m));
    const AttendSetup s = make_setup({.n = n, .m = m, .d = 16, .density = 0.25, .heads = 1}, 2);
    expect_bits_exact(s);
    expect_dense_exact(s);
  }
}

TEST_F(AttendTiles, AgreeWithTheDefinitionAtAnyDensity) {
  for (double density : {0.0, 0.005, 0.05, 0.25, 1.0}) {
    SCOPED_TRACE(density);
    expect_bits_exact(make_setup({.n = 130, .m = 300, .d = 32, .density = density}, 3));
  }
}

TEST_F(AttendTiles, AllBitsSetIsDenseAttention) {
  AttendSetup s = make_setup({.n = 70, .m = 150, .d = 32, .density = 1.0}, 4);
  s.use_key_mask = true;
  for (int64_t j = 101; j < s.m; ++j) s.key_mask[j] = 0;
  for (Precision storage : test::kStorages) {
    EXPECT_TRUE(same_bits(attend_bits({s, storage}), attend_all({s, storage})));
  }
}

TEST_F(AttendTiles, GiveEdgesToMaskedKeysNoWeight) {
  AttendSetup s =
      make_setup({.n = 40, .m = 300, .d = 16, .density = 0.3, .batch = 3, .heads = 2}, 5);
  s.use_key_mask = true;
  for (int64_t j = 90; j < s.m; ++j) s.key_mask[j] = 0;           // padding at the end
  for (int64_t j = 0; j < s.m; j += 3) s.key_mask[s.m + j] = 0;   // holes
  for (int64_t j = 0; j < s.m; ++j) s.key_mask[2 * s.m + j] = 0;  // nothing left
  expect_bits_exact(s);
  expect_dense_exact(s);
}

TEST_F(AttendTiles, GiveZeroAndMinusInfinityForRowsWithoutEdges) {
  AttendSetup s = make_setup({.n = 140, .m = 200, .d = 16, .density = 0.3, .heads = 1}, 6);
  for (int64_t i : {0, 8, 63, 139}) std::fill_n(&s.drawn[i * s.m], s.m, uint8_t{0});
  expect_bits_exact(s);
  const Attended result = attend_bits({s});
  for (int64_t i : {0, 8, 63, 139}) {
    for (int64_t x = 0; x < s.d; ++x) EXPECT_EQ(result.o[i * s.d + x], 0.0f);
    EXPECT_EQ(result.lse[i], -std::numeric_limits<float>::infinity());
  }
}

// Only some tiles of a row block hold edges, and rows see their first edge in a late tile.
TEST_F(AttendTiles, SkipEmptyTiles) {
  AttendSetup s = make_setup({.n = 200, .m = 700, .d = 16, .density = 0.0, .heads = 1}, 7);
  for (int64_t i = 0; i < s.n; ++i) {
    s.drawn[i * s.m + (i < 100 ? 650 + i % 50 : 70 + i % 40)] = 1;
    if (i % 7 == 0) s.drawn[i * s.m + 300 + i % 11] = 1;
  }
  expect_bits_exact(s);
}

// More row blocks than their order's kernel has threads, with lists of every length.
TEST_F(AttendTiles, TakeManyProblems) {
  AttendSetup s = make_setup({.n = 1, .m = 140, .d = 1, .density = 0.0, .heads = 1100}, 19);
  for (int64_t p = 0; p < s.problems(); ++p) {
    for (int64_t tile = 0; tile < p % 4; ++tile) s.drawn[p * s.m + 64 * tile + tile] = 1;
  }
  const Call call = {s};
  expect_exact(attend_bits(call), call);
}

// Every CUDA block takes several row blocks, whose lists leave the stages of copies in any state.
TEST_F(AttendTiles, TakeRowBlocksOneAfterAnother) {
  AttendSetup s = make_setup({.n = 140, .m = 270, .d = 32, .density = 0.0, .heads = 7}, 23);
  for (int64_t row = 0; row < s.problems() * s.n; ++row) {
    const int64_t first = row / 64 * 37 % s.m;
    for (int64_t j = first; j < s.m; j += 5 + row % 3) s.drawn[row * s.m + j] = 1;
  }
  s.dropout = 0.2f;
  expect_bits_exact(s);
  expect_dense_exact(s);
}

// Lists of more tiles than one pass of their kernel looks at.
TEST_F(AttendTiles, FindEdgesAmongManyKeys) {
  AttendSetup s = make_setup({.n = 3, .m = 65536 + 300, .d = 4, .density = 0.0, .heads = 1}, 8);
  for (int64_t j : {0, 63, 64, 65535, 65536, 65835}) s.drawn[j] = s.drawn[2 * s.m + j] = 1;
  s.drawn[s.m + 65700] = 1;
  expect_bits_exact(s);
}

TEST_F(AttendTiles, AreNotDisturbedByLargeScoresOfOtherPairs) {
  AttendSetup s = make_setup({.n = 40, .m = 200, .d = 32, .density = 0.2, .heads = 1}, 9);
  for (int64_t j = 0; j < s.m; ++j) {
    if (j % 2 == 0) continue;
    for (int64_t x = 0; x < s.d; ++x) s.k[j * s.d + x] *= 300.0f;
    for (int64_t i = 0; i < s.n; ++i) s.drawn[i * s.m + j] = 0;
  }
  expect_bits_exact(s);
}

TEST_F(AttendTiles, SurviveScoresThatOverflowAnExponential) {
  AttendSetup s = make_setup({.n = 40, .m = 200, .d = 16, .density = 0.4, .heads = 1}, 10);
  s.scale = 1.0f;
  for (float& x : s.q.values()) x = to_float(to_bf16(x * 16.0f));
  for (float& x : s.k.values()) x = to_float(to_bf16(x));
  const Attended result = attend_bits({s});
  const ForwardResult expected = reference_forward(s);
  expect_lse(result.lse, expected.lse, 4e-6);
  expect_outputs(result, expected, 1e-4, 1e-4);  // scores near 100 carry errors near 1e-5
}

TEST_F(AttendTiles, TakeAnyScale) {
  for (float scale : {-0.4f, 0.0f}) {
    AttendSetup s = make_setup({.n = 20, .m = 100, .d = 16, .density = 0.4, .heads = 1}, 11);
    s.scale = scale;
    expect_bits_exact(s);
  }
}

TEST_F(AttendTiles, DropTheDocumentedPairs) {
  AttendSetup s =
      make_setup({.n = 37, .m = 150, .d = 16, .density = 0.4, .batch = 2, .heads = 2}, 12);
  s.dropout = 0.3f;
  expect_bits_exact(s);
  s.dropout = 0.6f;
  expect_dense_exact(s);
}

// Row blocks without edges are not taken for those of other problems, even where these are many.
TEST_F(AttendTiles, LeaveOtherProblemsToTheGatherKernel) {
  AttendSetup s = make_setup({.n = 20, .m = 130, .d = 16, .density = 0.2, .heads = 17}, 13);
  std::fill_n(&s.drawn[(s.heads - 1) * s.n * s.m], s.n * s.m, uint8_t{0});
  s = stored_as(s, Precision::kBf16);
  std::vector<EdgeForm> forms(static_cast<size_t>(s.heads), EdgeForm::kCsr);
  forms[1] = forms.back() = EdgeForm::kBits;
  for (Precision storage : test::kStorages) {
    const Call call = {s, storage, forms};
    expect_exact(attend_bits(call), call);
  }
}

TEST_F(AttendTiles, WriteOutputsThatStartAnywhere) {
  const AttendSetup s = make_setup({.n = 37, .m = 70, .d = 16}, 22);
  for (Precision storage : test::kStorages) {
    const Call call = {s, storage};
    EXPECT_EQ(attend_all(call, 1).o.values(), attend_all(call).o.values());
  }
}

TEST_F(AttendTiles, GiveTheSameBitsAgain) {
  AttendSetup s = make_setup({.n = 150, .m = 200, .d = 64, .density = 0.1}, 14);
  s.dropout = 0.1f;
  for (Precision storage : test::kStorages) {
    const Attended first = attend_bits({s, storage});
#if defined(STIPPLE_CUDA_EMULATED)
    for (uint64_t seed : {1u, 2u, 3u}) {
      cuda_on_cpu::set_seed(seed);
      EXPECT_TRUE(same_bits(attend_bits({s, storage}), first)) << "seed " << seed;
    }
#else
    EXPECT_TRUE(same_bits(attend_bits({s, storage}), first));
#endif
  }
}

TEST_F(AttendTiles, GiveTheSameBitsFromACapturedGraph) {
  const AttendSetup s = make_setup({.n = 140, .m = 130, .d = 16, .density = 0.1, .heads = 7}, 24);
  for (Precision storage : test::kStorages) {
    BitsOnDevice call({s, storage});
    call.attend();
    const Attended eager = call.result();
    stipple::cuda::begin_capture(call.stream().native());
    call.attend();
    void* graph = stipple::cuda::end_capture(call.stream().native());
    for (int replay = 0; replay < 2; ++replay) {
      call.forget();
      stipple::cuda::launch_graph(graph, call.stream().native());
      EXPECT_TRUE(same_bits(call.result(), eager)) << "replay " << replay;
    }
    stipple::cuda::destroy_graph(graph);
  }
}

// The result of a row is not that of another path when other rows or problems join.
TEST_F(AttendTiles, GiveARowTheSameBitsInAnyCompany) {
  AttendSetup all = make_setup({.n = 150, .m = 100, .d = 32, .density = 0.2, .heads = 2}, 15);
  AttendSetup one = make_setup({.n = 1, .m = 100, .d = 32, .heads = 1}, 16);
  const int64_t row = all.n + 17;
  std::copy_n(&all.q[row * all.d], all.d, one.q.values().begin());
  std::copy_n(&all.k[all.m * all.d], all.m * all.d, one.k.values().begin());
  std::copy_n(&all.v[all.m * all.d], all.m * all.d, one.v.values().begin());
  std::copy_n(&all.drawn[row * all.m], all.m, one.drawn.values().begin());
  for (Precision storage : test::kStorages) {
    const Attended joint = attend_bits({all, storage});
    const Attended alone = attend_bits({one, storage});
    EXPECT_EQ(joint.lse[row], alone.lse[0]);
    for (int64_t x = 0; x < all.d; ++x) EXPECT_EQ(joint.o[row * all.d + x], alone.o[x]);
  }
}

template <class Op>
void expect_planned_is_used(const Op& op) {
  const Device meta = meta_device(DeviceType::kCuda);
  Arena planned("scratch", meta);
  op(Stream(meta), planned);
  EXPECT_EQ(planned.used(), 0u) << "scratch was not given back";
  ASSERT_GT(planned.peak(), 0u);
  DeviceMemory memory(cuda_device(0), {}, planned.peak());
  op(memory.stream(), memory.scratch());
  EXPECT_EQ(memory.scratch().peak(), planned.peak());
}

TEST_F(AttendTiles, PlanTheScratchTheyUse) {
  for (int64_t d : {24, 32}) {
    const AttendSetup s = make_setup({.n = 70, .m = 150, .d = d}, 17);
    for (Precision storage : test::kStorages) {
      const Call call = {s, storage};
      AttendMemory memory(s, call.place());
      const RealView o = memory.room(s.q.shape());
      const View<float> lse = memory.room_for_lse();
      const ConstRealView q = memory.store(s.q);
      const ConstRealView k = memory.store(s.k);
      const ConstRealView v = memory.store(s.v);
      const EdgeSet edges = put_graph(memory, call.graph());
      expect_planned_is_used([&](const Stream& stream, Arena& scratch) {
        kernels::attend_dense(stream,
                              {.o = o, .lse = lse, .q = q, .k = k, .v = v, .scratch = &scratch});
      });
      expect_planned_is_used([&](const Stream& stream, Arena& scratch) {
        kernels::attend_edges(
            stream,
            {.o = o, .lse = lse, .q = q, .k = k, .v = v, .edges = edges, .scratch = &scratch});
      });
    }
  }
}

TEST_F(AttendTiles, RejectWiderHeads) {
  AttendSetup s = make_setup({.n = 2, .m = 2, .d = 129}, 18);
  EXPECT_THROW(attend_all({s}), Error);
}

}  // namespace
}  // namespace stipple::test
