// SPDX-License-Identifier: Apache-2.0
// Cuts the work into tasks and scratch into buffers, and calls the bodies of the instruction set in
// force.
#include "kernels/attend.h"

#include <algorithm>
#include <cstddef>

#include "core/cpu/isa.h"
#include "kernels/cpu/attend/bodies.h"
#include "kernels/cpu/attend/dropout_stream.h"
#include "kernels/cpu/cutter.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

const AttendBodies& bodies() {
  switch (stipple::cpu::isa()) {
    case stipple::cpu::Isa::kAvx512:
      return avx512::kAttend;
    case stipple::cpu::Isa::kAvx2:
      return avx2::kAttend;
    case stipple::cpu::Isa::kScalar:
      break;
  }
  return scalar::kAttend;
}

/// What decides how much scratch a worker needs.
struct ScratchShape {
  int64_t num_keys;
  int64_t dim;
  bool has_edges;         ///< bits or CSR, not all pairs
  bool scores_all_pairs;  ///< some problem may be dense or bits
};

template <class Args>
ScratchShape scratch_shape(const Args& a) {
  if constexpr (requires { a.edges; }) {
    return {a.k.shape[2], a.k.shape[3], true, has_room_for_bits(a.edges)};
  } else {
    return {a.k.shape[2], a.k.shape[3], false, true};
  }
}

int64_t padded_keys(int64_t keys) { return (keys + kTileKeys - 1) / kTileKeys * kTileKeys; }

ForwardBuffers cut_forward(Cutter& cutter, const ScratchShape& shape) {
  ForwardBuffers b{};
  const int64_t keys = padded_keys(shape.num_keys);
  if (shape.scores_all_pairs) {
    b.packed_keys = cutter.take<float>(keys * shape.dim);
    b.tile = cutter.take<float>(kTileRows * kTileKeys);
  }
  b.key_words = cutter.take<uint32_t>(keys / 32);
  if (shape.has_edges) {
    b.scores = cutter.take<float>(kMaxMicroRows * (kSweepKeys + kMaxLanes));
    b.columns = cutter.take<uint32_t>(kMaxMicroRows * (kSweepKeys + kMaxLanes));
  }
  return b;
}

// A chunk's edges, in row order and in column order, should stay in the second-level cache, unless
// that leaves a key so few of them that loading and storing its gradients costs more.
int64_t chunk_edges(int64_t keys) {
  constexpr int64_t kFew = 32768;
  constexpr int64_t kMany = 131072;
  constexpr int64_t kPerKey = 16;
  return std::clamp(kPerKey * keys, kFew, kMany);
}

BackwardBuffers cut_backward(Cutter& cutter, const ScratchShape& shape) {
  BackwardBuffers b{};
  const int64_t keys = padded_keys(shape.num_keys);
  b.key_words = cutter.take<uint32_t>(keys / 32);
  if (shape.scores_all_pairs) {
    b.packed_keys = cutter.take<float>(keys * shape.dim);
    b.packed_values = cutter.take<float>(keys * shape.dim);
    b.packed_queries = cutter.take<float>(kBitTile * shape.dim);
    b.packed_douts = cutter.take<float>(kBitTile * shape.dim);
    for (float*& tile : b.tiles) tile = cutter.take<float>(kTileFloats);
  }
  if (shape.has_edges) {
    b.scores = cutter.take<float>(shape.num_keys + kMaxLanes);
    b.dweights = cutter.take<float>(shape.num_keys + kMaxLanes);
    b.max_edges = std::max(chunk_edges(shape.num_keys), shape.num_keys);
    b.by_row = cutter.take<EdgeGradient>(b.max_edges);
    b.by_column = cutter.take<EdgeGradient>(b.max_edges);
    b.column_start = cutter.take<uint32_t>(shape.num_keys + 1);
    b.next_edge = cutter.take<int32_t>(kChunkRows);
  }
  return b;
}

