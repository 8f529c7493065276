// SPDX-License-Identifier: Apache-2.0
// Masked-LM examples from shards: every token once, weights, held-out parts, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/batch.h"
#include "data/shards/shard.h"
#include "data/shards/tokenize.h"
#include "data/task_config.h"
#include "data/wordpiece/configured.h"
#include "tests/data/scratch_folder.h"
#include "tests/data/what_open_says.h"

namespace stipple::data {
namespace {

constexpr int32_t kShardCls = 2, kShardSep = 3;
constexpr int64_t kShardLength = 10;
constexpr int64_t kPiece = kShardLength - 2;

/// Two shards whose tokens tell where they are from: words 0 to 49 are of the first, 50 to 99 of the
/// second. Documents of 1 to 23 words.
struct Corpora {
  Corpora() {
    std::string vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
    for (int i = 0; i < 100; ++i) vocabulary += "w" + std::to_string(i) + "\n";
    test::write_file(folder / "vocab.txt", vocabulary);
    config.task = TaskKind::kMlm;
    config.vocab = folder / "vocab.txt";
    config.max_length = kShardLength;
    make("a", 0, 150);
    make("b", 50, 60);
    config.mlm.shards = prefix("a");
  }

  void make(const std::string& name, int first_word, int documents) {
    std::string text;
    for (int document = 0; document < documents; ++document) {
      for (int word = 0; word <= document % 23; ++word)
        text += "w" + std::to_string(first_word + (7 * document + word * word) % 50) + " ";
      text += "\n\n";
    }
    test::write_file(folder / name + ".txt", text);
    shards::tokenize(wordpiece::configured_tokenizer(config), {folder / name + ".txt"},
                     prefix(name), {.replace = true});
  }

  std::string prefix(const std::string& name) const { return folder / name; }
  std::unique_ptr<Dataset> open(Split split, uint64_t seed = 1) const {
    return make_task(config, seed)->open(split);
  }

