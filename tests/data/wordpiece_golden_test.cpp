// SPDX-License-Identifier: Apache-2.0
// Against what Hugging Face's tokenizers and Google's rules make of the same texts
// (tests/data/golden/make_wordpiece.py).
#include <gtest/gtest.h>
#include <xxhash.h>

#include <fstream>
#include <string>
#include <vector>

#include "core/json.h"
#include "data/wordpiece/normalizer.h"
#include "data/wordpiece/wordpiece.h"
#include "tests/support/source_folder.h"

namespace stipple::data::wordpiece {
namespace {

std::string golden(std::string_view name) {
  return test::source_folder() / "tests/data/golden" / name;
}

std::vector<Json> golden_rows() {
  std::ifstream in(golden("wordpiece.jsonl"));
  std::vector<Json> rows;
  for (std::string line; std::getline(in, line);) rows.push_back(Json::parse(line));
  return rows;
}

std::string words_of(const Normalizer& normalizer, std::string_view text) {
  Normalizer::Scratch scratch;
  std::string words;
  normalizer.split(text, scratch, [&](std::string_view word, size_t) {
    if (!words.empty()) words += ' ';
    words += word;
  });
  return words;
}

std::string utf8(char32_t code) {
  std::string text;
  const auto put = [&](char32_t bits) { text += static_cast<char>(static_cast<uint8_t>(bits)); };
  const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  const char32_t marks[] = {0, 0xC0, 0xE0, 0xF0};
  put(marks[more] | code >> (6 * more));
  for (int i = more - 1; i >= 0; --i) put(0x80 | (code >> (6 * i) & 0x3F));
  return text;
}

struct Case {
  Options options;
  const char* key;
  const char* sweep;
};

const Case kCases[] = {
    {{.lower_case = true, .profile = Profile::kGoogle}, "google", "ce4d99e5eb4b112e"},
    {{.lower_case = false, .profile = Profile::kGoogle}, "google_cased", "63878a0d2c9b6282"},
    {{.lower_case = true, .profile = Profile::kHuggingFace}, "hf", "2f1bcb1dbf647fee"},
    {{.lower_case = false, .profile = Profile::kHuggingFace}, "hf_cased", "bcbac46627548ff1"},
};

class WordPieceGolden : public testing::TestWithParam<Case> {};

TEST_P(WordPieceGolden, WordsAreTheirs) {
  const Normalizer normalizer(GetParam().options);
  const std::vector<Json> rows = golden_rows();
  ASSERT_GT(rows.size(), 200u);
  for (const Json& row : rows) {
    const std::string text = row.at("text");
    EXPECT_EQ(words_of(normalizer, text), row.at(GetParam().key).get<std::string>()) << text;
  }
}

TEST_P(WordPieceGolden, EveryCharacterBecomesWhatItBecomesThere) {
  const Normalizer normalizer(GetParam().options);
  XXH3_state_t* const state = XXH3_createState();
  XXH3_64bits_reset(state);
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    const std::string line = words_of(normalizer, "Aé" + utf8(code) + "Σb") + "\n";
    XXH3_64bits_update(state, line.data(), line.size());
  }
  char hex[17];
  std::snprintf(hex, sizeof hex, "%016llx",
                static_cast<unsigned long long>(XXH3_64bits_digest(state)));
  XXH3_freeState(state);
  EXPECT_STREQ(hex, GetParam().sweep);
}

INSTANTIATE_TEST_SUITE_P(Profiles, WordPieceGolden, testing::ValuesIn(kCases),
                         [](const auto& param) { return std::string(param.param.key); });

TEST(WordPieceIds, AreThoseOfHuggingFace) {
  const WordPiece tokenizer(Vocabulary::read(golden("wordpiece_vocab.txt")),
                            {.profile = Profile::kHuggingFace});
  std::string all;
  std::vector<int64_t> all_ids;
  for (const Json& row : golden_rows()) {
    const std::string text = row.at("text");
    std::vector<int32_t> ids;
    tokenizer.encode(text, ids);
    const auto expected = row.at("ids").get<std::vector<int64_t>>();
    EXPECT_EQ(std::vector<int64_t>(ids.begin(), ids.end()), expected) << text;
    all += text + "\n";
    all_ids.insert(all_ids.end(), expected.begin(), expected.end());
  }
  std::vector<int32_t> ids;
  tokenizer.encode(all, ids);
  EXPECT_EQ(std::vector<int64_t>(ids.begin(), ids.end()), all_ids) << "as one text";
}

TEST(WordPieceIds, BytesThatAreNotUtf8AreLeftOut) {
  const WordPiece tokenizer(Vocabulary::read(golden("wordpiece_vocab.txt")));
  const auto ids_of = [&](std::string_view text) {
    std::vector<int32_t> ids;
    tokenizer.encode(text, ids);
    return ids;
  };
  EXPECT_EQ(ids_of("th\xff"
                   "e b\xe2\x82"
                   "a \xc0\xaf"
                   "c\xed\xa0\x80"
                   "d an\xf0\x9f"),
            ids_of("the ba cd an"));
}

}  // namespace
}  // namespace stipple::data::wordpiece
