// SPDX-License-Identifier: Apache-2.0
// What the tile kernels of attention are made of: rows in shared memory, products of them on tensor
// cores in bf16 or exact to fp32 rounding, the graph's bits as a warp wants them, dropout in the
// same shape, and the lists of tiles that are not empty.
//
// A block has kTileThreads threads; warp w owns 16 * kGroups consecutive rows of a row block (of
// queries, or in backward also of keys) and walks over tiles of kTileColumns columns (keys, or
// queries). T is the storage of an operand: bf16, or float, whose products are sums of six products
// of bf16 parts.
//
// Order of a block of products in a warp (Sums, and every mask): with g = lane / 4, t = lane % 4,
// element e of c[group][v] is row 16 group + g + 8 (e / 2), column 8 v + 2 t + e % 2. Masks hold
// one bit for each element of a group against kTileColumns columns: element (v, e) is bit
// 2 v + e % 2 + 16 (e / 2). See has_bit().
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "core/arena.h"
#include "core/bf16.h"
#include "core/cuda/runtime.h"
#include "kernels/cuda/attend/parts.h"
#include "kernels/cuda/device.cuh"

namespace stipple::kernels::cuda {

inline constexpr int kTileWarps = 4;
inline constexpr int kTileThreads = kTileWarps * kWarpSize;
inline constexpr int kTileColumns = 64;

// --- rows in shared memory -----------------------------------------------------------------------

/// kRows x kDim elements in shared memory, kBytes of them. Eights of a row's elements are permuted,
/// so that no access below meets a bank twice (fp32 of 16 columns: transposed loads, twice).
template <class T, int kRows, int kDim>
struct SharedTile {
  static_assert(kDim % 16 == 0 && kRows % 16 == 0);
  static constexpr int kBytes = kRows * kDim * static_cast<int>(sizeof(T));
  T* data = nullptr;

  SharedTile() = default;
  __device__ explicit SharedTile(std::byte* memory) : data(reinterpret_cast<T*>(memory)) {}
  // Only the low bits of the eight are permuted, and the rest added, so that it ends up in the
  // address part of an instruction.
  __device__ static int offset(int row, int column) {
    const int eight = column / 8;
    return row * kDim + eight / kPermuted * kPermuted * 8 +
           (eight % kPermuted ^ permutation(row)) * 8 + column % 8;
  }
  __device__ T* at(int row, int column) const { return data + offset(row, column); }
  /// The same of row first_row + row, first_row a multiple of 8: the permutation does not depend on
  /// it, so that it ends up in the address part of an instruction, too.
  __device__ T* at(int first_row, int row, int column) const {
    return data + first_row * kDim + offset(row, column);
  }

 private:
  static constexpr int kEightsPerLine = sizeof(T) == 2 ? 8 : 4;  // of 128 bytes
  static constexpr int kPermuted = kDim / 8 < kEightsPerLine ? kDim / 8 : kEightsPerLine;

