// SPDX-License-Identifier: Apache-2.0
// Pairs of texts as BERT and ALBERT are trained on them: what they are cut of, how often which relation
// occurs, how they are shortened, and some of them as they were once drawn.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/mlm/pairs.h"
#include "data/shards/tokenize.h"
#include "data/task_config.h"
#include "data/wordpiece/configured.h"
#include "tests/data/scratch_folder.h"
#include "tests/data/what_open_says.h"

namespace stipple::data::mlm {
namespace {

/// Tokens are numbered, so that an instance's ranges say everything. `documents`: lengths of the
/// sentences of each.
Part corpus_of(const std::vector<std::vector<int64_t>>& documents) {
  shards::Index index;
  for (const auto& sentences : documents) {
    for (const int64_t tokens : sentences) index.begins.push_back(index.begins.back() + tokens);
    index.documents.push_back(index.num_sequences());
  }
  std::vector<int32_t> ids(static_cast<size_t>(index.num_tokens()));
  const Range all{0, index.num_tokens()};
  return {tokens_in_memory(std::move(ids), std::move(index)), all};
}

/// 400 documents of 1 to 12 sentences of 1 to 9 tokens.
Part many_documents() {
  std::vector<std::vector<int64_t>> documents;
  for (int64_t d = 0; d < 400; ++d) {
    documents.emplace_back();
    for (int64_t s = 0; s <= d % 12; ++s) documents.back().push_back(1 + (5 * d + 7 * s) % 9);
  }
  return corpus_of(documents);
}

int64_t document_with(const Part& part, int64_t token) {
  for (int64_t d = 0; d < part.num_documents(); ++d)
    if (token < part.document(d).end) return d;
  return -1;
}

bool begins_sentence(const Part& part, int64_t token) {
  return std::ranges::binary_search(part.tokens().index().begins, token);
}

constexpr int64_t kRoom = 1000;  ///< nothing is cut

TEST(Pairs, OfNextSentencesAreTheRestOfTheirDocumentOrOfAnotherOne) {
  const Part part = many_documents();
  const auto pairs = cut_pairs(part, {.kind = PairKind::kNext, .duplicates = 2}, 24, 5);
  int64_t others = 0;
  for (int64_t i = 0; i < pairs->size(); ++i) {
    const Instance pair = (*pairs)[i];
    ASSERT_GT(pair.text.size(), 0);
    ASSERT_GT(pair.second.size(), 0);
    EXPECT_LE(pair.length(), 24 + kAroundPair);
    const int64_t first = document_with(part, pair.text.begin);
    EXPECT_EQ(first, document_with(part, pair.text.end - 1));
    const int64_t second = document_with(part, pair.second.begin);
    EXPECT_EQ(second, document_with(part, pair.second.end - 1));
    EXPECT_EQ(pair.relation == 0, first == second) << i;
    if (pair.relation == 0) {
      EXPECT_LE(pair.text.end, pair.second.begin);
    }
    others += pair.relation;
  }
  // Half of them, and those chunks that have one sentence only.
  const double share = static_cast<double>(others) / static_cast<double>(pairs->size());
  EXPECT_GT(share, 0.5);
  EXPECT_LT(share, 0.75);
}

TEST(Pairs, WithRoomForAllShowEverySentenceWholeInEveryDuplicate) {
  const Part part = many_documents();
  constexpr int64_t kDuplicates = 3;
  const auto pairs = cut_pairs(
      part, {.kind = PairKind::kNext, .duplicates = kDuplicates, .short_probability = 0.5}, kRoom,
      6);
  std::vector<int64_t> shown(static_cast<size_t>(part.range().size()));
  for (int64_t i = 0; i < pairs->size(); ++i) {
    const Instance pair = (*pairs)[i];
    for (const Range& text : {pair.text, pair.second}) {
      EXPECT_TRUE(begins_sentence(part, text.begin));
      EXPECT_TRUE(begins_sentence(part, text.end));
    }
    if (pair.relation == 0) {
      EXPECT_EQ(pair.text.end, pair.second.begin);
    }
    for (int64_t t = pair.text.begin; t < pair.text.end; ++t) ++shown[static_cast<size_t>(t)];
    if (pair.relation == 1) continue;
    for (int64_t t = pair.second.begin; t < pair.second.end; ++t) ++shown[static_cast<size_t>(t)];
  }
  EXPECT_EQ(std::ranges::count(shown, kDuplicates), std::ssize(shown));
}

TEST(Pairs, OfOrderFollowEachOtherAndAreExchangedHalfOfTheTime) {
  const Part part = many_documents();
  const auto pairs = cut_pairs(part, {.kind = PairKind::kOrder, .duplicates = 4}, kRoom, 7);
  int64_t exchanged = 0;
  for (int64_t i = 0; i < pairs->size(); ++i) {
    const Instance pair = (*pairs)[i];
    const bool is_exchanged = pair.relation == 1;
    const Range& before = is_exchanged ? pair.second : pair.text;
    const Range& after = is_exchanged ? pair.text : pair.second;
    EXPECT_EQ(before.end, after.begin);
    EXPECT_EQ(document_with(part, before.begin), document_with(part, after.begin));
    exchanged += pair.relation;
  }
  const auto n = static_cast<double>(pairs->size());
  EXPECT_NEAR(static_cast<double>(exchanged) / n, 0.5, 4 * 0.5 / std::sqrt(n));
  // A document with one sentence has no order.
  const auto message = [] {
    try {
      cut_pairs(corpus_of({{5}, {7}, {2}}), {.kind = PairKind::kOrder}, kRoom, 1);
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  }();
  EXPECT_EQ(message, "data.mlm.pairs.kind: no document has two sentences, of which pairs are made");
}

TEST(Pairs, TooLongOnesLoseTokensOfTheLongerTextAtBothEnds) {
  const Part part = corpus_of({{50, 40, 3}, {60, 9}});
  const auto pairs =
      cut_pairs(part, {.kind = PairKind::kOrder, .duplicates = 200, .short_probability = 0}, 20, 8);
  std::map<int64_t, int> lost_before;
  for (int64_t i = 0; i < pairs->size(); ++i) {
    const Instance pair = (*pairs)[i];
    EXPECT_EQ(pair.text.size() + pair.second.size(), 20);
    // Of 50 and 40, or of 60, what is left is as long as the other text, or longer than a short one.
    EXPECT_GE(pair.text.size(), 9);
    EXPECT_GE(pair.second.size(), 9);
    const Range& before = pair.relation == 1 ? pair.second : pair.text;
    if (before.begin < 50) ++lost_before[before.begin];
  }
  // 40 of 50 tokens, each at either end: a binomial with mean 20 and deviation 3.2.
  EXPECT_GT(lost_before.size(), 8u);
  EXPECT_GT(lost_before.begin()->first, 4);
  EXPECT_LT(lost_before.rbegin()->first, 36);
}

TEST(Pairs, AreShorterWhereADocumentIsDrawnToBe) {
  const Part part = corpus_of(std::vector<std::vector<int64_t>>(1000, std::vector<int64_t>(40, 1)));
  const auto lengths = [&](double probability) {
    const auto pairs = cut_pairs(
        part, {.kind = PairKind::kOrder, .duplicates = 1, .short_probability = probability}, 40, 9);
    int64_t full = 0;
    for (int64_t i = 0; i < pairs->size(); ++i) full += (*pairs)[i].length() == 40 + kAroundPair;
    return full;
  };
  EXPECT_EQ(lengths(0), 1000);
  EXPECT_NEAR(static_cast<double>(lengths(0.1)), 900, 40);
  EXPECT_LT(lengths(1), 60);
}

TEST(Pairs, AreAFunctionOfSeedDuplicateAndDocument) {
  const Part part = many_documents();
  const PairsConfig config{.kind = PairKind::kNext, .duplicates = 2};
  const auto pairs = cut_pairs(part, config, 24, 5), again = cut_pairs(part, config, 24, 5);
  const auto other = cut_pairs(part, config, 24, 6);
  ASSERT_EQ(pairs->size(), again->size());
  int64_t equal = 0;
  for (int64_t i = pairs->size() - 1; i >= 0; --i) {
    EXPECT_EQ((*pairs)[i], (*again)[i]);
    equal += i < other->size() && (*pairs)[i] == (*other)[i];
  }
  EXPECT_LT(equal, pairs->size() / 4);
  EXPECT_EQ(pairs->fingerprint(1), again->fingerprint(1));
  EXPECT_NE(pairs->fingerprint(1), other->fingerprint(1));
  EXPECT_NE(pairs->fingerprint(1), pairs->fingerprint(2));
}

std::string text_of(const Instance& pair) {
  const auto range = [](const Range& r) {
    return std::to_string(r.begin) + "-" + std::to_string(r.end);
  };
  return range(pair.text) + " " + range(pair.second) + " " + std::to_string(pair.relation);
}

// As they were drawn when this was written: a change of any draw is a change of what runs see.
TEST(Pairs, AreThoseThatWereOnceDrawn) {
  const Part part = corpus_of({{4, 3, 6, 2}, {5, 5, 5}, {1, 8}});
  const auto drawn = [&](PairKind kind) {
    const auto pairs = cut_pairs(part, {.kind = kind, .duplicates = 2}, 10, 12345);
    std::vector<std::string> texts;
    for (int64_t i = 0; i < pairs->size(); ++i) texts.push_back(text_of((*pairs)[i]));
    return texts;
  };
  EXPECT_EQ(drawn(PairKind::kNext),
            (std::vector<std::string>{
                "0-4 6-12 0", "13-15 31-39 1", "15-20 33-38 1", "20-25 25-30 0", "30-31 31-39 0",
                "0-5 7-12 0", "13-15 31-39 1", "15-20 20-25 0", "25-30 33-38 1", "30-31 31-39 0"}));
  EXPECT_EQ(drawn(PairKind::kOrder),
            (std::vector<std::string>{"0-4 6-12 0", "20-25 15-20 1", "30-31 31-39 0", "1-6 7-12 0",
                                      "15-20 20-25 0", "30-31 31-39 0"}));
}

/// A shard of sentences, and text with the same.
struct Sentences {
  Sentences() {
    std::string vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", text;
    for (int i = 0; i < 60; ++i) vocabulary += "w" + std::to_string(i) + "\n";
    for (int document = 0; document < 60; ++document) {
      for (int line = 0; line < 2 + document % 5; ++line) {
        for (int word = 0; word <= (document + line) % 4; ++word)
          text += "w" + std::to_string((document + 3 * line + word) % 60) + " ";
        text += "\n";
      }
      text += "\n";
    }
    test::write_file(folder / "vocab.txt", vocabulary);
    test::write_file(folder / "text.txt", text);
    config.task = TaskKind::kMlm;
    config.vocab = folder / "vocab.txt";
    config.dir = folder.path();
    config.files = "text.txt";
    config.max_length = 16;
    config.mlm.documents = TextDocuments::kBlankLine;
    config.mlm.pairs = {.kind = PairKind::kOrder, .duplicates = 2};
    tokenize("by_lines", true);
    tokenize("whole", false);
  }
  void tokenize(const std::string& name, bool sentences) const {
    shards::tokenize(wordpiece::configured_tokenizer(config), {folder / "text.txt"}, folder / name,
                     {.sentences = sentences});
  }
  test::ScratchFolder folder;
  DataConfig config;
};

TEST(Pairs, OfShardsAndOfTextHaveKindsOfTokensAndARelation) {
  Sentences corpus;
  for (const bool of_shards : {false, true}) {
    if (of_shards) corpus.config.mlm.shards = corpus.folder / "by_lines";
    const auto task = make_task(corpus.config, 1);
    EXPECT_TRUE(task->info().fields.has_relation);
    EXPECT_EQ(task->info().fields.segments, 2);
    const auto dataset = task->open(Split::kTrain);
    std::map<int32_t, int64_t> relations;
    for (int64_t i = 0; i < dataset->size(); ++i) {
      const auto n = static_cast<size_t>(dataset->length({i}, 0));
      std::vector<int32_t> ids(n), segments(n, -1), labels(n), relation(1, -1);
      dataset->get({i, 3}, 0,
                   {.ids = ids, .segments = segments, .labels = labels, .relation = relation});
      ++relations[relation[0]];
      const auto middle = static_cast<size_t>(std::ranges::find(segments, 1) - segments.begin());
      ASSERT_LT(middle, n);
      EXPECT_EQ(ids.front(), 2);
      EXPECT_EQ(ids[middle - 1], 3);
      EXPECT_EQ(ids.back(), 3);
      EXPECT_EQ(std::ranges::count(segments, 1), static_cast<int64_t>(n - middle));
      EXPECT_EQ(std::ranges::count(labels, 3), 0);
    }
    EXPECT_EQ(relations.size(), 2u);
    EXPECT_EQ(task->ladder(*dataset).size(), 1u);  // which asks for ids and labels only
    EXPECT_EQ(relations[0] + relations[1], dataset->size());
  }
}

TEST(Pairs, OfAShardWithoutSentencesAreRefused) {
  Sentences corpus;
  corpus.config.mlm.shards = corpus.folder / "whole";
  EXPECT_EQ(what_open_says(corpus.config),
            corpus.folder / "whole" +
                ": does not know sentences, which data.mlm.pairs are made of; make it by `stipple "
                "data tokenize --sentences` of text with a sentence a line");
  corpus.config.mlm.shards = corpus.folder / "by_lines";
  corpus.config.max_length = 4;
  EXPECT_THROW(make_task(corpus.config, 1)->open(Split::kTrain), ConfigError);
}

}  // namespace
}  // namespace stipple::data::mlm
