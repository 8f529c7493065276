// SPDX-License-Identifier: Apache-2.0
// The samplers' hot loops on the vectors of kernels/cpu/simd.h; included once per instruction set.
// Must give the bits of sample_scalar.cpp.
#pragma once

#include "kernels/cpu/sample.h"
#include "kernels/cpu/simd.h"
#include "kernels/math/poisson.h"
#include "kernels/math/thinning.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

inline float dot(const float* a, const float* b, int64_t n) {
  constexpr int kParts = 16 / kWidth;
  Floats sums[kParts] = {};
  for (Floats& sum : sums) sum = splat(0.0f);
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    for (int part = 0; part < kParts; ++part) {
      const int64_t at = k + part * kWidth;
      sums[part] = fma(load(a + at), load(b + at), sums[part]);
    }
  }
  for (int part = 0; part < kParts && k + part * kWidth < n; ++part) {
    const int64_t at = k + part * kWidth;
    const Mask rest = first_lanes(n - at);
    sums[part] = fma(load(a + at, rest), load(b + at, rest), sums[part]);
  }
  for (int part = 1; part < kParts; ++part) sums[0] = sums[0] + sums[part];
  return reduce_add(sums[0]);
}

// --- tiles
// -----------------------------------------------------------------------------------------

// A panel is 4 vectors of keys wide: vector v, lane l is key 4 l + v, so that the four words of one
// Philox block are the uniforms of its four vectors. The rows of a tile fill the registers with
// sums.
inline constexpr int kVectors = 4;
inline constexpr int64_t kPanel = kVectors * kWidth;
inline constexpr int kTileRows = kWidth == 16 ? 6 : 2;
static_assert(kPanel <= kMaxPanel);

// panel[k, v, l] = z[first + 4 l + v, k], zeros beyond the last key.
inline void pack_panel(const SampleProblem& problem, int64_t first, float* panel) {
  for (int64_t column = 0; column < kPanel; ++column) {
    float* out = panel + column % kVectors * kWidth + column / kVectors;
    const int64_t j = first + column;
    const bool exists = j < problem.num_keys;
    const float* z = problem.z + (exists ? j : 0) * problem.num_clusters;
    for (int64_t k = 0; k < problem.num_clusters; ++k) out[k * kPanel] = exists ? z[k] : 0.0f;
  }
}

inline uint64_t real_keys(const SampleProblem& problem, int64_t first) {
  uint64_t bits = 0;
  for (int64_t column = 0; column < kPanel && first + column < problem.num_keys; ++column) {
    bits |= uint64_t{problem.is_real_key(first + column)} << column;
  }
  return bits;
}

struct TileSums {
  Floats at[kTileRows][kVectors];
};

