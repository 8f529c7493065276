// SPDX-License-Identifier: Apache-2.0
// Attention over a graph in double precision, straight from its definition, and calls of the real
// operations on the same numbers.
#pragma once

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/cpu/isa.h"
#include "core/stream.h"
#include "kernels/attend.h"
#include "kernels/attend_reference.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/graphs.h"

namespace stipple::test {

inline constexpr Precision kStorages[] = {Precision::kFp32, Precision::kBf16};

using kernels::EdgeForm;
using kernels::SteRule;

/// One call of attention: B samples, H heads, and how often each pair is drawn.
struct AttendSetup {
  int64_t batch = 1;
  int64_t heads = 1;
  int64_t n = 1;
  int64_t m = 1;
  int64_t d = 1;
  int64_t clusters = 0;
  Array<float> q, k, v, dout, y, z;
  Array<uint8_t> drawn;     // [B * H, N, M]
  Array<uint8_t> key_mask;  // [B, M]
  bool use_key_mask = false;
  bool multiplicity = false;
  float scale = 1.0f;
  float dropout = 0.0f;
  int first_head = 0;  ///< to dropout
  Array<uint32_t> samples;
  SteRule rule = SteRule::kScoreGradient;
  float regularizer = 0.0f;
  float clip = std::numeric_limits<float>::infinity();
  int64_t window_radius = -1;
  kernels::Pattern pattern{};  ///< of attend_dense; see set_pattern
  Array<int32_t> query_group = Array<int32_t>({0});
  Array<int32_t> key_group = Array<int32_t>({0});

