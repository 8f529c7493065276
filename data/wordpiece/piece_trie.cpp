// SPDX-License-Identifier: Apache-2.0
#include "data/wordpiece/piece_trie.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace stipple::data::wordpiece {
namespace {

constexpr size_t kBytes = 256;
constexpr int kMostTries = 64;

/// Tokens [begin, end) of the sorted ones share their first `depth` bytes, which lead to `node`.
struct Branch {
  size_t begin;
  size_t end;
  size_t depth;
  int32_t node;
};

}  // namespace

PieceTrie::PieceTrie(const Vocabulary& vocabulary) : nodes_(kBytes) {
  std::vector<int32_t> sorted(static_cast<size_t>(vocabulary.size()));
  std::iota(sorted.begin(), sorted.end(), 0);
  // Of equal tokens the last one counts, which the ones before lead to.
  std::erase_if(sorted, [&](int32_t id) { return vocabulary.find(vocabulary.token(id)) != id; });
  std::ranges::sort(sorted, {}, [&](int32_t id) { return std::string_view(vocabulary.token(id)); });

  std::vector<Branch> open{{0, sorted.size(), 0, kRoot}};
  nodes_[kRoot].parent = std::numeric_limits<int32_t>::max();  // taken, and nobody's child
  size_t first_free = 1;
  size_t taken_end = 1;
  std::vector<Branch> children;
  std::vector<uint8_t> bytes;
  for (size_t next = 0; next < open.size(); ++next) {  // breadth first: short prefixes lie together
    Branch branch = open[next];
    const auto token = [&](size_t i) -> std::string_view { return vocabulary.token(sorted[i]); };
    if (branch.begin < branch.end && token(branch.begin).size() == branch.depth)
      nodes_[static_cast<size_t>(branch.node)].id = sorted[branch.begin++];
    children.clear();
    bytes.clear();
    for (size_t i = branch.begin; i < branch.end; ++i) {
      const auto byte = static_cast<uint8_t>(token(i)[branch.depth]);
      if (bytes.empty() || bytes.back() != byte) {
        bytes.push_back(byte);
        children.push_back({i, i, branch.depth + 1, 0});
      }
      children.back().end = i + 1;
    }
    if (bytes.empty()) continue;
    // A base with all of the children's places free: near the first free place or, where that is not
    // found soon, behind all that is taken.
    while (nodes_[first_free].parent >= 0) {
      if (++first_free == nodes_.size()) nodes_.resize(nodes_.size() + kBytes);
    }
    const auto fits = [&](size_t base) {
      if (base + kBytes > nodes_.size()) nodes_.resize(std::max(nodes_.size() * 2, base + kBytes));
      return std::ranges::all_of(bytes, [&](uint8_t b) { return nodes_[base + b].parent < 0; });
    };
    size_t base = std::max<size_t>(first_free, bytes.front()) - bytes.front();
    for (int tries = 0; !fits(base); ++base) {
      if (++tries == kMostTries) base = taken_end;
    }
    taken_end = std::max(taken_end, base + bytes.back() + 1);
    nodes_[static_cast<size_t>(branch.node)].base = static_cast<int32_t>(base);
    for (size_t i = 0; i < bytes.size(); ++i) {
      children[i].node = static_cast<int32_t>(base + bytes[i]);
      nodes_[base + bytes[i]].parent = branch.node;
    }
    open.insert(open.end(), children.begin(), children.end());
  }
  nodes_[kRoot].id = -1;  // an empty token matches nothing

  int32_t node = kRoot;
  for (const char c : kContinuation) {
    const int32_t child = nodes_[static_cast<size_t>(node)].base + static_cast<uint8_t>(c);
    if (nodes_[static_cast<size_t>(child)].parent != node) return;
    node = child;
  }
  continuation_ = node;
}

}  // namespace stipple::data::wordpiece
