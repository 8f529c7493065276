// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "data/glue/files.h"
#include "data/predictions.h"
#include "data/task_config.h"
#include "tests/data/glue_fixture.h"
#include "tests/data/what_open_says.h"

namespace stipple::data {
namespace {

namespace fs = std::filesystem;
using glue::TaskId;
using Lines = std::vector<std::string>;

class Glue : public testing::Test {
 protected:
  void SetUp() override { test::write_glue(folder_.path()); }

  /// "first|second|label" of every row, "-" for none.
  Lines rows(TaskId id, Split split, tsv::BadRow bad_row = tsv::BadRow::kError) const {
    const glue::SplitTexts read =
        glue::read_split(glue::published(id), folder_.path(), split, bad_row);
    Lines lines;
    for (const tsv::Text& row : read.texts.rows) {
      lines.push_back(fmt::format("{}|{}|{}", row.first, row.second,
                                  std::isnan(row.label) ? "-" : fmt::format("{}", row.label)));
    }
    return lines;
  }
  Lines remarks(TaskId id, Split split) const {
    return glue::read_split(glue::published(id), folder_.path(), split, tsv::BadRow::kError)
        .remarks;
  }
  std::string error(TaskId id, Split split) const {
    try {
      rows(id, split);
    } catch (const DataError& e) {
      return e.what();
    }
    return "nothing";
  }
  DataConfig config(TaskId id, int64_t max_length = 16) const {
    DataConfig config;
    config.task = TaskKind::kGlue;
    config.dir = folder_.path();
    config.vocab = folder_ / "vocab.txt";
    config.max_length = max_length;
    config.glue.task = id;
    return config;
  }
  /// "ids|segments|label" of every example.
  static Lines examples(const Dataset& dataset, bool is_value = false) {
    Lines lines;
    for (int64_t i = 0; i < dataset.size(); ++i) {
      const auto n = static_cast<size_t>(dataset.length({.example = i}, 0));
      std::vector<int32_t> ids(n, -7), segments(n, -7);
      int32_t label = -1;
      float value = std::nanf("");
      ExampleSpans spans{.ids = ids, .segments = segments};
      if (is_value) {
        spans.values = {&value, 1};
      } else {
        spans.labels = {&label, 1};
      }
      dataset.get({.example = i}, 0, spans);
      EXPECT_EQ(dataset.num_labels({.example = i}), is_value ? !std::isnan(value) : label >= 0);
      lines.push_back(fmt::format("{}|{}|{}", fmt::join(ids, " "), fmt::join(segments, ""),
                                  is_value ? fmt::format("{}", value) : fmt::format("{}", label)));
    }
    return lines;
  }

