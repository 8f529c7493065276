// SPDX-License-Identifier: Apache-2.0
// All tokens of a vocabulary as one trie over bytes, to find the longest one that a word begins or
// goes on with. A double array (Aoe 1989): the child of node s by byte c is base[s] + c, if that
// node's parent is s.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/wordpiece/vocabulary.h"

namespace stipple::data::wordpiece {

class PieceTrie {
 public:
  explicit PieceTrie(const Vocabulary&);

  struct Match {
    int32_t id = -1;   ///< -1: nothing matches
    size_t bytes = 0;  ///< of the token, without its "##"
  };
  /// The longest token that `text` begins with; with is_continuation, of those that go on a word.
  /// A special token is not found unless it is spelled.
  Match longest(std::string_view text, bool is_continuation) const {
    int32_t node = is_continuation ? continuation_ : kRoot;
    Match match;
    if (node < 0) return match;
    for (size_t i = 0; i < text.size(); ++i) {
      const int32_t next = nodes_[static_cast<size_t>(node)].base + static_cast<uint8_t>(text[i]);
      if (nodes_[static_cast<size_t>(next)].parent != node) break;
      node = next;
      if (const int32_t id = nodes_[static_cast<size_t>(node)].id; id >= 0) match = {id, i + 1};
    }
    return match;
  }

 private:
  static constexpr int32_t kRoot = 0;
  struct Node {
    int32_t base = 0;     ///< base + byte always lies inside the array
    int32_t parent = -1;  ///< -1: free
    int32_t id = -1;      ///< -1: no token ends here
  };

  std::vector<Node> nodes_;
  int32_t continuation_ = -1;  ///< where "##" leads to; -1: no token goes on a word
};

}  // namespace stipple::data::wordpiece