  test::ScratchFolder folder;
  DataConfig config;
};

struct ShardExample {
  std::vector<int32_t> ids, labels;
  bool operator==(const ShardExample&) const = default;
  /// Without masks and what is around.
  std::vector<int32_t> text() const {
    std::vector<int32_t> text = ids;
    for (size_t i = 0; i < ids.size(); ++i)
      if (labels[i] >= 0) text[i] = labels[i];
    EXPECT_EQ(text.front(), kShardCls);
    EXPECT_EQ(text.back(), kShardSep);
    return {text.begin() + 1, text.end() - 1};
  }
  /// Whether it is of the second corpus.
  bool is_of_b() const { return text().front() >= 5 + 50; }
};

ShardExample example_of(const Dataset& dataset, Draw draw) {
  const auto n = static_cast<size_t>(dataset.length(draw, 0));
  ShardExample e{std::vector<int32_t>(n, -7), std::vector<int32_t>(n, -7)};
  dataset.get(draw, 0, {.ids = e.ids, .labels = e.labels});
  EXPECT_EQ(dataset.num_labels(draw),
            std::ranges::count_if(e.labels, [](int l) { return l >= 0; }));
  return e;
}

std::vector<int32_t> all_text(const Dataset& dataset) {
  std::vector<int32_t> all;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    const std::vector<int32_t> text = example_of(dataset, {.example = i}).text();
    EXPECT_LE(text.size(), static_cast<size_t>(kPiece));
    all.insert(all.end(), text.begin(), text.end());
  }
  return all;
}

std::vector<int32_t> tokens_of(const std::string& prefix) {
  const shards::Shard shard(prefix);
  std::vector<int32_t> tokens(static_cast<size_t>(shard.num_tokens()));
  shard.copy(0, tokens);
  return tokens;
}

TEST(MlmShards, SplitsShowEveryTokenOnceInTheOrderOfTheFile) {
  Corpora corpora;
  for (const bool pack : {true, false}) {
    corpora.config.mlm.pack = pack;
    std::vector<int32_t> all;
    for (const Split split : {Split::kTrain, Split::kValidation, Split::kTest}) {
      const auto dataset = corpora.open(split);
      const std::vector<int32_t> text = all_text(*dataset);
      EXPECT_EQ(dataset->intake().tokens, static_cast<int64_t>(text.size()));
      EXPECT_GT(text.size(), split == Split::kTrain ? 1400u : 60u);
      all.insert(all.end(), text.begin(), text.end());
    }
    EXPECT_EQ(all, tokens_of(corpora.prefix("a"))) << "pack " << pack;
  }
}

TEST(MlmShards, PiecesOfDocumentsAreOfOneDocument) {
  Corpora corpora;
  corpora.config.mlm.pack = false;
  const shards::Shard shard(corpora.prefix("a"));
  std::set<std::vector<int32_t>> pieces;
  for (int64_t d = 0; d < shard.num_documents(); ++d) {
    const Range document = shard.document(d);
    for (int64_t begin = document.begin; begin < document.end; begin += kPiece) {
      std::vector<int32_t> piece(static_cast<size_t>(std::min(kPiece, document.end - begin)));
      shard.copy(begin, piece);
      pieces.insert(piece);
    }
  }
  const auto dataset = corpora.open(Split::kTrain);
  for (int64_t i = 0; i < dataset->size(); ++i)
    EXPECT_TRUE(pieces.contains(example_of(*dataset, {i}).text())) << i;
}

TEST(MlmShards, SeveralAreEachShownWhole) {
  Corpora corpora;
  const int64_t of_a = corpora.open(Split::kTrain)->size();
  corpora.config.mlm.shards = corpora.prefix("a") + "," + corpora.prefix("b");
  const auto both = corpora.open(Split::kTrain);
  for (int64_t i = 0; i < both->size(); ++i)
    EXPECT_EQ(example_of(*both, {i}).is_of_b(), i >= of_a) << i;
  EXPECT_GT(both->size(), of_a);
}

TEST(MlmShards, WeightsAreSharesOfEveryEpochAndNothingIsSkipped) {
  Corpora corpora;
  corpora.config.mlm.shards = corpora.prefix("a") + ":1," + corpora.prefix("b") + ":3";
  const auto dataset = corpora.open(Split::kTrain);
  std::map<std::vector<int32_t>, int> shown;  // pieces of b
  constexpr int kEpochs = 12;
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    int64_t of_b = 0;
    for (int64_t i = 0; i < dataset->size(); ++i) {
      const ShardExample e = example_of(*dataset, {i, epoch});
      of_b += e.is_of_b();
      if (e.is_of_b()) ++shown[e.text()];
    }
    EXPECT_NEAR(static_cast<double>(of_b), 0.75 * static_cast<double>(dataset->size()), 1) << epoch;
  }
  // Every piece was shown as often as any other, but for a pass that is not over.
  corpora.config.mlm.shards = corpora.prefix("b");
  const auto b = corpora.open(Split::kTrain);
  std::map<std::vector<int32_t>, int> copies;
  for (int64_t i = 0; i < b->size(); ++i) ++copies[example_of(*b, {i}).text()];
  const int64_t passes = 3 * kEpochs * dataset->size() / 4 / b->size();
  for (const auto& [piece, count] : copies) {
    EXPECT_GE(shown[piece], count * passes);
    EXPECT_LE(shown[piece], count * (passes + 1));
  }
  // Held-out parts are shown whole.
  corpora.config.mlm.shards = corpora.prefix("a") + ":1," + corpora.prefix("b") + ":3";
  const auto validation = corpora.open(Split::kValidation);
  EXPECT_EQ(validation->intake().tokens, static_cast<int64_t>(all_text(*validation).size()));
}

