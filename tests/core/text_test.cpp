// SPDX-License-Identifier: Apache-2.0
#include "core/text.h"

#include <gtest/gtest.h>

namespace stipple {
namespace {

TEST(Utf8Character, DecodesEveryLength) {
  const std::string text = "a\xC3\xBC\xE2\x82\xAC\xF0\x9F\x99\x82";
  EXPECT_EQ(utf8_character(text, 0).code, 0x61U);
  EXPECT_EQ(utf8_character(text, 1).code, 0xFCU);
  EXPECT_EQ(utf8_character(text, 3).code, 0x20ACU);
  EXPECT_EQ(utf8_character(text, 6).code, 0x1F642U);
  EXPECT_EQ(utf8_character(text, 6).bytes, 4U);
}

TEST(Utf8Character, MalformedTextHasNoLength) {
  for (const char* text : {"\xC3", "\xC3x", "\x80", "\xC0\xAF", "\xE0\x9F\xBF", "\xED\xA0\x80",
                           "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF8\x80\x80\x80", "\xFF"}) {
    EXPECT_EQ(utf8_character(text, 0).bytes, 0U) << text;
  }
}

TEST(OneLine, OrdinaryTextStaysAsItIs) {
  EXPECT_EQ(one_line("runs/a b-c_gr\xC3\xBC\xC3\x9F.\xE4\xB8\xAD"),
            "runs/a b-c_gr\xC3\xBC\xC3\x9F.\xE4\xB8\xAD");
}

TEST(OneLine, WhatAReaderCannotSeeIsEscaped) {
  EXPECT_EQ(one_line("a\nb\tc\rd\x1B[1m\x7F"), "a\\nb\\tc\\rd\\x1b[1m\\x7f");
  EXPECT_EQ(one_line("\xEF\xBB\xBFtrain"), "\\ufefftrain");    // byte order mark
  EXPECT_EQ(one_line("a\xC2\xA0z"), "a\\u00a0z");              // no-break space
  EXPECT_EQ(one_line("a\xE2\x80\x8Bz"), "a\\u200bz");          // zero width
  EXPECT_EQ(one_line("a\xE2\x80\xAEz"), "a\\u202ez");          // right to left
  EXPECT_EQ(one_line("a\xC2\x85z"), "a\\u0085z");              // next line
  EXPECT_EQ(one_line("a\xF3\xA0\x80\xA0z"), "a\\U000e0020z");  // tag space
  EXPECT_EQ(one_line("a\xFFz"), "a\\xffz");
}

TEST(OneLine, LongTextIsCutBetweenCharacters) {
  std::string text(59, 'a');
  text += "\xC3\xBC and more";
  EXPECT_EQ(one_line(text), std::string(59, 'a') + "\xC3\xBC...");
}

TEST(HasControl, FindsLineEndsOfEveryKind) {
  for (const char* text : {"a\nb", "a\r", "\x1B[0m", "\x7F", "a\xC2\x85", "a\xE2\x80\xA8"}) {
    EXPECT_TRUE(has_control(text)) << one_line(text);
  }
  EXPECT_FALSE(has_control("runs/gr\xC3\xBCn a\xC2\xA0z"));
}

}  // namespace
}  // namespace stipple
