// SPDX-License-Identifier: Apache-2.0
// How a sequence is cut for Combiner attention: which tokens a query sees directly, which it sees as
// regions, one summary each. Plain data and arithmetic that every backend, instruction set and the
// tests' oracle share; nothing here looks at padding, which operations get as a mask.
//
// A variant is two lists. Of regions: `region(r)` says which tokens r stands for. Of passes: `pass(g)`
// says that some queries see some keys, tokens or regions, by a relation of their places. All passes
// of a query together are its one softmax. Tokens, regions and queries of a pass lie on a Line, so
// rows and columns of a grid need no gathering.
//
//   fixed, blocks of 4, and a query of the second     a grid of 4 x 4, vertical, query Q
//     a a a a # Q # # c c c c d d d d                   a # c d
//                                                       a # c d      '#': direct;
//   logsparse, the same query                           # Q # #      a letter or digit:
//     2 2 2 2 # Q 1 1 3 3 3 3 3 3 3 3                   A # C D      one region
//
// Source: Ren et al. 2021 (arXiv 2107.05768); docs/attention/combiner.md.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace stipple::kernels {

#define STIPPLE_RULE STIPPLE_HD [[gnu::always_inline]]

/// Places first, first + stride, ...: `count` of them.
struct Line {
  int64_t first = 0;
  int64_t stride = 1;
  int64_t count = 0;

  STIPPLE_RULE int64_t operator[](int64_t i) const { return first + i * stride; }
};

/// Which keys of a pass the query at place a sees, by their place b.
enum class Relation : uint8_t {
  kAll,
  kUpTo,    ///< b <= a
  kBefore,  ///< b < a
  kOther,   ///< b != a
};

/// Queries and the keys they see together. Places are counted on the lines from 0; a query's is
/// divided, because a region may stand for a whole block.
struct Pass {
  Line queries;  ///< tokens
  Line keys;     ///< tokens, or regions
  bool of_regions = false;
  Relation relation = Relation::kAll;
  int64_t unit = 1;
  int64_t shift = 0;

  STIPPLE_RULE int64_t place(int64_t query) const { return (query + shift) / unit; }
  STIPPLE_RULE bool has(int64_t query, int64_t key) const {
    const int64_t a = place(query);
    switch (relation) {
      case Relation::kAll:
        return true;
      case Relation::kUpTo:
        return key <= a;
      case Relation::kBefore:
        return key < a;
      case Relation::kOther:
        return key != a;
    }
    return false;
  }
  /// Keys [0, key_end(query)) are all that the query may see. Ascends with the query.
  STIPPLE_RULE int64_t key_end(int64_t query) const {
    if (relation == Relation::kAll || relation == Relation::kOther) return keys.count;
    const int64_t end = place(query) + (relation == Relation::kUpTo ? 1 : 0);
    return end < keys.count ? end : keys.count;
  }
  STIPPLE_RULE bool is_empty() const { return queries.count == 0 || keys.count == 0; }
};

enum class PartitionKind : uint8_t {
  kFixed,       ///< direct: own block; regions: every other block
  kLogsparse,   ///< direct: itself and its neighbour; regions: spans of 2^l tokens, by siblings
  kVertical,    ///< direct: own row and column; regions: the rest of every other column, cut there
  kHorizontal,  ///< direct: own row and column; regions: the rest of every other row, cut there
  kRowMajor,    ///< direct: own row; regions: other rows, each as its token in the own column asks
  kMixture,     ///< kVertical and kHorizontal under one softmax: all but direct tokens count twice
};

/// What a region stands for.
struct Region {
  Line tokens;        ///< none: nobody sees this region
  int64_t asks = -1;  ///< the token whose query and key take the place of pooled ones; -1: none
};

struct Partition {
  PartitionKind kind = PartitionKind::kFixed;
  bool is_causal = false;
  bool overlaps_own = false;  ///< fixed and row-major, not causal: own block is seen as region, too
  int64_t length = 0;         ///< N
  /// The first tokens of the sequence: seen by all, they see all, they belong to no region. The rest
  /// is cut as if the sequence began behind them.
  int64_t globals = 0;
  int64_t block = 1;    ///< kFixed
  int64_t shift = 0;    ///< kFixed: by how much the first block is shorter
  int64_t columns = 1;  ///< of the grid

  /// Tokens that are cut.
  STIPPLE_RULE int64_t cells() const { return length - globals; }

  // --- blocks ------------------------------------------------------------------------------------

  STIPPLE_RULE int64_t num_blocks() const { return ceil_div(cells() + shift, block); }
  STIPPLE_RULE Line block_line(int64_t b) const {
    const int64_t begin = at_least(b * block - shift, 0);
    return cut(begin, 1, at_most((b + 1) * block - shift, cells()) - begin);
  }