  int64_t problems() const { return batch * heads; }
  kernels::AttentionDropout attention_dropout() const {
    return {.rate = dropout,
            .rng = {11, 12},
            .layer = 3,
            .first_head = first_head,
            .samples = samples.view()};
  }
};

struct AttendSize {
  int64_t n = 1;
  int64_t m = 1;
  int64_t d = 1;
  int64_t clusters = 0;
  double density = 0.25;
  int64_t batch = 1;
  int64_t heads = 2;
};

inline AttendSetup make_setup(const AttendSize& size, uint64_t seed) {
  const Shape queries = {size.batch, size.heads, size.n, size.d};
  const Shape keys = {size.batch, size.heads, size.m, size.d};
  AttendSetup s{
      .batch = size.batch,
      .heads = size.heads,
      .n = size.n,
      .m = size.m,
      .d = size.d,
      .clusters = size.clusters,
      .q = random_normal(queries, seed),
      .k = random_normal(keys, seed + 1),
      .v = random_normal(keys, seed + 2),
      .dout = random_normal(queries, seed + 3),
      .y = random_uniform({size.batch, size.heads, size.n, size.clusters}, seed + 4, 0, 1),
      .z = random_uniform({size.batch, size.heads, size.m, size.clusters}, seed + 5, 0, 1),
      .drawn = Array<uint8_t>({size.batch * size.heads, size.n, size.m}),
      .key_mask = Array<uint8_t>({size.batch, size.m}),
      .scale = 1.0f / std::sqrt(static_cast<float>(size.d)),
      .samples = Array<uint32_t>({size.batch})};
  std::mt19937_64 generator(seed + 6);
  std::bernoulli_distribution edge(size.density);
  for (uint8_t& x : s.drawn.values()) x = edge(generator) ? 1 : 0;
  s.key_mask.fill(1);
  for (int64_t b = 0; b < size.batch; ++b) s.samples[b] = static_cast<uint32_t>(40 + 3 * b);
  return s;
}

/// Attends to the pattern's pairs, also where a list of edges is wanted. Groups are those of the
/// setup.
inline void set_pattern(AttendSetup& s, kernels::Pattern pattern) {
  s.pattern = pattern;
  s.pattern.query_group = s.query_group.view();
  s.pattern.key_group = s.key_group.view();
  for (int64_t p = 0; p < s.problems(); ++p) {
    const std::vector<double> pairs = kernels::reference::pairs_of(s.pattern, p, s.n, s.m);
    std::copy(pairs.begin(), pairs.end(), &s.drawn[p * s.n * s.m]);
  }
}

/// The setup with what is left of its numbers when they are stored so.
inline AttendSetup stored_as(AttendSetup s, Precision storage) {
  for (Array<float>* a : {&s.q, &s.k, &s.v, &s.dout, &s.y, &s.z}) *a = rounded(*a, storage);
  return s;
}

// --- the definition ------------------------------------------------------------------------------

inline kernels::reference::Attention reference(const AttendSetup& s, int64_t p) {
  const auto slice = [p](const Array<float>& a, int64_t count) {
    const auto first = a.values().begin() + p * count;
    return std::vector<double>(first, first + count);
  };
  const auto drawn = s.drawn.values().begin() + p * s.n * s.m;
  const int64_t sample = p / s.heads;
  kernels::reference::Attention a{.n = s.n,
                                  .m = s.m,
                                  .d = s.d,
                                  .scale = double{s.scale},
                                  .q = slice(s.q, s.n * s.d),
                                  .k = slice(s.k, s.m * s.d),
                                  .v = slice(s.v, s.m * s.d),
                                  .weight = std::vector<double>(drawn, drawn + s.n * s.m)};
  if (s.use_key_mask) kernels::reference::exclude_masked_keys(a, s.key_mask.view().at(sample));
  a.keep = kernels::reference::dropout_factors(s.attention_dropout(), sample,
                                               static_cast<int>(p % s.heads), s.n, s.m);
  return a;
}

struct ForwardResult {
  Array<double> o, lse;
};

inline ForwardResult reference_forward(const AttendSetup& s) {
  ForwardResult result{Array<double>(s.q.shape()), Array<double>({s.batch, s.heads, s.n})};
  for (int64_t p = 0; p < s.problems(); ++p) {
    const kernels::reference::Output out = kernels::reference::attend(reference(s, p));
    std::copy(out.o.begin(), out.o.end(), &result.o[p * s.n * s.d]);
    std::copy(out.lse.begin(), out.lse.end(), &result.lse[p * s.n]);
  }
  return result;
}

template <class T>
struct Gradients {
  Array<T> dq, dk, dv, row_grad, column_grad;
};

template <class T>
Gradients<T> make_gradients(const AttendSetup& s) {
  return {Array<T>(s.q.shape()), Array<T>(s.k.shape()), Array<T>(s.k.shape()),
          Array<T>({s.batch, s.heads, s.n, s.clusters}),
          Array<T>({s.batch, s.heads, s.m, s.clusters})};
}

/// Adds problem p's straight-through gradients, edge by edge, given the gradients of its scores.
inline void add_straight_through(const AttendSetup& s, int64_t p,
                                 const kernels::reference::Attention& a,
                                 const std::vector<double>& ds, Gradients<double>& g) {
  for (int64_t i = 0; i < s.n; ++i) {
    for (int64_t j = 0; j < s.m; ++j) {
      const int64_t row = p * s.n + i;
      const int64_t column = p * s.m + j;
      if (s.drawn[row * s.m + j] == 0) continue;
      const auto pair = static_cast<size_t>(i * s.m + j);
      double dp = s.rule == SteRule::kPaper && ds[pair] != 0 ? ds[pair] * a.score(i, j) : ds[pair];
      dp = std::clamp(dp + double{s.regularizer}, -double{s.clip}, double{s.clip});
      if (std::abs(i - j) <= s.window_radius) dp = 0;
      for (int64_t x = 0; x < s.clusters; ++x) {
        g.row_grad[row * s.clusters + x] += dp * double{s.z[column * s.clusters + x]};
        g.column_grad[column * s.clusters + x] += dp * double{s.y[row * s.clusters + x]};
      }
    }
  }
}

/// Attention's backward in double precision. The gradient test checks it against differences of the
/// definition.
inline Gradients<double> reference_backward(const AttendSetup& s) {
  namespace reference = kernels::reference;
  Gradients<double> g = make_gradients<double>(s);
  for (int64_t p = 0; p < s.problems(); ++p) {
    const reference::Attention a = test::reference(s, p);
    const auto first = s.dout.values().begin() + p * s.n * s.d;
    const std::vector<double> dout(first, first + s.n * s.d);
    const reference::Output out = reference::attend(a);
    const reference::Gradients own =
        reference::attend_backward(a, dout, out.lse, reference::delta(a, dout, out.o));
    std::copy(own.dq.begin(), own.dq.end(), &g.dq[p * s.n * s.d]);
    std::copy(own.dk.begin(), own.dk.end(), &g.dk[p * s.m * s.d]);
    std::copy(own.dv.begin(), own.dv.end(), &g.dv[p * s.m * s.d]);
    add_straight_through(s, p, a, own.ds, g);
  }
  return g;
}

// --- the operations ------------------------------------------------------------------------------

/// Where an operation runs, and how its arrays are stored.
struct AttendPlace {
  Device device = kCpuDevice;
  Precision storage = Precision::kFp32;
  int threads = 1;
  bool keeps_dropout = false;  ///< forward leaves its bits for backward
};

/// Problem p of the graph is stored as forms[p], or all are as one form.
inline HostGraph graph_of(const AttendSetup& s, const std::vector<EdgeForm>& forms,
                          const EdgeCapacity& capacity, DeviceType layout) {
  std::vector<GraphProblem> problems;
  for (int64_t p = 0; p < s.problems(); ++p) {
    const EdgeForm form = forms.size() == 1 ? forms[0] : forms.at(static_cast<size_t>(p));
    GraphProblem problem = {form, Array<uint8_t>({s.n, s.m})};
    std::copy_n(&s.drawn[p * s.n * s.m], s.n * s.m, problem.dense.values().begin());
    problems.push_back(problem);
  }
  return HostGraph(problems, capacity, layout);
}

inline HostGraph graph_of(const AttendSetup& s, EdgeForm form, DeviceType layout) {
  return graph_of(s, std::vector{form},
                  {.tile_density = form == EdgeForm::kBits ? 0.0 : 1.0,
                   .max_density = 1.0,
                   .multiplicity = s.multiplicity},
                  layout);
}

/// A setup's arrays on a device.
class AttendMemory : public DeviceMemory {
 public:
  AttendMemory(const AttendSetup& s, const AttendPlace& place)
      : AttendMemory(s, place, scratch_bytes(place.device)) {}
  AttendMemory(const AttendSetup& s, const AttendPlace& place, size_t scratch_bytes)
      : DeviceMemory(place.device, {.threads = place.threads}, scratch_bytes),
        s_(s),
        place_(place) {}

