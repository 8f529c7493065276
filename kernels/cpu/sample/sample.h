// SPDX-License-Identifier: Apache-2.0
// Inside `sample_edges`: one problem as the samplers see it, and the hot loops that exist once per
// instruction set. All copies of a hot loop give the same bits: sums have a fixed order and every
// multiply-add is fused.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/cpu/isa.h"
#include "core/range.h"
#include "core/rng.h"
#include "core/view.h"
#include "kernels/math/key_tables.h"
#include "kernels/sbm.h"

namespace stipple::kernels::cpu {

using math::AliasEntry;
using math::KeyTables;
using math::SumTree;

/// One (sample, head).
struct SampleProblem {
  const float* mu = nullptr;            // [N, K]
  const float* z = nullptr;             // [M, K]
  const uint8_t* query_mask = nullptr;  // [N]; null: all real
  const uint8_t* key_mask = nullptr;    // [M]
  int64_t num_queries = 0;
  int64_t num_keys = 0;
  int64_t num_clusters = 0;
  MaskLaw law = MaskLaw::kBernoulli;
  float delta = 0.0f;
  int64_t window_radius = -1;
  PhiloxKey key;
  uint32_t sample = 0;
  int layer = 0;
  int head = 0;

  bool is_real_query(int64_t i) const { return query_mask == nullptr || query_mask[i] != 0; }
  bool is_real_key(int64_t j) const { return key_mask == nullptr || key_mask[j] != 0; }
  /// Keys that query i always sees, padding among them; none: of a query that has no such.
  Range window(int64_t i) const {
    if (window_radius < 0 || !is_real_query(i)) return {i, i};
    return {std::max<int64_t>(0, i - window_radius), std::min(num_keys, i + window_radius + 1)};
  }
  uint32_t stream(Purpose purpose) const { return stream_word(layer, head, purpose); }
};

/// Columns of the packed keys that the tile sampler works on at a time, at most.
inline constexpr int64_t kMaxPanel = 64;

/// Rows of one call of the tile sampler, at most: few enough to share among threads, many enough to
/// make up for packing the keys.
inline constexpr int64_t kMaxTileRows = 768;

/// Tile rows that wait as bits for their counts (law poisson_multi).
inline constexpr int64_t kCountedRowRun = 256;

/// How pairs were decided, for benchmarks and tests.
struct TileWork {
  int64_t open = 0;        ///< pairs that the product of bytes left open
  int64_t canonical = 0;   ///< of them, those that needed the sum in the canonical order
  int64_t wide_pairs = 0;  ///< drawn in fp32 at once, because the bound of their tile is too wide
};

/// In what the tile sampler works, and how.
struct TileScratch {
  static constexpr int64_t kQueryFacts = 10;
  static constexpr int64_t padded_clusters(int64_t num_clusters) {
    return (num_clusters + 15) / 16 * 16;
  }

  float* panel = nullptr;         // [K, kMaxPanel]  packed keys
  int8_t* query_codes = nullptr;  // [kMaxTileRows, padded K]
  uint8_t* key_codes = nullptr;   // [padded K, kMaxPanel]
  float* query_facts = nullptr;   // [kQueryFacts, kMaxTileRows]

  TileWork* work = nullptr;  ///< counted up where given
  // For tests.
  float bound_scale = 1.0f;      ///< below 1 the bounds are no longer certified
  bool is_always_bytes = false;  ///< also where fp32 is faster
};

/// Alias tables that are made side by side, at most.
inline constexpr int64_t kAliasColumns = 16;

/// Alias tables to be made of the keys' weights in some clusters.
struct AliasBuild {
  const uint32_t* weights = nullptr;  // [columns, stride]
  const uint64_t* totals = nullptr;   // [columns]  their sums
  uint64_t* items = nullptr;          // [kAliasColumns, 2, stride]  to work in
  AliasEntry* entries = nullptr;      // [columns, M]  written
  int64_t num_columns = 0;
  int64_t num_keys = 0;  ///< M, at least 1

  /// Whole vectors, and one more that is written past the end.
  static constexpr int64_t stride_of(int64_t num_keys) { return (num_keys + 31) / 16 * 16; }
  int64_t stride() const { return stride_of(num_keys); }
};

/// What row i's draws need: the clusters' rates as running sums; entry K is exploration.
struct RowDraws {
  const KeyTables* tables = nullptr;
  SumTree rate_tree;                // of K + 1 entries
  const uint64_t* rates = nullptr;  // [rate_tree.size]
  PhiloxKey key;
  PhiloxCounter counter;  // word 0 numbers the draw
};

/// What accepting row i's candidates needs.
struct RowThinning {
  const float* mu = nullptr;  // [K]
  const float* z = nullptr;   // [M, K]
  int64_t num_clusters = 0;
  float delta = 0.0f;
  double oversampling =
      0.0;  ///< c; 0: the candidates are all keys, each is kept with probability p itself
  uint32_t certain = 0;  ///< candidates whose word is smaller are kept whatever their probability
  PhiloxKey key;
  PhiloxCounter counter;  // word 0 is the key
};

struct SampleKernels {
  /// sum of a[k] b[k]: product k goes to lane k % 16 by fused multiply-add, lanes are added as a
  /// tree.
  float (*dot)(const float* a, const float* b, int64_t n);
  /// One bit per pair of rows [begin, end), kMaxTileRows at most: row-major, ceil(M / 32) words a
  /// row.
  void (*tile_rows)(const SampleProblem&, Range rows, const TileScratch&, uint32_t* bits);
  /// How many bits are set.
  int32_t (*count_bits)(const uint32_t* bits, int64_t words);
  void (*build_alias_tables)(const AliasBuild&);
  /// keys[e] = key of draw counter[0] + e.
  void (*draw_keys)(const RowDraws&, int64_t count, uint32_t* keys);
  /// Moves the accepted keys to the front, order kept; returns how many.
  int64_t (*thin)(const RowThinning&, uint32_t* keys, int64_t count);
};

extern const SampleKernels kSampleScalar;
extern const SampleKernels kSampleAvx2;
extern const SampleKernels kSampleAvx512;
extern const SampleKernels kSampleAvx2Vnni;    ///< tiles by products of bytes, where certain
extern const SampleKernels kSampleAvx512Vnni;  ///< the same
const SampleKernels& sample_kernels();         ///< of the instruction set in force

}  // namespace stipple::kernels::cpu
