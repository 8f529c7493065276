// SPDX-License-Identifier: Apache-2.0
// Text of unknown origin: whether it is UTF-8, and how to show it in a message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace stipple {

/// One character of a UTF-8 text.
struct Utf8Character {
  uint32_t code = 0;  ///< U+...
  size_t bytes = 0;   ///< 0: malformed, overlong, a surrogate or beyond U+10FFFF
};

/// The character that starts at text[at]; `at` is below text.size().
Utf8Character utf8_character(std::string_view text, size_t at);

/// Characters that are commands to a terminal or end a line, in any encoding of a line end.
bool is_control(uint32_t code);

/// Whether any character of `text` is one.
bool has_control(std::string_view text);

/// `text` as it may stand in a one-line message: cut when long; control characters, and those that
/// a reader cannot see or that reorder what he sees (no-break space, zero width, byte order marks,
/// bidirectional marks), are escaped, as are bytes that are not UTF-8.
std::string one_line(std::string_view text);

}  // namespace stipple