  __device__ static int permutation(int row) {
    if constexpr (kPermuted < kEightsPerLine) {
      return row / (kEightsPerLine / kPermuted) % kPermuted;
    } else if constexpr (sizeof(T) == 2) {
      return row % 8;
    } else {
      return (row % 4) ^ (row / 4 % 2);
    }
  }
};

/// Starts copying kColumns columns of rows first_row.. of `from`, row-major [num_rows, kPitch] in
/// global memory, 16-byte aligned; rows outside [0, num_rows) become zeros. kPitch 0: of [num_rows,
/// pitch] from first_column on, and zeros for columns that it does not have. All kThreads threads of
/// the block call it, then commit_copies(); wait_for_copies() and sync_threads() before the tile is
/// read. Every thread copies the same number of times and in one column, so that addresses are
/// constants apart.
template <int kThreads, int kPitch, class T, int kRows, int kColumns>
__device__ inline void copy_columns_async(const SharedTile<T, kRows, kColumns>& to, const T* from,
                                          int64_t first_row, int64_t num_rows,
                                          int64_t pitch = kPitch, int64_t first_column = 0) {
  constexpr int kPerCopy = 16 / static_cast<int>(sizeof(T));
  constexpr int kCopiesPerRow = kColumns / kPerCopy;
  constexpr int kRowStep = kThreads / kCopiesPerRow;
  static_assert(kThreads % kCopiesPerRow == 0);
  const int row = static_cast<int>(threadIdx.x) / kCopiesPerRow;
  const int column = static_cast<int>(threadIdx.x) % kCopiesPerRow * kPerCopy;
  const bool has_column = kPitch > 0 || first_column + column < pitch;
  const int64_t left = has_column ? num_rows - first_row : 0;
  const int rows = (left < kRows ? static_cast<int>(left) : kRows) - row;
  const T* source = from + (first_row + row) * pitch + first_column + column;
  // Wide rows of fp32 take so many copies that addresses of all at once would spill.
  [[maybe_unused]] constexpr int kUnrolled = kRows / kRowStep <= 8 ? 8 : 4;
#pragma unroll kUnrolled
  for (int r = 0; r < kRows; r += kRowStep) {
    if (kRows % kRowStep != 0 && row + r >= kRows) break;
    copy_async_16(to.at(r / 8 * 8, row + r % 8, column), source + r * pitch, r < rows);
  }
}
template <int kThreads = kTileThreads, class T, int kRows, int kDim>
__device__ inline void copy_tile_async(const SharedTile<T, kRows, kDim>& to, const T* from,
                                       int64_t first_row, int64_t num_rows) {
  copy_columns_async<kThreads, kDim>(to, from, first_row, num_rows);
}

// --- products ------------------------------------------------------------------------------------

/// Operands of 16 x 8 x 16 products, elements as in device.cuh. Of float: the bf16 parts high,
/// middle and low of each element, which add up to it exactly.
template <class T>
struct FragmentA;
template <class T>
struct FragmentB;
template <>
struct FragmentA<bf16> {
  uint32_t part[1][4];
};
template <>
struct FragmentB<bf16> {
  uint32_t part[1][2];
};
template <>
struct FragmentA<float> {
  uint32_t part[3][4];
};
template <>
struct FragmentB<float> {
  uint32_t part[3][2];
};

/// Register r of every part of a fragment: elements x (lower half) and y.
template <class Fragment>
__device__ inline void set_elements(Fragment& f, int r, float x, float y) {
  constexpr int kParts = sizeof(f.part) / sizeof(f.part[0]);
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const uint32_t packed = pack_bf16(x, y);
    f.part[p][r] = packed;
    if (p + 1 < kParts) {
      x -= std::bit_cast<float>(packed << 16);
      y -= std::bit_cast<float>(packed & 0xFFFF0000u);
    }
  }
}

// `row` and `column` are multiples of 16.

/// A = tile[row .. row + 16)[column .. column + 16).
template <int kRows, int kDim>
__device__ inline void load_a(FragmentA<bf16>& a, const SharedTile<bf16, kRows, kDim>& tile,
                              int row, int column) {
  const int lane = lane_index();
  load_matrices(a.part[0], tile.at(row, lane % 16, column + lane / 16 * 8));
}
template <int kRows, int kDim>
__device__ inline void load_a(FragmentA<float>& a, const SharedTile<float, kRows, kDim>& tile,
                              int row, int column) {
  const int g = lane_index() / 4;
  const int t = lane_index() % 4;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const float* x = tile.at(row, g + r % 2 * 8, column + r / 2 * 8 + 2 * t);
    const float2 pair = *reinterpret_cast<const float2*>(x);
    set_elements(a, r, pair.x, pair.y);
  }
}

/// b[0], b[1] = columns 0..7 and 8..15 of the transpose of tile[row .. row + 16)[column .. column +
/// 16): the tile's rows are the product's columns.
template <int kRows, int kDim>
__device__ inline void load_b(FragmentB<bf16> (&b)[2], const SharedTile<bf16, kRows, kDim>& tile,
                              int row, int column) {
  const int lane = lane_index();
  uint32_t r[4];
  load_matrices(r, tile.at(row, lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8));
  b[0] = {{{r[0], r[1]}}};
  b[1] = {{{r[2], r[3]}}};
}
template <int kRows, int kDim>
__device__ inline void load_b(FragmentB<float> (&b)[2], const SharedTile<float, kRows, kDim>& tile,
                              int row, int column) {
  const int g = lane_index() / 4;
  const int t = lane_index() % 4;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float* x = tile.at(row, 8 * n + g, column + 8 * r + 2 * t);
      const float2 pair = *reinterpret_cast<const float2*>(x);
      set_elements(b[n], r, pair.x, pair.y);
    }
  }
}