TEST(MlmShards, APieceIsMaskedAnewAtEveryVisitAndTheSameForTheSameDraw) {
  Corpora corpora;
  corpora.config.mlm.shards = corpora.prefix("a") + ":1," + corpora.prefix("b") + ":9";
  const auto dataset = corpora.open(Split::kTrain), again = corpora.open(Split::kTrain);
  std::map<std::vector<int32_t>, std::set<std::vector<int32_t>>> maskings;
  int64_t visits = 0;
  for (int64_t i = 0; i < dataset->size(); ++i) {
    const ShardExample e = example_of(*dataset, {i, 4});
    EXPECT_EQ(e, example_of(*again, {i, 4}));
    if (!e.is_of_b()) continue;
    ++visits;
    maskings[e.text()].insert(e.labels);
  }
  int64_t different = 0;
  for (const auto& [piece, labels] : maskings) different += static_cast<int64_t>(labels.size());
  EXPECT_GT(different, visits / 2) << "the same piece, shown again in an epoch, has other masks";
}

/// All leaves of a step, whatever rank loads them.
std::vector<Leaf> leaves_of(TrainBatches& batches, int64_t step, int64_t ranks, int64_t rank) {
  std::vector<Leaf> leaves;
  const int64_t all = batches.num_leaves();
  for (int64_t i = all * rank / ranks; i < all * (rank + 1) / ranks; ++i)
    batches.load(step, i, leaves.emplace_back());
  return leaves;
}

TEST(MlmShards, AnyNumberOfRanksAndEveryResumeSeeTheSameMasks) {
  Corpora corpora;
  corpora.config.mlm.shards = corpora.prefix("a") + ":2," + corpora.prefix("b") + ":1";
  const auto task = make_task(corpora.config, 1);
  const auto dataset = task->open(Split::kTrain);
  const BatchOptions options{.seed = 3, .batch = 24, .micro_batch = 1};
  TrainBatches alone(*dataset, task->info(), options);
  for (const int64_t step : {0, 1, 7, 25, 49}) {
    const std::vector<Leaf> expected = leaves_of(alone, step, 1, 0);
    for (const int64_t ranks : {2, 3, 8}) {
      size_t at = 0;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        // Opened anew and asked for this step first, as after a resume.
        const auto own = task->open(Split::kTrain);
        TrainBatches resumed(*own, task->info(), options);
        for (const Leaf& leaf : leaves_of(resumed, step, ranks, rank)) {
          ASSERT_LT(at, expected.size());
          EXPECT_EQ(leaf.ids, expected[at].ids);
          EXPECT_EQ(leaf.labels, expected[at].labels);
          EXPECT_EQ(leaf.loss_scale, expected[at].loss_scale);
          ++at;
        }
      }
      EXPECT_EQ(at, expected.size());
    }
  }
}

TEST(MlmShards, AreOtherDataWithOtherTokensOrWeights) {
  Corpora corpora;
  std::set<uint64_t> seen;
  const auto fingerprint = [&](const std::string& shards) {
    corpora.config.mlm.shards = shards;
    return corpora.open(Split::kTrain)->fingerprint();
  };
  const std::string a = corpora.prefix("a"), b = corpora.prefix("b");
  for (const std::string& shards : {a, b, a + "," + b, a + ":1," + b + ":1", a + ":1," + b + ":2"})
    EXPECT_TRUE(seen.insert(fingerprint(shards)).second) << shards;
  EXPECT_EQ(fingerprint(a + ":2," + b + ":4"), fingerprint(a + ":1," + b + ":2"));
  // Without meta.json, too.
  std::filesystem::remove(a + ".meta.json");
  const uint64_t before = fingerprint(a);
  std::string bin = test::read_file(a + ".bin");
  bin[0] = static_cast<char>(bin[0] == 5 ? 6 : 5);
  test::write_file(a + ".bin", bin);
  EXPECT_NE(fingerprint(a), before);
}

