// SPDX-License-Identifier: Apache-2.0
// Building blocks of vectorised attention: small matrix products, sums of gathered rows, scores of
// gathered keys and lane masks. Included by the translation unit of each instruction set; dropout,
// forward and backward are in the headers beside it.
#pragma once

#include <string.h>

#include "kernels/cpu/attend/bodies.h"
#include "kernels/cpu/simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

// 8 x 2 accumulators of AVX-512 and 4 x 2 of AVX2 hide the latency of two FMA ports and leave
// registers for the operands.
inline constexpr int kMicroRows = kWidth == 16 ? 8 : 4;
inline constexpr int kPanel = 2 * kWidth;  ///< columns of a micro product
static_assert(kMicroRows <= kMaxMicroRows && kTileRows % kMicroRows == 0);
static_assert(kTileKeys % kPanel == 0 && kTileKeys % 64 == 0 && kBlockKeys % kTileKeys == 0);
static_assert(kMaxMicroRows * kBlockKeys <= kTileRows * kTileKeys);

inline int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t round_up(int64_t a, int64_t multiple) {
  return (a + multiple - 1) / multiple * multiple;
}

// --- matrix products -----------------------------------------------------------------------------

/// The left factor: element (row, t) is data[row * row_stride + t * step].
struct LeftFactor {
  const float* data;
  int64_t row_stride;
  int64_t step;
};

/// The right factor: element (t, column) is data[t * step + column / kPanel * panel_stride + column
/// % kPanel].
struct RightFactor {
  const float* data;
  int64_t step;
  int64_t panel_stride;
};
inline RightFactor row_major(const float* data, int64_t columns) { return {data, columns, kPanel}; }
inline RightFactor packed_panels(const float* data, int64_t depth, int64_t first_column) {
  return {data + first_column * depth, kPanel, depth * kPanel};
}