/// b[0], b[1] = columns 0..7 and 8..15 of tile[row .. row + 16)[column .. column + 16): the tile's
/// rows are the inner dimension.
template <int kRows, int kDim>
__device__ inline void load_b_by_rows(FragmentB<bf16> (&b)[2],
                                      const SharedTile<bf16, kRows, kDim>& tile, int row,
                                      int column) {
  const int lane = lane_index();
  uint32_t r[4];
  load_matrices_transposed(r, tile.at(row, lane % 16, column + lane / 16 * 8));
  b[0] = {{{r[0], r[1]}}};
  b[1] = {{{r[2], r[3]}}};
}
template <int kRows, int kDim>
__device__ inline void load_b_by_rows(FragmentB<float> (&b)[2],
                                      const SharedTile<float, kRows, kDim>& tile, int row,
                                      int column) {
  const int g = lane_index() / 4;
  const int t = lane_index() % 4;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int inner = 8 * r + 2 * t;
      set_elements(b[n], r, *tile.at(row, inner, column + 8 * n + g),
                   *tile.at(row, inner + 1, column + 8 * n + g));
    }
  }
}

/// c += a b; of float only the product of the high parts, the rest goes to `small`, smallest first.
__device__ inline void multiply_add(float (&c)[4], float (&)[4], const FragmentA<bf16>& a,
                                    const FragmentB<bf16>& b) {
  multiply_add(c, a.part[0], b.part[0]);
}
__device__ inline void multiply_add(float (&c)[4], float (&small)[4], const FragmentA<float>& a,
                                    const FragmentB<float>& b) {
  multiply_add(small, a.part[2], b.part[0]);
  multiply_add(small, a.part[0], b.part[2]);
  multiply_add(small, a.part[1], b.part[1]);
  multiply_add(small, a.part[1], b.part[0]);
  multiply_add(small, a.part[0], b.part[1]);
  multiply_add(c, a.part[0], b.part[0]);
}

/// 16 kGroups rows x kColumns columns in a warp's registers, in the order given above.
template <int kGroups, int kColumns>
struct Sums {
  float c[kGroups][kColumns / 8][4];

  __device__ void clear() {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int v = 0; v < kColumns / 8; ++v) {
#pragma unroll
        for (int e = 0; e < 4; ++e) c[g][v][e] = 0.0f;
      }
    }
  }
};

/// Two neighbouring elements of a result, in memory aligned to both.
__device__ inline void store_pair(float* to, float x, float y) {
  *reinterpret_cast<float2*>(to) = make_float2(x, y);
}
__device__ inline void store_pair(bf16* to, float x, float y) {
  *reinterpret_cast<uint32_t*>(to) = pack_bf16(x, y);
}

/// A left operand of 16 kGroups rows and kInner columns, held in registers.
template <class T, int kGroups, int kInner>
struct HeldRows {
  static constexpr bool kIsHeld = true;
  FragmentA<T> a[kGroups][kInner / 16];

  __device__ const FragmentA<T>& operator()(int group, int step) const { return a[group][step]; }
  /// tile[first_row ..][0 .. kInner)
  template <int kRows, int kDim>
  __device__ void load(const SharedTile<T, kRows, kDim>& tile, int first_row) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int x = 0; x < kInner / 16; ++x) load_a(a[g][x], tile, first_row + 16 * g, 16 * x);
    }
  }
  /// What a product left in registers, without a way through memory.
  __device__ void set(const Sums<kGroups, kInner>& sums) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int x = 0; x < kInner / 16; ++x) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float(&c)[4] = sums.c[g][2 * x + r / 2];
          set_elements(a[g][x], r, c[r % 2 * 2], c[r % 2 * 2 + 1]);
        }
      }
    }
  }
};

/// The same, left in shared memory and loaded at each use: fewer registers, more loads.
template <class T, int kRows, int kDim>
struct RowsInShared {
  static constexpr bool kIsHeld = false;
  SharedTile<T, kRows, kDim> tile;
  int first_row;