/// What all four operations have in common.
template <class Args>
AttendProblem problem(const Args& a, int64_t p) {
  const int64_t heads = a.q.shape[1];
  const int64_t sample = p / heads;
  AttendProblem x;
  x.number = p;
  x.num_queries = a.q.shape[2];
  x.num_keys = a.k.shape[2];
  x.dim = a.q.shape[3];
  x.q = a.q.floats().data + p * x.num_queries * x.dim;
  x.k = a.k.floats().data + p * x.num_keys * x.dim;
  x.v = a.v.floats().data + p * x.num_keys * x.dim;
  if (!a.key_mask.empty()) x.key_mask = a.key_mask.at(sample).data;
  x.scale = a.scale;
  x.dropout = dropout_stream(a.dropout, sample, p % heads);
  if (x.dropout.on && !a.dropout.kept.empty()) x.kept = a.dropout.kept.at(p).data;
  return x;
}

void add_outputs(AttendProblem& x, RealView o, View<float> lse, int64_t p) {
  x.o = o.floats().data + p * x.num_queries * x.dim;
  x.lse = lse.data + p * x.num_queries;
}

template <class Args>
void add_gradients(AttendProblem& x, const Args& a, int64_t p) {
  const int64_t queries = p * x.num_queries * x.dim;
  const int64_t keys = p * x.num_keys * x.dim;
  if (a.delta.empty()) {
    x.final_o = a.o.floats().data + queries;
  } else {
    x.delta = a.delta.data + p * x.num_queries;
  }
  x.final_lse = a.lse.data + p * x.num_queries;
  x.dout = a.dout.floats().data + queries;
  x.dq = a.dq.floats().data + queries;
  x.dk = a.dk.floats().data + keys;
  x.dv = a.dv.floats().data + keys;
}

void add_edges(AttendProblem& x, const EdgeSet& edges, int64_t p) {
  x.row_ptr = edges.row_ptr.at(p).data;
  if (edges.form[p] == EdgeForm::kBits) {
    x.bits = edges.bits(p, 0);
    x.words_per_row = edges.words_per_row();
    return;
  }
  x.columns = edges.columns(p);
  if (edges.capacity.multiplicity) x.multiplicity = edges.multiplicity.at(p).data;
}

void add_straight_through(AttendProblem& x, const StraightThrough& ste, int64_t p) {
  if (ste.row_grad.empty()) return;
  x.clusters = ste.row_grad.shape[3];
  const int64_t rows = p * x.num_queries * x.clusters;
  const int64_t columns = p * x.num_keys * x.clusters;
  x.row_grad = ste.row_grad.floats().data + rows;
  x.column_grad = ste.column_grad.floats().data + columns;
  x.y = ste.y.floats().data + rows;
  x.z = ste.z.floats().data + columns;
  x.rule = ste.rule;
  x.regularizer = ste.regularizer;
  x.clip = ste.clip;
  x.self_loop = ste.self_loop;
}

template <class Args, class Finish>
void run_forward(const Stream& stream, const Args& a, const Finish& finish) {
  const Arena::Scope scope(*a.scratch);
  const ScratchShape shape = scratch_shape(a);
  const int64_t bytes = bytes_of(cut_forward, shape);
  std::byte* scratch = a.scratch->template alloc<std::byte>({stream.threads(), bytes}).data;
  const int64_t num_queries = a.q.shape[2];
  const int64_t tasks = (num_queries + kTaskRows - 1) / kTaskRows;
  const AttendBodies& body = bodies();
  stream.parallel_for(a.q.shape[0] * a.q.shape[1] * tasks, [&](int64_t t, int worker) {
    AttendProblem x = problem(a, t / tasks);
    finish(x, t / tasks);
    Cutter cutter(scratch + worker * bytes);
    const int64_t first = t % tasks * kTaskRows;
    body.forward(x, cut_forward(cutter, shape), first, std::min(num_queries, first + kTaskRows));
  });
}

/// The tasks of backward. A problem is one while there are enough of them for the threads. The last
/// ones, when there are not, are cut by query and by key: scores and gradients of pairs are made
/// twice, and no number changes.
struct BackwardTasks {
  int64_t whole;  ///< problems that are one task
  int64_t cut;    ///< problems in 2 cuts tasks each
  int64_t cuts;
  int64_t count() const { return whole + 2 * cuts * cut; }
};