  ConstRealView store(const Array<float>& a) { return put(a, place_.storage); }
  /// Undefined contents, `shift` elements behind an aligned address.
  RealView room(const Shape& shape, int64_t shift = 0) {
    return with_real_type(place_.storage, [&](auto zero) {
      using T = decltype(zero);
      return RealView(fresh<T>({shape.numel() + shift}).data + shift, shape);
    });
  }
  View<float> room_for_lse() { return fresh<float>({s_.batch, s_.heads, s_.n}); }
  EdgeSet edges(EdgeForm form) { return put_graph(*this, graph_of(s_, form, place_.device.type)); }
  View<const uint8_t> key_mask() {
    return s_.use_key_mask ? put(s_.key_mask) : View<const uint8_t>{};
  }
  kernels::Pattern pattern() {
    kernels::Pattern pattern = s_.pattern;
    if (!pattern.has_groups()) return pattern;
    pattern.query_group = put(s_.query_group);
    pattern.key_group = put(s_.key_group);
    return pattern;
  }
  kernels::AttentionDropout dropout() {
    kernels::AttentionDropout dropout = s_.attention_dropout();
    dropout.samples = put(s_.samples);
    return dropout;
  }
  /// With room for bits, which hold those of a forward pass where there was one. `of` as in
  /// alloc_kept, after the arena.
  template <class... Of>
  kernels::AttentionDropout dropout(const Array<uint32_t>& kept, const Of&... of) {
    kernels::AttentionDropout dropout = this->dropout();
    if (!place_.keeps_dropout) return dropout;
    Arena plan("kept", meta_device(place_.device.type));
    const Shape shape = kernels::alloc_kept(plan, of...).shape;
    if (shape.rank() == 0) return dropout;
    dropout.kept = fresh<uint32_t>(shape);
    if (kept.numel() > 0) dropout.kept = put(kept);
    return dropout;
  }
  Array<uint32_t> get_kept(const kernels::AttentionDropout& dropout) {
    return dropout.kept.empty() ? Array<uint32_t>({0, 0}) : get(dropout.kept);
  }

 private:
  // The CPU needs little, and every page that is cleared takes time.
  static size_t scratch_bytes(Device device) {
    return size_t{device.type == DeviceType::kCpu ? 8u : 64u} << 20;
  }

