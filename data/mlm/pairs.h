// SPDX-License-Identifier: Apache-2.0
// Pairs of texts whose relation is to be told: does the second one follow the first (BERT, arXiv
// 1810.04805), or are the two in order (ALBERT, arXiv 1909.11942). Cut as google-research/bert does
// (create_pretraining_data.py): sentences of a document are gathered up to a length that is nearly
// always the longest, and parted at one of them.
//
//   next    the second text is the rest, or, half of the time and where there is one sentence only,
//           sentences of another document (relation 1); those that were left of this one come again
//   order   the second text is the rest, and half of the time the two are exchanged (relation 1); what
//           ends a document as one sentence is left out
//
// Too long a pair loses tokens of the longer text, at either end. Everything follows from (seed,
// duplicate, document) and the number of the pair.
#pragma once

#include <cstdint>
#include <memory>

#include "core/config.h"
#include "data/mlm/instances.h"

namespace stipple::data {

enum class PairKind : uint8_t { kNone, kNext, kOrder };

struct PairsConfig {
  PairKind kind = PairKind::kNone;
  int64_t duplicates = 10;  ///< how many times a document is cut
  double short_probability = 0.1;
  void describe(ConfigVisitor&);
};

namespace mlm {

/// Both texts together have at most `longest` tokens, at least 2. Memory: 8 bytes a document and
/// duplicate. Making it reads all lengths of sentences `duplicates` times, an instance those of its
/// document. DataError where no pair can be made.
std::unique_ptr<const Instances> cut_pairs(const Part&, const PairsConfig&, int64_t longest,
                                           uint64_t seed);

}  // namespace mlm
}  // namespace stipple::data
