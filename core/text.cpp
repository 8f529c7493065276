// SPDX-License-Identifier: Apache-2.0
#include "core/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace stipple {
namespace {

constexpr size_t kMaxShownBytes = 60;

struct CodeRange {
  uint32_t first;
  uint32_t last;
};

// Spaces and marks that show nothing, or look like an ordinary space. Source: Unicode 15, General
// Category Zs (but U+0020), Zl, Zp, Cf, and the fillers and variation selectors that are invisible
// without being either.
constexpr std::array<CodeRange, 19> kInvisible = {{
    {0xA0, 0xA0},     {0xAD, 0xAD},     {0x34F, 0x34F},   {0x600, 0x605},     {0x61C, 0x61C},
    {0x115F, 0x1160}, {0x1680, 0x1680}, {0x17B4, 0x17B5}, {0x180B, 0x180F},   {0x2000, 0x200F},
    {0x2028, 0x202F}, {0x205F, 0x206F}, {0x2800, 0x2800}, {0x3000, 0x3000},   {0x3164, 0x3164},
    {0xFE00, 0xFE0F}, {0xFEFF, 0xFEFF}, {0xFFA0, 0xFFA0}, {0xE0000, 0xE0FFF},
}};

bool is_invisible(uint32_t code) {
  return std::any_of(kInvisible.begin(), kInvisible.end(), [&](const CodeRange& range) {
    return code >= range.first && code <= range.last;
  });
}

std::string escaped(uint32_t code) {
  switch (code) {
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return code < 0x80      ? fmt::format("\\x{:02x}", code)
             : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
  }
}

}  // namespace

Utf8Character utf8_character(std::string_view text, size_t at) {
  const auto byte = [&](size_t k) {
    return k < text.size() ? static_cast<unsigned char>(text[k]) : 0U;
  };
  const uint32_t first = byte(at);
  if (first < 0x80) return {first, 1};
  if (first < 0xC2 || first > 0xF4) return {};
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  uint32_t code = first & (0x7FU >> length);
  for (size_t k = 1; k < length; ++k) {
    if ((byte(at + k) & 0xC0U) != 0x80U) return {};
    code = code << 6U | (byte(at + k) & 0x3FU);
  }
  const bool is_overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  const bool is_surrogate = code >= 0xD800 && code <= 0xDFFF;
  return is_overlong || is_surrogate || code > 0x10FFFF ? Utf8Character{}
                                                        : Utf8Character{code, length};
}

bool is_control(uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x2028 || code == 0x2029;
}

bool has_control(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Character character = utf8_character(text, i);
    if (character.bytes > 0 && is_control(character.code)) return true;
    i += std::max<size_t>(character.bytes, 1);
  }
  return false;
}

std::string one_line(std::string_view text) {
  std::string shown;
  for (size_t i = 0; i < text.size();) {
    if (i >= kMaxShownBytes) return shown + "...";
    const Utf8Character character = utf8_character(text, i);
    if (character.bytes == 0) {
      shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[i]));
    } else if (is_control(character.code) || is_invisible(character.code)) {
      shown += escaped(character.code);
    } else {
      shown += text.substr(i, character.bytes);
    }
    i += std::max<size_t>(character.bytes, 1);
  }
  return shown;
}

}  // namespace stipple
