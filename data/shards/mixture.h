// SPDX-License-Identifier: Apache-2.0
// Several shards as one corpus, as a key of the configuration names them:
//
//   corpus/wiki                        one
//   corpus/wiki,corpus/books           each shown whole
//   corpus/wiki:0.7,corpus/books:0.3   7 of 10 examples are of the first one
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace stipple::data::shards {

/// What a run reads: shards, and how much each of them is to be seen.
struct WeightedShard {
  std::string name;
  double weight = 0;  ///< relative to the others; 0, and then of all: by how much each has
  bool operator==(const WeightedShard&) const = default;
};

/// Names may have commas in no place, and a colon where no number follows. ConfigError, with `key`,
/// for a name that is empty, a weight that is not positive, and weights of some shards only.
std::vector<WeightedShard> parse_mixture(std::string_view text, std::string_view key);

}  // namespace stipple::data::shards
