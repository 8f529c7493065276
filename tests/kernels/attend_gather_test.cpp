// SPDX-License-Identifier: Apache-2.0
// CUDA's two ways through CSR, our gathering kernels and cuSPARSE, against the CPU's plain loops.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "core/cpu/isa.h"
#include "tests/kernels/attend_on_device.h"

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
using test::HostGraph;
using test::make_setup;

/// Attention of a setup, and how its graph and its arrays are stored.
struct GatherCase {
  AttendSetup setup;
  std::vector<EdgeForm> forms = {EdgeForm::kCsr};  ///< of each problem, or of all
  uint16_t times = 1;                              ///< every multiplicity is multiplied by it
  Precision storage = Precision::kFp32;

  /// The same with `to` for its storage, and with what is then left of its numbers.
  GatherCase stored_as(Precision to) const {
    GatherCase result = *this;
    result.storage = to;
    result.setup = test::stored_as(setup, to);
    return result;
  }

  HostGraph graph(DeviceType layout) const {
    HostGraph graph =
        graph_of(setup, forms, {.tile_density = 1.0, .multiplicity = setup.multiplicity}, layout);
    scale_multiplicity(graph.edges());
    return graph;
  }

 private:
  void scale_multiplicity(EdgeSet& edges) const {
    const auto scale = [&](View<uint16_t> drawn, View<int32_t> ptr) {
      if (drawn.empty()) return;
      for (int64_t p = 0; p < setup.problems(); ++p) {
        uint16_t* first = drawn.at(p).data;
        const int32_t count = ptr.at(p)[ptr.shape[1] - 1];
        std::for_each(first, first + count, [&](uint16_t& x) { x = uint16_t(x * times); });
      }
    };
    scale(edges.multiplicity, edges.row_ptr);
    scale(edges.transposed_multiplicity, edges.column_ptr);
  }
};

View<const uint8_t> mask_of(const AttendSetup& s) {
  return s.use_key_mask ? s.key_mask.view() : View<const uint8_t>{};
}

/// The definition: plain loops on the CPU.
class OnCpu {
 public:
  explicit OnCpu(const GatherCase& c)
      : c_(c), graph_(c.graph(DeviceType::kCpu)), before_(stipple::cpu::isa()) {
    stipple::cpu::set_isa(stipple::cpu::Isa::kScalar);
  }
  ~OnCpu() { stipple::cpu::set_isa(before_); }
  OnCpu(const OnCpu&) = delete;
  OnCpu& operator=(const OnCpu&) = delete;

  Attended forward() {
    const AttendSetup& s = c_.setup;
    Attended result{Array<float>(s.q.shape()), Array<float>({s.batch, s.heads, s.n})};
    attend_edges(stream_, {.o = result.o,
                           .lse = result.lse,
                           .q = s.q,
                           .k = s.k,
                           .v = s.v,
                           .edges = graph_.edges(),
                           .key_mask = mask_of(s),
                           .scale = s.scale,
                           .dropout = s.attention_dropout(),
                           .scratch = &scratch_});
    return result;
  }

  Gradients<float> backward(const Attended& forward) {
    const AttendSetup& s = c_.setup;
    Gradients<float> g = test::make_gradients<float>(s);
    StraightThrough ste;
    if (s.clusters > 0) {
      ste = {.row_grad = g.row_grad,
             .column_grad = g.column_grad,
             .y = s.y,
             .z = s.z,
             .rule = s.rule,
             .regularizer = s.regularizer,
             .clip = s.clip,
             .window_radius = s.window_radius};
    }
    attend_edges_backward(stream_, {.dq = g.dq,
                                    .dk = g.dk,
                                    .dv = g.dv,
                                    .q = s.q,
                                    .k = s.k,
                                    .v = s.v,
                                    .o = forward.o,
                                    .dout = s.dout,
                                    .lse = forward.lse,
                                    .edges = graph_.edges(),
                                    .key_mask = mask_of(s),
                                    .scale = s.scale,
                                    .dropout = s.attention_dropout(),
                                    .ste = ste,
                                    .scratch = &scratch_});
    return g;
  }

 private:
  const GatherCase& c_;
  HostGraph graph_;
  stipple::cpu::Isa before_;
  Stream stream_{kCpuDevice};
  Arena scratch_{"scratch", kCpuDevice, size_t{8} << 20};
};