  const AttendSetup& s_;
  AttendPlace place_;
};

struct Attended {
  Array<float> o, lse;
  Array<uint32_t> kept = Array<uint32_t>({0, 0});  ///< AttentionDropout::kept
};

inline Attended attend(const AttendSetup& s, EdgeForm form, const AttendPlace& place = {}) {
  AttendMemory memory(s, place);
  const RealView o = memory.room(s.q.shape());
  const View<float> lse = memory.room_for_lse();
  const EdgeSet edges = memory.edges(form);
  const kernels::AttentionDropout dropout = memory.dropout(Array<uint32_t>({0, 0}), edges);
  kernels::attend_edges(memory.stream(), {.o = o,
                                          .lse = lse,
                                          .q = memory.store(s.q),
                                          .k = memory.store(s.k),
                                          .v = memory.store(s.v),
                                          .edges = edges,
                                          .key_mask = memory.key_mask(),
                                          .scale = s.scale,
                                          .dropout = dropout,
                                          .scratch = &memory.scratch()});
  return {memory.get(ConstRealView(o)), memory.get(lse), memory.get_kept(dropout)};
}

inline Attended attend_dense(const AttendSetup& s, const AttendPlace& place = {}) {
  AttendMemory memory(s, place);
  const RealView o = memory.room(s.q.shape());
  const View<float> lse = memory.room_for_lse();
  const kernels::AttentionDropout dropout =
      memory.dropout(Array<uint32_t>({0, 0}), s.problems(), s.n, s.m);
  kernels::attend_dense(memory.stream(), {.o = o,
                                          .lse = lse,
                                          .q = memory.store(s.q),
                                          .k = memory.store(s.k),
                                          .v = memory.store(s.v),
                                          .key_mask = memory.key_mask(),
                                          .pattern = memory.pattern(),
                                          .scale = s.scale,
                                          .dropout = dropout,
                                          .scratch = &memory.scratch()});
  return {memory.get(ConstRealView(o)), memory.get(lse), memory.get_kept(dropout)};
}

inline Gradients<float> differentiate(const AttendSetup& s, EdgeForm form, const Attended& forward,
                                      const AttendPlace& place) {
  AttendMemory memory(s, place);
  const EdgeSet edges = memory.edges(form);
  const RealView dq = memory.room(s.q.shape());
  const RealView dk = memory.room(s.k.shape());
  const RealView dv = memory.room(s.k.shape());
  const RealView row_grad = memory.room({s.batch, s.heads, s.n, s.clusters});
  const RealView column_grad = memory.room({s.batch, s.heads, s.m, s.clusters});
  kernels::StraightThrough ste;
  if (s.clusters > 0) {
    ste = {.row_grad = row_grad,
           .column_grad = column_grad,
           .y = memory.store(s.y),
           .z = memory.store(s.z),
           .rule = s.rule,
           .regularizer = s.regularizer,
           .clip = s.clip,
           .window_radius = s.window_radius};
  }
  kernels::attend_edges_backward(memory.stream(), {.dq = dq,
                                                   .dk = dk,
                                                   .dv = dv,
                                                   .q = memory.store(s.q),
                                                   .k = memory.store(s.k),
                                                   .v = memory.store(s.v),
                                                   .o = memory.store(forward.o),
                                                   .dout = memory.store(s.dout),
                                                   .lse = memory.put(forward.lse),
                                                   .edges = edges,
                                                   .key_mask = memory.key_mask(),
                                                   .scale = s.scale,
                                                   .dropout = memory.dropout(forward.kept, edges),
                                                   .ste = ste,
                                                   .scratch = &memory.scratch()});
  const auto get = [&](const ConstRealView& x) { return memory.get(x); };
  return {get(dq), get(dk), get(dv), get(row_grad), get(column_grad)};
}

inline Gradients<float> differentiate(const AttendSetup& s, EdgeForm form,
                                      const AttendPlace& place = {}) {
  return differentiate(s, form, attend(s, form, place), place);
}

inline Gradients<float> differentiate_dense(const AttendSetup& s, const Attended& forward,
                                            const AttendPlace& place) {
  AttendMemory memory(s, place);
  const RealView dq = memory.room(s.q.shape());
  const RealView dk = memory.room(s.k.shape());
  const RealView dv = memory.room(s.k.shape());
  kernels::attend_dense_backward(memory.stream(),
                                 {.dq = dq,
                                  .dk = dk,
                                  .dv = dv,
                                  .q = memory.store(s.q),
                                  .k = memory.store(s.k),
                                  .v = memory.store(s.v),
                                  .o = memory.store(forward.o),
                                  .dout = memory.store(s.dout),
                                  .lse = memory.put(forward.lse),
                                  .key_mask = memory.key_mask(),
                                  .pattern = memory.pattern(),
                                  .scale = s.scale,
                                  .dropout = memory.dropout(forward.kept, s.problems(), s.n, s.m),
                                  .scratch = &memory.scratch()});
  const auto get = [&](const ConstRealView& x) { return memory.get(x); };
  const Gradients<float> none = make_gradients<float>(s);
  return {get(dq), get(dk), get(dv), none.row_grad, none.column_grad};
}

inline Gradients<float> differentiate_dense(const AttendSetup& s, const AttendPlace& place = {}) {
  return differentiate_dense(s, attend_dense(s, place), place);
}

/// As expect_close; what is stored as bf16 may also have been rounded once: each element by half a
/// unit in its last place.
template <class A, class B>
void expect_close_as_stored(const A& actual, const B& expected, Precision storage, double tolerance,
                            double floor) {
  if (storage == Precision::kFp32) return expect_close(actual, expected, tolerance, floor);
  ASSERT_EQ(actual.values().size(), expected.values().size());
  double scale = floor;
  for (const auto x : expected.values()) scale = std::max(scale, std::abs(double{x}));
  for (int64_t i = 0; i < expected.numel(); ++i) {
    const double e = expected[i];
    ASSERT_NEAR(actual[i], e, tolerance * scale + 0x1p-8 * std::abs(e)) << "element " << i;
  }
}

template <class A, class B>
void expect_close_gradients(const A& actual, const B& expected, double tolerance,
                            Precision storage = Precision::kFp32) {
  const auto compare = [&](const char* name, const auto& a, const auto& b) {
    SCOPED_TRACE(name);
    expect_close_as_stored(a, b, storage, tolerance, 1e-3);
  };
  compare("dq", actual.dq, expected.dq);
  compare("dk", actual.dk, expected.dk);
  compare("dv", actual.dv, expected.dv);
  compare("row_grad", actual.row_grad, expected.row_grad);
  compare("column_grad", actual.column_grad, expected.column_grad);
}

// --- where tests run -----------------------------------------------------------------------------

struct AttendParam {
  AttendPlace place;
  cpu::Isa isa = cpu::Isa::kScalar;  ///< of the CPU
};

/// Every instruction set of this machine.
inline std::vector<AttendParam> cpu_params() {
  std::vector<AttendParam> params;
  for (cpu::Isa isa : cpu::available_isas()) params.push_back({.place = {}, .isa = isa});
  return params;
}

/// And CUDA, where it is, in either storage.
inline std::vector<AttendParam> all_params() {
  std::vector<AttendParam> params = cpu_params();
  if (test_devices().size() < 2) return params;
  for (Precision storage : {Precision::kFp32, Precision::kBf16}) {
    params.push_back({.place = {.device = cuda_device(0), .storage = storage}});
  }
  return params;
}

inline std::string name_of_param(const ::testing::TestParamInfo<AttendParam>& info) {
  const AttendPlace& place = info.param.place;
  if (place.device.type == DeviceType::kCpu) return std::string(cpu::isa_name(info.param.isa));
  return name_of(place.device) + "_" + stipple::name_of(place.storage);
}

/// The operations at the test's place. Setups hold only numbers that can be stored there.
class AttendTest : public ::testing::TestWithParam<AttendParam> {
 protected:
  AttendTest() : before_(cpu::isa()) { cpu::set_isa(GetParam().isa); }
  ~AttendTest() override { cpu::set_isa(before_); }

  static AttendPlace place(int threads = 1) {
    AttendPlace place = GetParam().place;
    place.threads = threads;
    return place;
  }
  static bool is_bf16() { return place().storage == Precision::kBf16; }
  static bool is_cpu() { return place().device.type == DeviceType::kCpu; }

  static AttendSetup make_setup(const AttendSize& size, uint64_t seed) {
    return stored_as(test::make_setup(size, seed), place().storage);
  }
  static Attended attend(const AttendSetup& s, EdgeForm form, int threads = 1) {
    return test::attend(s, form, place(threads));
  }
  static Attended attend_dense(const AttendSetup& s, int threads = 1) {
    return test::attend_dense(s, place(threads));
  }
  static Gradients<float> differentiate(const AttendSetup& s, EdgeForm form, int threads = 1) {
    return test::differentiate(s, form, place(threads));
  }
  static Gradients<float> differentiate_dense(const AttendSetup& s, int threads = 1) {
    return test::differentiate_dense(s, place(threads));
  }

 private:
  cpu::Isa before_;
};

}  // namespace stipple::test
