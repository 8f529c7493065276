// SPDX-License-Identifier: Apache-2.0
// Between the call of attend_tiles_backward and its kernels, which are compiled apart for each
// storage of operands (tiles_backward_bf16.cu, tiles_backward_fp32.cu).
#pragma once

#include "kernels/cuda/attend/parts.h"
#include "kernels/cuda/attend/tiles.cuh"

namespace stipple::kernels::cuda::tiles_backward {

/// Whose gradients a kernel owns. By query: dq and row_grad, looping over keys. By key: dk, dv and
/// column_grad, looping over queries.
enum class Owner { kQuery, kKey };

/// bf16: as many as registers allow, because every block reads the whole other side.
template <class T>
constexpr int kRowsPerBlock = sizeof(T) == 2 ? 128 : 64;

/// What is the same for all instances. Rows belong to the owner, columns to the other side.
template <class T>
struct Side {
  const T* rows[2] = {};           ///< q and dout, or k and v: [P * num_rows, D padded]
  const T* columns[2] = {};        ///< the other two
  const T* memberships = nullptr;  ///< z, or y: [P * num_columns, membership_pitch]
  int64_t membership_pitch = 0;    ///< clusters padded to 16 bytes
  int64_t first_cluster = 0;       ///< of this pass
  PairBits pairs;
  const uint32_t* kept =
      nullptr;  ///< what dropout kept, like the bits of pairs; null: draw it anew
  int64_t kept_stride = 0;
  T* gradients[2] = {};
  T* membership_gradient = nullptr;
};

/// Scalars and what belongs to queries.
struct Common {
  const float2* query_terms = nullptr;  ///< [P, padded_queries]: lse * log2 e, delta
  int64_t padded_queries = 0;
  int heads = 0;
  int64_t dim = 0;
  float scale = 1.0f;
  float score_to_log2 = 1.0f;  ///< scale * log2 e
  WeightDropout dropout;
  int64_t clusters = 0;
  float rule_slope = 0.0f;  ///< f = ds (rule_slope * product + rule_offset)
  float rule_offset = 1.0f;
  int window_radius = -1;
  float regularizer = 0.0f;
  float clip = 0.0f;
};

/// The graph as rows and columns of one owner.
template <class T>
struct OwnedSide {
  Side<T> side;
  TileLists lists;
};

/// Writes all gradients of one owner. Rows are padded as with_padded_dim(common.dim) says.
template <class T>
void launch_passes(const Stream&, Owner, OwnedSide<T>, const Common&);

}  // namespace stipple::kernels::cuda::tiles_backward
