// SPDX-License-Identifier: Apache-2.0
#include "core/config/nearest_match.h"

#include <algorithm>

namespace stipple {
namespace {

/// What a person does not distinguish when typing.
std::string folded(std::string_view word) {
  std::string out(word);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c | 0x20);
    if (c == '-') c = '_';
  }
  return out;
}

/// Insertions, deletions, substitutions and swaps of neighbours between a and b.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    before.swap(above);
    above.swap(row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + change});
      const bool is_swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (is_swap) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

}  // namespace

std::string nearest_match(std::string_view word, const std::vector<std::string>& candidates) {
  constexpr size_t kMaxWord = 100;  // the distance costs the product of the lengths
  if (word.size() > kMaxWord) return "";
  const std::string typed = folded(word);
  std::string best;
  size_t best_distance = kMaxWord;
  for (const std::string& candidate : candidates) {
    const size_t length = std::max(typed.size(), candidate.size());
    const size_t distance = edit_distance(typed, folded(candidate));
    const bool is_near = distance <= std::max<size_t>(1, length / 3) && distance < length;
    if (is_near && distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace stipple
