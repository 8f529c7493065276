// SPDX-License-Identifier: Apache-2.0
// Cuts the work into tasks and scratch into buffers, and calls the bodies of the instruction set in
// force.
#include "kernels/attend.h"

#include <algorithm>
#include <cstddef>

#include "core/cpu/isa.h"
#include "kernels/cpu/attend/bodies.h"
#include "kernels/cpu/attend/problem.h"
#include "kernels/cpu/attend/tasks.h"
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
  x.window_radius = ste.window_radius;
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
    AttendProblem x = attend_problem(a, t / tasks);
    finish(x, t / tasks);
    Cutter cutter(scratch + worker * bytes);
    const int64_t first = t % tasks * kTaskRows;
    body.forward(x, cut_forward(cutter, shape), first, std::min(num_queries, first + kTaskRows));
  });
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
    AttendProblem x = attend_problem(a, number);
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
    add_graph(x, a.edges, p);
  });
}

void attend_edges_backward(const Stream& stream, const AttendEdgesBackward& a) {
  run_backward(stream, a, [&](AttendProblem& x, int64_t p) {
    add_graph(x, a.edges, p);
    add_straight_through(x, a.ste, p);
  });
}

}  // namespace stipple::kernels::cpu
