// SPDX-License-Identifier: Apache-2.0
// Any text as words, by the rules of a profile. The general way, character by character: WordPiece
// asks for it only where a text is not plain ASCII.
#pragma once

#include <string>
#include <string_view>

#include "core/function_ref.h"
#include "data/wordpiece/character_table.h"

namespace stipple::data::wordpiece {

class Normalizer {
 public:
  explicit Normalizer(const Options&);

  /// What a call works with; keep it for the next one.
  struct Scratch {
    std::u32string cleaned;
    std::u32string folded;
    std::string word;
  };
  /// Calls word(UTF-8, characters) for each word in order; a punctuation character is one.
  void split(std::string_view text, Scratch&,
             FunctionRef<void(std::string_view word, size_t characters)> word) const;

 private:
  void clean(std::string_view text, std::u32string& cleaned) const;
  void fold(std::u32string_view cleaned, std::u32string& folded) const;

  const CharacterTable& table_;
  bool lower_case_;
  bool has_final_sigma_;
};

}  // namespace stipple::data::wordpiece