  __device__ FragmentA<T> operator()(int group, int step) const {
    FragmentA<T> a;
    load_a(a, tile, first_row + 16 * group, 16 * step);
    return a;
  }
};

namespace detail {

/// sums += a b, where b(pair of fragments, step, column) starts at first_column; `small` as in the
/// products of fragments.
template <class T, int kInner, int kGroups, int kSums, int kSmall, class A, class LoadB>
__device__ inline void multiply_add_steps(Sums<kGroups, kSums>& sums, Sums<kGroups, kSmall>& small,
                                          const A& a, const LoadB& b, int first_column = 0) {
  [[maybe_unused]] constexpr int kUnrolled =
      A::kIsHeld ? kInner / 16 : (std::is_same_v<T, bf16> ? 2 : 1);
#pragma unroll kUnrolled
  for (int x = 0; x < kInner / 16; ++x) {
    FragmentA<T> left[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) left[g] = a(g, x);
#pragma unroll
    for (int v = 0; v < kSums / 8; v += 2) {
      FragmentB<T> pair[2];
      b(pair, x, first_column + 8 * v);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          cuda::multiply_add(sums.c[g][v + n], small.c[g][v + n], left[g], pair[n]);
        }
      }
    }
  }
}

/// sums += a b. In bf16 step by step, so that many products are under way at once. Of float each
/// product is summed in registers of its own and then added with correct rounding, because tensor
/// cores truncate: column by column where `a` is held, else all columns together, so that `a` is
/// loaded once.
template <class T, int kInner, int kGroups, int kColumns, class A, class LoadB>
__device__ inline void multiply_add(Sums<kGroups, kColumns>& sums, const A& a, const LoadB& b) {
  if constexpr (std::is_same_v<T, bf16>) {
    multiply_add_steps<T, kInner>(sums, sums, a, b);
  } else {
    constexpr int kTogether = A::kIsHeld ? 16 : kColumns;
#pragma unroll
    for (int column = 0; column < kColumns; column += kTogether) {
      Sums<kGroups, kTogether> large;
      Sums<kGroups, kTogether> small;
      large.clear();
      small.clear();
      multiply_add_steps<T, kInner>(large, small, a, b, column);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int v = 0; v < kTogether / 8; ++v) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            sums.c[g][column / 8 + v][e] += large.c[g][v][e] + small.c[g][v][e];
          }
        }
      }
    }
  }
}

template <class T, int kRows, int kDim>
struct ColumnsOfRows {
  const SharedTile<T, kRows, kDim>& tile;
  int first_row;
  __device__ void operator()(FragmentB<T> (&b)[2], int step, int column) const {
    load_b(b, tile, first_row + column, 16 * step);
  }
};
template <class T, int kRows, int kDim>
struct ColumnsOfColumns {
  const SharedTile<T, kRows, kDim>& tile;
  int first_row;
  int first_column;
  __device__ void operator()(FragmentB<T> (&b)[2], int step, int column) const {
    load_b_by_rows(b, tile, first_row + 16 * step, first_column + column);
  }
};

}  // namespace detail

/// sums += a tile[first_row .. first_row + kColumns)^T; inner dimension kDim. Scores: a = rows of
/// q, tile = keys.
template <class T, int kRows, int kDim, int kGroups, int kColumns, class A>
__device__ inline void multiply_add_transposed(Sums<kGroups, kColumns>& sums, const A& a,
                                               const SharedTile<T, kRows, kDim>& tile,
                                               int first_row = 0) {
  detail::multiply_add<T, kDim>(sums, a, detail::ColumnsOfRows<T, kRows, kDim>{tile, first_row});
}

/// sums += a tile[first_row .. first_row + kInner)[first_column .. first_column + kColumns).
/// Output: a = weights, tile = values.
template <int kInner, class T, int kRows, int kDim, int kGroups, int kColumns, class A>
__device__ inline void multiply_add_rows(Sums<kGroups, kColumns>& sums, const A& a,
                                         const SharedTile<T, kRows, kDim>& tile, int first_row = 0,
                                         int first_column = 0) {
  detail::multiply_add<T, kInner>(
      sums, a, detail::ColumnsOfColumns<T, kRows, kDim>{tile, first_row, first_column});
}

