// SPDX-License-Identifier: Apache-2.0
// CUDA's two ways through CSR, our gathering kernels and cuSPARSE, against the CPU's plain loops.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "core/cpu/isa.h"
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

/// Attention of a setup, its graph, and how each problem is stored.
struct GatherCase {
  AttendSetup setup;
  std::vector<EdgeForm> forms = {};  ///< all CSR when empty
  uint16_t times = 1;                ///< every multiplicity is multiplied by it

  HostGraph graph(DeviceType layout) const {
    std::vector<GraphProblem> problems;
    for (int64_t p = 0; p < setup.problems(); ++p) {
      GraphProblem problem = {EdgeForm::kCsr, Array<uint8_t>({setup.n, setup.m})};
      if (!forms.empty()) problem.form = forms[static_cast<size_t>(p)];
      std::copy_n(&setup.drawn[p * setup.n * setup.m], setup.n * setup.m, &problem.dense[0]);
      problems.push_back(problem);
    }
    HostGraph graph(problems, {.tile_density = 1.0, .multiplicity = setup.multiplicity}, layout);
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
             .self_loop = s.self_loop};
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

cuda::GraphArrays arrays_of(const EdgeSet& edges) {
  return {.form = edges.form.data,
          .row_ptr = edges.row_ptr.data,
          .column_ptr = edges.column_ptr.data,
          .by_query = edges.storage.data,
          .by_key = edges.transposed.data,
          .query_multiplicity = edges.multiplicity.data,
          .key_multiplicity = edges.transposed_multiplicity.data,
          .query_stride = edges.storage.shape[1],
          .key_stride = edges.transposed.shape[1],
          .may_have_bits = has_room_for_bits(edges),
          .may_have_csr = true};
}

cuda::WeightDropout dropout_of(DeviceMemory& memory, const AttendSetup& s) {
  if (s.dropout == 0.0f) return {};
  const AttentionDropout dropout = s.attention_dropout();
  return {.is_on = true,
          .drop_below = static_cast<uint32_t>(double{dropout.rate} * 4294967296.0),
          .rescale = 1.0f / (1.0f - dropout.rate),
          .rng = dropout.rng,
          .layer = dropout.layer,
          .samples = memory.put(s.samples).data};
}

enum class Way : uint8_t { kGather, kCusparse };
constexpr Way kWays[] = {Way::kGather, Way::kCusparse};
const char* name_of(Way way) { return way == Way::kGather ? "gather" : "cuSPARSE"; }

/// The same on a device.
class OnDevice {
 public:
  OnDevice(const GatherCase& c, Way way) : s_(c.setup), way_(way) {
    poison_scratch();
    edges_ = put_graph(memory_, c.graph(DeviceType::kCuda));
    a_ = {.batch = s_.batch,
          .heads = s_.heads,
          .num_queries = s_.n,
          .num_keys = s_.m,
          .dim = s_.d,
          .q = memory_.put(s_.q).data,
          .k = memory_.put(s_.k).data,
          .v = memory_.put(s_.v).data,
          .key_mask = s_.use_key_mask ? memory_.put(s_.key_mask).data : nullptr,
          .scale = s_.scale,
          .dropout = dropout_of(memory_, s_),
          .graph = arrays_of(edges_),
          .ste = {}};
  }

  Attended forward() {
    const View<float> o = memory_.fresh<float>(s_.q.shape());
    const View<float> lse = memory_.fresh<float>({s_.batch, s_.heads, s_.n});
    a_.o = o.data;
    a_.lse = lse.data;
    enqueue_forward();
    return {memory_.get(o), memory_.get(lse)};
  }

  /// The outputs of the last forward() once more, computed by a captured graph.
  Attended replay_forward() {
    const View<float> o = {a_.o, s_.q.shape()};
    const View<float> lse = {a_.lse, {s_.batch, s_.heads, s_.n}};
    void* native = memory_.stream().native();
    stipple::cuda::begin_capture(native);
    enqueue_forward();
    void* graph = stipple::cuda::end_capture(native);
    fill_zero(memory_.stream(), o);
    fill_zero(memory_.stream(), lse);
    stipple::cuda::launch_graph(graph, native);
    memory_.stream().synchronize();
    stipple::cuda::destroy_graph(graph);
    return {memory_.get(o), memory_.get(lse)};
  }

