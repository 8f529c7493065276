// SPDX-License-Identifier: Apache-2.0
#include "data/wordpiece/normalizer.h"

#include <utility>

#include "core/text.h"

namespace stipple::data::wordpiece {
namespace {

constexpr char32_t kCapitalSigma = 0x3A3, kFinalSigma = 0x3C2;

void append_utf8(char32_t code, std::string& to) {
  const auto byte = [&](char32_t bits) { to += static_cast<char>(static_cast<uint8_t>(bits)); };
  if (code < 0x80) {
    byte(code);
  } else if (code < 0x800) {
    byte(0xC0 | code >> 6);
    byte(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    byte(0xE0 | code >> 12);
    byte(0x80 | (code >> 6 & 0x3F));
    byte(0x80 | (code & 0x3F));
  } else {
    byte(0xF0 | code >> 18);
    byte(0x80 | (code >> 12 & 0x3F));
    byte(0x80 | (code >> 6 & 0x3F));
    byte(0x80 | (code & 0x3F));
  }
}

/// Whether a capital sigma at `at` ends a word, as Python sees it: a cased letter is before it and
/// none behind, ignorable characters not counted.
bool is_final_sigma(const CharacterTable& table, std::u32string_view text, size_t at) {
  size_t before = at;
  while (before > 0 && table[text[before - 1]].is(Character::kIgnorable)) --before;
  if (before == 0 || !table[text[before - 1]].is(Character::kCased)) return false;
  size_t behind = at + 1;
  while (behind < text.size() && table[text[behind]].is(Character::kIgnorable)) ++behind;
  return behind == text.size() || !table[text[behind]].is(Character::kCased);
}

}  // namespace

Normalizer::Normalizer(const Options& options)
    : table_(CharacterTable::of(options.profile)),
      lower_case_(options.lower_case),
      has_final_sigma_(options.profile == Profile::kGoogle) {}

void Normalizer::clean(std::string_view text, std::u32string& cleaned) const {
  cleaned.clear();
  for (size_t at = 0; at < text.size();) {
    const Utf8Character next = utf8_character(text, at);
    at += next.bytes == 0 ? 1 : next.bytes;
    const auto code = static_cast<char32_t>(next.code);
    const Character& character = table_[code];
    if (next.bytes == 0 || character.is(Character::kControl)) continue;
    if (character.is(Character::kBlank)) {
      cleaned += U' ';
    } else if (character.is(Character::kIdeograph)) {
      cleaned += {U' ', code, U' '};
    } else {
      cleaned += code;
    }
  }
}

void Normalizer::fold(std::u32string_view cleaned, std::u32string& folded) const {
  folded.clear();
  size_t run = 0;  // where characters that canonical order moves may move to
  for (size_t at = 0; at < cleaned.size(); ++at) {
    const char32_t code = cleaned[at];
    const Character& character = table_[code];
    if (character.is(Character::kMark)) {
      if (character.is(Character::kStarter)) run = folded.size();
      continue;
    }
    const size_t begin = folded.size();
    if (code == kCapitalSigma && has_final_sigma_ && is_final_sigma(table_, cleaned, at)) {
      folded += kFinalSigma;
    } else {
      table_.append_folded(code, folded);
    }
    for (size_t i = begin; i < folded.size(); ++i) {
      const uint8_t order = table_[folded[i]].order;
      if (order == 0) run = i + 1;
      for (size_t j = i; j > run && table_[folded[j - 1]].order > order; --j)
        std::swap(folded[j - 1], folded[j]);
    }
  }
}

void Normalizer::split(std::string_view text, Scratch& scratch,
                       FunctionRef<void(std::string_view word, size_t characters)> word) const {
  clean(text, scratch.cleaned);
  if (lower_case_) fold(scratch.cleaned, scratch.folded);
  size_t characters = 0;
  const auto finish = [&] {
    if (characters > 0) word(scratch.word, characters);
    characters = 0;
    scratch.word.clear();
  };
  const auto append = [&](char32_t code) {
    append_utf8(code, scratch.word);
    ++characters;
  };
  scratch.word.clear();
  for (const char32_t code : lower_case_ ? scratch.folded : scratch.cleaned) {
    const Character& character = table_[code];
    if (character.is(Character::kBlank)) {
      finish();
    } else if (character.is(Character::kPunctuation)) {
      finish();
      append(code);
      finish();
    } else {
      append(code);
    }
  }
  finish();
}

}  // namespace stipple::data::wordpiece
