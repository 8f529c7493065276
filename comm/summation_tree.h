// SPDX-License-Identifier: Apache-2.0
// The fixed binary tree in which the leaves of a global batch are summed. It depends on the number
// of leaves only, so the sum has the same bits however the leaves are dealt to ranks. Node (level,
// index) covers leaves [L * index / 2^level, L * (index + 1) / 2^level), rounded down: the ranges
// that 2^level ranks compute. The root is (0, 0).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/range.h"

namespace stipple::comm {

struct TreeNode {
  int level = 0;
  int64_t index = 0;
  TreeNode left() const { return {level + 1, 2 * index}; }
  TreeNode right() const { return {level + 1, 2 * index + 1}; }
};

/// value[left] + value[right]: the sum stands in for value[left] from then on.
struct Addition {
  size_t left = 0;
  size_t right = 0;
};

class SummationTree {
 public:
  explicit SummationTree(int64_t num_leaves) : num_leaves_(num_leaves) {}

  Range leaves(TreeNode) const;
  /// The fewest nodes that together cover exactly this run of leaves, ascending.
  std::vector<TreeNode> cover(Range run) const;
  /// The additions that turn the values of `items` (nodes that together cover the whole tree,
  /// ascending) into the value of the root, which ends in the place of item 0.
  std::vector<Addition> additions(std::span<const TreeNode> items) const;
  /// For each leaf of `node`, ascending: how many sums are complete with it. Each adds the two
  /// newest values.
  std::vector<int> merges(TreeNode node) const;

 private:
  void cover(TreeNode, Range run, std::vector<TreeNode>& nodes) const;
  size_t add_up(TreeNode, std::span<const TreeNode> items, size_t& next,
                std::vector<Addition>& additions) const;
  void count_merges(TreeNode, int64_t first_leaf, std::vector<int>& merges) const;

  int64_t num_leaves_;
};

}  // namespace stipple::comm