enum class Way : uint8_t { kGather, kCusparse };
constexpr Way kWays[] = {Way::kGather, Way::kCusparse};
const char* name_of(Way way) { return way == Way::kGather ? "gather" : "cuSPARSE"; }

test::AttendWay calls(Way way) {
  if (way == Way::kCusparse) return {cuda::attend_cusparse, cuda::attend_cusparse_backward};
  return {[](const Stream& stream, const cuda::AttendArrays& a, Arena&) {
            cuda::attend_gather(stream, a);
          },
          [](const Stream& stream, const cuda::AttendArrays& a, Arena&) {
            cuda::attend_gather_backward(stream, a);
          }};
}

/// The same on a device.
class OnDevice : public test::AttendOnDevice {
 public:
  OnDevice(const GatherCase& c, Way way, int64_t output_shift = 0)
      : OnDevice(c, way, output_shift, c.graph(DeviceType::kCuda)) {}

 private:
  OnDevice(const GatherCase& c, Way way, int64_t output_shift, const HostGraph& graph)
      : AttendOnDevice(
            c.setup, calls(way), &graph,
            {.storage = c.storage, .output_shift = output_shift, .scratch_bytes = 1 << 20}) {}
};

/// Rows without keys have the same lse, -inf; the others are close.
void expect_close_forward(const Attended& actual, const Attended& expected, Precision storage) {
  test::expect_close_as_stored(actual.o, expected.o, storage, 5e-6, 1.0);
  Array<float> lse = actual.lse;
  Array<float> expected_lse = expected.lse;
  for (int64_t i = 0; i < lse.numel(); ++i) {
    if (!std::isinf(expected_lse[i])) continue;
    EXPECT_EQ(lse[i], expected_lse[i]) << i;
    lse[i] = expected_lse[i] = 0;
  }
  test::expect_close(lse, expected_lse, 2e-6, 1.0);
}

void expect_agrees_with_cpu_as_stored(const GatherCase& c, const std::vector<Way>& ways) {
  OnCpu on_cpu(c);
  const Attended expected = on_cpu.forward();
  const Gradients<float> gradients = on_cpu.backward(expected);
  for (Way way : ways) {
    SCOPED_TRACE(testing::Message() << name_of(way) << ", " << name_of(c.storage));
    OnDevice on_device(c, way);
    expect_close_forward(on_device.forward(), expected, c.storage);
    test::expect_close_gradients(on_device.backward(expected), gradients,
                                 c.storage == Precision::kFp32 ? 1e-5 : 2e-5, c.storage);
  }
}

void expect_agrees_with_cpu(const GatherCase& c) {
  const bool only_csr = c.forms == std::vector{EdgeForm::kCsr};
  for (Precision storage : test::kStorages) {
    expect_agrees_with_cpu_as_stored(c.stored_as(storage),
                                     only_csr ? std::vector<Way>(std::begin(kWays), std::end(kWays))
                                              : std::vector<Way>{Way::kCusparse});
  }
}

template <class Body>
void for_each_way_and_storage(const AttendSetup& setup, const Body& body) {
  for (Way way : kWays) {
    for (Precision storage : test::kStorages) {
      SCOPED_TRACE(testing::Message() << name_of(way) << ", " << name_of(storage));
      body(GatherCase{setup}.stored_as(storage), way);
    }
  }
}

class AttendGather : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test::test_devices().size() < 2) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(AttendGather, AgreesWithTheCpuAtEveryWidth) {
  const std::pair<int64_t, int64_t> kWidths[] = {{8, 1},    {16, 10},   {32, 128}, {64, 200},
                                                 {100, 10}, {128, 264}, {7, 300},  {64, 0}};
  for (const auto& [d, clusters] : kWidths) {
    SCOPED_TRACE(testing::Message() << "D " << d << ", K " << clusters);
    expect_agrees_with_cpu({make_setup(
        {.n = 7, .m = 41, .d = d, .clusters = clusters, .density = 0.5, .heads = 2}, 1)});
  }
}

TEST_F(AttendGather, AgreesWithTheCpuAtEveryDensity) {
  for (double density : {0.0, 0.002, 0.02, 0.2, 1.0}) {
    SCOPED_TRACE(density);
    expect_agrees_with_cpu({make_setup(
        {.n = 12, .m = 90, .d = 32, .clusters = 10, .density = density, .batch = 2}, 2)});
  }
}

