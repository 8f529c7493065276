// SPDX-License-Identifier: Apache-2.0
// The tile sampler on the vectors of kernels/cpu/simd.h: probabilities of a tile of pairs are summed
// in registers, each is compared with a word of Philox. Must give the bits of scalar.cpp.
#pragma once

#include "kernels/cpu/sample/sample.h"
#include "kernels/cpu/simd.h"
#include "kernels/math/thinning.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

// A panel is 4 vectors of keys wide: vector v, lane l is key 4 l + v, so that the four words of one
// Philox block are the uniforms of its four vectors. The rows of a tile fill the registers with
// sums.
inline constexpr int kVectors = 4;
inline constexpr int64_t kSamplePanel = kVectors * kWidth;
inline constexpr int kTileRows = kWidth == 16 ? 6 : 2;
static_assert(kSamplePanel <= kMaxPanel);
inline constexpr uint64_t kEveryFourth = 0x1111111111111111ull;
/// Rows whose uniforms are made side by side.
inline constexpr int kUniformRows = kWidth == 16 ? 2 : 1;
static_assert(kTileRows % kUniformRows == 0);

/// Where key `column` of a panel stands in it.
inline int64_t panel_slot(int64_t column) { return column % kVectors * kWidth + column / kVectors; }

// panel[k, slot] = z[first + column, k], zeros beyond the last key.
inline void pack_panel(const SampleProblem& problem, int64_t first, float* panel) {
  for (int64_t column = 0; column < kSamplePanel; ++column) {
    float* out = panel + panel_slot(column);
    const int64_t j = first + column;
    const bool exists = j < problem.num_keys;
    const float* z = problem.z + (exists ? j : 0) * problem.num_clusters;
    for (int64_t k = 0; k < problem.num_clusters; ++k) out[k * kSamplePanel] = exists ? z[k] : 0.0f;
  }
}

inline uint64_t real_keys(const SampleProblem& problem, int64_t first) {
  uint64_t bits = 0;
  for (int64_t column = 0; column < kSamplePanel && first + column < problem.num_keys; ++column) {
    bits |= uint64_t{problem.is_real_key(first + column)} << column;
  }
  return bits;
}

// --- rows that are drawn -------------------------------------------------------------------------

/// The real queries among the rows of a call: the others have no edges.
struct TileQueries {
  int64_t count = 0;
  int32_t at[kMaxTileRows];  // numbers within the rows of the call
};

inline TileQueries real_queries(const SampleProblem& problem, Range rows) {
  TileQueries queries;
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    queries.at[queries.count] = static_cast<int32_t>(i - rows.begin);
    queries.count += problem.is_real_query(i) ? 1 : 0;
  }
  return queries;
}

inline void clear_other_rows(const TileQueries& queries, int64_t num_rows, int64_t words,
                             uint32_t* bits) {
  for (int64_t row = 0, next = 0; row < num_rows; ++row) {
    if (next < queries.count && queries.at[next] == row) {
      ++next;
    } else {
      memset(bits + row * words, 0, static_cast<size_t>(words) * sizeof(uint32_t));
    }
  }
}

// --- uniforms ------------------------------------------------------------------------------------

/// Philox of a panel's pairs. Lanes differ in counter word 0 alone, rows in word 1 alone, so what
/// the first three rounds make of word 0 serves all rows, and what the first two make of word 1
/// serves all lanes: five of twenty products are left out.
class TileUniforms {
 public:
  TileUniforms(const SampleProblem& problem, int64_t first) : keys_(problem.key) {
    const uint64_t constant = uint64_t{philox::kMultiplier1} * problem.sample;
    row_ = static_cast<uint32_t>(constant >> 32) ^ keys_.k0[0];
    const Words word1 = splat_words(static_cast<uint32_t>(constant) ^ keys_.k0[1]);
    const Words word3 = splat_words(problem.stream(Purpose::kEdgeTile) ^ keys_.k1[0]);
    const Words m0 = splat_words(philox::kMultiplier0);
    const Words m1 = splat_words(philox::kMultiplier1);
    const Words blocks = splat_words(static_cast<uint32_t>(first / 4)) + iota();
    for (int half = 0; half < 2; ++half) {
      Lanes& lanes = lanes_[half];
      const Words p0 = multiply_even(m0, half == 0 ? blocks : swap_neighbours(blocks));
      lanes.word2 = p0;
      const Words p1 = multiply_even(m1, swap_neighbours(p0) ^ word3);
      lanes.word1 = p1 ^ splat_words(keys_.k0[2]);
      const Words last = multiply_even(m0, swap_neighbours(p1) ^ word1);
      lanes.word2_after = swap_neighbours(last) ^ splat_words(keys_.k1[2]);
      lanes.word3_after = last;
    }
  }

  /// words[r].w[v] are the uniforms of vector v for row i[r].
  void of_rows(const int64_t (&i)[kUniformRows], PhiloxWords (&words)[kUniformRows]) const {
    PhiloxHalves rows[kUniformRows];
#pragma GCC unroll 2
    for (int r = 0; r < kUniformRows; ++r) {
      const uint64_t product =
          uint64_t{philox::kMultiplier0} * (row_ ^ static_cast<uint32_t>(i[r]));
      const Words high = splat_words(static_cast<uint32_t>(product >> 32) ^ keys_.k1[1]);
      const Words low = splat_words(static_cast<uint32_t>(product));
      for (int half = 0; half < 2; ++half) {
        const Lanes& lanes = lanes_[half];
        const Words p1 = multiply_even(splat_words(philox::kMultiplier1), lanes.word2 ^ high);
        rows[r].half[half] = {
            {swap_neighbours(p1) ^ lanes.word1, p1, lanes.word2_after ^ low, lanes.word3_after}};
      }
    }
    finish_philox(rows, keys_, 3, words);
  }

