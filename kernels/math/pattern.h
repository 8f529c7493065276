// SPDX-License-Identifier: Apache-2.0
// A Pattern as every backend and instruction set asks it: plain data, and tests that are inlined
// wherever they are used, so that nothing compiled for one instruction set is linked into another.
#pragma once

#include "core/host_device.h"
#include "core/range.h"
#include "kernels/pattern.h"

namespace stipple::kernels::math {

struct PatternRule {
  PatternKind kind = PatternKind::kAll;
  bool is_causal = false;
  int64_t reach = 0;  ///< kWindow: radius * dilation
  int64_t dilation = 1;
  const int32_t* query_group = nullptr;  ///< of problem 0
  const int32_t* key_group = nullptr;
  int64_t query_stride = 0;  ///< from problem to problem; 0: all have the same
  int64_t key_stride = 0;

  STIPPLE_HD [[gnu::always_inline]] bool is_everything() const {
    return kind == PatternKind::kAll && !is_causal;
  }
  STIPPLE_HD [[gnu::always_inline]] bool has_groups() const {
    return kind >= PatternKind::kOwnGroup;
  }
  /// Every pair within keys_of(i) counts.
  STIPPLE_HD [[gnu::always_inline]] bool is_a_range() const {
    return !has_groups() && (kind != PatternKind::kWindow || dilation == 1);
  }

  /// Does pair (i, j) of problem p count? i < N and j < M.
  STIPPLE_HD [[gnu::always_inline]] bool has(int64_t p, int64_t i, int64_t j) const {
    if (is_causal && j > i) return false;
    if (kind == PatternKind::kAll) return true;
    if (kind == PatternKind::kWindow) {
      const int64_t distance = i < j ? j - i : i - j;
      return distance <= reach && (dilation == 1 || distance % dilation == 0);
    }
    const int32_t query = query_group[p * query_stride + i];
    const int32_t key = key_group[p * key_stride + j];
    if (kind == PatternKind::kOwnGroup) return key == query;
    return kind == PatternKind::kOtherGroups ? key != query : key < query;
  }

  /// All keys of query i, of num_keys, lie in this range. Its ends ascend with i.
  STIPPLE_HD [[gnu::always_inline]] Range keys_of(int64_t i, int64_t num_keys) const {
    const bool is_window = kind == PatternKind::kWindow;
    const int64_t first = is_window && i > reach ? i - reach : 0;
    const int64_t behind = is_causal ? i : is_window ? i + reach : num_keys - 1;
    return clipped(first, behind + 1, num_keys);
  }
  /// All queries of key j, of num_queries, lie in this range. Its ends ascend with j.
  STIPPLE_HD [[gnu::always_inline]] Range queries_of(int64_t j, int64_t num_queries) const {
    const bool is_window = kind == PatternKind::kWindow;
    const int64_t before = is_window && j > reach ? j - reach : 0;
    const int64_t last = is_window ? j + reach : num_queries - 1;
    return clipped(is_causal ? j : before, last + 1, num_queries);
  }

 private:
  STIPPLE_HD [[gnu::always_inline]] static Range clipped(int64_t begin, int64_t end,
                                                         int64_t count) {
    end = end < count ? end : count;
    return {begin < end ? begin : end, end};
  }
};

[[gnu::always_inline]] inline PatternRule pattern_rule(const Pattern& p) {
  return {.kind = p.kind,
          .is_causal = p.is_causal,
          .reach = p.radius * p.dilation,
          .dilation = p.dilation,
          .query_group = p.query_group.data,
          .key_group = p.key_group.data,
          .query_stride = p.query_group.shape.rank() == 2 ? p.query_group.shape[1] : 0,
          .key_stride = p.key_group.shape.rank() == 2 ? p.key_group.shape[1] : 0};
}

}  // namespace stipple::kernels::math
