// SPDX-License-Identifier: Apache-2.0
#include "data/wordpiece/character_table.h"

#include <algorithm>
#include <string_view>

#include "core/error.h"
#include "data/wordpiece/unicode_tables.h"

namespace stipple::data::wordpiece {
namespace {

constexpr uint32_t kCodes = 0x110000;

// Hangul syllables are composed by arithmetic (Unicode, section 3.12).
constexpr char32_t kFirstSyllable = 0xAC00, kLastSyllable = 0xD7A3;
constexpr char32_t kLeading = 0x1100, kVowel = 0x1161, kTrailing = 0x11A7;
constexpr char32_t kVowels = 21, kTrailings = 28;

void append_hangul(char32_t code, std::u32string& to) {
  const char32_t index = code - kFirstSyllable;
  to += kLeading + index / (kVowels * kTrailings);
  to += kVowel + index / kTrailings % kVowels;
  if (index % kTrailings != 0) to += kTrailing + index % kTrailings;
}

}  // namespace

const CharacterTable& CharacterTable::of(Profile profile) {
  if (profile == Profile::kGoogle) {
    static const CharacterTable google(Profile::kGoogle);
    return google;
  }
  static const CharacterTable hugging_face(Profile::kHuggingFace);
  return hugging_face;
}

Character& CharacterTable::at(uint32_t code) {
  uint32_t& page = pages_[code / kPage];
  if (page == 0) {
    page = static_cast<uint32_t>(characters_.size() / kPage);
    characters_.resize(characters_.size() + kPage);
  }
  return characters_[page * kPage + code % kPage];
}

void CharacterTable::fold(uint32_t code, std::u32string_view to) {
  Character& character = at(code);
  if (to.size() == 1 && to.front() == code) {
    character.fold_size = 0;
    return;
  }
  character.fold_begin = static_cast<uint16_t>(folds_.size());
  character.fold_size = static_cast<uint8_t>(to.size());
  folds_ += to;
  STIPPLE_CHECK(folds_.size() <= 0xFFFF, "unicode_tables.cpp has more folds than can be indexed");
}

CharacterTable::CharacterTable(Profile profile) : pages_(kCodes / kPage), characters_(kPage) {
  const UnicodeTables& tables = unicode_tables();
  const bool is_google = profile == Profile::kGoogle;
  const auto mark = [&](const CodeSet& set, auto&& change) {
    for (const auto& ranges : {set.both, is_google ? set.google : set.hugging_face}) {
      for (const CodeRange& range : ranges) {
        for (uint32_t code = range.first; code <= range.last; ++code) change(at(code));
      }
    }
  };
  const auto set = [&](const CodeSet& codes, Character::Flag flag) {
    mark(codes, [&](Character& c) { c.flags = static_cast<uint8_t>(c.flags | flag); });
  };
  set(tables.control, Character::kControl);
  set(tables.blank, Character::kBlank);
  set(tables.ideograph, Character::kIdeograph);
  set(tables.mark, Character::kMark);
  set(tables.punctuation, Character::kPunctuation);
  set(tables.cased, Character::kCased);
  set(tables.ignorable, Character::kIgnorable);
  set(tables.starter, Character::kStarter);
  for (const ReorderClass& reorder : tables.reorder) at(reorder.code).order = reorder.order;
  mark(tables.unordered, [](Character& c) { c.order = 0; });

  const auto add = [&](const Fold& folds) {
    for (const FoldRun& run : folds.runs) {
      for (uint32_t code = run.first; code <= run.last; code += run.step) {
        const auto to = static_cast<char32_t>(static_cast<int32_t>(code) + run.delta);
        fold(code, std::u32string_view(&to, 1));
      }
    }
    for (const FoldText& text : folds.texts) {
      const std::u32string_view to(text.to.data(), text.to.size());
      if (text.code != 0) fold(text.code, to.substr(0, to.find(U'\0')));
    }
  };
  add(tables.fold);
  if (!is_google) add(tables.hugging_face_fold);
}

void CharacterTable::append_folded(char32_t code, std::u32string& to) const {
  const Character& character = (*this)[code];
  if (character.fold_size > 0) {
    to.append(folds_, character.fold_begin, character.fold_size);
  } else if (code >= kFirstSyllable && code <= kLastSyllable) {
    append_hangul(code, to);
  } else {
    to += code;
  }
}

}  // namespace stipple::data::wordpiece
