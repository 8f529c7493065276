// SPDX-License-Identifier: Apache-2.0
#include "data/wordpiece/sequence.h"

#include <utility>

#include "core/error.h"

namespace stipple::data::wordpiece {
namespace {

void append(Sequence& sequence, std::span<const int32_t> ids, int32_t segment) {
  sequence.ids.insert(sequence.ids.end(), ids.begin(), ids.end());
  sequence.segments.insert(sequence.segments.end(), ids.size(), segment);
}

/// How many tokens of each text are left when `room` are: those of the longer one go first, of the
/// second one where both are as long.
std::pair<size_t, size_t> lengths_of(size_t first, size_t second, size_t room) {
  if (first + second <= room) return {first, second};
  const size_t half = room / 2;
  if (second <= half) return {room - second, second};
  if (first <= room - half) return {first, room - first};
  return {room - half, half};
}

}  // namespace

Sequence sequence_of(const SpecialTokens& special, std::span<const int32_t> first,
                     std::optional<std::span<const int32_t>> second, int64_t max_length) {
  const int64_t around = second ? 3 : 2;
  STIPPLE_CHECK(max_length >= around, "a sequence of ", max_length, " tokens has no room for ",
                around, " special ones");
  const size_t rest = second ? second->size() : 0;
  const auto [a, b] = lengths_of(first.size(), rest, static_cast<size_t>(max_length - around));
  Sequence sequence;
  sequence.ids.reserve(a + b + static_cast<size_t>(around));
  sequence.segments.reserve(a + b + static_cast<size_t>(around));
  append(sequence, std::span(&special.cls, 1), 0);
  append(sequence, first.first(a), 0);
  append(sequence, std::span(&special.sep, 1), 0);
  if (second) {
    append(sequence, second->first(b), 1);
    append(sequence, std::span(&special.sep, 1), 1);
  }
  sequence.cut_tokens = static_cast<int64_t>(first.size() + rest - a - b);
  return sequence;
}

}  // namespace stipple::data::wordpiece
