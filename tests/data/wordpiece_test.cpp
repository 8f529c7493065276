// SPDX-License-Identifier: Apache-2.0
#include "data/wordpiece/wordpiece.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/wordpiece/sequence.h"
#include "tests/data/scratch_folder.h"

namespace stipple::data::wordpiece {
namespace {

using test::ScratchFolder;
using test::write_file;

std::vector<std::string> with_special(std::vector<std::string> tokens) {
  std::vector<std::string> all = special_token_names();
  all.insert(all.end(), tokens.begin(), tokens.end());
  return all;
}

/// The tokens of a text, between blanks.
std::string tokens_of(const WordPiece& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer.encode(text, ids);
  std::string all;
  for (const int32_t id : ids) {
    if (!all.empty()) all += ' ';
    all += tokenizer.vocabulary().token(id);
  }
  return all;
}

std::string what_reading_says(const std::string& path) {
  try {
    Vocabulary::read(path);
  } catch (const DataError& error) {
    return error.what();
  }
  return "nothing";
}

TEST(Vocabulary, IdsAreNumbersOfLinesAndSpecialTokensAreFoundByName) {
  const ScratchFolder folder;
  write_file(folder / "vocab.txt", "a\r\n[MASK]\r\n[SEP]\n[PAD]\n \n[CLS]\n[UNK]  \n##a\na");
  const Vocabulary vocabulary = Vocabulary::read(folder / "vocab.txt");
  EXPECT_EQ(vocabulary.size(), 9);
  EXPECT_EQ(vocabulary.special().mask, 1);
  EXPECT_EQ(vocabulary.special().sep, 2);
  EXPECT_EQ(vocabulary.special().pad, 3);
  EXPECT_EQ(vocabulary.special().cls, 5);
  EXPECT_EQ(vocabulary.special().unknown, 6);
  EXPECT_EQ(vocabulary.find("##a"), 7);
  EXPECT_EQ(vocabulary.find("a"), 8) << "the last of two";
  EXPECT_EQ(vocabulary.find("b"), -1);
  EXPECT_TRUE(vocabulary.is_special(6));
  EXPECT_FALSE(vocabulary.is_special(7));
}

TEST(Vocabulary, LineEndsDoNotChangeTheHash) {
  const ScratchFolder folder;
  write_file(folder / "lf", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n");
  write_file(folder / "crlf", "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\na");
  write_file(folder / "other", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nb\n");
  // xxhsum -H2 lf
  EXPECT_EQ(Vocabulary::read(folder / "lf").hash(), "5ffac6b78afa9a3514eb93b2ce7eed19");
  EXPECT_EQ(Vocabulary::read(folder / "lf").hash(), Vocabulary::read(folder / "crlf").hash());
  EXPECT_NE(Vocabulary::read(folder / "lf").hash(), Vocabulary::read(folder / "other").hash());
  EXPECT_EQ(Vocabulary::read(folder / "crlf").text(), test::read_file(folder / "lf"));
}

TEST(Vocabulary, SaysWhatAFileLacks) {
  const ScratchFolder folder;
  write_file(folder / "empty", "");
  write_file(folder / "lacking", "[PAD]\n[UNK]\n[CLS]\nword\n");
  EXPECT_EQ(what_reading_says(folder / "empty"),
            folder / "empty" + " is empty; a vocabulary has one token in each line");
  EXPECT_EQ(what_reading_says(folder / "lacking"),
            folder / "lacking" +
                " lacks [SEP], [MASK]; a vocabulary of WordPiece has [PAD], [UNK], [CLS], [SEP] "
                "and [MASK], each in a line of its own");
  EXPECT_EQ(what_reading_says(folder / "none"),
            "cannot read " + (folder / "none") + ": No such file or directory");
}

TEST(WordPiece, TakesTheLongestPieceEachTime) {
  const WordPiece tokenizer(Vocabulary(
      with_special({"un", "##aff", "##able", "runn", "##ing", "want", "##want", "##ed", ",", "a"}),
      "test"));
  EXPECT_EQ(tokens_of(tokenizer, "UNwanted,  Running\ta"), "un ##want ##ed , runn ##ing a");
  EXPECT_EQ(tokens_of(tokenizer, "unwantedX running"), "[UNK] runn ##ing")
      << "a word without a match is unknown as a whole";
  EXPECT_EQ(tokens_of(tokenizer, ""), "");
  EXPECT_EQ(tokens_of(tokenizer, " \n"), "");
}

TEST(WordPiece, WordsBeyondTheLimitAreUnknown) {
  const Vocabulary vocabulary(with_special({"a", "##a"}), "test");
  const WordPiece tokenizer(vocabulary, {.max_word_length = 3});
  EXPECT_EQ(tokens_of(tokenizer, "aaa aaaa a"), "a ##a ##a [UNK] a");
}

TEST(WordPiece, AVocabularyWithoutContinuationsKnowsWholeWords) {
  const WordPiece tokenizer(Vocabulary(with_special({"a", "ab"}), "test"));
  EXPECT_EQ(tokens_of(tokenizer, "ab aba a"), "ab [UNK] a");
}

TEST(Sequence, AddsSpecialTokensAndSegments) {
  const SpecialTokens special{0, 1, 2, 3, 4};
  const std::vector<int32_t> a{10, 11}, b{20};
  EXPECT_EQ(sequence_of(special, a, std::nullopt, 8).ids, (std::vector{2, 10, 11, 3}));
  const Sequence pair = sequence_of(special, a, b, 8);
  EXPECT_EQ(pair.ids, (std::vector{2, 10, 11, 3, 20, 3}));
  EXPECT_EQ(pair.segments, (std::vector{0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(pair.cut_tokens, 0);
  const Sequence empty = sequence_of(special, a, std::span<const int32_t>(), 8);
  EXPECT_EQ(empty.ids, (std::vector{2, 10, 11, 3, 3}));
  EXPECT_EQ(empty.segments, (std::vector{0, 0, 0, 0, 1}));
  EXPECT_THROW(sequence_of(special, a, b, 2), Error);
}

TEST(Sequence, IsCutTokenByTokenFromTheLongerText) {
  const SpecialTokens special{0, 1, 2, 3, 4};
  for (size_t first = 0; first < 8; ++first) {
    for (size_t second = 0; second < 8; ++second) {
      for (size_t room = 0; room < 16; ++room) {
        size_t a = first, b = second;
        while (a + b > room) --(a > b ? a : b);
        const std::vector<int32_t> x(first, 10), y(second, 20);
        const Sequence cut = sequence_of(special, x, y, static_cast<int64_t>(room) + 3);
        ASSERT_EQ(std::ranges::count(cut.ids, 10), static_cast<int64_t>(a));
        ASSERT_EQ(std::ranges::count(cut.ids, 20), static_cast<int64_t>(b));
        ASSERT_EQ(cut.cut_tokens, static_cast<int64_t>(first + second - a - b));
      }
    }
  }
}

}  // namespace
}  // namespace stipple::data::wordpiece