/// 2^x as the storage of the operands asks: fast next to bf16, accurate next to float.
template <class T>
__device__ inline float exp2_of(float x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return exp2_fast(x);
  } else {
    return std::exp2(x);
  }
}

// --- masks ---------------------------------------------------------------------------------------

/// Element e of c[group][v] in that group's mask.
__device__ inline bool has_bit(uint32_t mask, int v, int e) {
  return (mask >> (2 * v + e % 2 + 16 * (e / 2)) & 1u) != 0;
}

/// The same columns for all rows: this lane's bits of words in BitOrder::kLanes, as mask.
__device__ inline uint32_t column_mask(const uint32_t* words, int tile) {
  const uint32_t word = words[tile / 2 * 4 + lane_index() % 4];
  const uint32_t half = tile % 2 == 0 ? word & 0xFFFFu : word >> 16;
  return half | half << 16;
}

/// Which pairs count, seen from the rows of a tile kernel.
struct PairBits {
  const uint32_t* bits = nullptr;  ///< [P] x [num_rows, words_per_row], kLanes; null: the pattern's
  int64_t stride = 0;              ///< words from problem to problem
  int64_t words_per_row = 0;       ///< bit_words(kLanes, num_columns); less than 2^32 in num_rows
  int64_t num_rows = 0;
  int64_t num_columns = 0;
  const uint8_t* row_mask = nullptr;  ///< [B, num_rows]; null: all rows
  const uint32_t* valid_columns =
      nullptr;  ///< [B, words_per_row] or, with stride 0, [words_per_row]
  int64_t valid_stride = 0;
  math::PatternRule pattern{};
  bool rows_are_keys = false;

  __device__ const uint32_t* valid(int64_t sample) const {
    return valid_columns + sample * valid_stride;
  }
  __device__ bool has_row(int64_t sample, int64_t row) const {
    return row < num_rows && (row_mask == nullptr || row_mask[sample * num_rows + row] != 0);
  }
  /// This lane's word of `row` in the 128 columns that `tile` belongs to; 0 past the last row.
  __device__ uint32_t row_word(int64_t problem, int64_t row, int64_t tile) const {
    const auto row_32 = static_cast<uint32_t>(row);
    if (row_32 >= static_cast<uint32_t>(num_rows)) return 0u;
    if (bits == nullptr) {
      const int64_t even = tile / 2 * 2;
      return pattern_half(problem, row, even) | pattern_half(problem, row, even + 1) << 16;
    }
    const auto lane_word = static_cast<uint32_t>(tile) / 2 * 4 + threadIdx.x % 4;
    return (bits + problem * stride)[row_32 * static_cast<uint32_t>(words_per_row) + lane_word];
  }
  /// Pairs of rows first_row .. first_row + 16 with the columns of `tile` that exist in the graph,
  /// or the pattern; neither row_mask nor valid_columns is looked at: and it with
  /// column_mask(valid(sample), tile). Rows past the last one have the last one's. Without
  /// kHasPattern, which spares registers, the pattern is taken to be everything.
  template <bool kHasPattern = true>
  __device__ uint32_t mask(int problem, int first_row, int tile) const {
    if (bits == nullptr) {
      if constexpr (!kHasPattern) return ~0u;
      return pattern_mask(problem, first_row, tile);
    }
    const uint32_t* words = bits + problem * stride + (tile / 2 * 4 + lane_index() % 4);
    const auto last = static_cast<uint32_t>(num_rows) - 1;
    const uint32_t row = static_cast<uint32_t>(first_row) + static_cast<uint32_t>(lane_index()) / 4;
    const auto word_of = [&](uint32_t r) {
      return words[(r < last ? r : last) * static_cast<uint32_t>(words_per_row)];
    };
    const uint32_t low = word_of(row);
    const uint32_t high = word_of(row + 8);
    return tile % 2 == 0 ? (low & 0xFFFFu) | high << 16 : low >> 16 | (high & 0xFFFF0000u);
  }
  /// The same where there are no bits.
  __device__ uint32_t pattern_mask(int64_t problem, int64_t first_row, int64_t tile) const {
    if (pattern.is_everything()) return ~0u;
    const int64_t row = first_row + lane_index() / 4;
    return pattern_half(problem, row, tile) | pattern_half(problem, row + 8, tile) << 16;
  }

