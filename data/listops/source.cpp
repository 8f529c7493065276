// SPDX-License-Identifier: Apache-2.0
#include "data/listops/source.h"

#include <fmt/format.h>

#include <array>

#include "core/error.h"
#include "data/listops.h"

namespace stipple::data::listops {
namespace {

constexpr std::array<std::string_view, 16> kSpelling = {
    "", "[MIN", "[MAX", "[MED", "[SM", "]", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};

bool is_operator(uint8_t token) { return token >= kMin && token <= kSm; }

constexpr std::array<bool, 256> make_separators() {
  std::array<bool, 256> separators{};
  for (char c : {' ', '\t', '\r', '\n', '\v', '\f', '(', ')'}) {
    separators[static_cast<unsigned char>(c)] = true;
  }
  return separators;
}
constexpr std::array<bool, 256> kSeparators = make_separators();

bool is_separator(char c) { return kSeparators[static_cast<unsigned char>(c)]; }

/// kPad when the word is no token.
uint8_t token_of(std::string_view word) {
  if (word.size() == 1) {
    if (word[0] >= '0' && word[0] <= '9') return static_cast<uint8_t>(kDigit0 + (word[0] - '0'));
    return word[0] == ']' ? kClose : kPad;
  }
  for (uint8_t token = kMin; token <= kSm; ++token) {
    if (word == kSpelling[token]) return token;
  }
  return kPad;
}

/// Arguments of each operator, in the order of the operators.
std::vector<int> count_arguments(std::span<const uint8_t> tokens) {
  std::vector<int> arguments;
  std::vector<size_t> open;
  for (uint8_t token : tokens) {
    if (token == kClose) {
      STIPPLE_CHECK(!open.empty(), "listops: a closing bracket without its operator");
      open.pop_back();
      continue;
    }
    STIPPLE_CHECK(token != kPad && token < kSpelling.size(), "listops: ", int{token},
                  " is not the id of a token");
    if (!open.empty()) ++arguments[open.back()];
    if (is_operator(token)) {
      open.push_back(arguments.size());
      arguments.push_back(0);
    }
  }
  STIPPLE_CHECK(open.empty(), "listops: ", open.size(), " operators are not closed");
  return arguments;
}

}  // namespace

// The format nests binary applications to the left, so an operator with k arguments opens k + 1
// parentheses at once, before its arguments are known; hence the counting pass.
void append_source(std::span<const uint8_t> tokens, std::string& text) {
  const std::vector<int> arguments = count_arguments(tokens);
  auto next_arguments = arguments.begin();
  int depth = 0;
  for (uint8_t token : tokens) {
    if (depth > 0) text += ' ';
    if (is_operator(token)) {
      for (int i = *next_arguments++; i >= 0; --i) text += "( ";
      text += kSpelling[token];
      ++depth;
      continue;
    }
    text += kSpelling[token];
    if (token == kClose) {
      text += " )";
      --depth;
    }
    if (depth > 0) text += " )";
  }
}

std::string to_source(std::span<const uint8_t> tokens) {
  std::string text;
  append_source(tokens, text);
  return text;
}

std::optional<BadWord> append_tokens(std::string_view source, std::vector<uint8_t>& tokens) {
  const char* const begin = source.data();
  const char* const end = begin + source.size();
  for (const char* p = begin; p != end;) {
    if (is_separator(*p)) {
      ++p;
      continue;
    }
    const char* const start = p;
    while (p != end && !is_separator(*p)) ++p;
    const std::string_view word(start, static_cast<size_t>(p - start));
    const uint8_t token = token_of(word);
    if (token == kPad) return BadWord{word, static_cast<size_t>(start - begin)};
    tokens.push_back(token);
  }
  return std::nullopt;
}

std::string quoted(std::string_view word) {
  constexpr size_t kLongest = 40;
  std::string text = "'";
  for (char c : word.substr(0, kLongest)) {
    if (c >= ' ' && c <= '~') {
      text += c;
    } else {
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return text + (word.size() > kLongest ? "...'" : "'");
}

std::vector<uint8_t> from_source(std::string_view source) {
  std::vector<uint8_t> tokens;
  if (const auto bad = append_tokens(source, tokens)) {
    throw DataError(
        fmt::format("listops: unknown token {} at byte {}", quoted(bad->word), bad->position));
  }
  return tokens;
}

}  // namespace stipple::data::listops
