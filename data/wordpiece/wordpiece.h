// SPDX-License-Identifier: Apache-2.0
// From text to ids of a vocabulary, as BERT does it: characters are cleaned, lower-cased and freed
// of accents, words split at blanks and around punctuation, and a word cut into the longest pieces
// that the vocabulary has. Spelled special tokens ("[SEP]") are text like any other.
//
//   const WordPiece tokenizer(Vocabulary::read("vocab.txt"));
//   std::vector<int32_t> ids;
//   tokenizer.encode("Hello, world", ids);
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "data/wordpiece/vocabulary.h"

namespace stipple::data::wordpiece {

/// Whose rules hold where the two differ, which is in rare characters only (docs/text.md).
enum class Profile {
  kGoogle,      ///< google-research/bert, Unicode 15
  kHuggingFace  ///< Hugging Face's tokenizers, id for id
};

struct Options {
  bool lower_case = true;  ///< and no accents: the vocabulary is an uncased one
  Profile profile = Profile::kGoogle;
  int max_word_length = 100;  ///< in characters; a longer word is [UNK]
};

std::string_view profile_name(Profile);  ///< "google", "hf"
std::optional<Profile> profile_named(std::string_view name);

class WordPiece {
 public:
  explicit WordPiece(Vocabulary vocabulary, Options options = {});
  ~WordPiece();
  WordPiece(WordPiece&&) noexcept;
  WordPiece& operator=(WordPiece&&) noexcept;

  const Vocabulary& vocabulary() const;
  const Options& options() const;

  /// Appends the ids of `text`, without [CLS] and [SEP]. Bytes that are no UTF-8 are left out. Any
  /// number of threads may call it. O(bytes)
  void encode(std::string_view text, std::vector<int32_t>& ids) const;

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

}  // namespace stipple::data::wordpiece