 private:
  /// Columns of one row that the pattern may have; all of them where it is a range.
  __device__ Range pattern_range(int64_t row) const {
    return rows_are_keys ? pattern.queries_of(row, num_columns) : pattern.keys_of(row, num_columns);
  }
  __device__ bool pattern_has(int64_t problem, int64_t row, int64_t column) const {
    return rows_are_keys ? pattern.has(problem, column, row) : pattern.has(problem, row, column);
  }
  /// This lane's 16 columns of `row` in `tile`, in the order of a mask.
  __device__ uint32_t pattern_half(int64_t problem, int64_t row, int64_t tile) const {
    constexpr uint32_t kAll = 0xFFFFu;
    if (pattern.is_everything()) return kAll;
    const int64_t first = tile * kTileColumns;
    if (row >= num_rows || first >= num_columns) return 0u;
    const Range range = pattern_range(row);
    if (range.end <= first || range.begin >= first + kTileColumns) return 0u;
    if (pattern.is_a_range() && range.begin <= first && range.end >= first + kTileColumns) {
      return kAll;
    }
    uint32_t half = 0;
#pragma unroll 1
    for (int bit = 0; bit < 16; ++bit) {
      const int64_t column = first + bit / 2 * 8 + lane_index() % 4 * 2 + bit % 2;
      const bool is_there = column >= range.begin && column < range.end;
      if (is_there && pattern_has(problem, row, column)) half |= 1u << bit;
    }
    return half;
  }
};

/// Which pairs dropout keeps, as masks. Made once by every thread of a block, where dropout is on:
/// it reads the step and the sample's number.
class KeptPairs {
 public:
  KeptPairs() = default;
  __device__ KeptPairs(const WeightDropout& d, int64_t sample, int head)
      : drop_below_(d.drop_below),
        key_(d.rng.philox()),
        sample_(d.samples[sample]),
        stream_(stream_word(d.layer, d.first_head + head, Purpose::kAttentionDropout)) {}

  /// Rows are queries first_row .. + 16, columns the keys of `tile`.
  __device__ uint32_t by_query(int64_t first_row, int64_t tile) const;
  /// Rows are keys first_row .. + 16 (a multiple of 4), columns the queries of `tile`.
  __device__ uint32_t by_key(int64_t first_row, int64_t tile) const;

 private:
  /// Bit x: is (query, 4 key_block + x) kept?
  __device__ uint32_t four(int64_t query, int64_t key_block) const {
    const PhiloxCounter words =
        philox4x32(rng_counter(static_cast<uint32_t>(key_block), static_cast<uint32_t>(query),
                               sample_, stream_),
                   key_);
    uint32_t kept = 0;
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      kept |= static_cast<uint32_t>(words[static_cast<size_t>(x)] >= drop_below_) << x;
    }
    return kept;
  }

  uint32_t drop_below_ = 0;
  PhiloxKey key_;
  uint32_t sample_ = 0;
  uint32_t stream_ = 0;
};

// Lanes t and t ^ 1 need the same four keys of rows g and g + 8: the even lane draws for row g, the
// odd one for row g + 8, and each gives the other two of its four bits.
__device__ inline uint32_t KeptPairs::by_query(int64_t first_row, int64_t tile) const {
  const int t = lane_index() % 4;
  const bool odd = t % 2 != 0;
  const int64_t row = first_row + lane_index() / 4 + (odd ? 8 : 0);
  uint32_t own = 0;
  uint32_t given = 0;
#pragma unroll 1
  for (int v = 0; v < kTileColumns / 8; ++v) {
    const uint32_t kept = four(row, tile * (kTileColumns / 4) + 2 * v + t / 2);
    own |= (odd ? kept >> 2 : kept & 3u) << (2 * v);
    given |= (odd ? kept & 3u : kept >> 2) << (2 * v);
  }
  const uint32_t taken = shuffle_xor(given, 1);
  return odd ? taken | own << 16 : own | taken << 16;
}

