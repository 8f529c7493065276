// SPDX-License-Identifier: Apache-2.0
// Backward of attention over bits or all pairs: prepares masks and lists of tiles, then launches
// two kernels, each of which owns what it writes (tiles_backward_pass.cuh): one by query,
// one by key. Arrays are read and written as they are stored, fp32 or bf16; only rows whose length
// is not native are padded in scratch. More clusters than registers hold take further passes.
//
// query_terms_kernel: a thread a query, 256 a block; 16 bytes of HBM a query.
#include "kernels/cuda/attend/parts.h"
#include "kernels/cuda/attend/tiles_backward.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/edges.h"

namespace stipple::kernels::cuda {
namespace {

using tiles_backward::Common;
using tiles_backward::kRowsPerBlock;
using tiles_backward::OwnedSide;
using tiles_backward::Owner;
using tiles_backward::Side;

constexpr float kLog2E = 1.4426950408889634f;

/// to [P, padded] = (lse log2 e, delta), zeros behind the last query. A query without keys has no
/// pair that weighs, so its infinite lse is never used.
__global__ void query_terms_kernel(float2* to, int64_t padded, const float* lse, const float* delta,
                                   int64_t queries, int64_t total) {
  const int64_t x = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (x >= total) return;
  const int64_t row = x % padded;
  const int64_t from = x / padded * queries + row;
  to[x] = row < queries ? float2{lse[from] * kLog2E, delta[from]} : float2{0.0f, 0.0f};
}

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

/// Rows that any block or tile may ask for.
constexpr int64_t kQueryPadding = 128;

const float2* make_query_terms(const Stream& stream, const AttendArrays& a, int64_t padded,
                               Arena& scratch) {
  constexpr int kThreads = 256;
  const int64_t total = a.problems() * padded;
  auto* terms = reinterpret_cast<float2*>(scratch.alloc<float>({total, 2}).data);
  launch(stream, {.grid = blocks_for(total, kThreads), .block = kThreads}, query_terms_kernel,
         terms, padded, a.lse, a.delta, a.num_queries, total);
  return terms;
}

/// With rows that start on 16 bytes.
template <class T>
struct Operands {
  const T* q;
  const T* k;
  const T* v;
  const T* dout;
  const T* y = nullptr;
  const T* z = nullptr;
  int64_t membership_pitch = 0;
};

template <class T>
Operands<T> make_operands(const Stream& stream, const AttendArrays& a, Arena& scratch) {
  const int64_t n = a.problems() * a.num_queries;
  const int64_t m = a.problems() * a.num_keys;
  int64_t dim = 0;
  with_padded_dim(a.dim, [&](auto padded) { dim = padded; });
  const auto rows = [&](const void* from, int64_t count) {
    return make_rows<T>(stream, scratch, from, count, a.dim, dim);
  };
  Operands<T> x = {
      .q = rows(a.q, n), .k = rows(a.k, m), .v = rows(a.v, m), .dout = rows(a.dout, n)};
  const int64_t clusters = a.ste.clusters;
  if (clusters == 0) return x;
  x.membership_pitch = round_up(clusters, 16 / static_cast<int64_t>(sizeof(T)));
  x.y = make_rows<T>(stream, scratch, a.ste.y, n, clusters, x.membership_pitch);
  x.z = make_rows<T>(stream, scratch, a.ste.z, m, clusters, x.membership_pitch);
  return x;
}

/// What forward kept of dropout, as bits by key. Of tiles that it did not visit, whatever stands there.
uint32_t* kept_by_key(const Stream& stream, const AttendArrays& a, Arena& scratch) {
  const int64_t row_words = bit_words(BitOrder::kLanes, a.num_keys);
  const int64_t column_words = bit_words(BitOrder::kLanes, a.num_queries);
  const WritableGraph bits = {
      .num_queries = a.num_queries,
      .num_keys = a.num_keys,
      .form = const_cast<EdgeForm*>(a.graph.form),  // only read
      .by_query = a.dropout.kept,
      .by_key = scratch.alloc<uint32_t>({a.problems(), a.num_keys * column_words}).data,
      .query_stride = a.dropout.kept_stride,
      .key_stride = a.num_keys * column_words,
      .row_words = row_words,
      .column_words = column_words};
  transpose_bits(stream, bits, {.first = 0, .count = a.problems()});
  return bits.by_key;
}

template <class T>
OwnedSide<T> make_side(const Stream& stream, Owner owner, const AttendArrays& a,
                       const Operands<T>& x, Arena& scratch) {
  const bool by_key = owner == Owner::kKey;
  OwnedSide<T> result;
  Side<T>& s = result.side;
  s.rows[0] = by_key ? x.k : x.q;
  s.rows[1] = by_key ? x.v : x.dout;
  s.columns[0] = by_key ? x.q : x.k;
  s.columns[1] = by_key ? x.dout : x.v;
  s.memberships = by_key ? x.y : x.z;
  s.membership_pitch = x.membership_pitch;
  s.gradients[0] = static_cast<T*>(by_key ? a.dk : a.dq);
  s.gradients[1] = static_cast<T*>(by_key ? a.dv : nullptr);
  s.membership_gradient = static_cast<T*>(by_key ? a.ste.column_grad : a.ste.row_grad);
  s.pairs = by_key ? bits_by_key(stream, a, scratch) : bits_by_query(stream, a, scratch);
  if (a.dropout.is_kept) {
    s.kept = by_key ? kept_by_key(stream, a, scratch) : a.dropout.kept;
    s.kept_stride = s.pairs.num_rows * s.pairs.words_per_row;
  }
  PairBits edges = s.pairs;
  edges.row_mask = nullptr;
  edges.valid_stride = 0;
  edges.valid_columns = make_column_words(stream, scratch, nullptr, 1, s.pairs.num_columns).data;
  // Edges to keys that do not count weigh nothing, but have a straight-through gradient.
  result.lists = make_tile_lists(stream, scratch, a.ste.clusters > 0 ? edges : s.pairs,
                                 a.graph.form, a.batch, a.heads, kRowsPerBlock<T>);
  return result;
}

template <class T>
void differentiate(const Stream& stream, const AttendArrays& a, Arena& scratch) {
  const bool is_paper = a.ste.rule == SteRule::kPaper;
  const Operands<T> x = make_operands<T>(stream, a, scratch);
  Common common{.padded_queries = round_up(a.num_queries, kQueryPadding),
                .heads = static_cast<int>(a.heads),
                .dim = a.dim,
                .scale = a.scale,
                .score_to_log2 = a.scale * kLog2E,
                .dropout = a.dropout,
                .clusters = a.ste.clusters,
                .rule_slope = is_paper ? a.scale : 0.0f,
                .rule_offset = is_paper ? 0.0f : 1.0f,
                .window_radius = a.ste.window_radius,
                .regularizer = a.ste.regularizer,
                .clip = a.ste.clip};
  common.query_terms = make_query_terms(stream, a, common.padded_queries, scratch);
  for (Owner owner : {Owner::kQuery, Owner::kKey}) {
    tiles_backward::launch_passes(stream, owner, make_side(stream, owner, a, x, scratch), common);
  }
}

}  // namespace

void attend_tiles_backward(const Stream& stream, const AttendArrays& a, Arena& scratch) {
  if (a.graph.form != nullptr && !a.graph.may_have_bits) return;
  const Arena::Scope scope(scratch);
  with_real_type(a.storage, [&](auto zero) { differentiate<decltype(zero)>(stream, a, scratch); });
}

}  // namespace stipple::kernels::cuda