TEST_F(AttendGather, WeighsEdgesByHowOftenTheyWereDrawn) {
  AttendSetup s = make_setup({.n = 9, .m = 40, .d = 16, .clusters = 10}, 3);
  s.multiplicity = true;
  std::mt19937_64 generator(4);
  for (uint8_t& x : s.drawn.values()) x = uint8_t(x * (1 + generator() % 150));
  expect_agrees_with_cpu({.setup = s, .times = 2});
}

TEST_F(AttendGather, LeavesOutMaskedKeysButNotTheirStraightThroughGradient) {
  for (SteRule rule : {SteRule::kScoreGradient, SteRule::kPaper}) {
    AttendSetup s =
        make_setup({.n = 20, .m = 30, .d = 32, .clusters = 10, .density = 0.3, .batch = 2}, 5);
    s.use_key_mask = true;
    for (int64_t j = 0; j < s.m; ++j) s.key_mask[j] = j % 3 == 0 ? 0 : 1;
    for (int64_t j = 0; j < s.m; ++j) s.key_mask[s.m + j] = 0;
    s.rule = rule;
    s.regularizer = 0.3f;
    s.clip = 0.5f;
    expect_agrees_with_cpu({s});
  }
}

TEST_F(AttendGather, ClipsAndSparesForcedPairsUnderBothRules) {
  for (SteRule rule : {SteRule::kScoreGradient, SteRule::kPaper}) {
    for (float clip : {0.05f, std::numeric_limits<float>::infinity()}) {
      AttendSetup s = make_setup({.n = 20, .m = 20, .d = 16, .clusters = 3, .density = 0.4}, 6);
      s.rule = rule;
      s.clip = clip;
      s.regularizer = 0.02f;
      s.window_radius = 2;
      for (int64_t i = 0; i < s.n; ++i) s.drawn[i * s.m + i] = 1;
      expect_agrees_with_cpu({s});
    }
  }
}

TEST_F(AttendGather, DropsTheSameWeightsAsTheCpu) {
  AttendSetup s = make_setup({.n = 10, .m = 50, .d = 64, .clusters = 10, .batch = 2}, 7);
  s.dropout = 0.3f;
  expect_agrees_with_cpu({s});
}

TEST_F(AttendGather, SurvivesScoresThatGrowAlongTheRow) {
  AttendSetup s = make_setup({.n = 5, .m = 80, .d = 8, .clusters = 3, .density = 1.0}, 8);
  for (int64_t p = 0; p < s.problems(); ++p) {
    for (int64_t j = 0; j < s.m; ++j) {
      for (int64_t x = 0; x < s.d; ++x) s.k[(p * s.m + j) * s.d + x] *= static_cast<float>(j);
    }
  }
  const GatherCase c{s};
  const Attended expected = OnCpu(c).forward();
  EXPECT_GT(expected.lse[0], 90.0f);  // exp of it overflows
  for (Way way : kWays) {
    SCOPED_TRACE(name_of(way));
    expect_close_forward(OnDevice(c, way).forward(), expected, c.storage);
  }
}

TEST_F(AttendGather, WritesZerosWhereThereAreNoEdges) {
  AttendSetup s = make_setup({.n = 9, .m = 12, .d = 16, .clusters = 5, .density = 0.6}, 9);
  for (int64_t p = 0; p < s.problems(); ++p) {
    for (int64_t j = 0; j < s.m; ++j) s.drawn[(p * s.n + 4) * s.m + j] = 0;
    for (int64_t i = 0; i < s.n; ++i) s.drawn[(p * s.n + i) * s.m + 11] = 0;
  }
  const GatherCase c{s};
  expect_agrees_with_cpu(c);
  for (Way way : kWays) {
    SCOPED_TRACE(name_of(way));
    OnDevice on_device(c, way);
    const Attended forward = on_device.forward();
    EXPECT_EQ(forward.lse[4], -std::numeric_limits<float>::infinity());
    EXPECT_EQ(forward.o[4 * s.d], 0.0f);
    const Gradients<float> g = on_device.backward(forward);
    EXPECT_EQ(g.dq[4 * s.d], 0.0f);
    EXPECT_EQ(g.dk[11 * s.d], 0.0f);
    EXPECT_EQ(g.dv[11 * s.d], 0.0f);
    EXPECT_EQ(g.column_grad[11 * s.clusters], 0.0f);
  }
}