// Lane g = 4 h + r draws for query 2 t + r % 2 and keys 4 h .. 4 h + 3 (+ 8 if r >= 2); it needs
// key 4 h + r (bit r of each draw) of all four r: a 4 x 4 transposition among lanes 4 r apart.
__device__ inline uint32_t KeptPairs::by_key(int64_t first_row, int64_t tile) const {
  const int g = lane_index() / 4;
  const int r = g % 4;
  const int64_t query = tile * kTileColumns + lane_index() % 4 * 2 + r % 2;
  const int64_t key_block = first_row / 4 + g / 4 + r / 2 * 2;
  uint32_t drawn = 0;  // bit 4 v + x: key x of the four
#pragma unroll 1
  for (int v = 0; v < kTileColumns / 8; ++v) drawn |= four(query + 8 * v, key_block) << (4 * v);
  // Row r, bit x becomes row x, bit r: first bit 0 of r and x, then bit 1.
  const uint32_t by_one = shuffle_xor(drawn, 4);
  drawn = r % 2 == 0 ? (drawn & 0x55555555u) | (by_one & 0x55555555u) << 1
                     : (drawn & 0xAAAAAAAAu) | (by_one & 0xAAAAAAAAu) >> 1;
  const uint32_t by_two = shuffle_xor(drawn, 8);
  drawn = r / 2 == 0 ? (drawn & 0x33333333u) | (by_two & 0x33333333u) << 2
                     : (drawn & 0xCCCCCCCCu) | (by_two & 0xCCCCCCCCu) >> 2;
  uint32_t mask = 0;
#pragma unroll
  for (int v = 0; v < kTileColumns / 8; ++v) {
    mask |= (drawn >> (4 * v) & 3u) << (2 * v) | (drawn >> (4 * v + 2) & 3u) << (2 * v + 16);
  }
  return mask;
}

/// Keeps a mask of KeptPairs::by_query for backward, where that is wanted. `queries`: whose rows those
/// of WeightDropout::kept are.
__device__ inline void keep_mask(const WeightDropout& d, const PairBits& queries, int problem,
                                 int first_row, int tile, uint32_t mask) {
  if (d.kept == nullptr) return;
  auto* halves = reinterpret_cast<uint16_t*>(d.kept + problem * d.kept_stride);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first_row + lane_index() / 4 + 8 * half;
    if (row >= queries.num_rows) continue;
    const int64_t word = row * queries.words_per_row + tile / 2 * 4 + lane_index() % 4;
    halves[2 * word + tile % 2] = static_cast<uint16_t>(mask >> (16 * half));
  }
}

// --- lists of tiles (tiles_lists.cu) ------------------------------------------------------

/// For each problem and row block the tiles with any pair, ascending.
struct TileLists {
  const int32_t* counts = nullptr;  ///< [P, blocks]; negative where the problem is CSR
  const int32_t* tiles = nullptr;   ///< [P, blocks, tiles_per_block]
  const int32_t* order = nullptr;   ///< [items]: p * blocks + block, longest first, CSR last
  uint32_t* taken = nullptr;        ///< for the TileQueue of one kernel; 0 before it starts
  int64_t items = 0;                ///< P * blocks
  int64_t blocks = 0;               ///< of a problem
  int64_t tiles_per_block = 0;
  int64_t heads = 0;  ///< problems of a sample
};

/// A row block to work on. Where count is negative there is none, nor any behind it in the order.
struct TileItem {
  int problem = 0;
  int sample = 0;
  int block = 0;
  int count = 0;
  const int32_t* tiles = nullptr;
};
__device__ inline TileItem tile_item(const TileLists& lists, uint32_t place_in_order) {
  const int item = lists.order[place_in_order];
  const int blocks = static_cast<int>(lists.blocks);
  const int problem = item / blocks;
  return {problem, problem / static_cast<int>(lists.heads), item % blocks, lists.counts[item],
          lists.tiles + item * lists.tiles_per_block};
}
/// In a grid with one block for each item.
__device__ inline TileItem tile_item(const TileLists& lists) {
  return tile_item(lists, blockIdx.x);
}

/// Gives row blocks to the blocks of a persistent grid of at most `items` blocks: each begins with
/// the item of its own number and then, again and again, takes the longest that is left. Items lie
/// in shared memory, because a loop over tiles has no registers to spare for them.
///
///   for (TileQueue queue(lists, shared); queue.item().count >= 0; queue.advance()) {
///     queue.take();
///     ... at least one sync_threads() ...   from here on queue.next() is there
///     sync_threads();                       from here on queue.item() must not be read
///   }
class TileQueue {
 public:
  static constexpr int kSharedBytes = 2 * sizeof(TileItem);