  // --- spans of 2^level --------------------------------------------------------------------------

  STIPPLE_RULE int64_t num_spans(int64_t level) const {
    return (cells() + (int64_t{1} << level) - 1) >> level;
  }
  /// Levels 1 to num_levels() - 1 have regions; level 0 is tokens.
  STIPPLE_RULE int64_t num_levels() const {
    int64_t levels = 0;
    while ((int64_t{1} << levels) < cells()) ++levels;
    return levels;
  }
  STIPPLE_RULE int64_t first_span(int64_t level) const {
    int64_t first = 0;
    for (int64_t l = 1; l < level; ++l) first += num_spans(l);
    return first;
  }
  STIPPLE_RULE Line span_line(int64_t level, int64_t u) const {
    const int64_t size = int64_t{1} << level;
    return cut(u * size, 1, at_most(size, cells() - u * size));
  }
  /// Who sees span u: its sibling, if there is one, and where time goes forward only the later one.
  STIPPLE_RULE Line span_queries(int64_t level, int64_t u) const {
    if (is_causal && u % 2 == 1) return {};
    return u + 1 - 2 * (u % 2) < num_spans(level) ? span_line(level, u + 1 - 2 * (u % 2)) : Line{};
  }

  // --- grid --------------------------------------------------------------------------------------

  STIPPLE_RULE int64_t rows() const { return ceil_div(cells(), columns); }
  STIPPLE_RULE Line row_line(int64_t s) const {
    return cut(s * columns, 1, at_most(columns, cells() - s * columns));
  }
  STIPPLE_RULE Line column_line(int64_t c) const {
    return cut(c, columns, ceil_div(cells() - c, columns));
  }
  STIPPLE_RULE bool has_vertical() const {
    return kind == PartitionKind::kVertical || kind == PartitionKind::kMixture;
  }
  STIPPLE_RULE bool has_horizontal() const {
    return kind == PartitionKind::kHorizontal || kind == PartitionKind::kMixture;
  }
  /// Sets of regions, one for every cell of the grid: above, below, left, right of it.
  STIPPLE_RULE int64_t vertical_sets() const { return !has_vertical() ? 0 : is_causal ? 1 : 2; }
  STIPPLE_RULE int64_t horizontal_sets() const { return has_horizontal() ? 2 : 0; }

  // --- regions -----------------------------------------------------------------------------------

  STIPPLE_RULE int64_t num_regions() const {
    switch (kind) {
      case PartitionKind::kFixed:
        return num_blocks() > 1 || overlaps_own ? num_blocks() : 0;
      case PartitionKind::kLogsparse:
        return first_span(num_levels());
      case PartitionKind::kRowMajor:
        return rows() > 1 || overlaps_own ? rows() * columns : 0;
      default:
        return (vertical_sets() + horizontal_sets()) * rows() * columns;
    }
  }

  STIPPLE_RULE Region region(int64_t r) const {
    if (kind == PartitionKind::kFixed) return {block_line(r)};
    if (kind == PartitionKind::kLogsparse) {
      int64_t level = 1;
      for (; r >= num_spans(level); ++level) r -= num_spans(level);
      return {span_queries(level, r).count > 0 ? span_line(level, r) : Line{}};
    }
    const int64_t grid = rows() * columns;
    const int64_t cell = r % grid, s = cell / columns, c = cell % columns;
    if (kind == PartitionKind::kRowMajor) return {row_line(s), globals + cell};
    const Line row = row_line(s), column = column_line(c);
    const int64_t set = r / grid;
    if (set < vertical_sets()) {
      if (set == 0) return {{column.first, columns, at_most(s, column.count)}};
      return {{column[s + 1], columns, at_least(column.count - s - 1, 0)}};
    }
    if (set == vertical_sets()) return {{row.first, 1, at_most(c, row.count)}};
    return {{row[c + 1], 1, at_least(row.count - c - 1, 0)}};
  }

  /// The most tokens a region has.
  STIPPLE_RULE int64_t longest_region() const {
    if (kind == PartitionKind::kFixed) return at_most(block, cells());
    if (kind == PartitionKind::kLogsparse) return cells();
    return rows() > columns ? rows() : columns;
  }

  // --- passes ------------------------------------------------------------------------------------

