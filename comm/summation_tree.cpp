// SPDX-License-Identifier: Apache-2.0
#include "comm/summation_tree.h"

namespace stipple::comm {

Range SummationTree::leaves(TreeNode node) const {
  return {num_leaves_ * node.index >> node.level, num_leaves_ * (node.index + 1) >> node.level};
}

std::vector<TreeNode> SummationTree::cover(Range run) const {
  std::vector<TreeNode> nodes;
  cover(TreeNode{}, run, nodes);
  return nodes;
}

void SummationTree::cover(TreeNode node, Range run, std::vector<TreeNode>& nodes) const {
  const Range range = leaves(node);
  if (range.end <= run.begin || run.end <= range.begin) return;
  if (run.begin <= range.begin && range.end <= run.end) {
    nodes.push_back(node);
    return;
  }
  cover(node.left(), run, nodes);
  cover(node.right(), run, nodes);
}

std::vector<Addition> SummationTree::additions(std::span<const TreeNode> items) const {
  std::vector<Addition> additions;
  size_t next = 0;
  add_up(TreeNode{}, items, next, additions);
  return additions;
}

size_t SummationTree::add_up(TreeNode node, std::span<const TreeNode> items, size_t& next,
                             std::vector<Addition>& additions) const {
  if (leaves(items[next]) == leaves(node)) return next++;
  const size_t left = add_up(node.left(), items, next, additions);
  const size_t right = add_up(node.right(), items, next, additions);
  additions.push_back({left, right});
  return left;
}

std::vector<int> SummationTree::merges(TreeNode node) const {
  std::vector<int> merges(static_cast<size_t>(leaves(node).size()), 0);
  count_merges(node, leaves(node).begin, merges);
  return merges;
}

void SummationTree::count_merges(TreeNode node, int64_t first_leaf,
                                 std::vector<int>& merges) const {
  const Range range = leaves(node);
  if (range.size() == 1) return;
  count_merges(node.left(), first_leaf, merges);
  count_merges(node.right(), first_leaf, merges);
  ++merges[static_cast<size_t>(range.end - 1 - first_leaf)];
}

}  // namespace stipple::comm
