// SPDX-License-Identifier: Apache-2.0
#include "data/wordpiece/wordpiece.h"

#include <array>
#include <string>
#include <utility>

#include "data/wordpiece/normalizer.h"
#include "data/wordpiece/piece_trie.h"

namespace stipple::data::wordpiece {
namespace {

/// Bytes that are no capital ASCII letters stay as they are.
std::string in_lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
  return lower;
}

}  // namespace

std::string_view profile_name(Profile profile) {
  return profile == Profile::kGoogle ? "google" : "hf";
}

std::optional<Profile> profile_named(std::string_view name) {
  for (const Profile profile : {Profile::kGoogle, Profile::kHuggingFace}) {
    if (profile_name(profile) == name) return profile;
  }
  return std::nullopt;
}

struct WordPiece::State {
  /// What a byte of the text means as long as its word is plain ASCII.
  enum class ByteKind : uint8_t {
    kLetter,
    kBlank,
    kPunctuation,
    kOther  ///< no ASCII, or left out: for Normalizer
  };

  Vocabulary vocabulary;
  Options options;
  PieceTrie trie;
  Normalizer normalizer;
  std::array<ByteKind, 256> kinds;

  State(Vocabulary tokens, const Options& of)
      : vocabulary(std::move(tokens)),
        options(of),
        trie(vocabulary),
        normalizer(options),
        kinds(byte_kinds(CharacterTable::of(options.profile))) {}

  static std::array<ByteKind, 256> byte_kinds(const CharacterTable& table) {
    std::array<ByteKind, 256> all;
    all.fill(ByteKind::kOther);
    for (char32_t code = 0; code < 128; ++code) {
      const Character& character = table[code];
      all[code] = character.is(Character::kBlank)         ? ByteKind::kBlank
                  : character.is(Character::kPunctuation) ? ByteKind::kPunctuation
                  : character.is(Character::kControl)     ? ByteKind::kOther
                                                          : ByteKind::kLetter;
    }
    return all;
  }

  ByteKind kind(char c) const { return kinds[static_cast<uint8_t>(c)]; }

  void append_word(std::string_view word, size_t characters, std::vector<int32_t>& ids) const {
    const size_t before = ids.size();
    bool is_known = characters <= static_cast<size_t>(options.max_word_length);
    for (std::string_view rest = word; is_known && !rest.empty();) {
      const PieceTrie::Match match = trie.longest(rest, rest.size() < word.size());
      is_known = match.id >= 0;
      ids.push_back(match.id);
      rest.remove_prefix(match.bytes);
    }
    if (is_known) return;
    ids.resize(before);
    ids.push_back(vocabulary.special().unknown);
  }
};

WordPiece::WordPiece(Vocabulary vocabulary, Options options)
    : state_(std::make_unique<const State>(std::move(vocabulary), options)) {}
WordPiece::~WordPiece() = default;
WordPiece::WordPiece(WordPiece&&) noexcept = default;
WordPiece& WordPiece::operator=(WordPiece&&) noexcept = default;

const Vocabulary& WordPiece::vocabulary() const { return state_->vocabulary; }
const Options& WordPiece::options() const { return state_->options; }

void WordPiece::encode(std::string_view text, std::vector<int32_t>& ids) const {
  using ByteKind = State::ByteKind;
  const State& state = *state_;
  const std::string lowered = state.options.lower_case ? in_lower_case(text) : std::string();
  const std::string_view plain = state.options.lower_case ? std::string_view(lowered) : text;
  Normalizer::Scratch scratch;
  const size_t size = text.size();
  for (size_t at = 0; at < size;) {
    if (state.kind(text[at]) == ByteKind::kBlank) {
      ++at;
      continue;
    }
    // Between blanks nothing depends on what is outside.
    const size_t begin = at;
    const size_t ids_before = ids.size();
    ByteKind kind = state.kind(text[at]);
    while (at < size && (kind = state.kind(text[at])) < ByteKind::kOther) {
      if (kind == ByteKind::kBlank) break;
      const size_t word = at++;
      if (kind == ByteKind::kLetter) {
        while (at < size && state.kind(text[at]) == ByteKind::kLetter) ++at;
      }
      if (at < size && state.kind(text[at]) == ByteKind::kOther) break;
      state.append_word(plain.substr(word, at - word), at - word, ids);
    }
    if (at == size || state.kind(text[at]) != ByteKind::kOther) continue;
    ids.resize(ids_before);
    while (at < size && state.kind(text[at]) != ByteKind::kBlank) ++at;
    state.normalizer.split(text.substr(begin, at - begin), scratch,
                           [&](std::string_view word, size_t characters) {
                             state.append_word(word, characters, ids);
                           });
  }
}

}  // namespace stipple::data::wordpiece