TEST_F(AttendGather, LeavesProblemsStoredAsBitsAlone) {
  const AttendSetup s = make_setup({.n = 5, .m = 9, .d = 16, .clusters = 3, .heads = 2}, 10);
  const auto written = [](const Array<float>& a) {
    return a.numel() - std::count_if(a.values().begin(), a.values().end(),
                                     [](float x) { return std::isnan(x); });
  };
  for (Precision storage : test::kStorages) {
    const GatherCase c = {
        .setup = s, .forms = {EdgeForm::kCsr, EdgeForm::kBits}, .storage = storage};
    OnDevice on_device(c, Way::kGather);
    const Attended forward = on_device.forward();
    const Gradients<float> g = on_device.backward(forward);
    for (const Array<float>* a :
         {&forward.o, &forward.lse, &g.dq, &g.dk, &g.dv, &g.row_grad, &g.column_grad}) {
      EXPECT_EQ(written(*a), a->numel() / 2);
      EXPECT_FALSE(std::isnan((*a)[0]));
    }
  }
}

template <class T>
bool same_bits(const Array<T>& a, const Array<T>& b) {
  return std::memcmp(a.values().data(), b.values().data(), a.values().size() * sizeof(T)) == 0;
}

bool same_bits(const Gradients<float>& a, const Gradients<float>& b) {
  return same_bits(a.dq, b.dq) && same_bits(a.dk, b.dk) && same_bits(a.dv, b.dv) &&
         same_bits(a.row_grad, b.row_grad) && same_bits(a.column_grad, b.column_grad);
}

TEST_F(AttendGather, GivesTheSameBitsEveryTime) {
  AttendSetup s = make_setup({.n = 9, .m = 40, .d = 32, .clusters = 10}, 11);
  s.dropout = 0.1f;
  for_each_way_and_storage(s, [](const GatherCase& c, Way way) {
    OnDevice on_device(c, way);
    const Attended first = on_device.forward();
    const Gradients<float> gradients = on_device.backward(first);
    for (uint64_t seed : {1u, 2u, 3u}) {
#if defined(STIPPLE_CUDA_EMULATED)
      cuda_on_cpu::set_seed(seed);
#endif
      SCOPED_TRACE(seed);
      const Attended again = on_device.forward();
      EXPECT_TRUE(same_bits(again.o, first.o));
      EXPECT_TRUE(same_bits(again.lse, first.lse));
      EXPECT_TRUE(same_bits(on_device.backward(first), gradients));
    }
  });
}

// Where 16 bytes at a time are not possible.
TEST_F(AttendGather, WritesResultsThatStartAnywhere) {
  const AttendSetup s = make_setup({.n = 7, .m = 20, .d = 32, .clusters = 16}, 18);
  for_each_way_and_storage(s, [](const GatherCase& c, Way way) {
    OnCpu on_cpu(c);
    OnDevice on_device(c, way, 1);
    const Attended expected = on_cpu.forward();
    expect_close_forward(on_device.forward(), expected, c.storage);
    test::expect_close_gradients(on_device.backward(expected), on_cpu.backward(expected), 2e-5,
                                 c.storage);
  });
}

Array<float> attend_by(const GatherCase& c, EdgesImplementation implementation) {
  const AttendSetup& s = c.setup;
  DeviceMemory memory(cuda_device(0), {}, 1 << 20);
  const RealView o = memory.fresh(s.q.shape(), c.storage);
  attend_edges(memory.stream(), {.o = o,
                                 .lse = memory.fresh<float>({s.batch, s.heads, s.n}),
                                 .q = memory.put(s.q, c.storage),
                                 .k = memory.put(s.k, c.storage),
                                 .v = memory.put(s.v, c.storage),
                                 .edges = put_graph(memory, c.graph(DeviceType::kCuda)),
                                 .scale = s.scale,
                                 .scratch = &memory.scratch(),
                                 .implementation = implementation});
  return memory.get(ConstRealView(o));
}

