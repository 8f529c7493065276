// SPDX-License-Identifier: Apache-2.0
// A Partition asked from the other side: in which passes a token or a region stands, and which
// regions a token belongs to. For bodies that give each token or region an owner of its own instead
// of walking pass by pass.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "kernels/partition.h"

namespace stipple::kernels {

#define STIPPLE_RULE STIPPLE_HD [[gnu::always_inline]] inline

/// Where something stands in a pass; place -1: in none.
struct PassPlace {
  Pass pass;
  int64_t place = -1;
};

/// regions_of(p, j, t) for t below this are the regions that token j belongs to.
STIPPLE_RULE int num_region_lines(const Partition& p) {
  if (p.kind == PartitionKind::kFixed || p.kind == PartitionKind::kRowMajor) return 1;
  if (p.kind == PartitionKind::kLogsparse)
    return static_cast<int>(p.num_levels() > 1 ? p.num_levels() - 1 : 0);
  return static_cast<int>(p.vertical_sets() + p.horizontal_sets());
}
STIPPLE_RULE Line regions_of(const Partition& p, int64_t j, int t) {
  if (j < p.globals || p.num_regions() == 0) return {};
  const int64_t cell = j - p.globals;
  if (p.kind == PartitionKind::kFixed) return {(cell + p.shift) / p.block, 1, 1};
  if (p.kind == PartitionKind::kLogsparse) {
    const int64_t level = t + 1, span = cell >> level;
    if (p.span_queries(level, span).count == 0) return {};
    return {p.first_span(level) + span, 1, 1};
  }
  const int64_t s = cell / p.columns, c = cell % p.columns;
  if (p.kind == PartitionKind::kRowMajor) return {s * p.columns, 1, p.columns};
  const int64_t first = t * p.rows() * p.columns;
  const int64_t set = t < p.vertical_sets() ? t : t - p.vertical_sets();
  if (t < p.vertical_sets()) {
    if (set == 0) return {first + (s + 1) * p.columns + c, p.columns, p.rows() - 1 - s};
    return {first + c, p.columns, s};
  }
  if (set == 0) return {first + cell + 1, 1, p.columns - 1 - c};
  return {first + s * p.columns, 1, c};
}

/// query_place(p, i, t) for t below this are the passes in which token i is a query.
STIPPLE_RULE int num_query_places(const Partition& p) {
  if (p.kind == PartitionKind::kFixed) return 3;
  if (p.kind == PartitionKind::kLogsparse) return 2 + num_region_lines(p);
  return static_cast<int>(1 + p.row_passes() + p.column_passes());
}
STIPPLE_RULE PassPlace query_place(const Partition& p, int64_t i, int t) {
  if (i < p.globals) return t == 0 ? PassPlace{p.pass(1), i} : PassPlace{};
  const int64_t cell = i - p.globals;
  if (t == 0) return p.globals > 0 ? PassPlace{p.pass(0), cell} : PassPlace{};
  int64_t g = p.global_passes();
  if (p.kind == PartitionKind::kFixed) {
    if (t == 2) return {p.pass(g + p.num_blocks()), cell};
    const int64_t block = (cell + p.shift) / p.block;
    return {p.pass(g + block), i - p.block_line(block).first};
  }
  if (p.kind == PartitionKind::kLogsparse) {
    if (t == 1) return {p.pass(g + cell / 2), cell % 2};
    const int level = t - 1;
    const int64_t own = cell >> level, sibling = own + 1 - 2 * (own % 2);
    if (sibling >= p.num_spans(level) || (p.is_causal && own % 2 == 0)) return {};
    return {p.pass(g + p.num_spans(1) + p.first_span(level) + sibling), cell - (own << level)};
  }
  const int64_t s = cell / p.columns, c = cell % p.columns;
  if (t <= p.row_passes()) return {p.pass(g + s * p.row_passes() + t - 1), c};
  g += p.rows() * p.row_passes();
  return {p.pass(g + c * p.column_passes() + t - 1 - p.row_passes()), s};
}

/// The same of token j as a key.
STIPPLE_RULE int num_key_places(const Partition& p) {
  return p.kind == PartitionKind::kFixed || p.kind == PartitionKind::kLogsparse ? 3 : 4;
}
STIPPLE_RULE PassPlace key_place(const Partition& p, int64_t j, int t) {
  const bool is_global = j < p.globals;
  if (t == 0) return is_global ? PassPlace{p.pass(0), j} : PassPlace{};
  if (t == 1) {
    if (p.globals == 0) return {};
    const Pass pass = p.pass(1);
    return j < pass.keys.count ? PassPlace{pass, j} : PassPlace{};
  }
  if (is_global) return {};
  const int64_t cell = j - p.globals;
  int64_t g = p.global_passes();
  if (p.kind == PartitionKind::kFixed) {
    const int64_t block = (cell + p.shift) / p.block;
    return {p.pass(g + block), j - p.block_line(block).first};
  }
  if (p.kind == PartitionKind::kLogsparse) return {p.pass(g + cell / 2), cell % 2};
  const int64_t s = cell / p.columns, c = cell % p.columns;
  if (t == 2) return {p.pass(g + s * p.row_passes()), c};
  if (p.kind == PartitionKind::kRowMajor) return {};
  g += p.rows() * p.row_passes();
  return {p.pass(g + c * p.column_passes()), s};
}

/// The one pass in which region r is a key.
STIPPLE_RULE PassPlace region_place(const Partition& p, int64_t r) {
  int64_t g = p.global_passes();
  if (p.kind == PartitionKind::kFixed) return {p.pass(g + p.num_blocks()), r};
  if (p.kind == PartitionKind::kLogsparse) return {p.pass(g + p.num_spans(1) + r), 0};
  const int64_t grid = p.rows() * p.columns;
  const int64_t set = r / grid, s = r % grid / p.columns, c = r % p.columns;
  const int64_t columns = g + p.rows() * p.row_passes() + c * p.column_passes();
  if (p.kind == PartitionKind::kRowMajor) return {p.pass(columns), s};
  if (set < p.vertical_sets()) return {p.pass(g + s * p.row_passes() + 1 + set), c};
  return {p.pass(columns + 1 + set - p.vertical_sets()), s};
}

#undef STIPPLE_RULE

}  // namespace stipple::kernels