  STIPPLE_RULE int64_t global_passes() const { return globals > 0 ? 2 : 0; }
  STIPPLE_RULE int64_t row_passes() const {
    return kind == PartitionKind::kRowMajor ? 1 : 1 + vertical_sets();
  }
  STIPPLE_RULE int64_t column_passes() const {
    return kind == PartitionKind::kRowMajor ? 1 : 1 + horizontal_sets();
  }
  STIPPLE_RULE int64_t num_passes() const {
    if (kind == PartitionKind::kFixed) return global_passes() + num_blocks() + 1;
    if (kind == PartitionKind::kLogsparse) return global_passes() + num_spans(1) + num_regions();
    return global_passes() + rows() * row_passes() + columns * column_passes();
  }

  /// Where all direct keys of a query come before its regions is not promised. May be empty.
  STIPPLE_RULE Pass pass(int64_t g) const {
    if (g < global_passes()) return global_pass(g);
    g -= global_passes();
    if (kind == PartitionKind::kFixed) return block_pass(g);
    if (kind == PartitionKind::kLogsparse) return span_pass(g);
    if (g < rows() * row_passes()) return row_pass(g / row_passes(), g % row_passes());
    g -= rows() * row_passes();
    return column_pass(g / column_passes(), g % column_passes());
  }

  /// The most keys a pass has.
  STIPPLE_RULE int64_t longest_pass() const {
    if (globals > 0) return length;
    int64_t longest = longest_region();
    if (kind == PartitionKind::kFixed) longest = at_least(longest, num_regions());
    return kind == PartitionKind::kLogsparse ? 2 : longest;
  }

 private:
  STIPPLE_RULE static int64_t ceil_div(int64_t a, int64_t b) {
    return a <= 0 ? 0 : (a + b - 1) / b;
  }
  STIPPLE_RULE static int64_t at_most(int64_t a, int64_t limit) { return a < limit ? a : limit; }
  STIPPLE_RULE static int64_t at_least(int64_t a, int64_t limit) { return a < limit ? limit : a; }

  /// A line of cells as tokens.
  STIPPLE_RULE Line cut(int64_t first, int64_t stride, int64_t count) const {
    return {globals + first, stride, at_least(count, 0)};
  }
  STIPPLE_RULE Relation direct() const { return is_causal ? Relation::kUpTo : Relation::kAll; }
  STIPPLE_RULE Relation others() const { return is_causal ? Relation::kBefore : Relation::kOther; }
  STIPPLE_RULE Relation other_regions() const {
    return overlaps_own && !is_causal ? Relation::kAll : others();
  }

  STIPPLE_RULE Pass global_pass(int64_t g) const {
    const Line first = {0, 1, globals}, rest = {globals, 1, cells()};
    if (g == 0) return {.queries = rest, .keys = first};
    if (is_causal) return {.queries = first, .keys = first, .relation = Relation::kUpTo};
    return {.queries = first, .keys = {0, 1, length}};
  }
  STIPPLE_RULE Pass block_pass(int64_t g) const {
    if (g < num_blocks())
      return {.queries = block_line(g), .keys = block_line(g), .relation = direct()};
    return {.queries = cut(0, 1, cells()),
            .keys = {0, 1, num_regions()},
            .of_regions = true,
            .relation = other_regions(),
            .unit = block,
            .shift = shift};
  }
  STIPPLE_RULE Pass span_pass(int64_t g) const {
    if (g < num_spans(1)) {
      const Line pair = span_line(1, g);
      return {.queries = pair, .keys = pair, .relation = direct()};
    }
    const int64_t region = g - num_spans(1);
    int64_t level = 1, u = region;
    for (; u >= num_spans(level); ++level) u -= num_spans(level);
    return {.queries = span_queries(level, u), .keys = {region, 1, 1}, .of_regions = true};
  }
  STIPPLE_RULE Pass row_pass(int64_t s, int64_t which) const {
    const Line row = row_line(s);
    if (which == 0) return {.queries = row, .keys = row, .relation = direct()};
    const int64_t set = which - 1;
    return {.queries = row,
            .keys = {(set * rows() + s) * columns, 1, columns},
            .of_regions = true,
            .relation = Relation::kOther};
  }
  STIPPLE_RULE Pass column_pass(int64_t c, int64_t which) const {
    const Line column = column_line(c);
    if (kind == PartitionKind::kRowMajor) {
      return {.queries = column,
              .keys = {c, columns, num_regions() > 0 ? rows() : 0},
              .of_regions = true,
              .relation = other_regions()};
    }
    if (which == 0) {
      const bool is_direct = has_vertical() || has_horizontal();
      return {.queries = column, .keys = is_direct ? column : Line{}, .relation = others()};
    }
    const int64_t set = vertical_sets() + which - 1;
    return {.queries = column,
            .keys = {set * rows() * columns + c, columns, rows()},
            .of_regions = true,
            .relation = others()};
  }
};

#undef STIPPLE_RULE

}  // namespace stipple::kernels