BackwardTasks backward_tasks(int64_t problems, int64_t threads) {
  const int64_t last = problems % threads;
  // A cut problem costs up to half as much again: with more of them than that, the others' idling is
  // cheaper.
  if (last == 0 || 3 * last > 2 * threads) return {problems, 0, 1};
  return {problems - last, last, (threads + last - 1) / last};
}

/// The n-th of `cuts` runs of `count` rows, in whole tiles.
Range cut(int64_t count, int64_t n, int64_t cuts) {
  static_assert(kTileKeys % kBitTile == 0 && kTileKeys % kTileRows == 0);
  const int64_t tiles = (count + kTileKeys - 1) / kTileKeys;
  const auto border = [&](int64_t x) { return std::min(count, tiles * x / cuts * kTileKeys); };
  return {border(n), border(n + 1)};
}

/// Task t's problem goes into `number`.
BackwardPart backward_part(const BackwardTasks& tasks, int64_t t, int64_t num_queries,
                           int64_t num_keys, int64_t& number) {
  BackwardPart part = {{0, num_queries}, {0, num_keys}, true, true};
  number = t;
  if (t < tasks.whole) return part;
  const int64_t in_cut = (t - tasks.whole) % (2 * tasks.cuts);
  number = tasks.whole + (t - tasks.whole) / (2 * tasks.cuts);
  part.by_key = in_cut < tasks.cuts;
  part.by_query = !part.by_key;
  Range& own = part.by_key ? part.keys : part.queries;
  own = cut(own.end, in_cut % tasks.cuts, tasks.cuts);
  return part;
}

template <class Args, class Finish>
void run_backward(const Stream& stream, const Args& a, const Finish& finish) {
  const Arena::Scope scope(*a.scratch);
  const ScratchShape shape = scratch_shape(a);
  const int64_t bytes = bytes_of(cut_backward, shape);
  std::byte* scratch = a.scratch->template alloc<std::byte>({stream.threads(), bytes}).data;
  const AttendBodies& body = bodies();
  const BackwardTasks tasks = backward_tasks(a.q.shape[0] * a.q.shape[1], stream.threads());
  stream.parallel_for(tasks.count(), [&](int64_t t, int worker) {
    int64_t number = 0;
    const BackwardPart part = backward_part(tasks, t, a.q.shape[2], a.k.shape[2], number);
    AttendProblem x = problem(a, number);
    add_gradients(x, a, number);
    finish(x, number);
    Cutter cutter(scratch + worker * bytes);
    body.backward(x, cut_backward(cutter, shape), part);
  });
}

}  // namespace

void attend_dense(const Stream& stream, const AttendDense& a) {
  run_forward(stream, a, [&](AttendProblem& x, int64_t p) {
    add_outputs(x, a.o, a.lse, p);
    x.pattern = math::pattern_rule(a.pattern);
  });
}

void attend_dense_backward(const Stream& stream, const AttendDenseBackward& a) {
  run_backward(stream, a,
               [&](AttendProblem& x, int64_t) { x.pattern = math::pattern_rule(a.pattern); });
}

void attend_delta(const Stream& stream, const AttendDelta& a) {
  const int64_t dim = a.o.shape[3];
  const AttendBodies& body = bodies();
  stream.parallel_for(num_runs(a.delta.numel(), kCopyRowRun), [&](int64_t run, int) {
    const Range rows = nth_run(run, a.delta.numel(), kCopyRowRun);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      a.delta[i] = body.dot(a.dout.floats().data + i * dim, a.o.floats().data + i * dim, dim);
    }
  });
}

void attend_edges(const Stream& stream, const AttendEdges& a) {
  run_forward(stream, a, [&](AttendProblem& x, int64_t p) {
    add_outputs(x, a.o, a.lse, p);
    add_edges(x, a.edges, p);
  });
}

void attend_edges_backward(const Stream& stream, const AttendEdgesBackward& a) {
  run_backward(stream, a, [&](AttendProblem& x, int64_t p) {
    add_edges(x, a.edges, p);
    add_straight_through(x, a.ste, p);
  });
}

}  // namespace stipple::kernels::cpu