TEST_F(AttendGather, IsWhatTheImplementationFieldSelects) {
  const GatherCase c{make_setup({.n = 9, .m = 50, .d = 64}, 16)};
  EXPECT_FALSE(
      same_bits(OnDevice(c, Way::kGather).forward().o, OnDevice(c, Way::kCusparse).forward().o));
  for (Precision storage : test::kStorages) {
    const GatherCase stored = c.stored_as(storage);
    EXPECT_TRUE(same_bits(attend_by(stored, EdgesImplementation::kOurs),
                          OnDevice(stored, Way::kGather).forward().o));
    EXPECT_TRUE(same_bits(attend_by(stored, EdgesImplementation::kCusparse),
                          OnDevice(stored, Way::kCusparse).forward().o));
  }
}

// More blocks of one row a warp than a launch has; the last warps have one row less.
TEST_F(AttendGather, ManyRowsShareAWarp) {
  expect_agrees_with_cpu_as_stored({make_setup({.n = 16390, .m = 3, .d = 72, .density = 0.02}, 17)},
                                   {Way::kGather});
}

TEST_F(AttendGather, CanBeCapturedAndReplayed) {
  for_each_way_and_storage(make_setup({.n = 6, .m = 20, .d = 16}, 12),
                           [](const GatherCase& c, Way way) {
                             OnDevice on_device(c, way);
                             const Attended first = on_device.forward();
                             const Attended replayed = on_device.replay_forward();
                             EXPECT_TRUE(same_bits(replayed.o, first.o));
                             EXPECT_TRUE(same_bits(replayed.lse, first.lse));
                           });
}

TEST_F(AttendGather, TakesBitsAndCsrTogetherByCusparse) {
  for (int64_t m : {2, 33, 140}) {
    const AttendSetup s = make_setup({.n = 11, .m = m, .d = 16, .clusters = 10, .batch = 2}, 13);
    expect_agrees_with_cpu(
        {.setup = s, .forms = {EdgeForm::kBits, EdgeForm::kCsr, EdgeForm::kCsr, EdgeForm::kBits}});
  }
}

TEST_F(AttendGather, PlansTheScratchThatCusparseTakes) {
  const auto expect_planned = [](const GatherCase& c) {
    OnDevice on_device(c, Way::kCusparse);
    const Attended forward = on_device.forward();
    const Stream meta(meta_device(DeviceType::kCuda));
    Arena plan("plan", meta_device(DeviceType::kCuda));
    cuda::attend_cusparse(meta, on_device.arrays(), plan);
    EXPECT_EQ(plan.peak(), on_device.memory().scratch().peak());
    on_device.backward(forward);
    cuda::attend_cusparse_backward(meta, on_device.arrays(), plan);
    EXPECT_EQ(plan.peak(), on_device.memory().scratch().peak());
    return plan.peak();
  };
  for (int64_t clusters : {0, 5}) {
    const GatherCase c{make_setup({.n = 9, .m = 20, .d = 8, .clusters = clusters}, 14)};
    EXPECT_LT(expect_planned(c), expect_planned(c.stored_as(Precision::kBf16)));
  }
}

TEST(AttendCusparse, RefusesMoreEdgesThan32BitsCount) {
  const Stream meta(meta_device(DeviceType::kCuda));
  Arena plan("plan", meta_device(DeviceType::kCuda));
  cuda::AttendArrays a;
  a.batch = 2;
  a.heads = 4;
  a.num_queries = 1 << 14;
  a.num_keys = 1 << 14;
  a.dim = 64;
  a.graph.query_stride = 1 << 27;
  EXPECT_NO_THROW(cuda::attend_cusparse(meta, a, plan));
  a.graph.may_have_bits = true;
  EXPECT_THROW(cuda::attend_cusparse(meta, a, plan), Error);
}

TEST(AttendCusparse, NeedsACudaDevice) {
  const GatherCase c{make_setup({.n = 2, .m = 2, .d = 2}, 15)};
  const HostGraph graph = c.graph(DeviceType::kCpu);
  const AttendSetup& s = c.setup;
  Attended result{Array<float>(s.q.shape()), Array<float>({s.batch, s.heads, s.n})};
  Arena scratch("scratch", kCpuDevice, size_t{1} << 20);
  EXPECT_THROW(attend_edges(Stream(kCpuDevice), {.o = result.o,
                                                 .lse = result.lse,
                                                 .q = s.q,
                                                 .k = s.k,
                                                 .v = s.v,
                                                 .edges = graph.edges(),
                                                 .scratch = &scratch,
                                                 .implementation = EdgesImplementation::kCusparse}),
               Error);
}

}  // namespace
}  // namespace stipple::kernels
