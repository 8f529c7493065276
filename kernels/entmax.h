// SPDX-License-Identifier: Apache-2.0
// alpha-entmax of rows (Peters, Niculae and Martins 2019): like softmax, but all but a row's best
// entries, its support, get exactly zero. alpha 2 is sparsemax, towards 1 it becomes softmax.
//
//   x_j = (alpha - 1) z_j
//   p_j = [x_j - tau]_+ ^ (1 / (alpha - 1)) / S,   tau such that S = 1, up to rounding
//
// Backward needs the support only: with u_j = p_j ^ (2 - alpha), 0 off the support,
//
//   dz_j   = u_j (dp_j - delta),   delta = sum_k u_k dp_k / sum_k u_k
//   dalpha = sum_j dp_j ((p_j - u_j / U) / (alpha - 1)^2 - (l_j - u_j L / U) / (alpha - 1))
//            with l_j = p_j log p_j, L = sum_j l_j, U = sum_j u_j; below alpha 1.001 its limit,
//            sum_j dp_j (p_j sum_k p_k log^2 p_k - p_j log^2 p_j) / 2
//
// Entries of -inf take no part; a row of nothing else has p = 0, tau = +inf and no gradients. A row
// with a NaN or +inf becomes NaN. Near alpha 1, weights have a relative error of 1e-7 / (alpha - 1).
// Deterministic: yes, for any number of threads. Cost: one pass over z, and the support.
#pragma once

#include "core/arena.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// alpha 1 is softmax's business; beyond 4 few keys but the best have weights at all.
inline constexpr float kEntmaxLeastAlpha = 1.0f;  ///< itself excluded
inline constexpr float kEntmaxMostAlpha = 4.0f;

/// Below, the gradient of alpha is its limit: differences of nearly equal numbers else.
inline constexpr float kEntmaxNearOne = 1e-3f;

/// Which entries decide a row's tau: those with p > 0 and, where rounding says so, some at the edge
/// with p = 0. `room` columns are kept of a row; one with more has only its size here.
struct EntmaxSupport {
  View<int32_t> size;      // [rows ...]
  View<uint32_t> columns;  // [rows ..., room]  ascending, where size <= room

  bool empty() const { return size.empty(); }
};

struct Entmax {
  View<float> p{};          // [R, L]  written; empty: not asked
  View<float> tau;          // [R]     written
  EntmaxSupport support{};  // [R]     written; empty: not asked
  View<const float> z;      // [R, L]
  View<const float> alpha;  // [1] or [R]  in (1, 4]; memory of the device
  Arena* scratch = nullptr;
};
void entmax(const Stream&, const Entmax&);
namespace cpu {
void entmax(const Stream&, const Entmax&);
}
namespace cuda {
void entmax(const Stream&, const Entmax&);
}

struct EntmaxBackward {
  View<float> dz;           // [R, L]  written
  View<float> dalpha{};     // [R]     written: each row's share; empty: not asked
  View<const float> p, dp;  // [R, L]
  View<const float> alpha;  // [1] or [R]
  Arena* scratch = nullptr;
};
void entmax_backward(const Stream&, const EntmaxBackward&);
namespace cpu {
void entmax_backward(const Stream&, const EntmaxBackward&);
}
namespace cuda {
void entmax_backward(const Stream&, const EntmaxBackward&);
}

}  // namespace stipple::kernels
