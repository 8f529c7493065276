// SPDX-License-Identifier: Apache-2.0
// The samplers' hot loops on the vectors of kernels/cpu/simd.h; included once per instruction set.
// Must give the bits of scalar.cpp.
#pragma once

#include "kernels/cpu/sample/alias_vector.h"
#include "kernels/cpu/sample/dot_vector.h"
#include "kernels/cpu/sample/filter_vector.h"
#include "kernels/cpu/sample/sample.h"
#include "kernels/cpu/sample/tile_vector.h"
#include "kernels/cpu/simd_longs.h"
#include "kernels/math/poisson.h"
#include "kernels/math/thinning.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

// --- rows ----------------------------------------------------------------------------------------

inline PhiloxWords broadcast_counter(const PhiloxCounter& counter, Words first_word) {
  return {{first_word, splat_words(counter[1]), splat_words(counter[2]), splat_words(counter[3])}};
}

// How many of the eight entries of a node are at most x.
inline int64_t count_up_to(const uint64_t* node, uint64_t x) {
#if defined(__AVX512F__)
  const __m512i limit = _mm512_set1_epi64(static_cast<int64_t>(x));
  return __builtin_popcount(_mm512_cmple_epu64_mask(_mm512_loadu_si512(node), limit));
#else
  const __m256i limit = _mm256_set1_epi64x(static_cast<int64_t>(x));
  uint32_t above = 0;
  for (int part = 0; part < 2; ++part) {
    const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(node + part * 4));
    const __m256d greater = _mm256_castsi256_pd(_mm256_cmpgt_epi64(sums, limit));
    above |= static_cast<uint32_t>(_mm256_movemask_pd(greater)) << (part * 4);
  }
  return SumTree::kFan - __builtin_popcount(above);
#endif
}

// One step of first_above: from an entry to the one below it.
inline int64_t descend(const uint64_t* level, int64_t entry, uint64_t x) {
  return entry * SumTree::kFan + count_up_to(level + entry * SumTree::kFan, x);
}

inline int64_t find_cluster(const RowDraws& row, uint64_t x) {
  int64_t entry = 0;
  for (int64_t level = row.rate_tree.num_levels - 1; level >= 0; --level) {
    entry = descend(row.rates + row.rate_tree.first[level], entry, x);
  }
  return entry;
}

// Draws that take every step together, so that they wait for memory side by side.
inline constexpr int64_t kDrawStage = 128;

struct DrawStage {
  alignas(64) uint32_t words[4][kDrawStage];
  alignas(64) uint64_t table[kDrawStage];  // first entry of the cluster's alias table
  alignas(64) uint32_t keys[kDrawStage];
};

inline void draw_words(const RowDraws& row, int64_t first, int64_t count, DrawStage& stage) {
  for (int64_t e = 0; e < count; e += kWidth) {
    const Words draws = splat_words(row.counter[0] + static_cast<uint32_t>(first + e)) + iota();
    const PhiloxWords random = philox4x32(broadcast_counter(row.counter, draws), row.key);
    for (int w = 0; w < 4; ++w) store(stage.words[w] + e, random.w[w]);
  }
}

inline void choose_clusters(const RowDraws& row, int64_t count, DrawStage& stage) {
  const KeyTables& tables = *row.tables;
  const uint64_t total = row.rates[tables.num_clusters];
  for (int64_t e = 0; e < count; ++e) {
    const uint64_t uniform = uint64_t{stage.words[0][e]} << 32 | stage.words[1][e];
    const int64_t cluster = find_cluster(row, math::multiply_high(uniform, total));
    stage.table[e] = static_cast<uint64_t>(cluster * tables.num_keys);
  }
  for (int64_t e = count; e % kLongWidth != 0; ++e) stage.table[e] = 0;
}

// As draw_item does for one draw at a time.
inline void draw_items(const KeyTables& tables, int64_t count, DrawStage& stage) {
  const Longs size = splat_longs(tables.num_keys);
  const Longs low_half = splat_longs(0xFFFFFFFF);
  for (int64_t e = 0; e < count; e += kLongWidth) {
    // Upper words first: bits 32 to 95 of the product of 96.
    const Longs product = multiply_low(widen(stage.words[2] + e), size) +
                          (multiply_low(widen(stage.words[3] + e), size) >> 32);
    const Longs bucket = product >> 32;
    const Longs entry = gather(tables.entries, load(stage.table + e) + bucket);
    const LongMask is_own = less(product & low_half, entry >> 32);
    store_narrow(stage.keys + e, select(is_own, bucket, entry));
  }
}

inline void draw_keys(const RowDraws& row, int64_t count, uint32_t* keys) {
  DrawStage stage;
  for (int64_t first = 0; first < count; first += kDrawStage) {
    const int64_t n = count - first < kDrawStage ? count - first : kDrawStage;
    draw_words(row, first, n, stage);
    choose_clusters(row, n, stage);
    draw_items(*row.tables, n, stage);
    memcpy(keys + first, stage.keys, static_cast<size_t>(n) * sizeof(uint32_t));
  }
}

inline bool is_kept(const RowThinning& row, uint32_t j, uint32_t word) {
  const float* z = row.z + int64_t{j} * row.num_clusters;
  const float sum = lane_dot(row.mu, z, row.num_clusters) + row.delta;
  return static_cast<double>(word) < math::acceptance(sum, row.oversampling) * 0x1p32;
}

inline int64_t thin(const RowThinning& row, uint32_t* keys, int64_t count) {
  int64_t kept = 0;
  const Words certain = splat_words(row.certain);
  for (int64_t first = 0; first < count; first += kWidth) {
    const int64_t n = count - first < kWidth ? count - first : kWidth;
    const Mask some = first_lanes(n);
    const Words candidates = load(keys + first, some);
    const Words random = philox4x32(broadcast_counter(row.counter, candidates), row.key).w[0];
    alignas(64) uint32_t key[kWidth];
    alignas(64) uint32_t word[kWidth];
    store(key, candidates);
    store(word, random);
    uint32_t keep = mask_bits(less(random, certain) & some);
    for (uint32_t open = mask_bits(some) & ~keep; open != 0; open &= open - 1) {
      const int e = __builtin_ctz(open);
      keep |= is_kept(row, key[e], word[e]) ? 1u << e : 0u;
    }
    for (int64_t e = 0; e < n; ++e) {
      keys[kept] = key[e];
      kept += keep >> e & 1;
    }
  }
  return kept;
}

inline constexpr SampleKernels kSampleKernels{lane_dot,           tile_rows, count_bits,
                                              build_alias_tables, draw_keys, thin};
inline constexpr SampleKernels kSampleKernelsVnni{
    lane_dot, filtered_tile_rows, count_bits, build_alias_tables, draw_keys, thin};

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
