// SPDX-License-Identifier: Apache-2.0
// Which tokens of a sequence a masked language model is asked for, and what it sees in their place:
// [MASK] for 8 of 10, any token of the vocabulary for 1, the token itself for 1 (arXiv 1810.04805).
// A pure function of (seed, epoch, sample): the same for any number of ranks, and after a resume.
//
//   const Masking masking({.rate = 0.15}, {.vocab_size = 30522, .mask = 103, ...}, seed);
//   masking.apply(epoch, sample, ids, labels);
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "core/config.h"
#include "core/range.h"

namespace stipple::data {

enum class MaskingRule : uint8_t {
  kIndependent,  ///< each token by itself, with probability `rate` (RoBERTa, Hugging Face)
  kCount,        ///< as many as `rate` says, uniformly without replacement (BERT)
  kWords,   ///< whole words, until no further one fits into that number (BERT, whole-word masking)
  kNgrams,  ///< runs of 1 to 3 words, k with probability ~ 1 / k (ALBERT); the last one is cut
};

struct MaskingConfig {
  MaskingRule rule = MaskingRule::kIndependent;
  double rate = 0.15;
  int64_t max_predictions = 0;  ///< of a sequence; 0: no limit
  int64_t copies = 0;           ///< maskings that a sequence has; 0: another one in each epoch
  void describe(ConfigVisitor&);
};

/// What masking knows of tokens.
struct MaskedVocabulary {
  int64_t vocab_size = 0;
  int32_t mask = 0;                              ///< [MASK]
  std::function<bool(int32_t)> is_special = {};  ///< never asked for: [CLS], [SEP], ...
  std::function<bool(int32_t)> continues = {};   ///< goes on the word of the token before it
};

class Masking {
 public:
  Masking(const MaskingConfig&, MaskedVocabulary, uint64_t seed);

  /// Replaces ids in place; labels, as many, are what stood there, -1 where nothing is asked.
  void apply(uint64_t epoch, uint64_t sample, std::span<int32_t> ids,
             std::span<int32_t> labels) const;
  /// How many labels that gives, of the ids as they are before.
  int64_t count(uint64_t epoch, uint64_t sample, std::span<const int32_t> ids) const;

 private:
  class Draws;
  std::vector<int32_t> chosen(const Draws&, std::span<const int32_t> ids) const;
  std::vector<int32_t> some_tokens(const Draws&, std::span<const int32_t> ids) const;
  std::vector<int32_t> some_words(const Draws&, std::span<const int32_t> ids) const;
  std::vector<Range> words(std::span<const int32_t> ids) const;
  int64_t most(std::span<const int32_t> ids) const;
  Draws draws(uint64_t epoch, uint64_t sample) const;

  MaskingConfig config_;
  MaskedVocabulary vocabulary_;
  uint64_t seed_;
};

}  // namespace stipple::data
