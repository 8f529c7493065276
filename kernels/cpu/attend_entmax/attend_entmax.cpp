// SPDX-License-Identifier: Apache-2.0
// Cuts the work into tasks and scratch into buffers, and calls the bodies of the instruction set in
// force.
#include "kernels/attend_entmax.h"

#include <algorithm>
#include <cstddef>

#include "core/cpu/isa.h"
#include "kernels/cpu/attend/problem.h"
#include "kernels/cpu/attend/tasks.h"
#include "kernels/cpu/attend_entmax/bodies.h"
#include "kernels/cpu/cutter.h"
#include "kernels/cpu/entmax/check_alpha.h"

namespace stipple::kernels::cpu {
namespace {

const AttendEntmaxBodies& attend_entmax_bodies() {
  switch (stipple::cpu::isa()) {
    case stipple::cpu::Isa::kAvx512:
      return avx512::kAttendEntmax;
    case stipple::cpu::Isa::kAvx2:
      return avx2::kAttendEntmax;
    case stipple::cpu::Isa::kScalar:
      break;
  }
  return scalar::kAttendEntmax;
}

EntmaxScoreBuffers cut_scores(Cutter& cutter, int64_t num_keys, int64_t dim, bool has_groups) {
  EntmaxScoreBuffers b{};
  constexpr int64_t kMostLanes = 64;
  const int64_t keys = (num_keys + kTileKeys - 1) / kTileKeys * kTileKeys;
  b.packed_keys = cutter.take<float>(keys * dim);
  b.tile = cutter.take<float>(kMaxMicroRows * kBlockKeys);
  b.queries = cutter.take<float>(kMaxMicroRows * dim);
  b.key_words = cutter.take<uint32_t>(keys / 32);
  b.row_words = cutter.take<uint32_t>(keys / 32);
  b.lanes = cutter.take<float>(kMaxMicroRows * kMostLanes);
  b.stride = keys + kEntmaxSlack;
  b.scores = cutter.take<float>(kMaxMicroRows * b.stride);
  b.columns = cutter.take<uint32_t>(kMaxMicroRows * b.stride);
  b.spare_scores = cutter.take<float>(b.stride);
  b.spare_columns = cutter.take<uint32_t>(b.stride);
  if (!has_groups) return b;
  b.group_scores = cutter.take<float>(kGroupTileFloats + kEntmaxSlack);
  b.group_queries = cutter.take<float>(kGroupRows * dim);
  return b;
}

/// num_queries: 0 without groups.
EntmaxStrayBuffers cut_strays(Cutter& cutter, int64_t num_queries, int64_t num_keys) {
  EntmaxStrayBuffers b{};
  if (num_queries == 0) return b;
  b.query_group = cutter.take<int32_t>(num_queries);
  b.key_place = cutter.take<int32_t>(num_keys);
  constexpr int64_t kPerQuery = 4;
  b.room = kPerQuery * num_queries;
  b.pairs = cutter.take<EdgeGradient>(b.room);
  b.keys = cutter.take<uint32_t>(b.room);
  b.by_key = cutter.take<EdgeGradient>(b.room);
  b.key_end = cutter.take<uint32_t>(num_keys);
  b.next = cutter.take<uint32_t>(num_keys);
  return b;
}

EntmaxGroupTiles cut_group(Cutter& cutter, int64_t dim) {
  EntmaxGroupTiles b{};
  for (float** tile : {&b.dweights, &b.dscores, &b.weights})
    *tile = cutter.take<float>(kGroupTileFloats);
  for (float*& rows : b.queries) rows = cutter.take<float>(kGroupRows * dim);
  for (float*& rows : b.keys) rows = cutter.take<float>(kMostGroupKeys * dim);
  return b;
}

EntmaxBackwardBuffers cut_entmax_backward(Cutter& cutter, int64_t num_keys, int64_t dim,
                                          int64_t grouped_queries) {
  EntmaxBackwardBuffers b{};
  b.rows = cut_scores(cutter, num_keys, dim, grouped_queries > 0);
  b.packed_values = cutter.take<float>((b.rows.stride - kEntmaxSlack) * dim);
  b.dtile = cutter.take<float>(kMaxMicroRows * kBlockKeys);
  b.dweights = cutter.take<float>(kMaxMicroRows * b.rows.stride);
  b.weights = cutter.take<float>(b.rows.stride);
  for (float*& rows : b.dense_rows) rows = cutter.take<float>(kDenseRows * dim);
  for (float*& tile : b.dense_tiles) tile = cutter.take<float>(kTileRows * kTileKeys);
  constexpr int64_t kFewestLanes = 8;
  b.dense_lanes = cutter.take<uint16_t>(kDenseRows * (b.rows.stride / kFewestLanes));
  b.max_edges = std::max(chunk_edges(num_keys), num_keys);
  b.by_row = cutter.take<EdgeGradient>(b.max_edges);
  b.by_column = cutter.take<EdgeGradient>(b.max_edges);
  b.column_start = cutter.take<uint32_t>(num_keys + 1);
  b.row_start = cutter.take<int32_t>(kChunkRows);
  b.row_count = cutter.take<int32_t>(kChunkRows);
  b.strays = cut_strays(cutter, grouped_queries, num_keys);
  if (grouped_queries > 0) b.group = cut_group(cutter, dim);
  return b;
}

EntmaxGroups groups_of_problem(const EdgeGroups& groups, int64_t p) {
  if (groups.empty()) return {};
  return {groups.count(), groups.queries.at(p).data, groups.query_ptr.at(p).data,
          groups.keys.at(p).data, groups.key_ptr.at(p).data};
}

/// What forward and backward have in common.
template <class Args>
EntmaxProblem entmax_problem(const Args& a, int64_t p) {
  EntmaxProblem x;
  static_cast<AttendProblem&>(x) = attend_problem(a, p);
  x.kept = nullptr;
  if (a.edges.form.empty()) {
    x.pattern = math::pattern_rule(a.pattern);
  } else {
    add_graph(x, a.edges, p);
    if (x.columns != nullptr) x.groups = groups_of_problem(a.edges.groups, p);
  }
  const int64_t head = p % a.q.shape[1];
  x.alpha = a.heads.alpha[head];
  if (!a.heads.temperature.empty()) x.temperature = a.heads.temperature[head];
  x.gradient_scale = x.temperature * a.scale;
  x.scale = (x.alpha - 1.0f) * x.gradient_scale;
  if (!a.support.empty()) x.room = a.support.columns.shape[3];
  return x;
}

template <class T>
T* rows_of_problem(View<T> array, int64_t p, int64_t elements) {
  return array.empty() ? nullptr : array.data + p * elements;
}

/// Without a stream that only plans: the numbers are on the host.
template <class Args>
void check_heads_alpha(const char* op, const Stream& stream, const Args& a) {
  if (!stream.is_plan()) check_alpha(op, a.heads.alpha);
}

}  // namespace

void attend_entmax(const Stream& stream, const AttendEntmax& a) {
  check_heads_alpha("attend_entmax", stream, a);
  const Arena::Scope scope(*a.scratch);
  const int64_t queries = a.q.shape[2];
  const bool has_groups = !a.edges.groups.empty();
  const int64_t bytes = bytes_of(cut_scores, a.k.shape[2], a.k.shape[3], has_groups);
  std::byte* scratch = a.scratch->alloc<std::byte>({stream.threads(), bytes}).data;
  const int64_t tasks = (queries + kTaskRows - 1) / kTaskRows;
  const AttendEntmaxBodies& body = attend_entmax_bodies();
  stream.parallel_for(a.q.shape[0] * a.q.shape[1] * tasks, [&](int64_t t, int worker) {
    const int64_t p = t / tasks;
    EntmaxProblem x = entmax_problem(a, p);
    x.o = a.o.floats().data + p * queries * x.dim;
    x.o2 = rows_of_problem(a.o2.floats(), p, queries * x.dim);
    x.tau = a.tau.data + p * queries;
    x.size = rows_of_problem(a.support.size, p, queries);
    x.support = rows_of_problem(a.support.columns, p, queries * x.room);
    Cutter cutter(scratch + worker * bytes);
    const int64_t first = t % tasks * kTaskRows;
    body.forward(x, cut_scores(cutter, x.num_keys, x.dim, has_groups), first,
                 std::min(queries, first + kTaskRows));
  });
}

void attend_entmax_backward(const Stream& stream, const AttendEntmaxBackward& a) {
  check_heads_alpha("attend_entmax_backward", stream, a);
  const Arena::Scope scope(*a.scratch);
  const int64_t queries = a.q.shape[2];
  const int64_t keys = a.k.shape[2];
  const int64_t grouped = a.edges.groups.empty() ? 0 : queries;
  const int64_t bytes = bytes_of(cut_entmax_backward, keys, a.k.shape[3], grouped);
  std::byte* scratch = a.scratch->alloc<std::byte>({stream.threads(), bytes}).data;
  const AttendEntmaxBodies& body = attend_entmax_bodies();
  const BackwardTasks tasks = backward_tasks(a.q.shape[0] * a.q.shape[1], stream.threads());
  stream.parallel_for(tasks.count(), [&](int64_t t, int worker) {
    int64_t p = 0;
    const BackwardPart part = backward_part(tasks, t, queries, keys, p);
    EntmaxProblem x = entmax_problem(a, p);
    x.final_o2 = a.o2.floats().data + p * queries * x.dim;
    x.final_tau = a.tau.data + p * queries;
    x.final_size = a.support.size.data + p * queries;
    x.final_support = a.support.columns.data + p * queries * x.room;
    x.dout = a.dout.floats().data + p * queries * x.dim;
    x.dq = a.dq.floats().data + p * queries * x.dim;
    x.dk = a.dk.floats().data + p * keys * x.dim;
    x.dv = a.dv.floats().data + p * keys * x.dim;
    x.dalpha = rows_of_problem(a.dalpha, p, queries);
    x.dtemperature = rows_of_problem(a.dtemperature, p, queries);
    Cutter cutter(scratch + worker * bytes);
    body.backward(x, cut_entmax_backward(cutter, keys, x.dim, grouped), part);
  });
}

}  // namespace stipple::kernels::cpu
