// SPDX-License-Identifier: Apache-2.0
// Sums of rows over edges, one edge after the other: out += sum_e weight_e row_e. Several sums over
// the same edges are walked together, each in registers. Terms are added in the order of the edges,
// whatever is walked together and however the edges are cut into runs: the same bits.
#pragma once

#include "kernels/cpu/attend/simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// The edges are the set bits of a word; edge e has the weight weights[e * kStep] and the row e.
template <int64_t kStep>
struct SetBits {
  uint64_t bits;

  template <class Visit>
  void for_each(const Visit& visit) const {
    for (uint64_t rest = bits; rest != 0; rest &= rest - 1) {
      const int64_t e = __builtin_ctzll(rest);
      visit(e * kStep, e);
    }
  }
};

/// The edges are EdgeGradients; weights lie as far apart as they.
struct EdgeRun {
  const EdgeGradient* edges;
  int64_t count;

  template <class Visit>
  void for_each(const Visit& visit) const {
    constexpr int64_t kStep = sizeof(EdgeGradient) / sizeof(float);
    for (int64_t e = 0; e < count; ++e) visit(e * kStep, edges[e].other);
  }
};

/// out[0 ... width) += sum over edges of their weights times their rows of rows [*, width].
struct EdgeSum {
  float* out;
  const float* weights;
  const float* rows;
  int64_t width;
};

template <int kVecs>
inline void load_sum(Floats (&sum)[8], const EdgeSum& s) {
#pragma GCC unroll 8
  for (int x = 0; x < kVecs; ++x) sum[x] = load(s.out + x * kWidth);
}
template <int kVecs>
inline void store_sum(const Floats (&sum)[8], const EdgeSum& s) {
#pragma GCC unroll 8
  for (int x = 0; x < kVecs; ++x) store(s.out + x * kWidth, sum[x]);
}
template <int kVecs>
inline void add_edge(Floats (&sum)[8], const EdgeSum& s, int64_t weight_at, int64_t row_at) {
  if constexpr (kVecs > 0) {
    const Floats weight = splat(s.weights[weight_at]);
    const float* row = s.rows + row_at * s.width;
#pragma GCC unroll 8
    for (int x = 0; x < kVecs; ++x) sum[x] = fma(weight, load(row + x * kWidth), sum[x]);
  }
}

/// Three sums of kA, kB and kC vectors over the same edges: one walk for all.
template <int kA, int kB, int kC, class Edges>
inline void sum_together(const Edges& edges, const EdgeSum& a, const EdgeSum& b, const EdgeSum& c) {
  Floats sum_a[8], sum_b[8], sum_c[8];
  load_sum<kA>(sum_a, a);
  load_sum<kB>(sum_b, b);
  load_sum<kC>(sum_c, c);
  edges.for_each([&](int64_t weight, int64_t row) {
    add_edge<kA>(sum_a, a, weight, row);
    add_edge<kB>(sum_b, b, weight, row);
    add_edge<kC>(sum_c, c, weight, row);
  });
  store_sum<kA>(sum_a, a);
  store_sum<kB>(sum_b, b);
  store_sum<kC>(sum_c, c);
}

/// The vector of a sum with fewer columns than it has lanes.
template <class Edges>
inline void sum_last(const Edges& edges, const EdgeSum& s, int64_t columns) {
  const Mask lanes = first_lanes(columns);
  Floats sum = load(s.out, lanes);
  edges.for_each([&](int64_t weight, int64_t row) {
    sum = fma(splat(s.weights[weight]), load(s.rows + row * s.width, lanes), sum);
  });
  store(s.out, sum, lanes);
}

/// A sum from column `x` on.
template <class Edges>
inline void sum_alone(const Edges& edges, const EdgeSum& whole, int64_t x = 0) {
  const auto from = [&](int64_t column) {
    return EdgeSum{whole.out + column, whole.weights, whole.rows + column, whole.width};
  };
  const EdgeSum none{};
  for (; x + 8 * kWidth <= whole.width; x += 8 * kWidth) {
    sum_together<8, 0, 0>(edges, from(x), none, none);
  }
  if (x + 4 * kWidth <= whole.width) {
    sum_together<4, 0, 0>(edges, from(x), none, none);
    x += 4 * kWidth;
  }
  if (x + 2 * kWidth <= whole.width) {
    sum_together<2, 0, 0>(edges, from(x), none, none);
    x += 2 * kWidth;
  }
  if (x + kWidth <= whole.width) {
    sum_together<1, 0, 0>(edges, from(x), none, none);
    x += kWidth;
  }
  if (x < whole.width) sum_last(edges, from(x), whole.width - x);
}

/// sum_edges by kWide vectors of the wide sum, all there are or the first eight; false: not for these
/// widths, nothing is done.
template <int kWide, bool kTwo, class Edges>
inline bool sum_all_together(const Edges& edges, const EdgeSum& wide, const EdgeSum& first,
                             const EdgeSum& second) {
  switch (first.width) {
    case kWidth:
      sum_together<kWide, 1, kTwo ? 1 : 0>(edges, wide, first, second);
      return true;
    case 2 * kWidth:
      sum_together<kWide, 2, kTwo ? 2 : 0>(edges, wide, first, second);
      return true;
    case 4 * kWidth:
      sum_together<kWide, 4, kTwo ? 4 : 0>(edges, wide, first, second);
      return true;
    default:
      return false;
  }
}

/// A wide sum and one or two narrow ones, which are equally wide.
template <bool kTwo, class Edges>
inline void sum_edges(const Edges& edges, const EdgeSum& wide, const EdgeSum& first,
                      const EdgeSum& second) {
  int64_t done = 0;  ///< columns of the wide sum
  bool together = false;
  if constexpr (kWidth == 16) {  // 16 registers are too few for several sums
    if (wide.width >= 8 * kWidth) {
      together = sum_all_together<8, kTwo>(edges, wide, first, second);
      done = together ? 8 * kWidth : 0;
    } else if (wide.width == 4 * kWidth) {
      together = sum_all_together<4, kTwo>(edges, wide, first, second);
      done = together ? 4 * kWidth : 0;
    } else if (wide.width == 2 * kWidth) {
      together = sum_all_together<2, kTwo>(edges, wide, first, second);
      done = together ? 2 * kWidth : 0;
    } else if (wide.width == 0) {
      together = sum_all_together<0, kTwo>(edges, wide, first, second);
    }
  }
  if (!together) {
    sum_alone(edges, first);
    if (kTwo) sum_alone(edges, second);
  }
  if (done < wide.width) sum_alone(edges, wide, done);
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