  test::ScratchFolder folder_;
};

TEST_F(Glue, ModelsAnswerForTheTaskWhoseTrainingFilesTheySaw) {
  for (const glue::Published& trained : glue::all_published()) {
    for (const glue::Published& asked : glue::all_published()) {
      const bool are_of_mnli =
          trained.folder == "MNLI" && (asked.folder == "MNLI" || asked.id == TaskId::kAx);
      const bool expected = are_of_mnli || (trained.id == asked.id && asked.id != TaskId::kAx);
      EXPECT_EQ(glue::answers_for(asked.id, trained.id), expected)
          << asked.name << " by " << trained.name;
    }
  }
}

TEST_F(Glue, EveryTaskIsReadByItsColumns) {
  EXPECT_EQ(rows(TaskId::kCola, Split::kTrain),
            (Lines{"A b.||1", "b \"a||0", "c \xE2\x80\xA8 d||1", "||0"}));
  EXPECT_EQ(rows(TaskId::kCola, Split::kValidation), (Lines{"c c.||1", "d||0"}));
  EXPECT_EQ(rows(TaskId::kCola, Split::kTest), (Lines{"a b||-", "\"c||-", "||-"}));
  EXPECT_EQ(rows(TaskId::kSst2, Split::kTrain), (Lines{"a b ||1", "c \"d ||0"}));
  EXPECT_EQ(rows(TaskId::kSst2, Split::kTest), (Lines{"d||-"}));
  EXPECT_EQ(rows(TaskId::kMrpc, Split::kTrain), (Lines{"a b|\" b a|1", "c|d|0"}));
  EXPECT_EQ(rows(TaskId::kMrpc, Split::kValidation), (Lines{"e|e|1"}));
  EXPECT_EQ(rows(TaskId::kMrpc, Split::kTest), (Lines{"a|b|-", "c|d|-"}));
  EXPECT_EQ(rows(TaskId::kQqp, Split::kValidation), (Lines{"d|e|1"}));
  EXPECT_EQ(rows(TaskId::kStsb, Split::kTrain), (Lines{"a|b|4.75", "c|d|0"}));
  EXPECT_EQ(rows(TaskId::kStsb, Split::kTest), (Lines{"e|d|-"}));
  EXPECT_EQ(rows(TaskId::kMnli, Split::kTrain), (Lines{"a|b|2", "c|d|0"}));
  EXPECT_EQ(rows(TaskId::kMnli, Split::kValidation), (Lines{"a|b|1"}));
  EXPECT_EQ(rows(TaskId::kMnliMm, Split::kTrain), rows(TaskId::kMnli, Split::kTrain));
  EXPECT_EQ(rows(TaskId::kMnliMm, Split::kValidation), (Lines{"e|e|2", "d|e|0"}));
  EXPECT_EQ(rows(TaskId::kMnli, Split::kTest), (Lines{"a|c|-"}));
  EXPECT_EQ(rows(TaskId::kMnliMm, Split::kTest), (Lines{"a|d|-", "b|d|-"}));
  EXPECT_EQ(rows(TaskId::kQnli, Split::kTrain), (Lines{"a ?|b|0", "c ?|d|1"}));
  EXPECT_EQ(rows(TaskId::kQnli, Split::kTest), (Lines{"d ?|e|-"}));
  EXPECT_EQ(rows(TaskId::kRte, Split::kTrain), (Lines{"a|b|1", "c|d|0"}));
  EXPECT_EQ(rows(TaskId::kWnli, Split::kTrain), (Lines{"a|b|1", "c|d|0"}));
  EXPECT_EQ(rows(TaskId::kAx, Split::kTest), (Lines{"a|b|-", "b|a|-"}));
}

TEST_F(Glue, RowsOfQqpWithoutAllFieldsAreLeftOutAndBlankInTheTest) {
  EXPECT_EQ(rows(TaskId::kQqp, Split::kTrain), (Lines{"a ?|b ?|0", "c||1"}));
  EXPECT_EQ(remarks(TaskId::kQqp, Split::kTrain).front(),
            fmt::format("1 row left out, the first: {}/QQP/train.tsv:3: the row has 4 of 6 fields; "
                        "a line is a row, tabs end its fields, and quotes have no meaning",
                        folder_.path()));
  EXPECT_EQ(rows(TaskId::kQqp, Split::kTest), (Lines{"a|b|-", "||-", "d|e|-"}));
  EXPECT_NE(remarks(TaskId::kQqp, Split::kTest).front().find("test.tsv:3"), std::string::npos);
}

TEST_F(Glue, NumbersOfRowsThatAreNotThePublishedOnesAreTold) {
  EXPECT_EQ(remarks(TaskId::kRte, Split::kTrain), (Lines{"rte has 2 examples, 2490 as published"}));
}

TEST_F(Glue, MrpcIsMadeOfItsCorpus) {
  const std::string dir = folder_ / "MRPC";
  fs::remove_all(dir);
  const std::string header = "\xEF\xBB\xBFQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n";
  test::write_in(dir, "msr_paraphrase_train.txt",
                 header + "1\t11\t12\ta b\tb \"a\r\n0\t13\t14\tc\td\r\n1\t12\t11\te\te\r\n");
  test::write_in(dir, "msr_paraphrase_test.txt", header + "1\t1\t2\ta\tb\r\n0\t3\t4\tc\td\r\n");
  EXPECT_NE(error(TaskId::kMrpc, Split::kTrain).find("dev_ids.tsv"), std::string::npos);
  test::write_in(dir, "dev_ids.tsv", "13\t14\n11\t99\n");
  EXPECT_EQ(rows(TaskId::kMrpc, Split::kTrain), (Lines{"a b|b \"a|1", "e|e|1"}));
  EXPECT_EQ(rows(TaskId::kMrpc, Split::kValidation), (Lines{"c|d|0"}));
  EXPECT_EQ(rows(TaskId::kMrpc, Split::kTest), (Lines{"a|b|-", "c|d|-"}));
  test::write_in(dir, "mrpc_dev_ids.tsv", "11\t12\n");
  EXPECT_EQ(rows(TaskId::kMrpc, Split::kValidation), (Lines{"a b|b \"a|1"}));
}

TEST_F(Glue, WhatIsWrongIsToldWithFileAndRow) {
  const std::string dir = folder_.path();
  test::write_in(dir + "/RTE", "train.tsv",
                 "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tc\td\tmaybe\n");
  EXPECT_EQ(error(TaskId::kRte, Split::kTrain),
            dir + "/RTE/train.tsv:3: the label 'maybe' is none of entailment, not_entailment");
  EXPECT_EQ(rows(TaskId::kRte, Split::kTrain, tsv::BadRow::kSkip), (Lines{"a|b|0"}));
  test::write_in(dir + "/WNLI", "dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\n");
  EXPECT_EQ(error(TaskId::kWnli, Split::kValidation),
            dir +
                "/WNLI/dev.tsv:2: the row has 2 of 4 fields; a line is a row, tabs end its "
                "fields, and quotes have no meaning");
  test::write_in(dir + "/WNLI", "test.tsv", "index\tsentence1\tsentence2\n0\ta\tb\n1\tc\td\te\n");
  EXPECT_NE(error(TaskId::kWnli, Split::kTest)
                .find("test.tsv:3: the row has 4 fields, and the "
                      "header has 3"),
            std::string::npos);
  EXPECT_EQ(rows(TaskId::kWnli, Split::kTest, tsv::BadRow::kBlank), (Lines{"a|b|-", "||-"}));
  test::write_in(dir + "/STS-B", "dev.tsv", test::read_file(dir + "/QQP/dev.tsv"));
  EXPECT_EQ(error(TaskId::kStsb, Split::kValidation),
            dir +
                "/STS-B/dev.tsv:1: the header has 6 columns, and column 7 ('sentence1') is "
                "needed");
  test::write_in(dir + "/SST-2", "dev.tsv", "sentence\tscore\na\t1\n");
  EXPECT_EQ(error(TaskId::kSst2, Split::kValidation),
            dir +
                "/SST-2/dev.tsv:1: the header calls column 1 'score', and 'label' is expected "
                "there");
  test::write_in(dir + "/STS-B", "train.tsv",
                 "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\t"
                 "score\n0\tg\tf\ty\t0\tn\tn\ta\tb\t5.5\n");
  EXPECT_NE(error(TaskId::kStsb, Split::kTrain).find("train.tsv:2: the label 5.5 is not between"),
            std::string::npos);
  test::write_in(dir + "/CoLA", "dev.tsv", "");
  EXPECT_EQ(error(TaskId::kCola, Split::kValidation), dir + "/CoLA/dev.tsv: the file is empty");
  test::write_in(dir + "/CoLA", "test.tsv", "index\tsentence\n");
  EXPECT_EQ(error(TaskId::kCola, Split::kTest), dir + "/CoLA/test.tsv: there is no example");
  fs::remove(dir + "/QNLI/train.tsv");
  EXPECT_NE(error(TaskId::kQnli, Split::kTrain).find("QNLI/train.tsv of GLUE, as published"),
            std::string::npos);
  EXPECT_NE(error(TaskId::kAx, Split::kTrain).find("a test alone"), std::string::npos);
}

TEST_F(Glue, ARawJudgementOfMnliIsRefused) {
  const std::string path = folder_ / "MNLI/dev_matched.tsv";
  std::string text = test::read_file(path);
  text.replace(text.rfind("neutral"), 7, "-");
  test::write_file(path, text);
  EXPECT_EQ(error(TaskId::kMnli, Split::kValidation),
            path + ":2: the label '-' is none of entailment, neutral, contradiction");
}

TEST_F(Glue, QnliOfBefore2019IsRefused) {
  std::string text = "index\tquestion\tsentence\tlabel\n";
  for (int i = 0; i < 5732; ++i) text += fmt::format("{}\ta\tb\tentailment\n", i);
  test::write_file(folder_ / "QNLI/dev.tsv", text);
  EXPECT_NE(error(TaskId::kQnli, Split::kValidation).find("before January 2019"),
            std::string::npos);
}

TEST_F(Glue, TheDiagnosticMayLieBesideMnli) {
  fs::rename(folder_ / "diagnostic/diagnostic.tsv", folder_ / "MNLI/diagnostic.tsv");
  EXPECT_EQ(rows(TaskId::kAx, Split::kTest).size(), 2u);
}

TEST_F(Glue, ExamplesAreIdsSegmentsAndLabels) {
  const auto mrpc = make_task(config(TaskId::kMrpc), 1);
  EXPECT_EQ(mrpc->info().vocab_size, 16);
  EXPECT_EQ(mrpc->info().num_classes, 2);
  EXPECT_EQ(mrpc->info().fields.segments, 2);
  EXPECT_EQ(examples(*mrpc->open(Split::kTrain)),
            (Lines{"2 5 6 3 10 6 5 3|00001111|1", "2 7 3 8 3|00011|0"}));
  EXPECT_EQ(examples(*mrpc->open(Split::kTest)).front(), "2 5 3 6 3|00011|-1");
  test::write_file(folder_ / "CoLA/train.tsv",
                   "gj04\t1\t\tA b.\ngj04\t0\t*\tb \"a\ngj04\t1\t\tc d .\ngj04\t0\t*\t\n");
  EXPECT_EQ(examples(*make_task(config(TaskId::kCola), 1)->open(Split::kTrain)),
            (Lines{"2 5 6 11 3|00000|1", "2 6 10 5 3|00000|0", "2 7 8 11 3|00000|1", "2 3|00|0"}));
  EXPECT_EQ(examples(*make_task(config(TaskId::kQqp), 1)->open(Split::kTrain)).back(),
            "2 7 3 3|0001|1");
  const auto stsb = make_task(config(TaskId::kStsb), 1);
  EXPECT_EQ(stsb->info().fields.label, LabelKind::kValue);
  EXPECT_EQ(examples(*stsb->open(Split::kTrain), true),
            (Lines{"2 5 3 6 3|00011|4.75", "2 7 3 8 3|00011|0"}));
  EXPECT_EQ(examples(*stsb->open(Split::kTest), true), (Lines{"2 9 3 8 3|00011|nan"}));
}

TEST_F(Glue, LongPairsAreCutAndThatIsTold) {
  const auto dataset = make_task(config(TaskId::kMrpc, 7), 1)->open(Split::kTrain);
  EXPECT_EQ(examples(*dataset).front(), "2 5 6 3 10 6 3|0000111|1");
  EXPECT_EQ(dataset->intake().cut_examples, 1);
  EXPECT_EQ(dataset->intake().cut_tokens, 1);
}

TEST_F(Glue, AFractionOfTrainingIsHeldOutAndTheDevFileIsTheTest) {
  std::string text = "sentence\tlabel\n";
  for (int i = 0; i < 40; ++i)
    text += fmt::format("{} {}\t{}\n", "abcde"[i % 5], "abcde"[i / 8], i % 2);
  test::write_file(folder_ / "SST-2/train.tsv", text);
  DataConfig held = config(TaskId::kSst2);
  held.val_fraction = 0.25;
  const auto task = make_task(held, 7);
  const Lines train = examples(*task->open(Split::kTrain));
  Lines validation = examples(*task->open(Split::kValidation));
  EXPECT_EQ(train.size(), 30u);
  EXPECT_EQ(validation.size(), 10u);
  Lines all = examples(*make_task(config(TaskId::kSst2), 7)->open(Split::kTrain)), both = train;
  both.insert(both.end(), validation.begin(), validation.end());
  std::sort(all.begin(), all.end());
  std::sort(both.begin(), both.end());
  EXPECT_EQ(both, all);
  EXPECT_EQ(examples(*task->open(Split::kTest)),
            examples(*make_task(config(TaskId::kSst2), 7)->open(Split::kValidation)));
  EXPECT_EQ(examples(*make_task(held, 7)->open(Split::kValidation)), validation);
  EXPECT_NE(examples(*make_task(held, 8)->open(Split::kValidation)), validation);
}

TEST_F(Glue, TheLadderKnowsTheMajority) {
  const auto cola = make_task(config(TaskId::kCola), 1);
  EXPECT_EQ(cola->ladder(*cola->open(Split::kTrain)).front().value, 0.0);
  const auto mrpc = make_task(config(TaskId::kMrpc), 1);
  EXPECT_EQ(mrpc->ladder(*mrpc->open(Split::kTrain)).front().value, 0.5);
  EXPECT_EQ(mrpc->ladder(*mrpc->open(Split::kTrain)).front().name, "majority class");
}

TEST_F(Glue, ItsConfigurationIsChecked) {
  DataConfig without = config(TaskId::kRte);
  without.vocab.clear();
  EXPECT_THROW(make_task(without, 1), ConfigError);
  DataConfig missing = config(TaskId::kRte);
  missing.vocab += "x";
  EXPECT_THROW(make_task(missing, 1), DataError);
  EXPECT_THROW(make_task(config(TaskId::kRte, 3), 1), ConfigError);
  DataConfig held = config(TaskId::kRte);
  held.val_fraction = 0.1;  // of 2
  EXPECT_THROW(make_task(held, 1)->open(Split::kTrain), ConfigError);
}

TEST_F(Glue, TextsOfOnesOwnAreReadWithoutLabels) {
  test::write_file(folder_ / "mine.txt", "a b\tc\nd\t\n");
  const auto pairs = make_task(config(TaskId::kMrpc), 1);
  EXPECT_EQ(examples(*pairs->open_input(folder_ / "mine.txt")),
            (Lines{"2 5 6 3 7 3|000011|-1", "2 8 3 3|0001|-1"}));
  const auto single = make_task(config(TaskId::kCola), 1);
  EXPECT_THROW(single->open_input(folder_ / "mine.txt"), DataError);
  test::write_file(folder_ / "mine.txt", "a \"b\nc");
  EXPECT_EQ(examples(*single->open_input(folder_ / "mine.txt")),
            (Lines{"2 5 10 6 3|00000|-1", "2 7 3|000|-1"}));
  EXPECT_THROW(pairs->open_input(folder_ / "mine.txt"), DataError);
}

TEST_F(Glue, PredictionsAreTheLeaderboardsFile) {
  const auto text = [&](TaskId id, const Answers& answers) {
    return predictions_text(make_task(config(id), 1)->info(), answers, false);
  };
  const float nan = std::nanf("");
  const Answers two{.num_outputs = 2, .outputs = {0.5f, -1, -2, 3}, .labels = {nan, nan}};
  EXPECT_EQ(text(TaskId::kCola, two), "index\tprediction\n0\t0\n1\t1\n");
  EXPECT_EQ(text(TaskId::kRte, two), "index\tprediction\n0\tentailment\n1\tnot_entailment\n");
  const Answers three{
      .num_outputs = 3, .outputs = {0, 1, 2, 0, 2, 1, 2, 1, 0}, .labels = {nan, nan, nan}};
  EXPECT_EQ(text(TaskId::kMnli, three),
            "index\tprediction\n0\tcontradiction\n1\tneutral\n2\tentailment\n");
  const Answers numbers{.num_outputs = 1, .outputs = {0, 4.98765f, 5}, .labels = {nan, nan, nan}};
  EXPECT_EQ(text(TaskId::kStsb, numbers), "index\tprediction\n0\t0.000\n1\t4.988\n2\t5.000\n");
  EXPECT_EQ(predictions_text(make_task(config(TaskId::kQnli), 1)->info(), two, true),
            "index\tprediction\tprobability_entailment\tprobability_not_entailment\n"
            "0\tentailment\t0.817574\t0.182426\n1\tnot_entailment\t0.006693\t0.993307\n");
}

}  // namespace
}  // namespace stipple::data
