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

/// What a byte means by itself.
struct Unit {
  bool is_separator = false;
  int8_t opens = 0;   ///< 1, -1: a parenthesis
  uint8_t token = 0;  ///< kPad: none
  bool is_known = false;
};

constexpr std::array<Unit, 256> make_units() {
  std::array<Unit, 256> units{};
  for (char c : {' ', '\t', '\r', '\n', '\v', '\f', '(', ')'}) {
    units[static_cast<unsigned char>(c)] = {.is_separator = true, .is_known = true};
  }
  units['('].opens = 1;
  units[')'].opens = -1;
  units[']'] = {.token = kClose, .is_known = true};
  for (uint8_t digit = 0; digit < 10; ++digit) {
    units['0' + digit] = {.token = static_cast<uint8_t>(kDigit0 + digit), .is_known = true};
  }
  return units;
}
constexpr std::array<Unit, 256> kUnits = make_units();

const Unit& unit_of(char c) { return kUnits[static_cast<unsigned char>(c)]; }
bool is_separator(char c) { return unit_of(c).is_separator; }

/// kPad when the word is no token. The third letter tells the operators apart.
uint8_t token_of(std::string_view word) {
  if (word.size() == 1) return unit_of(word[0]).token;
  if (word.size() < 3) return kPad;
  const char third = word[2];
  const uint8_t token = third == 'I' ? kMin : third == 'A' ? kMax : third == 'E' ? kMed : kSm;
  return word == kSpelling[token] ? token : uint8_t{kPad};
}

/// The last parenthesis that opens and is not closed; there is one.
BadWord last_unclosed(std::string_view source) {
  int64_t closed = 0;
  size_t i = source.size();
  do {
    --i;
    if (source[i] == ')') ++closed;
    if (source[i] == '(') --closed;
  } while (closed >= 0);
  return {source.substr(i, 1), i};
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
  const size_t before = tokens.size();
  tokens.resize(before + source.size());  // there are no more tokens than bytes
  uint8_t* out = tokens.data() + before;
  const char* const begin = source.data();
  const char* const end = begin + source.size();
  const char* p = begin;
  const char* bad_end = begin;  // of a bad word that begins at p
  int64_t open = 0;
  while (p != end) {
    const Unit unit = unit_of(*p);
    if (unit.is_known && end - p >= 2 && p[1] == ' ') {
      // Nearly all of a published text: one byte and its space, without a branch on which.
      open += unit.opens;
      *out = unit.token;
      out += unit.token != kPad;
      if (open < 0) break;
      p += 2;
    } else if (unit.is_separator) {
      open += unit.opens;
      if (open < 0) break;
      ++p;
    } else {
      const char* word_end = p + 1;
      while (word_end != end && !is_separator(*word_end)) ++word_end;
      *out = token_of({p, static_cast<size_t>(word_end - p)});
      if (*out++ == kPad) {
        bad_end = word_end;
        break;
      }
      p = word_end;
    }
  }
  tokens.resize(static_cast<size_t>(out - tokens.data()));
  if (p == end) return open > 0 ? std::optional(last_unclosed(source)) : std::nullopt;
  const char* const word_end = open < 0 ? p + 1 : bad_end;
  return BadWord{{p, static_cast<size_t>(word_end - p)}, static_cast<size_t>(p - begin)};
}

size_t position_of_token(std::string_view source, size_t i) {
  size_t position = 0;
  for (size_t seen = 0; position < source.size(); ++position) {
    const bool begins =
        !is_separator(source[position]) && (position == 0 || is_separator(source[position - 1]));
    if (begins && seen++ == i) break;
  }
  return position;
}

std::string_view spelling(uint8_t token) {
  return token == kPad || token >= kSpelling.size() ? "?" : kSpelling[token];
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

std::string describe(const BadWord& bad) {
  const std::string word = quoted(bad.word);
  if (bad.word == "(" || bad.word == ")") return word + " without its other half";
  const bool has_nul = bad.word.find('\0') != bad.word.npos;
  return (has_nul ? "NUL byte, the file is damaged: " : "unknown token ") + word;
}

std::vector<uint8_t> from_source(std::string_view source) {
  std::vector<uint8_t> tokens;
  if (const auto bad = append_tokens(source, tokens)) {
    throw DataError(fmt::format("listops: {} at byte {}", describe(*bad), bad->position));
  }
  return tokens;
}

}  // namespace stipple::data::listops
