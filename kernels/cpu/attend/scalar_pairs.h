// SPDX-License-Identifier: Apache-2.0
// The pairs of an attention problem as plain loops see them: for the bodies that vectorised ones are
// tested against.
#pragma once

#include "kernels/cpu/attend/bodies.h"
#include "kernels/cpu/scalar_rows.h"

namespace stipple::kernels::cpu::scalar {

/// Calls visit(j, times drawn, number of its dropout bit in the row) for every edge of row i, keys
/// ascending.
template <class Visit>
inline void for_each_edge(const AttendProblem& p, int64_t i, const Visit& visit) {
  if (p.columns != nullptr) {
    for (int32_t e = p.row_ptr[i]; e < p.row_ptr[i + 1]; ++e) {
      visit(int64_t{p.columns[e]},
            p.multiplicity == nullptr ? 1.0f : static_cast<float>(p.multiplicity[e]),
            int64_t{e} - p.row_ptr[i]);
    }
    return;
  }
  for (int64_t j = 0; j < p.num_keys; ++j) {
    const bool edge = p.bits == nullptr
                          ? p.pattern.has(p.number, i, j)
                          : (p.bits[i * p.words_per_row + j / 32] >> (j % 32) & 1u) != 0;
    if (edge) visit(j, 1.0f, j);
  }
}

inline bool counts(const AttendProblem& p, int64_t j) {
  return p.key_mask == nullptr || p.key_mask[j] != 0;
}

inline float score(const AttendProblem& p, int64_t i, int64_t j) {
  return p.scale * dot(p.q + i * p.dim, p.k + j * p.dim, p.dim);
}

inline bool keeps(const DropoutStream& d, int64_t i, int64_t j) {
  const PhiloxCounter random = philox4x32(
      rng_counter(static_cast<uint32_t>(j / 4), static_cast<uint32_t>(i), d.sample, d.stream),
      d.key);
  return random[static_cast<size_t>(j % 4)] >= d.drop_below;
}

}  // namespace stipple::kernels::cpu::scalar
