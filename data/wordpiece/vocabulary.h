// SPDX-License-Identifier: Apache-2.0
// The tokens of WordPiece, as a file vocab.txt lists them: one a line, a token's id is the number of
// its line, "##" marks a piece that goes on a word.
//
//   const Vocabulary vocabulary = Vocabulary::read("vocab.txt");
//   vocabulary.special().cls;
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace stipple::data::wordpiece {

/// What a piece that does not begin a word begins with.
inline constexpr std::string_view kContinuation = "##";

/// Ids of the tokens that stand for no text. They may have any place in a vocabulary.
struct SpecialTokens {
  int32_t pad = 0;
  int32_t unknown = 0;
  int32_t cls = 0;
  int32_t sep = 0;
  int32_t mask = 0;
};

/// How they are spelled: [PAD] [UNK] [CLS] [SEP] [MASK], in this order.
const std::vector<std::string>& special_token_names();

class Vocabulary {
 public:
  /// Blanks at the end of a line are left out. DataError for a file that cannot be read, has no
  /// tokens or lacks a special one.
  static Vocabulary read(const std::string& path);
  /// `name`: what errors call it.
  Vocabulary(std::vector<std::string> tokens, std::string_view name);

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  const std::string& token(int32_t id) const { return tokens_[static_cast<size_t>(id)]; }
  const std::vector<std::string>& tokens() const { return tokens_; }
  /// -1 where there is none. Of a token that is there twice, the last one's.
  int32_t find(std::string_view token) const;
  const SpecialTokens& special() const { return special_; }
  bool is_special(int32_t id) const;

  /// XXH3-128 of the file as it is written (every token and a line feed): 32 hexadecimal digits.
  /// Equal for equal tokens, whatever the line ends.
  std::string hash() const;
  /// As vocab.txt holds it.
  std::string text() const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  SpecialTokens special_;
};

}  // namespace stipple::data::wordpiece
