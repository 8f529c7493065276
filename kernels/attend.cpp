// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend.h"

#include <algorithm>

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {
namespace {

BitOrder bit_order_of(Device device) {
  return device.backend() == DeviceType::kCuda ? BitOrder::kLanes : BitOrder::kRows;
}

int64_t kept_words(BitOrder order, int64_t num_queries, int64_t num_keys) {
  return num_queries * bit_words(order, num_keys);
}

/// Rows of CSR start on words of their own: two tasks never write to the same one.
int64_t kept_words(BitOrder order, const EdgeSet& edges) {
  const int64_t csr =
      order == BitOrder::kRows ? edges.storage.shape[1] / 32 + edges.num_queries + 1 : 0;
  const int64_t bits =
      has_room_for_bits(edges) ? kept_words(order, edges.num_queries, edges.num_keys) : 0;
  return std::max(csr, bits);
}

void check_kept(const char* op, View<uint32_t> kept, int64_t problems, int64_t words) {
  if (kept.empty()) return;
  const Shape expected = {problems, words};
  STIPPLE_CHECK_AS(ShapeError, kept.shape == expected, op, ": dropout.kept has shape ",
                   kept.shape.str(), ", expected ", expected.str());
}

void check_dropout(const char* op, const AttentionDropout& dropout, int64_t batch) {
  STIPPLE_CHECK(dropout.rate >= 0.0f && dropout.rate < 1.0f, op, ": dropout rate ", dropout.rate,
                " must be in [0, 1)");
  if (dropout.rate == 0.0f) return;
  STIPPLE_CHECK_AS(ShapeError, dropout.samples.shape == Shape({batch}), op,
                   ": dropout.samples has shape ", dropout.samples.shape.str(), ", expected ",
                   Shape({batch}).str());
}

/// The arrays that every attention operation has.
template <class Args>
void check_inputs(const char* op, const Args& a) {
  const Shape& q = a.q.shape;
  STIPPLE_CHECK_AS(ShapeError, q.rank() == 4 && a.k.shape.rank() == 4, op, ": q has shape ",
                   q.str(), " and k ", a.k.shape.str(), ", expected [B, H, N, D] and [B, H, M, D]");
  const Shape keys = {q[0], q[1], a.k.shape[2], q[3]};
  expect_shape(op, "k", a.k.shape, keys);
  expect_shape(op, "v", a.v.shape, keys);
  expect_shape(op, "lse", a.lse.shape, {q[0], q[1], q[2]});
  check_same_storage(op, {a.q, a.k, a.v, a.o});
  if (!a.key_mask.empty()) expect_shape(op, "key_mask", a.key_mask.shape, {q[0], keys[2]});
  check_dropout(op, a.dropout, q[0]);
  STIPPLE_CHECK(a.scratch != nullptr, op, ": needs a scratch arena");
}

template <class Args>
void check_gradients(const char* op, const Args& a) {
  if (a.delta.empty()) {
    expect_shape(op, "o", a.o.shape, a.q.shape);
  } else {
    expect_shape(op, "delta", a.delta.shape, a.lse.shape);
  }
  expect_shape(op, "dout", a.dout.shape, a.q.shape);
  expect_shape(op, "dq", a.dq.shape, a.q.shape);
  expect_shape(op, "dk", a.dk.shape, a.k.shape);
  expect_shape(op, "dv", a.dv.shape, a.k.shape);
  check_same_storage(op, {a.q, a.dout, a.dq, a.dk, a.dv});
}

template <class Args>
void check_pattern_of(const char* op, const Stream& stream, const Args& a) {
  const Shape& q = a.q.shape;
  check_pattern(op, a.pattern, q[0] * q[1], q[2], a.k.shape[2]);
  check_kept(op, a.dropout.kept, q[0] * q[1],
             kept_words(bit_order_of(stream.device()), q[2], a.k.shape[2]));
}

template <class Args>
void check_edges(const char* op, const Args& a) {
  const EdgeSet& edges = a.edges;
  const Shape& q = a.q.shape;
  const Shape& k = a.k.shape;
  const int64_t problems = q[0] * q[1];
  STIPPLE_CHECK_AS(ShapeError, edges.num_queries == q[2] && edges.num_keys == k[2], op,
                   ": edges are ", edges.num_queries, " x ", edges.num_keys, ", expected ", q[2],
                   " x ", k[2]);
  expect_shape(op, "edges.form", edges.form.shape, {problems});
  expect_shape(op, "edges.row_ptr", edges.row_ptr.shape, {problems, q[2] + 1});
  check_kept(op, a.dropout.kept, problems, kept_words(edges.bit_order, edges));
}

void check_straight_through(const char* op, const StraightThrough& ste, const Shape& q,
                            const Shape& k) {
  if (ste.row_grad.empty()) return;
  check_same_storage(op, {ste.row_grad, ste.column_grad, ste.y, ste.z});
  STIPPLE_CHECK_AS(ShapeError, ste.row_grad.shape.rank() == 4, op, ": ste.row_grad has shape ",
                   ste.row_grad.shape.str(), ", expected [B, H, N, K]");
  const int64_t clusters = ste.row_grad.shape[3];
  const Shape rows = {q[0], q[1], q[2], clusters};
  const Shape columns = {q[0], q[1], k[2], clusters};
  expect_shape(op, "ste.row_grad", ste.row_grad.shape, rows);
  expect_shape(op, "ste.column_grad", ste.column_grad.shape, columns);
  expect_shape(op, "ste.y", ste.y.shape, rows);
  expect_shape(op, "ste.z", ste.z.shape, columns);
  STIPPLE_CHECK(ste.clip >= 0.0f, op, ": ste.clip ", ste.clip, " must not be negative");
}

void check_implementation(const char* op, const Stream& stream, EdgesImplementation chosen) {
  STIPPLE_CHECK(
      chosen == EdgesImplementation::kOurs || stream.device().backend() == DeviceType::kCuda, op,
      ": EdgesImplementation::kCusparse needs a CUDA device");
}

}  // namespace

View<uint32_t> alloc_kept(Arena& arena, int64_t problems, int64_t num_queries, int64_t num_keys) {
  const BitOrder order = bit_order_of(arena.device());
  return arena.alloc<uint32_t>({problems, kept_words(order, num_queries, num_keys)});
}

View<uint32_t> alloc_kept(Arena& arena, const EdgeSet& edges) {
  const int64_t words = kept_words(bit_order_of(arena.device()), edges);
  if (words == 0) return {};
  return arena.alloc<uint32_t>({edges.num_problems(), words});
}

void attend_dense(const Stream& stream, const AttendDense& args) {
  check_inputs("attend_dense", args);
  expect_shape("attend_dense", "o", args.o.shape, args.q.shape);
  check_pattern_of("attend_dense", stream, args);
  STIPPLE_DISPATCH(stream, attend_dense, args);
}

void attend_dense_backward(const Stream& stream, const AttendDenseBackward& args) {
  check_inputs("attend_dense_backward", args);
  check_gradients("attend_dense_backward", args);
  check_pattern_of("attend_dense_backward", stream, args);
  STIPPLE_DISPATCH(stream, attend_dense_backward, args);
}

void attend_delta(const Stream& stream, const AttendDelta& args) {
  const Shape& o = args.o.shape;
  STIPPLE_CHECK_AS(ShapeError, o.rank() == 4, "attend_delta: o has shape ", o.str(),
                   ", expected [B, H, N, D]");
  expect_shape("attend_delta", "dout", args.dout.shape, o);
  expect_shape("attend_delta", "delta", args.delta.shape, {o[0], o[1], o[2]});
  check_same_storage("attend_delta", {args.dout, args.o});
  STIPPLE_DISPATCH(stream, attend_delta, args);
}

void merge_parts(const Stream& stream, const MergeParts& args) {
  const Shape& o = args.o.shape;
  STIPPLE_CHECK(!args.parts.empty() && args.parts.size() <= MergeParts::kMostParts,
                "merge_parts: ", args.parts.size(), " parts, expected 1 to ",
                MergeParts::kMostParts);
  STIPPLE_CHECK_AS(ShapeError, o.rank() == 4, "merge_parts: o has shape ", o.str(),
                   ", expected [B, H, N, D]");
  expect_shape("merge_parts", "lse", args.lse.shape, {o[0], o[1], o[2]});
  for (const AttendPart& part : args.parts) {
    expect_shape("merge_parts", "o of a part", part.o.shape, o);
    expect_shape("merge_parts", "lse of a part", part.lse.shape, args.lse.shape);
    check_same_storage("merge_parts", {args.o, part.o});
  }
  STIPPLE_DISPATCH(stream, merge_parts, args);
}

void attend_edges(const Stream& stream, const AttendEdges& args) {
  check_inputs("attend_edges", args);
  expect_shape("attend_edges", "o", args.o.shape, args.q.shape);
  check_edges("attend_edges", args);
  check_implementation("attend_edges", stream, args.implementation);
  STIPPLE_DISPATCH(stream, attend_edges, args);
}

void attend_edges_backward(const Stream& stream, const AttendEdgesBackward& args) {
  check_inputs("attend_edges_backward", args);
  check_gradients("attend_edges_backward", args);
  check_edges("attend_edges_backward", args);
  check_implementation("attend_edges_backward", stream, args.implementation);
  check_straight_through("attend_edges_backward", args.ste, args.q.shape, args.k.shape);
  check_same_storage("attend_edges_backward", {args.q, args.ste.row_grad});
  STIPPLE_DISPATCH(stream, attend_edges_backward, args);
}

}  // namespace stipple::kernels