  Gradients<float> backward(const Attended& forward) {
    const View<float> dq = memory_.fresh<float>(s_.q.shape());
    const View<float> dk = memory_.fresh<float>(s_.k.shape());
    const View<float> dv = memory_.fresh<float>(s_.k.shape());
    const View<float> row_grad = memory_.fresh<float>({s_.batch, s_.heads, s_.n, s_.clusters});
    const View<float> column_grad = memory_.fresh<float>({s_.batch, s_.heads, s_.m, s_.clusters});
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
    enqueue_backward();
    return {memory_.get(dq), memory_.get(dk), memory_.get(dv), memory_.get(row_grad),
            memory_.get(column_grad)};
  }

  DeviceMemory& memory() { return memory_; }
  const cuda::AttendArrays& arrays() const { return a_; }

 private:
  /// Scratch has undefined contents: NaN.
  void poison_scratch() {
    const std::vector<uint8_t> ones(memory_.scratch().capacity(), 0xFF);
    uint8_t* first = memory_.scratch().alloc<uint8_t>({0}).data;
    upload(memory_.stream(), View<uint8_t>{first, {static_cast<int64_t>(ones.size())}}, ones);
  }
  void enqueue_forward() {
    if (way_ == Way::kGather) return cuda::attend_gather(memory_.stream(), a_);
    cuda::attend_cusparse(memory_.stream(), a_, memory_.scratch());
  }
  void enqueue_backward() {
    if (way_ == Way::kGather) return cuda::attend_gather_backward(memory_.stream(), a_);
    cuda::attend_cusparse_backward(memory_.stream(), a_, memory_.scratch());
  }
  Array<float> delta(const Attended& forward) const {
    Array<float> result({s_.batch, s_.heads, s_.n});
    for (int64_t i = 0; i < result.numel(); ++i) {
      for (int64_t x = 0; x < s_.d; ++x) {
        result[i] += s_.dout[i * s_.d + x] * forward.o[i * s_.d + x];
      }
    }
    return result;
  }

