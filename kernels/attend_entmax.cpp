// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend_entmax.h"

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {
namespace {

void check_entmax_heads(const char* op, const EntmaxHeads& heads, int64_t count) {
  expect_shape(op, "heads.alpha", heads.alpha.shape, {count});
  if (!heads.temperature.empty()) {
    expect_shape(op, "heads.temperature", heads.temperature.shape, {count});
  }
}

void check_support(const char* op, const EntmaxSupport& support, const Shape& rows) {
  expect_shape(op, "support.size", support.size.shape, rows);
  const Shape& columns = support.columns.shape;
  STIPPLE_CHECK_AS(ShapeError, columns.rank() == 4 && columns[3] > 0, op,
                   ": support.columns has shape ", columns.str(),
                   ", expected [B, H, N, room] with room for one key at least");
  expect_shape(op, "support.columns", columns, {rows[0], rows[1], rows[2], columns[3]});
}

void check_pairs(const char* op, const EdgeSet& edges, const Pattern& pattern, int64_t problems,
                 int64_t queries, int64_t keys) {
  if (edges.form.empty()) return check_pattern(op, pattern, problems, queries, keys);
  STIPPLE_CHECK_AS(ShapeError, edges.num_queries == queries && edges.num_keys == keys, op,
                   ": edges are ", edges.num_queries, " x ", edges.num_keys, ", expected ", queries,
                   " x ", keys);
  expect_shape(op, "edges.form", edges.form.shape, {problems});
  expect_shape(op, "edges.row_ptr", edges.row_ptr.shape, {problems, queries + 1});
  if (!edges.groups.empty()) {
    const EdgeGroups& groups = edges.groups;
    expect_shape(op, "edges.groups.queries", groups.queries.shape, {problems, queries});
    expect_shape(op, "edges.groups.query_ptr", groups.query_ptr.shape,
                 {problems, groups.count() + 2});
    expect_shape(op, "edges.groups.keys", groups.keys.shape, {problems, keys});
    expect_shape(op, "edges.groups.key_ptr", groups.key_ptr.shape, {problems, groups.count() + 2});
  }
  STIPPLE_CHECK(!edges.capacity.multiplicity, op,
                ": a key counts once, so edges must not have a multiplicity");
}

/// What forward and backward have in common.
template <class Args>
void check_entmax_arguments(const char* op, const Args& a) {
  const Shape& q = a.q.shape;
  STIPPLE_CHECK_AS(ShapeError, q.rank() == 4 && a.k.shape.rank() == 4, op, ": q has shape ",
                   q.str(), " and k ", a.k.shape.str(), ", expected [B, H, N, D] and [B, H, M, D]");
  const Shape keys = {q[0], q[1], a.k.shape[2], q[3]};
  expect_shape(op, "k", a.k.shape, keys);
  expect_shape(op, "v", a.v.shape, keys);
  expect_shape(op, "tau", a.tau.shape, {q[0], q[1], q[2]});
  check_entmax_heads(op, a.heads, q[1]);
  check_pairs(op, a.edges, a.pattern, q[0] * q[1], q[2], keys[2]);
  check_mask(op, "key_mask", a.key_mask, q[0], keys[2]);
  STIPPLE_CHECK(a.dropout.rate >= 0.0f && a.dropout.rate < 1.0f, op, ": dropout rate ",
                a.dropout.rate, " must be in [0, 1)");
  if (a.dropout.rate > 0.0f) expect_shape(op, "dropout.samples", a.dropout.samples.shape, {q[0]});
  STIPPLE_CHECK(a.scratch != nullptr, op, ": needs a scratch arena");
}

}  // namespace

EntmaxSupport alloc_entmax_support(Arena& arena, int64_t batch, int64_t heads, int64_t num_queries,
                                   int64_t room) {
  return {.size = arena.alloc<int32_t>({batch, heads, num_queries}),
          .columns = arena.alloc<uint32_t>({batch, heads, num_queries, room})};
}

void attend_entmax(const Stream& stream, const AttendEntmax& args) {
  const char* op = "attend_entmax";
  check_entmax_arguments(op, args);
  expect_shape(op, "o", args.o.shape, args.q.shape);
  if (!args.o2.empty()) expect_shape(op, "o2", args.o2.shape, args.q.shape);
  if (!args.support.empty()) check_support(op, args.support, args.tau.shape);
  check_same_storage(op, {args.q, args.k, args.v, args.o, args.o2});
  STIPPLE_DISPATCH(stream, attend_entmax, args);
}

void attend_entmax_backward(const Stream& stream, const AttendEntmaxBackward& args) {
  const char* op = "attend_entmax_backward";
  check_entmax_arguments(op, args);
  check_support(op, args.support, args.tau.shape);
  expect_shape(op, "o2", args.o2.shape, args.q.shape);
  expect_shape(op, "dout", args.dout.shape, args.q.shape);
  expect_shape(op, "dq", args.dq.shape, args.q.shape);
  expect_shape(op, "dk", args.dk.shape, args.k.shape);
  expect_shape(op, "dv", args.dv.shape, args.k.shape);
  if (!args.dalpha.empty()) expect_shape(op, "dalpha", args.dalpha.shape, args.tau.shape);
  if (!args.dtemperature.empty()) {
    expect_shape(op, "dtemperature", args.dtemperature.shape, args.tau.shape);
  }
  check_same_storage(op, {args.q, args.k, args.v, args.o2, args.dout, args.dq, args.dk, args.dv});
  STIPPLE_DISPATCH(stream, attend_entmax_backward, args);
}

}  // namespace stipple::kernels
