// SPDX-License-Identifier: Apache-2.0
#include "data/wordpiece/wordpiece.h"

#include <string>
#include <utility>

#include "data/wordpiece/piece_trie.h"

namespace stipple::data::wordpiece {

struct WordPiece::State {
  Vocabulary vocabulary;
  Options options;
  PieceTrie trie;
};

std::string_view profile_name(Profile profile) {
  return profile == Profile::kGoogle ? "google" : "hf";
}

std::optional<Profile> profile_named(std::string_view name) {
  for (const Profile profile : {Profile::kGoogle, Profile::kHuggingFace}) {
    if (profile_name(profile) == name) return profile;
  }
  return std::nullopt;
}

WordPiece::WordPiece(Vocabulary vocabulary, Options options) {
  PieceTrie trie(vocabulary);
  state_ = std::make_unique<const State>(State{std::move(vocabulary), options, std::move(trie)});
}
WordPiece::~WordPiece() = default;
WordPiece::WordPiece(WordPiece&&) noexcept = default;
WordPiece& WordPiece::operator=(WordPiece&&) noexcept = default;

const Vocabulary& WordPiece::vocabulary() const { return state_->vocabulary; }
const Options& WordPiece::options() const { return state_->options; }

namespace {

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_punctuation(char c) {
  return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
         (c >= 123 && c <= 126);
}

}  // namespace

void WordPiece::encode(std::string_view text, std::vector<int32_t>& ids) const {
  std::string word;
  const auto finish = [&] {
    const size_t before = ids.size();
    std::string_view rest = word;
    bool is_whole = word.size() <= static_cast<size_t>(state_->options.max_word_length);
    while (is_whole && !rest.empty()) {
      const PieceTrie::Match match = state_->trie.longest(rest, rest.size() < word.size());
      is_whole = match.id >= 0;
      ids.push_back(match.id);
      rest.remove_prefix(match.bytes);
    }
    if (!is_whole) {
      ids.resize(before);
      ids.push_back(state_->vocabulary.special().unknown);
    }
    word.clear();
  };
  for (const char c : text) {
    if (is_blank(c) || is_punctuation(c)) {
      finish();
      if (is_blank(c)) continue;
      word += c;
      finish();
    } else {
      word += state_->options.lower_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    }
  }
  finish();
}

}  // namespace stipple::data::wordpiece