  const AttendSetup& s_;
  Way way_;
  DeviceMemory memory_{cuda_device(0), {}, 1 << 20};
  EdgeSet edges_;
  cuda::AttendArrays a_;
};

/// Rows without keys have the same lse, -inf; the others are close.
void expect_close_forward(const Attended& actual, const Attended& expected) {
  test::expect_close(actual.o, expected.o, 5e-6, 1.0);
  Array<float> lse = actual.lse;
  Array<float> expected_lse = expected.lse;
  for (int64_t i = 0; i < lse.numel(); ++i) {
    if (!std::isinf(expected_lse[i])) continue;
    EXPECT_EQ(lse[i], expected_lse[i]) << i;
    lse[i] = expected_lse[i] = 0;
  }
  test::expect_close(lse, expected_lse, 2e-6, 1.0);
}

void expect_agrees_with_cpu(const GatherCase& c, const std::vector<Way>& ways) {
  OnCpu on_cpu(c);
  const Attended expected = on_cpu.forward();
  const Gradients<float> gradients = on_cpu.backward(expected);
  for (Way way : ways) {
    SCOPED_TRACE(name_of(way));
    OnDevice on_device(c, way);
    expect_close_forward(on_device.forward(), expected);
    test::expect_close_gradients(on_device.backward(expected), gradients, 1e-5);
  }
}

void expect_agrees_with_cpu(const GatherCase& c) {
  expect_agrees_with_cpu(c, c.forms.empty() ? std::vector<Way>(std::begin(kWays), std::end(kWays))
                                            : std::vector<Way>{Way::kCusparse});
}

class AttendGather : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test::test_devices().size() < 2) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(AttendGather, AgreesWithTheCpuAtEveryWidth) {
  const std::pair<int64_t, int64_t> kWidths[] = {{8, 1},    {16, 10},   {32, 128}, {64, 200},
                                                 {100, 10}, {128, 128}, {7, 300},  {64, 0}};
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
      s.self_loop = true;
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
    expect_close_forward(OnDevice(c, way).forward(), expected);
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
  const GatherCase c = {.setup = s, .forms = {EdgeForm::kCsr, EdgeForm::kBits}};
  OnDevice on_device(c, Way::kGather);
  const Attended forward = on_device.forward();
  const Gradients<float> g = on_device.backward(forward);
  const auto written = [](const Array<float>& a) {
    return a.numel() - std::count_if(a.values().begin(), a.values().end(),
                                     [](float x) { return std::isnan(x); });
  };
  for (const Array<float>* a :
       {&forward.o, &forward.lse, &g.dq, &g.dk, &g.dv, &g.row_grad, &g.column_grad}) {
    EXPECT_EQ(written(*a), a->numel() / 2);
    EXPECT_FALSE(std::isnan((*a)[0]));
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
  const GatherCase c{s};
  for (Way way : kWays) {
    SCOPED_TRACE(name_of(way));
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
  }
}

TEST_F(AttendGather, IsWhatTheImplementationFieldSelects) {
  const GatherCase c{make_setup({.n = 9, .m = 50, .d = 64}, 16)};
  const AttendSetup& s = c.setup;
  const auto selected = [&](EdgesImplementation implementation) {
    DeviceMemory memory(cuda_device(0), {}, 1 << 20);
    const View<float> o = memory.fresh<float>(s.q.shape());
    attend_edges(memory.stream(), {.o = o,
                                   .lse = memory.fresh<float>({s.batch, s.heads, s.n}),
                                   .q = memory.put(s.q),
                                   .k = memory.put(s.k),
                                   .v = memory.put(s.v),
                                   .edges = put_graph(memory, c.graph(DeviceType::kCuda)),
                                   .scale = s.scale,
                                   .scratch = &memory.scratch(),
                                   .implementation = implementation});
    return memory.get(o);
  };
  const Array<float> gathered = OnDevice(c, Way::kGather).forward().o;
  const Array<float> by_library = OnDevice(c, Way::kCusparse).forward().o;
  EXPECT_FALSE(same_bits(gathered, by_library));
  EXPECT_TRUE(same_bits(selected(EdgesImplementation::kOurs), gathered));
  EXPECT_TRUE(same_bits(selected(EdgesImplementation::kCusparse), by_library));
}

// More blocks of one row a warp than a launch has; the last warps have one row less.
TEST_F(AttendGather, ManyRowsShareAWarp) {
  expect_agrees_with_cpu({make_setup({.n = 16390, .m = 3, .d = 68, .density = 0.02}, 17)},
                         {Way::kGather});
}

TEST_F(AttendGather, CanBeCapturedAndReplayed) {
  const GatherCase c{make_setup({.n = 6, .m = 20, .d = 16}, 12)};
  for (Way way : kWays) {
    SCOPED_TRACE(name_of(way));
    OnDevice on_device(c, way);
    const Attended first = on_device.forward();
    const Attended replayed = on_device.replay_forward();
    EXPECT_TRUE(same_bits(replayed.o, first.o));
    EXPECT_TRUE(same_bits(replayed.lse, first.lse));
  }
}

TEST_F(AttendGather, TakesBitsAndCsrTogetherByCusparse) {
  for (int64_t m : {1, 33, 140}) {
    const AttendSetup s = make_setup({.n = 11, .m = m, .d = 16, .clusters = 10, .batch = 2}, 13);
    expect_agrees_with_cpu(
        {.setup = s, .forms = {EdgeForm::kBits, EdgeForm::kCsr, EdgeForm::kCsr, EdgeForm::kBits}});
  }
}

TEST_F(AttendGather, PlansTheScratchThatCusparseTakes) {
  for (int64_t clusters : {0, 5}) {
    const GatherCase c{make_setup({.n = 9, .m = 20, .d = 8, .clusters = clusters}, 14)};
    OnDevice on_device(c, Way::kCusparse);
    const Attended forward = on_device.forward();
    const Stream meta(meta_device(DeviceType::kCuda));
    Arena plan("plan", meta_device(DeviceType::kCuda));
    cuda::attend_cusparse(meta, on_device.arrays(), plan);
    EXPECT_EQ(plan.peak(), on_device.memory().scratch().peak());
    on_device.backward(forward);
    cuda::attend_cusparse_backward(meta, on_device.arrays(), plan);
    EXPECT_EQ(plan.peak(), on_device.memory().scratch().peak());
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