 private:
  struct Lanes {
    Words word2;                     // after round 1, but for the row's part: see of_rows
    Words word1;                     // after round 2, with the key of round 3
    Words word2_after, word3_after;  // after round 3, but for the row's part
  };
  PhiloxKeys keys_;
  uint32_t row_;
  Lanes lanes_[2];
};

// --- a tile in fp32 ------------------------------------------------------------------------------

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
    for (int v = 0; v < kVectors; ++v) z[v] = load(panel + k * kSamplePanel + v * kWidth);
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

/// The bits of four masks, in the order of the keys.
inline uint64_t panel_bits(const Mask (&masks)[kVectors]) {
  uint64_t bits = 0;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) bits |= _pdep_u64(mask_bits(masks[v]), kEveryFourth << v);
  return bits;
}

template <bool kCollapse>
uint64_t keep_bits(const Floats (&p)[kVectors], const PhiloxWords& words) {
  Mask kept[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    Floats probability = max(p[v], splat(0.0f));
    if constexpr (kCollapse) probability = positive_probability(probability);
    kept[v] = less(words.w[v] >> 1, truncate(probability * splat(math::kKeepScale)));
  }
  return panel_bits(kept);
}

inline void store_bits(uint32_t* row, int64_t words, int64_t first_word, uint64_t bits) {
  row[first_word] = static_cast<uint32_t>(bits);
  if (kSamplePanel > 32 && first_word + 1 < words) {
    row[first_word + 1] = static_cast<uint32_t>(bits >> 32);
  }
}

inline int32_t count_bits(const uint32_t* bits, int64_t words) {
  int32_t count = 0;
  int64_t w = 0;
  for (; w + 2 <= words; w += 2) {
    uint64_t two;
    memcpy(&two, bits + w, sizeof two);
    count += __builtin_popcountll(two);
  }
  return w < words ? count + __builtin_popcount(bits[w]) : count;
}

/// What all tiles of one panel have in common.
struct PanelTask {
  const SampleProblem& problem;
  const TileQueries& queries;
  int64_t first_row;
  int64_t first_key;
  uint64_t real;  // keys
  TileUniforms uniforms;
  uint32_t* bits;

  /// Query begin + r; beyond the last it is the last once more, whose bits are stored again.
  int32_t row(int64_t begin, int r) const {
    return queries.at[begin + r < queries.count ? begin + r : queries.count - 1];
  }
  /// Uniforms of query q and the next.
  void draw(int64_t q, PhiloxWords (&words)[kUniformRows]) const {
    int64_t rows[kUniformRows];
    for (int r = 0; r < kUniformRows; ++r) rows[r] = first_row + row(q, r);
    uniforms.of_rows(rows, words);
  }
  /// Whether no key is real: then all rows are done.
  bool clears_padding() const {
    for (int64_t q = 0; real == 0 && q < queries.count; ++q) store(queries.at[q], 0);
    return real == 0;
  }
  void store(int32_t row, uint64_t drawn) const {
    const int64_t words = (problem.num_keys + 31) / 32;
    store_bits(bits + row * words, words, first_key / 32, drawn & real);
  }
};

template <bool kCollapse>
void sample_tile(const PanelTask& task, int64_t begin, const float* panel) {
  const SampleProblem& problem = task.problem;
  const float* mu[kTileRows];
  for (int r = 0; r < kTileRows; ++r) {
    mu[r] = problem.mu + (task.first_row + task.row(begin, r)) * problem.num_clusters;
  }
  const TileSums p = multiply_tile(mu, panel, problem.num_clusters, problem.delta);
  for (int r = 0; r < kTileRows && begin + r < task.queries.count; r += kUniformRows) {
    PhiloxWords words[kUniformRows];
    task.draw(begin + r, words);
#pragma GCC unroll 2
    for (int s = 0; s < kUniformRows; ++s) {
      task.store(task.row(begin, r + s), keep_bits<kCollapse>(p.at[r + s], words[s]));
    }
  }
}

/// Calls visit(task) for every panel with a real key; padded rows and keys have no edges.
template <class Visit>
void for_each_panel(const SampleProblem& problem, const TileQueries& queries, Range rows,
                    uint32_t* bits, const Visit& visit) {
  clear_other_rows(queries, rows.size(), (problem.num_keys + 31) / 32, bits);
  for (int64_t first = 0; first < problem.num_keys; first += kSamplePanel) {
    const PanelTask task{problem,
                         queries,
                         rows.begin,
                         first,
                         real_keys(problem, first),
                         TileUniforms(problem, first),
                         bits};
    if (!task.clears_padding()) visit(task);
  }
}

template <bool kCollapse>
void sample_tiles(const SampleProblem& problem, Range rows, const TileScratch& scratch,
                  uint32_t* bits) {
  const TileQueries queries = real_queries(problem, rows);
  for_each_panel(problem, queries, rows, bits, [&](const PanelTask& task) {
    pack_panel(problem, task.first_key, scratch.panel);
    for (int64_t begin = 0; begin < queries.count; begin += kTileRows) {
      sample_tile<kCollapse>(task, begin, scratch.panel);
    }
  });
}

inline void tile_rows(const SampleProblem& problem, Range rows, const TileScratch& scratch,
                      uint32_t* bits) {
  if (problem.law == MaskLaw::kBernoulli) {
    sample_tiles<false>(problem, rows, scratch, bits);
  } else {
    sample_tiles<true>(problem, rows, scratch, bits);
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