  /// All threads call it.
  __device__ TileQueue(const TileLists& lists, std::byte* shared)
      : lists_(lists), slots_(reinterpret_cast<TileItem*>(shared)) {
    if (threadIdx.x == 0) slots_[0] = tile_item(lists);
    sync_threads();
  }

  __device__ const TileItem& item() const { return slots_[turn_]; }
  __device__ const TileItem& next() const { return slots_[turn_ ^ 1]; }
  __device__ void take() const {
    if (threadIdx.x != 0) return;
    const uint32_t n = gridDim.x + atomic_add(lists_.taken, 1u);
    slots_[turn_ ^ 1] = n < lists_.items ? tile_item(lists_, n) : TileItem{.count = -1};
  }
  __device__ void advance() { turn_ ^= 1; }

 private:
  const TileLists& lists_;
  TileItem* slots_;
  int turn_ = 0;
};

/// The grid of a kernel with a TileQueue: as many blocks as the device can hold at once, of which a
/// multiprocessor's registers hold `blocks_per_sm`. A plan launches none and may have no GPU to ask.
inline dim3 persistent_grid(const Stream& stream, const TileLists& lists, int blocks_per_sm,
                            int shared_bytes) {
  if (stream.is_plan()) return {};
  const int device = stream.device().index;
  constexpr int64_t kReserved = 1 << 10;  // by the system, of every block's shared memory
  const int64_t by_shared_memory =
      stipple::cuda::shared_bytes_per_multiprocessor(device) / (shared_bytes + kReserved);
  const int64_t held = std::clamp<int64_t>(by_shared_memory, 1, blocks_per_sm);
  const int64_t resident = held * stipple::cuda::multiprocessors(device);
  return blocks_for(std::min(lists.items, resident), 1);
}

// --- bits and operands in scratch (tiles_lists.cu) ----------------------------------------

/// Words in BitOrder::kLanes of which columns count, [B, words] (or [1, words] where mask is null):
/// column < columns and mask [B, columns], where given, not 0.
View<uint32_t> make_column_words(const Stream&, Arena& scratch, const uint8_t* mask, int64_t batch,
                                 int64_t columns);

/// What the rows of queries, and of keys, see: the graph's bits, bounds and key_mask. Takes column
/// words from scratch.
PairBits bits_by_query(const Stream&, const AttendArrays&, Arena& scratch);
PairBits bits_by_key(const Stream&, const AttendArrays&, Arena& scratch);

/// Lists for row blocks of `rows_per_block` rows. A pair counts if its bit, its row in row_mask and
/// its column in valid_columns do. `form` [P] or null; P = batch * heads.
TileLists make_tile_lists(const Stream&, Arena& scratch, const PairBits&, const EdgeForm* form,
                          int64_t batch, int64_t heads, int rows_per_block);

/// Rows [rows, dim] of T with `padded` columns, zeros behind: a copy in scratch, or `from` itself
/// where nothing is to be added. T is float or bf16.
template <class T>
const T* make_rows(const Stream&, Arena& scratch, const void* from, int64_t rows, int64_t dim,
                   int64_t padded);

/// Calls body(std::integral_constant<int, D>) with the smallest of 16, 32, 64, 128 that holds dim; 16
/// and 64 are left out where STIPPLE_FEW_HEAD_SIZES asks for it.
template <class Body>
void with_padded_dim(int64_t dim, const Body& body) {
#if !STIPPLE_FEW_HEAD_SIZES
  if (dim <= 16) return body(std::integral_constant<int, 16>{});
#endif
  if (dim <= 32) return body(std::integral_constant<int, 32>{});
#if !STIPPLE_FEW_HEAD_SIZES
  if (dim <= 64) return body(std::integral_constant<int, 64>{});
#endif
  STIPPLE_CHECK(dim <= kMaxHeadDim, "attention on CUDA: head dimension ", dim, ", at most ",
                kMaxHeadDim, " are supported; use more heads");
  return body(std::integral_constant<int, 128>{});
}

}  // namespace stipple::kernels::cuda
