// SPDX-License-Identifier: Apache-2.0
// What the instruction-set specific bodies of entmax attention get to see: attention's problem and
// what entmax adds to it, and scratch already cut to size.
#pragma once

#include <cstdint>

#include "kernels/attend_entmax.h"
#include "kernels/cpu/attend/bodies.h"
#include "kernels/cpu/entmax/bodies.h"

namespace stipple::kernels::cpu {

/// EdgeGroups of one problem; queries null: none. The group behind the last is that of tokens that
/// have none.
struct EntmaxGroups {
  int64_t count = 0;
  const int32_t* queries = nullptr;
  const int32_t* query_ptr = nullptr;
  const int32_t* keys = nullptr;
  const int32_t* key_ptr = nullptr;
};

/// `scale` is that of x: (alpha - 1) temperature scale.
struct EntmaxProblem : AttendProblem {
  float alpha = 1.5f;
  float temperature = 1.0f;
  float gradient_scale = 1.0f;  ///< temperature scale: of s
  int64_t room = kEntmaxRoom;   ///< columns of a row's support
  EntmaxGroups groups;          ///< of edges in CSR

  float* o2 = nullptr;  ///< null in forward: no backward follows
  float* tau = nullptr;
  int32_t* size = nullptr;  ///< null in forward: not asked
  uint32_t* support = nullptr;

  const float* final_o2 = nullptr;
  const float* final_tau = nullptr;
  const int32_t* final_size = nullptr;
  const uint32_t* final_support = nullptr;
  float* dalpha = nullptr;  ///< null: not asked
  float* dtemperature = nullptr;
};

/// A row with more keys than this in its support is dense: what follows goes over tiles of all keys.
/// From about here on that is faster (bench_entmax, sigma 0.1), and only such rows cost more than
/// their supports.
constexpr int64_t entmax_dense_from(int64_t num_keys) {
  return num_keys / 8 > kEntmaxRoom ? num_keys / 8 : kEntmaxRoom;
}

inline constexpr int64_t kGroupRows = 64;  ///< of one group that are worked on together
inline constexpr int64_t kGroupTileFloats = kGroupRows * 256;  ///< five of them stay in L2
inline constexpr int64_t kMostGroupKeys = 1024;  ///< of one that is worked on by tiles

/// Scratch of one worker for the scores of some rows.
struct EntmaxScoreBuffers {
  float* packed_keys;  ///< [D, M] transposed, in panels
  float* tile;         ///< [kMaxMicroRows, kBlockKeys]
  float* queries;      ///< [kMaxMicroRows, D]  scaled
  uint32_t* key_words;
  uint32_t* row_words;  ///< a row of CSR as bits
  float* lanes;         ///< [kMaxMicroRows, 64]  maxima
  float* scores;        ///< [kMaxMicroRows, stride]  candidates of each row
  uint32_t* columns;    ///< the same, the key of each
  int64_t stride;
  float* spare_scores;  ///< [stride]
  uint32_t* spare_columns;
  float* group_scores;   ///< [kGroupTileFloats]  rows x keys of one group; null: there are none
  float* group_queries;  ///< [kGroupRows, D]  scaled
};

inline constexpr int64_t kDenseRows = 128;  ///< dense rows of one sweep over keys in backward

/// Scratch for pairs whose query and key are of different groups.
struct EntmaxStrayBuffers {
  int32_t* query_group;  ///< [N]
  int32_t* key_place;    ///< [M]  in EntmaxGroups::keys
  int64_t room;
  EdgeGradient* pairs;   ///< [room]  of query `other`, by query
  uint32_t* keys;        ///< [room]  of those
  EdgeGradient* by_key;  ///< [room]
  uint32_t* key_end;     ///< [M]  where each key's end in by_key
  uint32_t* next;        ///< [M]  the first of each that has not been added yet
};

/// Scratch for gradients of rows and keys of one group.
struct EntmaxGroupTiles {
  float* dweights;  ///< [kGroupTileFloats]  rows x keys, as below
  float* dscores;
  float* weights;
  float* queries[3];  ///< [kGroupRows, D]  as they are, douts and dqueries
  float* keys[3];     ///< [kMostGroupKeys, D]  as they are, dkeys and dvalues
};

/// Scratch of one worker in backward.
struct EntmaxBackwardBuffers {
  EntmaxScoreBuffers rows;
  float* packed_values;   ///< [D, M] transposed, in panels
  float* dtile;           ///< [kMaxMicroRows, kBlockKeys]  dout . v
  float* dweights;        ///< [kMaxMicroRows, stride]  of candidates
  float* weights;         ///< [stride]  of a row: p
  float* dense_rows[3];   ///< [kDenseRows, D]  queries, douts and dqueries of dense rows
  float* dense_tiles[2];  ///< [kTileRows, kTileKeys]
  uint16_t* dense_lanes;  ///< [kDenseRows, M / 8]  which keys of a vector a row has
  int64_t max_edges;
  EdgeGradient* by_row;  ///< [max_edges]  of a chunk of rows
  EdgeGradient* by_column;
  uint32_t* column_start;  ///< [M + 1]
  int32_t* row_start;      ///< [kChunkRows]  in by_row; a row may have fewer edges than room
  int32_t* row_count;      ///< [kChunkRows]
  EntmaxStrayBuffers strays;
  EntmaxGroupTiles group;
};

/// The bodies for one instruction set.
struct AttendEntmaxBodies {
  /// Of rows [first_row, last_row), or of those in these places of groups.queries.
  void (*forward)(const EntmaxProblem&, const EntmaxScoreBuffers&, int64_t first_row,
                  int64_t last_row);
  void (*backward)(const EntmaxProblem&, const EntmaxBackwardBuffers&, const BackwardPart&);
};
namespace scalar {
extern const AttendEntmaxBodies kAttendEntmax;
}
namespace avx2 {
extern const AttendEntmaxBodies kAttendEntmax;
}
namespace avx512 {
extern const AttendEntmaxBodies kAttendEntmax;
}

}  // namespace stipple::kernels::cpu
