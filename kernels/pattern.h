// SPDX-License-Identifier: Apache-2.0
// Which pairs (query i, key j) belong to a part of the keys, as a rule rather than a list: what
// dense attention walks over without a graph (attend_dense), or what is written down as one
// (write_edges). Padding is not the pattern's business: operations have masks beside it.
//
// A rule of positions counts queries and keys from the same origin. A rule of groups compares two
// numbers that the caller gives each query and each key: blocks (position / size), clusters,
// buckets, or, with keys that stand for whole blocks, the block each of them stands for.
#pragma once

#include "core/view.h"

namespace stipple::kernels {

enum class PatternKind : uint8_t {
  kAll,
  kWindow,         ///< |i - j| is a multiple of dilation, at most radius * dilation
  kOwnGroup,       ///< key_group[j] == query_group[i]
  kOtherGroups,    ///< key_group[j] != query_group[i]
  kEarlierGroups,  ///< key_group[j] < query_group[i]
};

struct Pattern {
  PatternKind kind = PatternKind::kAll;
  bool is_causal = false;             ///< and j <= i
  int64_t radius = 0;                 ///< kWindow: keys on either side; 2 radius + 1 of them in all
  int64_t dilation = 1;               ///< kWindow
  View<const int32_t> query_group{};  // [N], or [P, N] for each problem its own; not negative
  View<const int32_t> key_group{};    // [M], or [P, M]

  bool has_groups() const { return kind >= PatternKind::kOwnGroup; }
  bool is_everything() const { return kind == PatternKind::kAll && !is_causal; }
};

/// Throws ShapeError or Error where the pattern does not fit P problems of N queries and M keys.
void check_pattern(const char* op, const Pattern&, int64_t problems, int64_t num_queries,
                   int64_t num_keys);

}  // namespace stipple::kernels
