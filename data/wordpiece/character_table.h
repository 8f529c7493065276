// SPDX-License-Identifier: Apache-2.0
// What becomes of every character under the rules of one profile, to be looked up by its code.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/wordpiece/wordpiece.h"

namespace stipple::data::wordpiece {

struct Character {
  enum Flag : uint8_t {
    kControl = 1,
    kBlank = 2,
    kIdeograph = 4,
    kMark = 8,
    kPunctuation = 16,
    kCased = 32,
    kIgnorable = 64,
    kStarter = 128,  ///< a mark behind which order begins anew
  };
  uint8_t flags = 0;
  uint8_t order = 0;        ///< canonical combining class; 0 for marks that are left out
  uint16_t fold_begin = 0;  ///< in the texts of folds
  uint8_t fold_size = 0;    ///< 0: stays as it is

  bool is(Flag flag) const { return (flags & flag) != 0; }
};

class CharacterTable {
 public:
  static const CharacterTable& of(Profile);  ///< made when it is first asked for

  const Character& operator[](char32_t code) const {
    return characters_[pages_[code / kPage] * kPage + code % kPage];
  }
  /// The character in lower case, decomposed and without marks.
  void append_folded(char32_t code, std::u32string& to) const;

 private:
  explicit CharacterTable(Profile);
  Character& at(uint32_t code);
  void fold(uint32_t code, std::u32string_view to);

  static constexpr uint32_t kPage = 256;
  std::vector<uint32_t> pages_;  ///< page 0 holds characters that nothing is known of
  std::vector<Character> characters_;
  std::u32string folds_;
};

}  // namespace stipple::data::wordpiece