/// c (+)= a b for `rows` <= kMicroRows rows and kVecs vectors of columns; the last vector has the
/// lanes of `last`. kOnto: terms are added to what is there one after the other, else their sum is.
template <int kVecs, bool kAdd, bool kOnto>
inline void multiply_micro(float* c, int64_t c_stride, LeftFactor a, const float* b, int64_t b_step,
                           int64_t rows, int64_t depth, Mask last) {
  const float* a_row[kMicroRows];
  Floats sum[kMicroRows][size_t{kVecs}];
#pragma GCC unroll 8
  for (int r = 0; r < kMicroRows; ++r) {
    // Missing rows repeat the last one: computed, never stored.
    a_row[r] = a.data + minimum(r, rows - 1) * a.row_stride;
#pragma GCC unroll 2
    for (int x = 0; x < kVecs; ++x) {
      const Mask lanes = x + 1 == kVecs ? last : first_lanes(kWidth);
      sum[r][x] =
          kOnto ? load(c + minimum(r, rows - 1) * c_stride + x * kWidth, lanes) : splat(0.0f);
    }
  }
  for (int64_t t = 0; t < depth; ++t) {
    Floats right[size_t{kVecs}];
#pragma GCC unroll 2
    for (int x = 0; x < kVecs; ++x) {
      right[x] = x + 1 == kVecs ? load(b + t * b_step + x * kWidth, last)
                                : load(b + t * b_step + x * kWidth);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kMicroRows; ++r) {
      const Floats left = splat(a_row[r][t * a.step]);
#pragma GCC unroll 2
      for (int x = 0; x < kVecs; ++x) sum[r][x] = fma(left, right[x], sum[r][x]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kMicroRows; ++r) {
    if (r >= rows) break;
    float* out = c + r * c_stride;
#pragma GCC unroll 2
    for (int x = 0; x < kVecs; ++x) {
      const Mask lanes = x + 1 == kVecs ? last : first_lanes(kWidth);
      Floats value = sum[r][x];
      if (kAdd && !kOnto) value = value + load(out + x * kWidth, lanes);
      store(out + x * kWidth, value, lanes);
    }
  }
}

/// c (+)= a b for any number of rows and columns.
template <bool kAdd, bool kOnto = false>
inline void multiply(float* c, int64_t c_stride, LeftFactor a, RightFactor b, int64_t rows,
                     int64_t columns, int64_t depth) {
  for (int64_t column = 0; column < columns; column += kPanel) {
    const float* b_panel = b.data + column / kPanel * b.panel_stride;
    const int64_t lanes = minimum(columns - column, kPanel);
    for (int64_t row = 0; row < rows; row += kMicroRows) {
      const LeftFactor a_rows = {a.data + row * a.row_stride, a.row_stride, a.step};
      const int64_t count = minimum(rows - row, kMicroRows);
      float* out = c + row * c_stride + column;
      if (lanes > kWidth) {
        multiply_micro<2, kAdd, kOnto>(out, c_stride, a_rows, b_panel, b.step, count, depth,
                                       first_lanes(lanes - kWidth));
      } else {
        multiply_micro<1, kAdd, kOnto>(out, c_stride, a_rows, b_panel, b.step, count, depth,
                                       first_lanes(lanes));
      }
    }
  }
}

/// The transpose of rows [count, depth] in panels of kPanel columns, zeros up to a multiple of
/// kTileKeys.
inline void pack_transposed(float* packed, const float* rows, int64_t count, int64_t depth) {
  for (int64_t first = 0; first < round_up(count, kTileKeys); first += kPanel) {
    float* panel = packed + first * depth;
    for (int64_t column = 0; column < kPanel; ++column) {
      const float* row = rows + (first + column) * depth;
      const bool exists = first + column < count;
      for (int64_t t = 0; t < depth; ++t) panel[t * kPanel + column] = exists ? row[t] : 0.0f;
    }
  }
}

// --- sums of gathered rows -----------------------------------------------------------------------

/// Rows to add up: for e in [0, count): weights[e] times row indices[e].
struct WeightedRows {
  const float* weights;
  const uint32_t* indices;
  int64_t count;
};

template <int kVecs, bool kMasked>
inline void accumulate_vectors(float* out, const WeightedRows& rows, const float* base,
                               int64_t width, Mask last) {
  constexpr int kUnroll = 8 / kVecs;  // eight sums in flight cover the latency
  Floats sum[size_t{kUnroll}][size_t{kVecs}];
#pragma GCC unroll 8
  for (int x = 0; x < kVecs; ++x) {
    sum[0][x] = kMasked ? load(out + x * kWidth, last) : load(out + x * kWidth);
#pragma GCC unroll 8
    for (int u = 1; u < kUnroll; ++u) sum[u][x] = splat(0.0f);
  }
  const auto add = [&](int u, int64_t e) {
    const float* row = base + static_cast<int64_t>(rows.indices[e]) * width;
    const Floats weight = splat(rows.weights[e]);
#pragma GCC unroll 8
    for (int x = 0; x < kVecs; ++x) {
      const Floats value = kMasked ? load(row + x * kWidth, last) : load(row + x * kWidth);
      sum[u][x] = fma(weight, value, sum[u][x]);
    }
  };
  int64_t e = 0;
  for (; e + kUnroll <= rows.count; e += kUnroll) {
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) add(u, e + u);
  }
  for (; e < rows.count; ++e) add(0, e);
#pragma GCC unroll 8
  for (int x = 0; x < kVecs; ++x) {
    Floats total = sum[0][x];
#pragma GCC unroll 8
    for (int u = 1; u < kUnroll; ++u) total = total + sum[u][x];
    if (kMasked) {
      store(out + x * kWidth, total, last);
    } else {
      store(out + x * kWidth, total);
    }
  }
}

/// out[0 ... width) += sum of weights times rows of base [*, width].
inline void accumulate_rows(float* out, const WeightedRows& rows, const float* base,
                            int64_t width) {
  const Mask all = first_lanes(kWidth);
  int64_t x = 0;
  for (; x + 8 * kWidth <= width; x += 8 * kWidth) {
    accumulate_vectors<8, false>(out + x, rows, base + x, width, all);
  }
  if (x + 4 * kWidth <= width) {
    accumulate_vectors<4, false>(out + x, rows, base + x, width, all);
    x += 4 * kWidth;
  }
  if (x + 2 * kWidth <= width) {
    accumulate_vectors<2, false>(out + x, rows, base + x, width, all);
    x += 2 * kWidth;
  }
  if (x + kWidth <= width) {
    accumulate_vectors<1, false>(out + x, rows, base + x, width, all);
    x += kWidth;
  }
  if (x < width) {
    accumulate_vectors<1, true>(out + x, rows, base + x, width, first_lanes(width - x));
  }
}

// --- scores of gathered keys ---------------------------------------------------------------------

/// Sums of products a[x] b[x] that add up to a . b.
inline Floats partial_dot(const float* a, const float* b, int64_t n) {
  Floats sum = splat(0.0f);
  int64_t x = 0;
  for (; x + kWidth <= n; x += kWidth) sum = fma(load(a + x), load(b + x), sum);
  if (x == n) return sum;
  const Mask lanes = first_lanes(n - x);
  return fma(load(a + x, lanes), load(b + x, lanes), sum);
}

inline float dot(const float* a, const float* b, int64_t n) {
  return reduce_add(partial_dot(a, b, n));
}

/// partial_dot of a query of kVecs vectors, which stays in registers; 0: of any length.
template <int kVecs>
struct GatheringQuery {
  Floats values[size_t{kVecs}];

  explicit GatheringQuery(const float* query) {
#pragma GCC unroll 8
    for (int x = 0; x < kVecs; ++x) values[x] = load(query + x * kWidth);
  }
  Floats partial_dot(const float* key, int64_t) const {
    Floats sum = values[0] * load(key);
#pragma GCC unroll 8
    for (int x = 1; x < kVecs; ++x) sum = fma(values[x], load(key + x * kWidth), sum);
    return sum;
  }
};
template <>
struct GatheringQuery<0> {
  const float* query;

  explicit GatheringQuery(const float* q) : query(q) {}
  Floats partial_dot(const float* key, int64_t n) const {
    return STIPPLE_SIMD::partial_dot(query, key, n);
  }
};

/// gather_scores of kVecs vectors a key. A key is done before the next one is begun: more addresses
/// than that do not fit in registers. The partial sums of kWidth keys meet in one transposed
/// reduction.
template <int kVecs>
inline void gather_scores_of(float* scores, const float* query, const float* keys, int64_t dim,
                             const uint32_t* columns, int64_t count, float scale) {
  const int64_t width = kVecs > 0 ? kVecs * kWidth : dim;
  const GatheringQuery<kVecs> gathering(query);
  const auto score = [&](float* out, const uint32_t* index) {
    Floats sum[kWidth];
#pragma GCC unroll 16
    for (int e = 0; e < kWidth; ++e) {
      sum[e] = gathering.partial_dot(keys + static_cast<int64_t>(index[e]) * width, width);
    }
    store(out, reduce_add_each(sum) * splat(scale));
  };
  int64_t e = 0;
  for (; e + kWidth <= count; e += kWidth) score(scores + e, columns + e);
  if (e == count) return;
  if constexpr (kWidth == 16) {  // where both reductions add the same pairs of lanes
    if (e + 1 == count) {
      const float* key = keys + static_cast<int64_t>(columns[e]) * width;
      return store(scores + e, splat(reduce_add(gathering.partial_dot(key, width)) * scale));
    }
  }
  uint32_t index[kWidth];  // lanes past the end repeat the last key
  for (int x = 0; x < kWidth; ++x) index[x] = columns[minimum(e + x, count - 1)];
  score(scores + e, index);
}

/// scores[e] = scale query . keys[columns[e]] for e < count. Writes whole vectors.
inline void gather_scores(float* scores, const float* query, const float* keys, int64_t dim,
                          const uint32_t* columns, int64_t count, float scale) {
  if (dim == 2 * kWidth) {
    gather_scores_of<2>(scores, query, keys, dim, columns, count, scale);
  } else if (dim == 4 * kWidth) {
    gather_scores_of<4>(scores, query, keys, dim, columns, count, scale);
  } else if (dim == 8 * kWidth) {
    gather_scores_of<8>(scores, query, keys, dim, columns, count, scale);
  } else {
    gather_scores_of<0>(scores, query, keys, dim, columns, count, scale);
  }
}

inline void scale_row(float* row, int64_t n, float factor) {
  for (int64_t x = 0; x < n; x += kWidth) {
    const Mask lanes = first_lanes(n - x);
    store(row + x, load(row + x, lanes) * splat(factor), lanes);
  }
}

// --- masks ---------------------------------------------------------------------------------------

/// key_mask as bits, zeros up to a multiple of kTileKeys. Returns the number of keys up to the last
/// one that counts.
inline int64_t pack_key_mask(uint32_t* words, const AttendProblem& p) {
  memset(words, 0, static_cast<size_t>(round_up(p.num_keys, kTileKeys) / 8));
  int64_t end = 0;
  for (int64_t j = 0; j < p.num_keys; ++j) {
    if (p.key_mask != nullptr && p.key_mask[j] == 0) continue;
    words[j / 32] |= 1u << (j % 32);
    end = j + 1;
  }
  return end;
}

/// Bits [begin, end) of a word, where these may lie anywhere.
inline uint32_t bits_between(int64_t begin, int64_t end) {
  const auto below = [](int64_t bit) { return bit <= 0 ? 0u : bit >= 32 ? ~0u : (1u << bit) - 1; };
  return below(end) & ~below(begin);
}

/// Which of 32 keys from `first` on are in the groups that query i wants.
inline uint32_t group_word(const AttendProblem& p, int64_t i, int64_t first) {
  const math::PatternRule& rule = p.pattern;
  const auto* keys = reinterpret_cast<const uint32_t*>(rule.key_group) + p.number * rule.key_stride;
  const Words own =
      splat_words(static_cast<uint32_t>(rule.query_group[p.number * rule.query_stride + i]));
  const int64_t count = minimum(p.num_keys - first, 32);
  uint32_t bits = 0;
  for (int64_t x = 0; x < count; x += kWidth) {
    const Words group = load(keys + first + x, first_lanes(count - x));
    const Mask found =
        rule.kind == PatternKind::kEarlierGroups ? less(group, own) : equal(group, own);
    bits |= mask_bits(found) << x;
  }
  return rule.kind == PatternKind::kOtherGroups ? ~bits : bits;
}

/// edge_word of a pattern; what it says of keys that do not exist does not matter.
inline uint32_t pattern_word(const AttendProblem& p, int64_t i, int64_t first) {
  const math::PatternRule& rule = p.pattern;
  const Range keys = rule.keys_of(i, p.num_keys);
  uint32_t bits = bits_between(keys.begin - first, keys.end - first);
  if (bits == 0 || rule.is_a_range()) return bits;
  if (rule.has_groups()) return bits & group_word(p, i, first);
  for (uint32_t rest = bits; rest != 0; rest &= rest - 1) {
    const int bit = __builtin_ctz(rest);
    if (!rule.has(p.number, i, first + bit)) bits &= ~(1u << bit);
  }
  return bits;
}

/// Which keys [32 word, 32 word + 32) row i attends to, regardless of key_mask.
inline uint32_t edge_word(const AttendProblem& p, int64_t i, int64_t word) {
  if (p.bits == nullptr) return p.pattern.is_everything() ? ~0u : pattern_word(p, i, 32 * word);
  return word < p.words_per_row ? p.bits[i * p.words_per_row + word] : 0u;
}

/// Does the pattern have a pair of rows [row, row + rows) and keys [key, key + kTileKeys)?
inline bool has_pairs(const AttendProblem& p, int64_t row, int64_t rows, int64_t key) {
  if (p.pattern.is_everything() || p.bits != nullptr) return true;
  const int64_t words = minimum(p.num_keys - key + 31, kTileKeys) / 32;
  for (int64_t i = row; i < row + rows; ++i) {
    for (int64_t w = 0; w < words; ++w) {
      const int64_t first = key + 32 * w;
      if ((pattern_word(p, i, first) & bits_between(0, p.num_keys - first)) != 0) return true;
    }
  }
  return false;
}

/// The mask of the kWidth lanes from bit `first` of a word, or of an array of words.
inline Mask word_lanes(uint32_t word, int64_t first) {
  return mask_from_bits(word >> first & ((1u << kWidth) - 1));
}
inline Mask lanes_at(const uint32_t* words, int64_t first) {
  return word_lanes(words[first / 32], first % 32);
}

inline Mask key_counts(const uint32_t* key_words, Words j) {
  const Words bit = shift_right(gather(key_words, j >> 5), j & splat_words(31));
  return equal(bit & splat_words(1), splat_words(1));
}

inline double density(const AttendProblem& p) {
  return static_cast<double>(p.row_ptr[p.num_queries]) /
         (static_cast<double>(p.num_queries) * static_cast<double>(p.num_keys));
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
