// SPDX-License-Identifier: Apache-2.0
// Inside CUDA's attend_*: all B * H problems of one call as plain pointers, as kernels take them,
// and the two ways to compute them. attend.cu fills the struct, computes delta and launches both
// ways; each way's blocks leave at once where a problem has the other form, so the host never has
// to know which form a sampler chose.
#pragma once

#include "core/arena.h"
#include "core/rng.h"
#include "core/stream.h"
#include "kernels/attend.h"
#include "kernels/edges.h"
#include "kernels/math/pattern.h"

namespace stipple::kernels::cuda {

/// Dropout of attention weights, see AttentionDropout.
struct WeightDropout {
  bool is_on = false;
  uint32_t drop_below = 0;  ///< words below are dropped
  float rescale = 1.0f;     ///< 1 / (1 - rate)
  RngKey rng;
  int layer = 0;
  int first_head = 0;
  const uint32_t* samples = nullptr;  ///< [B]
  /// Forward writes the bits of the tiles that it visits for backward to read, by query in lane order
  /// like a graph's; a plan has the room, but no address.
  bool is_kept = false;
  uint32_t* kept = nullptr;
  int64_t kept_stride = 0;  ///< words from problem to problem
};

WeightDropout weight_dropout(const AttentionDropout&);

/// The graph of all problems; p's arrays start at p * stride.
struct GraphArrays {
  const EdgeForm* form = nullptr;                ///< [P]; null: the pairs of the pattern
  const int32_t* row_ptr = nullptr;              // [P, N + 1]
  const int32_t* column_ptr = nullptr;           // [P, M + 1]
  const uint32_t* by_query = nullptr;            ///< bits in lane order or CSR columns
  const uint32_t* by_key = nullptr;              ///< bits in lane order or CSC rows
  const uint16_t* query_multiplicity = nullptr;  ///< null: 1 each
  const uint16_t* key_multiplicity = nullptr;
  int64_t query_stride = 0;
  int64_t key_stride = 0;
  bool may_have_bits = false;
};

/// Straight-through gradient, see StraightThrough.
struct StraightThroughArrays {
  int64_t clusters = 0;  ///< 0: none wanted
  void* row_grad = nullptr;
  void* column_grad = nullptr;
  const void* y = nullptr;
  const void* z = nullptr;
  SteRule rule = SteRule::kScoreGradient;
  float regularizer = 0.0f;
  float clip = 0.0f;
  int window_radius = -1;
};

struct AttendArrays {
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t num_queries = 0;               ///< N
  int64_t num_keys = 0;                  ///< M
  int64_t dim = 0;                       ///< D
  Precision storage = Precision::kFp32;  ///< of every array given as void here and in ste
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const uint8_t* key_mask = nullptr;  ///< [B, M]; null: all keys
  float scale = 1.0f;
  WeightDropout dropout;
  math::PatternRule pattern{};
  GraphArrays graph{};
  void* o = nullptr;     ///< written in forward
  float* lse = nullptr;  ///< written in forward, read in backward; -inf: a row without keys
  // Backward only.
  const void* dout = nullptr;
  const float* delta = nullptr;  ///< [B, H, N]
  void* dq = nullptr;
  void* dk = nullptr;
  void* dv = nullptr;
  StraightThroughArrays ste{};

  int64_t problems() const { return batch * heads; }
};

/// Head dimensions up to this.
inline constexpr int64_t kMaxHeadDim = 128;

// Tensor-core tiles over all pairs or bits (tiles.cu, tiles_backward.cu).
void attend_tiles(const Stream&, const AttendArrays&, Arena& scratch);
void attend_tiles_backward(const Stream&, const AttendArrays&, Arena& scratch);

// One warp per query, or per key, over CSR or CSC (gather.cu).
void attend_gather(const Stream&, const AttendArrays&);
void attend_gather_backward(const Stream&, const AttendArrays&);

// Library calls, for graphs of any form (cusparse.cpp).
void attend_cusparse(const Stream&, const AttendArrays&, Arena& scratch);
void attend_cusparse_backward(const Stream&, const AttendArrays&, Arena& scratch);

}  // namespace stipple::kernels::cuda
