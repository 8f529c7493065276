// SPDX-License-Identifier: Apache-2.0
// Between the fronts of write_edges, write_csr and write_near_edges (and bound_edges on CUDA) and their one body for each
// backend: where the edges come from, as candidates in ascending order of which some are taken.
#pragma once

#include "core/arena.h"
#include "core/host_device.h"
#include "kernels/edges.h"
#include "kernels/math/near.h"
#include "kernels/math/pattern.h"

namespace stipple::kernels {

/// Plain data: which groups of keys a query keeps, a bit each.
struct KeptGroups {
  const uint32_t* bits = nullptr;   // [P, N, words]; null: there is no such rule, all are kept
  const int32_t* groups = nullptr;  // [P, M, slots]  of the first slot; negative: kept by nobody
  int64_t n = 0, m = 0, words = 0, slots = 0;

  STIPPLE_HD bool has(int64_t p, int64_t i, int64_t j) const {
    if (bits == nullptr) return true;
    const int32_t group = groups[(p * m + j) * slots];
    return group >= 0 && (bits[(p * n + i) * words + group / 32] >> group % 32 & 1u) != 0;
  }
};

/// A list where columns is there, else pairs of a pattern that are near and kept, whose candidates
/// are the keys themselves.
struct EdgeSource {
  math::PatternRule pattern{};
  math::NearRule near{};
  KeptGroups kept{};
  const int32_t* row_ptr = nullptr;  // [N + 1], or [P, N + 1]; memory of the stream's device
  const uint32_t* columns = nullptr;
  int64_t row_stride = 0;  ///< from problem to problem in row_ptr

  STIPPLE_HD bool is_list() const { return row_ptr != nullptr; }
  STIPPLE_HD Range candidates(int64_t p, int64_t i, int64_t num_keys) const {
    if (!is_list()) return pattern.keys_of(i, num_keys);
    const int32_t* row = row_ptr + p * row_stride + i;
    return {row[0], row[1]};
  }
  STIPPLE_HD int64_t key(int64_t candidate) const {
    return is_list() ? int64_t{columns[candidate]} : candidate;
  }
  STIPPLE_HD bool has(int64_t p, int64_t i, int64_t j) const {
    return is_list() || (pattern.has(p, i, j) && near.has(p, i, j) && kept.has(p, i, j));
  }
};

struct GraphToWrite {
  EdgeSet edges;
  EdgeForm form = EdgeForm::kCsr;
  View<const uint8_t> query_mask{}, key_mask{};
  EdgeSource source;
  Arena* scratch = nullptr;

  /// Problems of a sample.
  int64_t heads() const {
    const int64_t batch = !query_mask.empty() ? query_mask.shape[0]
                          : !key_mask.empty() ? key_mask.shape[0]
                                              : 1;
    return edges.num_problems() / (batch > 0 ? batch : 1);
  }
};

}  // namespace stipple::kernels