TEST(MlmShards, OfMegatronWithoutMetaAreReadAndToldOf) {
  Corpora corpora;
  std::filesystem::remove(corpora.prefix("a") + ".meta.json");
  const auto dataset = corpora.open(Split::kTrain);
  ASSERT_EQ(dataset->intake().remarks.size(), 1u);
  EXPECT_EQ(dataset->intake().remarks[0],
            corpora.prefix("a") +
                " has no meta.json: nothing tells by which vocabulary its tokens "
                "were made");
  test::write_file(corpora.config.vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nw0\n");
  EXPECT_NE(what_open_says(corpora.config).find("is beyond the vocabulary, which has 6"),
            std::string::npos);
}

TEST(MlmShards, WhatDoesNotBelongTogetherIsRefused) {
  Corpora corpora;
  const std::string a = corpora.prefix("a");
  corpora.config.lower_case = false;
  EXPECT_EQ(what_open_says(corpora.config),
            a + ": was made in lower case, and data.lower_case says otherwise; set "
                "data.lower_case=true");
  corpora.config.lower_case = true;
  corpora.config.wordpiece_profile = wordpiece::Profile::kHuggingFace;
  EXPECT_EQ(what_open_says(corpora.config),
            a + ": was made by profile google; set data.wordpiece_profile=google");
  corpora.config.wordpiece_profile = wordpiece::Profile::kGoogle;

  std::string vocabulary = test::read_file(corpora.config.vocab);
  vocabulary.replace(vocabulary.find("w7"), 2, "x7");
  test::write_file(corpora.config.vocab, vocabulary);
  EXPECT_NE(what_open_says(corpora.config).find(a + ": was made by another vocabulary"),
            std::string::npos);

  corpora.config.mlm.shards = corpora.folder / "none";
  EXPECT_NE(what_open_says(corpora.config).find("none.bin: No such file"), std::string::npos);
}

TEST(MlmShards, TooShortOnesAndTornOnesAreRefused) {
  Corpora corpora;
  test::write_file(corpora.folder / "few.txt", "w1 w2 w3\n");
  shards::tokenize(wordpiece::configured_tokenizer(corpora.config), {corpora.folder / "few.txt"},
                   corpora.prefix("few"), {});
  corpora.config.mlm.shards = corpora.prefix("few");
  EXPECT_EQ(what_open_says(corpora.config),
            corpora.prefix("few") +
                ": 3 tokens are too few to hold out 5 % for validation and 5 % for the test; at "
                "least 20 are needed");
  corpora.config.mlm.shards = corpora.prefix("a");
  std::string bin = test::read_file(corpora.prefix("a") + ".bin");
  test::write_file(corpora.prefix("a") + ".bin", bin.substr(0, bin.size() - 2));
  EXPECT_NE(what_open_says(corpora.config).find("one of them is cut short or of another shard"),
            std::string::npos);
}

// A bit that turned over on a disk must not become an address.
TEST(MlmShards, AnIdBeyondTheVocabularyIsRefusedWhereItIsRead) {
  Corpora corpora;
  std::string bin = test::read_file(corpora.prefix("a") + ".bin");
  bin[9] = '\x7f';
  test::write_file(corpora.prefix("a") + ".bin", bin);
  const auto dataset = corpora.open(Split::kTrain);
  try {
    example_of(*dataset, {.example = 0});
    FAIL() << "it was read";
  } catch (const DataError& e) {
    EXPECT_EQ(std::string(e.what()).find(corpora.prefix("a") + ": token 4 is "), 0u) << e.what();
  }
}

TEST(MlmShards, AWeightThatShowsNothingIsRefused) {
  Corpora corpora;
  corpora.config.mlm.shards = corpora.prefix("a") + ":0.99999," + corpora.prefix("b") + ":0.00001";
  try {
    corpora.open(Split::kTrain);
    FAIL() << "it was opened";
  } catch (const ConfigError& e) {
    EXPECT_EQ(std::string(e.what()).find("data.mlm.shards: the weight of shard 2 gives it none of"),
              0u)
        << e.what();
  }
}

}  // namespace
}  // namespace stipple::data
