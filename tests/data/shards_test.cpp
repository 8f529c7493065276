// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "data/shards/shard.h"
#include "data/shards/tokenize.h"
#include "tests/data/scratch_folder.h"

namespace stipple::data::shards {
namespace {

using test::read_file;
using test::ScratchFolder;
using test::write_file;

// 16-bit tokens, sequences of 3, 2 and 4, documents {0, 1} and {2}: as Megatron-LM writes them.
constexpr std::string_view kGolden =
    "4d4d49444944580000"
    "0100000000000000"
    "08"
    "0300000000000000"
    "0300000000000000"
    "03000000"
    "02000000"
    "04000000"
    "0000000000000000"
    "0600000000000000"
    "0a00000000000000"
    "0000000000000000"
    "0200000000000000"
    "0300000000000000";

std::string bytes_of_hex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  return bytes;
}

template <class T>
std::string as_bytes(std::vector<T> values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::vector<int32_t> tokens_of(const Shard& shard, Range range) {
  std::vector<int32_t> tokens(static_cast<size_t>(range.size()));
  shard.copy(range.begin, tokens);
  return tokens;
}

template <class Body>
std::string what_is_said(Body body) {
  try {
    body();
  } catch (const DataError& error) {
    return error.what();
  }
  return "nothing";
}

std::string what_opening_says(const std::string& name) {
  return what_is_said([&] { Shard shard(name); });
}

wordpiece::Vocabulary vocabulary(std::vector<std::string> more = {"a", "b", "##b", "c"}) {
  std::vector<std::string> tokens = wordpiece::special_token_names();
  tokens.insert(tokens.end(), more.begin(), more.end());
  return {tokens, "test"};
}

TEST(ShardIndex, BytesAreThoseOfMegatron) {
  const std::string bytes = bytes_of_hex(kGolden);
  EXPECT_EQ(
      index_bytes({.type = TokenType::kUint16, .begins = {0, 3, 5, 9}, .documents = {0, 2, 3}}),
      bytes);
  const Index index = parse_index(bytes, "golden", 18);
  EXPECT_EQ(index.begins, (std::vector<int64_t>{0, 3, 5, 9}));
  EXPECT_EQ(index.documents, (std::vector<int64_t>{0, 2, 3}));
  EXPECT_EQ(parse_index(bytes + std::string(3, '\0'), "modes", 18).num_tokens(), 9);
  EXPECT_EQ(type_for(65'499), TokenType::kUint16);
  EXPECT_EQ(type_for(65'500), TokenType::kInt32);
}

TEST(ShardIndex, EveryDamageIsToldInOneLine) {
  const std::string good = bytes_of_hex(kGolden);
  const auto says = [&](std::string bytes, int64_t bin = 18) {
    return what_is_said([&] { parse_index(bytes, "x.idx", bin); });
  };
  const auto with = [&](size_t at, char byte) {
    std::string bytes = good;
    bytes[at] = byte;
    return bytes;
  };
  EXPECT_EQ(says(good), "nothing");
  EXPECT_EQ(says(with(0, 'X')),
            "x.idx: is no index of Megatron-LM (it does not begin with MMIDIDX)");
  EXPECT_EQ(says(""), "x.idx: is no index of Megatron-LM (it does not begin with MMIDIDX)");
  EXPECT_EQ(says(good.substr(0, 20)), "x.idx: ends after 20 bytes, within the header");
  EXPECT_EQ(says(with(9, 2)), "x.idx: is of version 2, and only version 1 is known");
  EXPECT_EQ(says(with(17, 7)), "x.idx: holds floating-point numbers, not tokens");
  EXPECT_EQ(says(with(17, 9)), "x.idx: unknown type of tokens 9 at byte 17");
  EXPECT_EQ(says(good.substr(0, 93)),
            "x.idx: has 93 bytes, which does not fit 3 sequences and 3 entries of documents; it is "
            "cut short or damaged");
  EXPECT_NE(says(with(25, '\x7f')).find("does not fit"), std::string::npos) << "2^62 sequences";
  EXPECT_NE(says(with(33, '\x7f')).find("does not fit"), std::string::npos);
  EXPECT_EQ(says(with(54, 7)), "x.idx: sequence 1 begins at byte 7, but those before it end at 6");
  EXPECT_EQ(says(with(37, '\xff')), "x.idx: sequence 0 has -16777213 tokens");
  EXPECT_EQ(says(good, 16),
            "x.idx: speaks of 18 bytes of tokens, but the .bin beside it has 16; one of them is "
            "cut short or of another shard");
  EXPECT_EQ(says(with(70, 1)), "x.idx: its documents do not cover its 3 sequences in order");
  EXPECT_EQ(says(with(78, 4)), "x.idx: its documents do not cover its 3 sequences in order");
  EXPECT_EQ(says(with(86, 2)), "x.idx: its documents do not cover its 3 sequences in order");
}

TEST(Shard, OfMegatronIsReadByTokenSequenceAndDocument) {
  const ScratchFolder folder;
  write_file(folder / "x.bin", as_bytes<uint16_t>({1, 2, 3, 4, 5, 6, 7, 8, 65'000}));
  write_file(folder / "x.idx", bytes_of_hex(kGolden));
  for (const char* name : {"x", "x.bin"}) {
    const Shard shard(folder / name);
    EXPECT_EQ(shard.num_documents(), 2);
    EXPECT_EQ(shard.document(0), (Range{0, 5}));
    EXPECT_EQ(shard.sequence(1), (Range{3, 5}));
    EXPECT_EQ(tokens_of(shard, shard.document(1)), (std::vector{6, 7, 8, 65'000}));
    EXPECT_EQ(tokens_of(shard, {2, 4}), (std::vector{3, 4}));
    EXPECT_FALSE(shard.meta());
    EXPECT_EQ(what_is_said([&] { shard.require_vocabulary(vocabulary()); }),
              folder / "x" + ": token 8 is beyond the vocabulary, which has 9");
  }
}

TEST(Shard, EveryTypeOfTokensIsRead) {
  const ScratchFolder folder;
  const auto check = [&]<class T>(TokenType type, T) {
    write_file(folder / "x.bin", as_bytes<T>({7, 120, 0}));
    write_file(folder / "x.idx",
               index_bytes({.type = type, .begins = {0, 3}, .documents = {0, 1}}));
    EXPECT_EQ(tokens_of(Shard(folder / "x"), {0, 3}), (std::vector{7, 120, 0}));
  };
  check(TokenType::kUint8, uint8_t{});
  check(TokenType::kInt8, int8_t{});
  check(TokenType::kInt16, int16_t{});
  check(TokenType::kUint16, uint16_t{});
  check(TokenType::kInt32, int32_t{});
  check(TokenType::kInt64, int64_t{});
}

TEST(Shard, TokensOfNanoGptAndLlmcAreOneSequence) {
  const ScratchFolder folder;
  write_file(folder / "nano.bin", as_bytes<uint16_t>({5, 50'256, 7}));
  EXPECT_EQ(tokens_of(Shard(folder / "nano.bin"), {0, 3}), (std::vector{5, 50'256, 7}));
  std::vector<int32_t> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = 3;
  write_file(folder / "c16.bin", as_bytes(header) + as_bytes<uint16_t>({5, 50'256, 7}));
  const Shard c16(folder / "c16.bin");
  EXPECT_EQ(c16.num_sequences(), 1);
  EXPECT_EQ(tokens_of(c16, {0, 3}), (std::vector{5, 50'256, 7}));
  header[0] = 20240801;
  header[1] = 7;
  write_file(folder / "c32.bin", as_bytes(header) + as_bytes<uint32_t>({5, 128'000, 7}));
  EXPECT_EQ(tokens_of(Shard(folder / "c32.bin"), {0, 3}), (std::vector{5, 128'000, 7}));
  write_file(folder / "short.bin", as_bytes(header) + as_bytes<uint32_t>({5, 7}));
  EXPECT_EQ(what_opening_says(folder / "short.bin"),
            folder / "short.bin" +
                ": its header (llm.c) speaks of 3 tokens, 1036 bytes in all, but it has 1032; it "
                "is cut short or damaged");
  write_file(folder / "odd.bin", "abc");
  EXPECT_EQ(what_opening_says(folder / "odd.bin"),
            folder / "odd.bin" +
                ": has 3 bytes, an odd number, and is to hold tokens of two; it is cut short");
  write_file(folder / "empty.bin", "");
  EXPECT_EQ(what_opening_says(folder / "empty.bin"), folder / "empty.bin" + ": has no tokens");
  EXPECT_EQ(what_opening_says(folder / "none"),
            "cannot read " + (folder / "none.bin") + ": No such file or directory");
  write_file(folder / "incomplete.bin", "abcd");
  EXPECT_EQ(what_opening_says(folder / "incomplete"),
            folder / "incomplete.idx" + ": is missing, and " + (folder / "incomplete.bin") +
                " alone is no shard: its writer was stopped before the end; make it again by "
                "`stipple data tokenize --force`");
}

/// Texts that make more than one piece and one block's worth of rounds.
std::vector<std::string> write_texts(const ScratchFolder& folder) {
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += i % 7 == 6 ? "\n \n" : i % 3 == 0 ? "a b\n" : "ab c ";
  write_file(folder / "1.txt", text);
  write_file(folder / "2.txt", "");
  write_file(folder / "3.txt", "\xff\n\nabx c\nb\n\n\n \n");
  return {folder / "1.txt", folder / "2.txt", folder / "3.txt"};
}

TEST(Tokenize, DocumentsBecomeSequencesWithWhatIsKnownOfThem) {
  const ScratchFolder folder;
  write_texts(folder);
  const wordpiece::WordPiece tokenizer(vocabulary());
  const TokenizeCounts counts = tokenize(tokenizer, {folder / "2.txt", folder / "3.txt"},
                                         folder / "out/x", {.command = "test"});
  EXPECT_EQ(counts.files, 2);
  EXPECT_EQ(counts.empty_files, 1);
  EXPECT_EQ(counts.documents, 1);
  EXPECT_EQ(counts.empty_documents, 1);
  EXPECT_EQ(counts.unknown, 1);
  const Shard shard(folder / "out/x");
  EXPECT_EQ(tokens_of(shard, shard.document(0)), (std::vector{1, 8, 6}));
  ASSERT_TRUE(shard.meta());
  EXPECT_EQ(shard.meta()->command, "test");
  EXPECT_EQ(shard.meta()->special.mask, 4);
  EXPECT_EQ(shard.meta()->tokens, 3);
  EXPECT_EQ(shard.verify(), 1);
  EXPECT_EQ(what_is_said([&] { shard.require_vocabulary(vocabulary()); }), "nothing");
  EXPECT_EQ(what_is_said([&] { shard.require_vocabulary(vocabulary({"a"})); }),
            folder / "out/x" +
                ": was made by another vocabulary, of 9 tokens; this one has 6. Take that one, or "
                "make the shard again by `stipple data tokenize`");
}

TEST(Tokenize, RulesOfDocuments) {
  const ScratchFolder folder;
  write_file(folder / "x.txt", "a\nb\n\nc\n\n");
  const wordpiece::WordPiece tokenizer(vocabulary());
  const auto documents = [&](DocumentRule rule) {
    return tokenize(tokenizer, {folder / "x.txt"}, folder / "x",
                    {.documents = rule, .replace = true})
        .documents;
  };
  EXPECT_EQ(documents(DocumentRule::kBlankLine), 2);
  EXPECT_EQ(documents(DocumentRule::kLine), 3);
  EXPECT_EQ(documents(DocumentRule::kFile), 1);
}

TEST(Tokenize, AnyNumberOfThreadsWritesTheSameBytes) {
  const ScratchFolder folder;
  const std::vector<std::string> files = write_texts(folder);
  const wordpiece::WordPiece tokenizer(vocabulary());
  tokenize(tokenizer, files, folder / "one", {.threads = 1});
  for (const int threads : {2, 8}) {
    tokenize(tokenizer, files, folder / "many", {.threads = threads, .replace = true});
    for (const char* end : {".bin", ".idx", ".meta.json"})
      EXPECT_EQ(read_file(folder / "one" + end), read_file(folder / "many" + end)) << end;
  }
}

TEST(Tokenize, LargeVocabulariesTakeFourBytesAToken) {
  const ScratchFolder folder;
  std::vector<std::string> many{"a"};
  for (int i = 0; i < 66'000; ++i) many.push_back("t" + std::to_string(i));
  write_file(folder / "x.txt", "t65999 a");
  tokenize(wordpiece::WordPiece(vocabulary(many)), {folder / "x.txt"}, folder / "x", {});
  EXPECT_EQ(tokens_of(Shard(folder / "x"), {0, 2}), (std::vector{66'005, 5}));
  EXPECT_EQ(read_file(folder / "x.bin").size(), 8u);
}

TEST(Tokenize, RefusesWhatIsThereAndWhatIsEmptyAndLeavesNothing) {
  const ScratchFolder folder;
  write_texts(folder);
  const wordpiece::WordPiece tokenizer(vocabulary());
  EXPECT_EQ(what_is_said([&] { tokenize(tokenizer, {folder / "2.txt"}, folder / "x", {}); }),
            "there is no token in 1 file; it is empty");
  EXPECT_EQ(what_is_said([&] {
              tokenize(tokenizer, {folder / "3.txt", folder / "none"}, folder / "x", {});
            }),
            "cannot read " + (folder / "none") + ": No such file or directory");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 3);
  write_file(folder / "x.meta.json", "");
  EXPECT_EQ(
      what_is_said([&] { tokenize(tokenizer, {folder / "3.txt"}, folder / "x", {}); }),
      folder / "x.meta.json" + " exists already; choose another --out, or --force to replace");
}

// Equal sizes, other tokens: nothing but the order in which files come and go tells them apart.
TEST(Tokenize, StoppedWhileItReplacesAShardItLeavesNoneThatOpens) {
  const ScratchFolder folder;
  write_file(folder / "old.txt", "a b\n\nc");
  write_file(folder / "new.txt", "c a\n\nb");
  const wordpiece::WordPiece tokenizer(vocabulary());
  tokenize(tokenizer, {folder / "old.txt"}, folder / "x", {});
  const std::string old_bin = read_file(folder / "x.bin"),
                    old_meta = read_file(folder / "x.meta.json");
  // A folder in the place of the second file stops the writer between the first one and the last.
  std::filesystem::remove(folder / "x.meta.json");
  std::filesystem::create_directories(folder / "x.meta.json/inside");
  EXPECT_NE(what_is_said([&] {
              tokenize(tokenizer, {folder / "new.txt"}, folder / "x", {.replace = true});
            }).find("x.meta.json"),
            std::string::npos);
  std::filesystem::remove_all(folder / "x.meta.json");
  write_file(folder / "x.meta.json", old_meta);
  ASSERT_NE(read_file(folder / "x.bin"), old_bin);
  ASSERT_EQ(read_file(folder / "x.bin").size(), old_bin.size());
  for (const char* name : {"x", "x.bin"})
    EXPECT_NE(what_opening_says(folder / name).find("x.idx: is missing"), std::string::npos);
  tokenize(tokenizer, {folder / "new.txt"}, folder / "x", {.replace = true});
  EXPECT_EQ(Shard(folder / "x").verify(), 1);
}

TEST(Verify, NamesTheBlockThatIsDamaged) {
  const ScratchFolder folder;
  std::string text;
  for (int i = 0; i < 5'000'000; ++i) text += "a\n";
  write_file(folder / "x.txt", text);
  tokenize(wordpiece::WordPiece(vocabulary()), {folder / "x.txt", folder / "x.txt"}, folder / "x",
           {.threads = 2});
  EXPECT_EQ(Shard(folder / "x").verify(), 2);
  std::string bin = read_file(folder / "x.bin");
  bin[(size_t{16} << 20) + 5] = 1;
  write_file(folder / "x.bin", bin);
  EXPECT_EQ(
      what_is_said([&] { Shard(folder / "x").verify(); }),
      folder / "x.bin" +
          ": bytes 16777216 to 20000000 are not what was written; copy or make the shard again");
  std::string idx = read_file(folder / "x.idx");
  write_file(folder / "x.idx", idx + std::string(2, '\0'));
  EXPECT_EQ(what_opening_says(folder / "x"), folder / "x.idx" + ": is not the one that " +
                                                 (folder / "x.meta.json") +
                                                 " was written for; make the shard again");
}

}  // namespace
}  // namespace stipple::data::shards
