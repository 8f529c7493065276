// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/task_config.h"
#include "data/wordpiece/wordpiece.h"
#include "tests/data/scratch_folder.h"
#include "tests/data/what_open_says.h"

namespace stipple::data {
namespace {

constexpr int32_t kClsToken = 2, kSepToken = 3, kMaskToken = 4;
constexpr int64_t kLength = 12;

/// 200 documents of 1 to 40 words among 50, and their vocabulary.
struct Corpus {
  Corpus() {
    std::string vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n##s\n";
    for (int i = 0; i < 50; ++i) vocabulary += "word" + std::to_string(i) + "\n";
    test::write_file(folder / "vocab.txt", vocabulary);
    std::string text;
    for (int document = 0; document < 200; ++document) {
      for (int word = 0; word <= document % 40; ++word)
        text += "Word" + std::to_string((7 * document + word * word) % 50) +
                (word % 3 == 0 ? "s " : " ");
      text += "\n\n";
    }
    test::write_file(folder / "a.corpus", text);
    config.task = TaskKind::kMlm;
    config.dir = folder.path();
    config.files = "*.corpus";
    config.vocab = folder / "vocab.txt";
    config.max_length = kLength;
    config.mlm.documents = TextDocuments::kBlankLine;
  }
  test::ScratchFolder folder;
  DataConfig config;
};

struct Shown {
  std::vector<int32_t> ids, labels;
  /// What stood there before masking.
  std::vector<int32_t> text() const {
    std::vector<int32_t> text = ids;
    for (size_t i = 0; i < ids.size(); ++i)
      if (labels[i] >= 0) text[i] = labels[i];
    return text;
  }
};

Shown shown(const Dataset& dataset, Draw draw) {
  const auto n = static_cast<size_t>(dataset.length(draw, 0));
  Shown s{std::vector<int32_t>(n, -7), std::vector<int32_t>(n, -7)};
  dataset.get(draw, 0, {.ids = s.ids, .labels = s.labels});
  const auto asked = std::ranges::count_if(s.labels, [](int32_t label) { return label >= 0; });
  EXPECT_EQ(dataset.num_labels(draw), asked);
  return s;
}

/// Text of all pieces, without what is around them.
std::vector<int32_t> whole_text(const Dataset& dataset) {
  std::vector<int32_t> all;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    const std::vector<int32_t> piece = shown(dataset, {.example = i}).text();
    EXPECT_EQ(piece.front(), kClsToken);
    EXPECT_EQ(piece.back(), kSepToken);
    EXPECT_LE(piece.size(), static_cast<size_t>(kLength));
    all.insert(all.end(), piece.begin() + 1, piece.end() - 1);
  }
  return all;
}

TEST(Mlm, ShowsEveryTokenOfTheTextOnceBetweenClsAndSep) {
  Corpus corpus;
  std::vector<std::vector<int32_t>> texts;
  for (const bool pack : {true, false}) {
    corpus.config.mlm.pack = pack;
    const auto dataset = make_task(corpus.config, 1)->open(Split::kTrain);
    texts.push_back(whole_text(*dataset));
    EXPECT_EQ(dataset->intake().tokens, static_cast<int64_t>(texts.back().size()));
    const bool all_full = dataset->length({0}, 0) == kLength && dataset->length({1}, 0) == kLength;
    EXPECT_EQ(all_full, pack);
  }
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_TRUE(std::ranges::count(texts[0], 5) > 100);  // pieces: ##s
  EXPECT_EQ(std::ranges::count(texts[0], 1), 0);       // no word is unknown
}

TEST(Mlm, MasksAnewInEachEpochAndTheSameForTheSame) {
  const Corpus corpus;
  const auto task = make_task(corpus.config, 1);
  const auto dataset = task->open(Split::kTrain);
  int64_t different = 0, masks = 0;
  for (int64_t i = 0; i < dataset->size(); ++i) {
    const Shown first = shown(*dataset, {i, 0}), again = shown(*dataset, {i, 0}),
                later = shown(*dataset, {i, 1});
    EXPECT_EQ(first.ids, again.ids);
    EXPECT_EQ(first.labels, again.labels);
    EXPECT_EQ(first.text(), later.text());
    different += first.labels != later.labels;
    masks += std::ranges::count(first.ids, kMaskToken);
  }
  EXPECT_GT(different, dataset->size() / 2);
  EXPECT_GT(masks, 0);
  EXPECT_NE(shown(*make_task(corpus.config, 2)->open(Split::kTrain), {0, 3}).labels.size(), 0u);
}

TEST(Mlm, EvaluatesAtARateOfItsOwn) {
  Corpus corpus;
  corpus.config.mlm.masking.rate = 0.9;
  const auto task = make_task(corpus.config, 1);
  const auto asked = [&](Split split) {
    const auto dataset = task->open(split);
    int64_t labels = 0;
    for (int64_t i = 0; i < dataset->size(); ++i) labels += dataset->num_labels({i, 0});
    return static_cast<double>(labels) / static_cast<double>(dataset->intake().tokens);
  };
  EXPECT_GT(asked(Split::kTrain), 0.8);
  EXPECT_LT(asked(Split::kValidation), 0.3);
  const auto validation = task->open(Split::kValidation);
  const std::vector<Rung> ladder = task->ladder(*validation);
  ASSERT_EQ(ladder.size(), 1u);
  EXPECT_GT(ladder[0].value, 0.02);
  EXPECT_LT(ladder[0].value, 0.6);
}

TEST(Mlm, IsOtherDataWithAnotherVocabulary) {
  Corpus corpus;
  const uint64_t before = make_task(corpus.config, 1)->open(Split::kTrain)->fingerprint();
  EXPECT_EQ(make_task(corpus.config, 2)->open(Split::kTrain)->fingerprint(), before);
  test::write_file(corpus.config.vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword1\n");
  EXPECT_NE(make_task(corpus.config, 1)->open(Split::kTrain)->fingerprint(), before);
}

TEST(Mlm, TellsWhatIsMissing) {
  Corpus corpus;
  corpus.config.files = "*.nothing";
  EXPECT_NE(what_open_says(corpus.config), "nothing");
  corpus.config.vocab = corpus.folder / "none.txt";
  EXPECT_THROW(make_task(corpus.config, 1), DataError);
  corpus.config.vocab.clear();
  EXPECT_THROW(make_task(corpus.config, 1), ConfigError);
}

}  // namespace
}  // namespace stipple::data
