// SPDX-License-Identifier: Apache-2.0
// The published text of an expression, for loops over many of them: appends instead of allocating,
// reports instead of throwing.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stipple::data::listops {

/// A word that is no token, or a round parenthesis without its other half: a view into the source
/// it was found in.
struct BadWord {
  std::string_view word;
  size_t position = 0;  ///< in bytes from the start of the source
};

/// Appends the text of a tree. Error on unbalanced tokens.
void append_source(std::span<const uint8_t> tokens, std::string& text);

/// Appends the tokens of a text; words are separated by white space and round parentheses, which
/// carry nothing but must come in pairs. Stops at the first word that is no token and returns it.
std::optional<BadWord> append_tokens(std::string_view source, std::vector<uint8_t>& tokens);

/// For messages: "unknown token 'ten'".
std::string describe(const BadWord&);

/// Where token number `i` (from 0) of a text begins, in bytes.
size_t position_of_token(std::string_view source, size_t i);

/// How a token is written; "?" for what is none.
std::string_view spelling(uint8_t token);

/// For messages: in quotes, unprintable bytes as \x00, cut when long.
std::string quoted(std::string_view word);

}  // namespace stipple::data::listops
