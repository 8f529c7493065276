// SPDX-License-Identifier: Apache-2.0
// What the instruction-set specific bodies of attention get to see: one problem p = (sample, head)
// as plain pointers, and scratch already cut to size. No types with inline functions, so that
// nothing compiled for one instruction set is linked into another.
#pragma once

#include <cstdint>

#include "core/range.h"
#include "core/rng.h"
#include "kernels/attend.h"
#include "kernels/math/pattern.h"

namespace stipple::kernels::cpu {

inline constexpr int64_t kMaxLanes =
    16;  ///< of any instruction set: slack behind arrays written by whole vectors
inline constexpr int64_t kMaxMicroRows = 8;  ///< query rows whose scores are computed together
inline constexpr int64_t kTileRows = 32;     ///< query rows of a dense tile
inline constexpr int64_t kBitTile = 64;      ///< query rows and keys of a tile of bits in backward
inline constexpr int64_t kTileKeys =
    128;  ///< keys of a dense tile; packed keys are padded to a multiple
inline constexpr int64_t kTileFloats = 5120;  ///< room of a tile in backward
inline constexpr int64_t kBlockKeys =
    512;  ///< keys scored at once before compaction: a micro tile of 16 KB
inline constexpr int64_t kSweepKeys = 2048;  ///< keys whose compacted scores a row holds at a time
inline constexpr int64_t kTaskRows =
    512;  ///< query rows of a forward task: amortises packing the keys
inline constexpr int64_t kCachedFloats =
    1 << 18;  ///< of rows to gather: half the second-level cache, results stream through the rest
inline constexpr int64_t kChunkRows = 2048;  ///< query rows between a row and a column pass

/// Dropout of one problem's weights, see AttentionDropout.
struct DropoutStream {
  bool on = false;
  uint32_t drop_below = 0;  ///< words below are dropped
  float rescale = 1.0f;     ///< 1 / (1 - rate)
  PhiloxKey key;
  uint32_t sample = 0;
  uint32_t stream = 0;
};

/// The edges are bits, or columns, or, when both are null, the pairs of the pattern. Gradients are
/// null in forward, o and lse written there.
struct AttendProblem {
  int64_t number = 0;  ///< p
  int64_t num_queries = 0;
  int64_t num_keys = 0;
  int64_t dim = 0;
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  float* o = nullptr;
  float* lse = nullptr;
  const uint8_t* key_mask = nullptr;
  float scale = 1.0f;
  DropoutStream dropout;
  uint32_t* kept = nullptr;  ///< AttentionDropout::kept; null: nobody keeps them
  math::PatternRule pattern;

  const uint32_t* bits = nullptr;
  int64_t words_per_row = 0;
  const uint32_t* columns = nullptr;
  const uint16_t* multiplicity = nullptr;
  const int32_t* row_ptr = nullptr;

  const float* final_o = nullptr;  ///< null where delta is there
  const float* final_lse = nullptr;
  const float* delta = nullptr;  ///< null: made of dout and final_o
  const float* dout = nullptr;
  float* dq = nullptr;
  float* dk = nullptr;
  float* dv = nullptr;

  int64_t clusters = 0;  ///< 0: no straight-through gradient
  float* row_grad = nullptr;
  float* column_grad = nullptr;
  const float* y = nullptr;
  const float* z = nullptr;
  SteRule rule = SteRule::kScoreGradient;
  float regularizer = 0.0f;
  float clip = 0.0f;
  int64_t window_radius = -1;
};

/// What one task of backward makes of the pairs queries x keys.
struct BackwardPart {
  Range queries;
  Range keys;
  bool by_query = true;  ///< dq and row_grad of the queries; keys are then all of them
  bool by_key = true;    ///< dk, dv and column_grad of the keys; queries are then all of them
};

/// What backward keeps of an edge between its row pass and its column pass.
struct EdgeGradient {
  float dscore;  ///< scale ds
  float weight;  ///< W r: the dropped and rescaled attention weight
  float dp;
  uint32_t other;  ///< the key in row order, the query in column order
};

/// Scratch of one worker in forward.
struct ForwardBuffers {
  float* packed_keys;   ///< [D, M] transposed, in panels
  uint32_t* key_words;  ///< key_mask as bits
  float* scores;        ///< [kMaxMicroRows, kSweepKeys + slack]
  uint32_t* columns;    ///< the same, the key of each score
  float* tile;          ///< [kTileRows, kTileKeys] or [kMaxMicroRows, kBlockKeys]
};

/// Scratch of one worker in backward.
struct BackwardBuffers {
  float* packed_keys;
  float* packed_values;
  float* packed_queries;  ///< [kBitTile, D] of a tile's rows, in panels
  float* packed_douts;
  uint32_t* key_words;
  float* tiles[3];       ///< [kTileFloats]
  float* scores;         ///< [M + slack] of a row in CSR
  float* dweights;       ///< do . v
  int64_t max_edges;     ///< room of the two below, at least M
  EdgeGradient* by_row;  ///< of a chunk of rows
  EdgeGradient* by_column;
  uint32_t* column_start;  ///< [M + 1]
  int32_t* next_edge;      ///< [kChunkRows]: where each row goes on in the next tile of keys
};

/// The bodies for one instruction set.
struct AttendBodies {
  void (*forward)(const AttendProblem&, const ForwardBuffers&, int64_t first_row, int64_t last_row);
  void (*backward)(const AttendProblem&, const BackwardBuffers&, const BackwardPart&);
  float (*dot)(const float* a, const float* b, int64_t n);  ///< as delta is made
};
namespace scalar {
extern const AttendBodies kAttend;
}
namespace avx2 {
extern const AttendBodies kAttend;
}
namespace avx512 {
extern const AttendBodies kAttend;
}

}  // namespace stipple::kernels::cpu