inline TileSums multiply_tile(const float* const (&mu)[kTileRows], const float* panel,
                              int64_t num_clusters, float start) {
  TileSums sums;
  for (auto& row : sums.at) {
    for (Floats& sum : row) sum = splat(start);
  }
  for (int64_t k = 0; k < num_clusters; ++k) {
    Floats z[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) z[v] = load(panel + k * kPanel + v * kWidth);
#pragma GCC unroll 6
    for (int r = 0; r < kTileRows; ++r) {
      const Floats m = splat(mu[r][k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums.at[r][v] = fma(m, z[v], sums.at[r][v]);
    }
  }
  return sums;
}

inline Floats positive_probability(Floats rate) {
  const Floats t = min(rate, splat(32.0f)) * splat(0.03125f);
  Floats q = splat(-1.0f / 720);
  q = fma(q, t, splat(1.0f / 120));
  q = fma(q, t, splat(-1.0f / 24));
  q = fma(q, t, splat(1.0f / 6));
  q = fma(q, t, splat(-0.5f));
  q = fma(q, t, splat(1.0f)) * t;
  for (int doubling = 0; doubling < 5; ++doubling) q = fma(splat(0.0f) - q, q, q + q);
  return q;
}

template <bool kCollapse>
uint64_t keep_bits(const Floats (&p)[kVectors], const PhiloxWords& words) {
  constexpr uint64_t kEveryFourth = 0x1111111111111111ull;
  uint64_t bits = 0;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    Floats probability = max(p[v], splat(0.0f));
    if constexpr (kCollapse) probability = positive_probability(probability);
    const Words threshold = truncate(probability * splat(kKeepScale));
    bits |= _pdep_u64(mask_bits(less(words.w[v] >> 1, threshold)), kEveryFourth << v);
  }
  return bits;
}

inline void store_bits(uint32_t* row, int64_t words, int64_t first_word, uint64_t bits) {
  row[first_word] = static_cast<uint32_t>(bits);
  if (kPanel > 32 && first_word + 1 < words) {
    row[first_word + 1] = static_cast<uint32_t>(bits >> 32);
  }
}

template <bool kCollapse>
void sample_panel(const SampleProblem& problem, Range rows, int64_t first, const float* panel,
                  uint32_t* bits) {
  const int64_t words = (problem.num_keys + 31) / 32;
  const uint64_t real = real_keys(problem, first);
  PhiloxWords counter;
  counter.w[0] = splat_words(static_cast<uint32_t>(first / 4)) + iota();
  counter.w[2] = splat_words(problem.sample);
  counter.w[3] = splat_words(problem.stream(Purpose::kEdgeTile));
  for (int64_t i = rows.begin; i < rows.end; i += kTileRows) {
    const float* mu[kTileRows];
    for (int64_t r = 0; r < kTileRows; ++r) {
      // Rows beyond the last are the last once more; their bits are not stored.
      const int64_t row = i + r < rows.end ? i + r : rows.end - 1;
      mu[r] = problem.mu + row * problem.num_clusters;
    }
    const TileSums p = multiply_tile(mu, panel, problem.num_clusters, problem.delta);
    for (int64_t r = 0; r < kTileRows && i + r < rows.end; ++r) {
      counter.w[1] = splat_words(static_cast<uint32_t>(i + r));
      const uint64_t drawn = keep_bits<kCollapse>(p.at[r], philox4x32(counter, problem.key));
      store_bits(bits + (i + r - rows.begin) * words, words, first / 32,
                 problem.is_real_query(i + r) ? drawn & real : 0);
    }
  }
}

inline void tile_rows(const SampleProblem& problem, Range rows, float* panel, uint32_t* bits) {
  for (int64_t first = 0; first < problem.num_keys; first += kPanel) {
    pack_panel(problem, first, panel);
    if (problem.law == MaskLaw::kBernoulli) {
      sample_panel<false>(problem, rows, first, panel, bits);
    } else {
      sample_panel<true>(problem, rows, first, panel, bits);
    }
  }
}

// --- rows
// ------------------------------------------------------------------------------------------

inline PhiloxWords broadcast_counter(const PhiloxCounter& counter, Words first_word) {
  return {{first_word, splat_words(counter[1]), splat_words(counter[2]), splat_words(counter[3])}};
}

// at[e] += the number of the first of `count` entries of sums + at[e] that exceeds x[e], as
// first_above; all searches take each step together, so that they wait for memory side by side.
inline void search(const uint64_t* sums, int64_t count, const uint64_t (&x)[kWidth],
                   int64_t (&at)[kWidth]) {
  while (count > 1) {
    const int64_t half = count / 2;
    for (int e = 0; e < kWidth; ++e) {
      at[e] += half & -static_cast<int64_t>(sums[at[e] + half - 1] <= x[e]);
    }
    count -= half;
  }
}

// Steps that all draws of a vector take together, as find_block takes them one by one.
inline void find_blocks(const RowDraws& row, const PhiloxWords& random, BlockDraw (&draw)[kWidth]) {
  const KeyTables& tables = *row.tables;
  alignas(64) uint32_t words[4][kWidth];
  for (int w = 0; w < 4; ++w) store(words[w], random.w[w]);
  const uint64_t total = row.rates[tables.num_clusters];
  uint64_t x[kWidth];
  uint64_t uniform[kWidth];
  int64_t cluster[kWidth] = {};
  for (int e = 0; e < kWidth; ++e) {
    x[e] = math::multiply_high(uint64_t{words[0][e]} << 32 | words[1][e], total);
    uniform[e] = uint64_t{words[2][e]} << 32 | words[3][e];
  }
  search(row.rates, tables.num_clusters + 1, x, cluster);
  int64_t first[kWidth];
  int64_t block[kWidth];
  for (int e = 0; e < kWidth; ++e) {
    // Exploration goes along with cluster 0 and is put right at the end.
    first[e] = (cluster[e] == tables.num_clusters ? 0 : cluster[e]) * tables.num_blocks;
    block[e] = first[e];
    x[e] = math::multiply_high(uniform[e], tables.blocks[first[e] + tables.num_blocks - 1]);
  }
  search(tables.blocks, tables.num_blocks, x, block);
  for (int e = 0; e < kWidth; ++e) {
    const uint64_t before = block[e] == first[e] ? 0 : tables.blocks[block[e] - 1];
    draw[e] = {tables.within + block[e] * kKeyBlock, static_cast<int32_t>(x[e] - before),
               static_cast<uint32_t>((block[e] - first[e]) * kKeyBlock)};
    __builtin_prefetch(draw[e].within);
    if (cluster[e] == tables.num_clusters) draw[e] = explore(tables, uniform[e]);
  }
}

inline void draw_keys(const RowDraws& row, int64_t count, uint32_t* keys) {
  for (int64_t first = 0; first < count; first += kWidth) {
    const Words draws = splat_words(row.counter[0] + static_cast<uint32_t>(first)) + iota();
    BlockDraw draw[kWidth];
    find_blocks(row, philox4x32(broadcast_counter(row.counter, draws), row.key), draw);
    for (int64_t e = 0; e < kWidth && first + e < count; ++e) keys[first + e] = find_key(draw[e]);
  }
}

inline int64_t thin(const RowThinning& row, uint32_t* keys, int64_t count) {
  int64_t kept = 0;
  for (int64_t first = 0; first < count; first += kWidth) {
    const int64_t n = count - first < kWidth ? count - first : kWidth;
    const Words candidates = load(keys + first, first_lanes(n));
    alignas(64) uint32_t key[kWidth];
    alignas(64) uint32_t word[kWidth];
    store(key, candidates);
    store(word, philox4x32(broadcast_counter(row.counter, candidates), row.key).w[0]);
    for (int64_t e = 0; e < n; ++e) {
      const float* z = row.z + int64_t{key[e]} * row.num_clusters;
      const float sum = dot(row.mu, z, row.num_clusters) + row.delta;
      const double p = static_cast<double>(sum < 1.0f ? sum : 1.0f);
      const double ratio = row.oversampling == 0.0 ? p : math::thinning_ratio(p, row.oversampling);
      keys[kept] = key[e];
      kept += static_cast<double>(word[e]) < ratio * 0x1p32 ? 1 : 0;
    }
  }
  return kept;
}

inline constexpr SampleKernels kSampleKernels{dot, tile_rows, draw_keys, thin};

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
