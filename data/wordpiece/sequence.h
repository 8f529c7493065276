// SPDX-License-Identifier: Apache-2.0
// What a BERT model reads of one text or two:
//
//   ids       [CLS] first [SEP]           [CLS] first [SEP] second [SEP]
//   segments    0     0     0               0     0     0     1      1
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "data/wordpiece/vocabulary.h"

namespace stipple::data::wordpiece {

struct Sequence {
  std::vector<int32_t> ids;
  std::vector<int32_t> segments;
  int64_t cut_tokens = 0;  ///< of the texts, which did not fit
};

/// At most max_length ids (at least 3 for a pair, 2 for one text): tokens are taken from the end of
/// the longer text, of the second one where both are equally long, until it fits. An empty second
/// text keeps its [SEP].
Sequence sequence_of(const SpecialTokens&, std::span<const int32_t> first,
                     std::optional<std::span<const int32_t>> second, int64_t max_length);

}  // namespace stipple::data::wordpiece
