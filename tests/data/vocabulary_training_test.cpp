// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "data/wordpiece/train_vocabulary.h"
#include "tests/data/scratch_folder.h"
#include "tests/support/source_folder.h"

namespace stipple::data::wordpiece {
namespace {

using test::ScratchFolder;
using test::write_file;

TEST(VocabularyTraining, TheExampleOfHuggingFace) {
  WordCounts words{{"are", 2}, {"is", 2}};
  for (const char* word : {"BERT", "GPT-2", "and", "big", "blue", "red", "roses", "so", "voilets"})
    words.emplace_back(word, 1);
  const std::vector<std::string> tokens =
      train_vocabulary(words, {.size = 1000, .min_frequency = 2, .continuation = ""});
  std::string all;
  for (size_t i = 5; i < tokens.size(); ++i) all += tokens[i] + " ";
  EXPECT_EQ(all, "- 2 B E G P R T a b d e g i l n o r s t u v re are is ");
}

TEST(VocabularyTraining, AHandMadeCorpus) {
  // (a ##b) 5; then (ab ##c) 3 and, of equal count, (x ##y): smaller ids first.
  const WordCounts words{{"abc", 3}, {"xy", 3}, {"ab", 2}, {"z", 1}};
  EXPECT_EQ(train_vocabulary(words, {.size = 100}),
            (std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c",
                                      "x", "y", "z", "##b", "##c", "##y", "ab", "xy", "abc"}));
  EXPECT_EQ(train_vocabulary(words, {.size = 15}).size(), 15u);
  EXPECT_EQ(train_vocabulary(words, {.size = 100, .min_frequency = 4}).back(), "ab");
  EXPECT_THROW(train_vocabulary(words, {.size = 13}), ConfigError);
}

TEST(VocabularyTraining, TheRarestCharactersAreLeftOutOfWords) {
  const WordCounts words{{"axb", 3}, {"ab", 1}};
  const std::vector<std::string> tokens = train_vocabulary(words, {.size = 100, .max_alphabet = 2});
  EXPECT_EQ(std::vector<std::string>(tokens.begin() + 5, tokens.end()),
            (std::vector<std::string>{"a", "b", "##b", "ab"}))
      << "x occurs less often than b, and its neighbours join";
}

TEST(VocabularyTraining, AnyNumberOfThreadsCountsTheSame) {
  const ScratchFolder folder;
  std::string text;
  for (int64_t i = 0; i < 400'000; ++i)
    text += i % 11 == 0 ? "Été,\n" : "w" + std::to_string(i * i % 7919) + " ";
  write_file(folder / "1.txt", text);
  write_file(folder / "2.txt", "w1 été");
  const std::vector<std::string> files{folder / "1.txt", folder / "2.txt"};
  const WordCounts one = count_words(files, {}, 1);
  ASSERT_GT(one.size(), 1000u);
  EXPECT_EQ(one.front(), (std::pair<std::string, int64_t>{"ete", 36'365}));
  for (const int threads : {2, 8}) EXPECT_EQ(count_words(files, {}, threads), one);
}

/// Their order of equal pairs is random; what they have in every run, ours has, and ours has nothing
/// that they never have (tests/data/golden/make_vocabulary.py).
TEST(VocabularyTraining, IsOneOfThoseThatHuggingFaceTrains) {
  const std::string folder = test::source_folder() / "tests/data/golden";
  const Json golden = Json::parse(test::read_file(folder + "/vocabulary.json"));
  const auto texts = [&](const char* key) {
    std::set<std::string> all;
    for (const Json& token : golden.at(key)) all.insert(token);
    return all;
  };
  WordCounts words;
  for (const auto& [word, count] : golden.at("words").members())
    words.emplace_back(word, count.get<int64_t>());
  std::ranges::sort(words, [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  const std::vector<std::string> tokens =
      train_vocabulary(words, {.size = golden.at("size"), .min_frequency = 2});
  const std::set<std::string> ours(tokens.begin(), tokens.end()), always = texts("always"),
                                                                  ever = texts("ever");
  ASSERT_GT(always.size(), 100u);
  EXPECT_TRUE(std::ranges::includes(ours, always));
  EXPECT_TRUE(std::ranges::includes(ever, ours));
}

}  // namespace
}  // namespace stipple::data::wordpiece
