// SPDX-License-Identifier: Apache-2.0
// A vocabulary made of a corpus, by the algorithm of Hugging Face's WordPiece trainer: characters,
// then the pair of neighbours that occurs most often becomes a piece, again and again. (Google never
// published its own, which goes by likelihood.) Theirs follows the order of a hash map with a random
// seed; this one has the same bytes every time, for any number of threads.
//
//   const WordCounts words = count_words(files, {}, threads);
//   const std::vector<std::string> tokens = train_vocabulary(words, {.size = 30522});
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "data/wordpiece/wordpiece.h"

namespace stipple::data::wordpiece {

/// Words and how often they occur: the most frequent first, equal counts by their bytes.
using WordCounts = std::vector<std::pair<std::string, int64_t>>;

/// The words of the files' texts, split as `options` say. DataError for a file that cannot be read.
/// progress: bytes read, bytes in all. Memory: every different word once for each thread.
WordCounts count_words(const std::vector<std::string>& files, const Options& options, int threads,
                       const std::function<void(int64_t, int64_t)>& progress = {});

struct TrainOptions {
  int64_t size = 30'522;        ///< tokens at most, special ones included
  int64_t min_frequency = 2;    ///< a pair that occurs less often becomes no piece
  int64_t max_alphabet = 1000;  ///< characters; the rarest ones beyond are left out of words
  std::string continuation = std::string(kContinuation);
};

/// The special tokens, characters by their codes, characters that go on a word, pieces as they were
/// made. Of pairs that occur equally often, that of smaller ids comes first. ConfigError where the
/// characters alone are more than `size`.
std::vector<std::string> train_vocabulary(const WordCounts&, const TrainOptions&);

}  // namespace stipple::data::wordpiece
