// SPDX-License-Identifier: Apache-2.0
#include "data/held_out.h"

#include <algorithm>
#include <cstdlib>

namespace stipple::data {
namespace {

/// Validation and test have one part in so many each.
constexpr int64_t kHeldOutShare = kShortestCorpus;

/// The end of a document that is nearest to `target`, if it is less than `reach` away; else target.
int64_t cut_near(const std::vector<int64_t>& document_ends, int64_t target, double reach) {
  const auto above = std::ranges::lower_bound(document_ends, target);
  int64_t best = target;
  double distance = reach;
  const auto consider = [&](int64_t end) {
    const auto away = static_cast<double>(std::abs(end - target));
    if (away < distance) best = end, distance = away;
  };
  if (above != document_ends.end()) consider(*above);
  if (above != document_ends.begin()) consider(*(above - 1));
  return best;
}

}  // namespace

Range part_of_split(const std::vector<int64_t>& document_ends, Split split) {
  const int64_t all = document_ends.back(), held_out = all / kHeldOutShare;
  const double reach = static_cast<double>(held_out) / 2;
  const int64_t validation = cut_near(document_ends, all - 2 * held_out, reach);
  const int64_t test = cut_near(document_ends, all - held_out, reach);
  if (split == Split::kTrain) return {0, validation};
  return split == Split::kValidation ? Range{validation, test} : Range{test, all};
}

}  // namespace stipple::data
