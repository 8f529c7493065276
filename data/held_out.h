// SPDX-License-Identifier: Apache-2.0
// Which part of a corpus, documents one behind the other, a split has: 90, 5 and 5 in 100 of what is
// counted (bytes, tokens), in this order. Cut at the end of the document that is nearest where one is
// less than half of the smaller part away, and within a document otherwise.
#pragma once

#include <cstdint>
#include <vector>

#include "core/range.h"
#include "data/dataset.h"

namespace stipple::data {

/// What is shorter leaves nothing for a split.
inline constexpr int64_t kShortestCorpus = 20;

/// document_ends: ascending; the last one is all there is, at least kShortestCorpus.
Range part_of_split(const std::vector<int64_t>& document_ends, Split);

}  // namespace stipple::data
