// SPDX-License-Identifier: Apache-2.0
#include "data/wordpiece/configured.h"

#include "core/error.h"

namespace stipple::data::wordpiece {

WordPiece configured_tokenizer(const DataConfig& config) {
  constexpr int64_t kShortest = 4;  // [CLS] and [SEP]s, and a token of a text
  STIPPLE_CHECK_AS(ConfigError, !config.vocab.empty(),
                   "data.vocab: names no vocabulary; give the path of the vocab.txt that the model "
                   "was trained with, or of one that `stipple data vocab` wrote");
  STIPPLE_CHECK_AS(ConfigError, config.max_length >= kShortest,
                   "data.max_length: ", config.max_length,
                   " tokens have no room for [CLS], [SEP] and a text; at least ", kShortest);
  return WordPiece(Vocabulary::read(config.vocab),
                   {.lower_case = config.lower_case, .profile = config.wordpiece_profile});
}

}  // namespace stipple::data::wordpiece
