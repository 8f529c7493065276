// SPDX-License-Identifier: Apache-2.0
// Backward of attention over bits or all pairs: prepares operands, masks and lists of tiles, then
// launches two kernels, each of which owns what it writes (attend_tiles_backward_pass.cuh): one by
// query, one by key. More clusters than registers hold take further passes.
#include "kernels/cuda/attend_parts.h"
#include "kernels/cuda/attend_tiles_backward.cuh"
#include "kernels/cuda/device.cuh"

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
  if (stream.device().type == DeviceType::kMeta) return terms;
  launch(stream, {.grid = blocks_for(total, kThreads), .block = kThreads}, query_terms_kernel,
         terms, padded, a.lse, a.delta, a.num_queries, total);
  return terms;
}

template <class T>
struct Operands {
  const T* q;
  const T* k;
  const T* v;
  const T* dout;
  const T* y;
  const T* z;
};

template <Owner owner, class T>
OwnedSide<T> make_side(const Stream& stream, const AttendArrays& a, const Operands<T>& x,
                       int64_t membership_pitch, Arena& scratch) {
  constexpr bool kByKey = owner == Owner::kKey;
  OwnedSide<T> result;
  Side<T>& s = result.side;
  s.rows[0] = kByKey ? x.k : x.q;
  s.rows[1] = kByKey ? x.v : x.dout;
  s.columns[0] = kByKey ? x.q : x.k;
  s.columns[1] = kByKey ? x.dout : x.v;
  s.memberships = kByKey ? x.y : x.z;
  s.membership_pitch = membership_pitch;
  s.gradients[0] = kByKey ? a.dk : a.dq;
  s.gradients[1] = kByKey ? a.dv : nullptr;
  s.membership_gradient = kByKey ? a.ste.column_grad : a.ste.row_grad;
  s.pairs = kByKey ? bits_by_key(stream, a, scratch) : bits_by_query(stream, a, scratch);
  PairBits edges = s.pairs;
  edges.row_mask = nullptr;
  edges.valid_stride = 0;
  edges.valid_columns = make_column_words(stream, scratch, nullptr, 1, s.pairs.num_columns).data;
  // Edges to keys that do not count weigh nothing, but have a straight-through gradient.
  result.lists = make_tile_lists(stream, scratch, a.ste.clusters > 0 ? edges : s.pairs,
                                 a.graph.form, a.batch, a.heads, kRowsPerBlock<T>);
  return result;
}

template <class T, int kDim>
void differentiate(const Stream& stream, const AttendArrays& a, Arena& scratch) {
  const int64_t n = a.problems() * a.num_queries;
  const int64_t m = a.problems() * a.num_keys;
  const int64_t clusters = a.ste.clusters;
  const bool is_paper = a.ste.rule == SteRule::kPaper;
  int64_t pitch = 0;
  tiles_backward::with_chunk<tiles_backward::kMostClusters<T, kDim>>(clusters, [&](auto chunk) {
    if constexpr (chunk() > 0) pitch = round_up(clusters, chunk());
  });
  const auto rows = [&](const float* from, int64_t count) {
    return make_rows<T>(stream, scratch, from, count, a.dim, kDim);
  };
  const auto memberships = [&](const float* from, int64_t count) -> const T* {
    return clusters == 0 ? nullptr : make_rows<T>(stream, scratch, from, count, clusters, pitch);
  };
  const Operands<T> x = {
      rows(a.q, n),           rows(a.k, m), rows(a.v, m), rows(a.dout, n), memberships(a.ste.y, n),
      memberships(a.ste.z, m)};
  Common common{.form = a.graph.form,
                .padded_queries = round_up(a.num_queries, kQueryPadding),
                .heads = static_cast<int>(a.heads),
                .dim = a.dim,
                .scale = a.scale,
                .score_to_log2 = a.scale * kLog2E,
                .dropout = a.dropout,
                .clusters = clusters,
                .rule_slope = is_paper ? a.scale : 0.0f,
                .rule_offset = is_paper ? 0.0f : 1.0f,
                .self_loop = a.ste.self_loop,
                .regularizer = a.ste.regularizer,
                .clip = a.ste.clip};
  common.query_terms = make_query_terms(stream, a, common.padded_queries, scratch);
  tiles_backward::launch_passes<T, Owner::kQuery, kDim>(
      stream, make_side<Owner::kQuery>(stream, a, x, pitch, scratch), common, a.problems());
  tiles_backward::launch_passes<T, Owner::kKey, kDim>(
      stream, make_side<Owner::kKey>(stream, a, x, pitch, scratch), common, a.problems());
}

}  // namespace

void attend_tiles_backward(const Stream& stream, const AttendArrays& a, Arena& scratch) {
  if (a.graph.form != nullptr && !a.graph.may_have_bits) return;
  const Arena::Scope scope(scratch);
  with_padded_dim(a.dim, [&](auto dim) {
    if (stream.precision() == Precision::kBf16) {
      differentiate<bf16, dim>(stream, a, scratch);
    } else {
      differentiate<float, dim>(stream, a, scratch);
    }
  });
}

}  // namespace stipple::kernels::cuda
