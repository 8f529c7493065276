// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "data/task_config.h"
#include "data/tsv/read.h"
#include "tests/data/glue_fixture.h"
#include "tests/data/what_open_says.h"

namespace stipple::data {
namespace {

using Lines = std::vector<std::string>;

TEST(TsvRows, OnlyLineFeedsAndTabsMeanAnything) {
  const test::ScratchFolder folder;
  test::write_file(folder / "a.tsv",
                   "\xEF\xBB\xBF\"a\tb\"\r\n\t\t\n\nc\r\r\nd \xC2\x85 \x0B\x0C \xE2\x80\xA9 e\t");
  tsv::RowReader reader(folder / "a.tsv");
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string_view> fields;
  while (reader.next(fields)) rows.emplace_back(fields.begin(), fields.end());
  EXPECT_EQ(rows,
            (std::vector<std::vector<std::string>>{{"\"a", "b\""},
                                                   {"", "", ""},
                                                   {""},
                                                   {"c\r"},
                                                   {"d \xC2\x85 \x0B\x0C \xE2\x80\xA9 e", ""}}));
  EXPECT_EQ(reader.place(), (folder / "a.tsv") + ":5");
}

class Tsv : public testing::Test {
 protected:
  void SetUp() override {
    test::write_in(folder_.path(), "vocab.txt", test::kVocabulary);
    write("train.tsv", "id\ttext\tmood\n1\ta b\tgood\n2\tc\tbad\n3\td\tgood\n");
    write("dev.tsv", "mood\ttext\tid\ngood\ta\t9\n");
    write("test.tsv", "text\na\nb\n");
    config_.task = TaskKind::kTsv;
    config_.dir = folder_.path();
    config_.vocab = folder_ / "vocab.txt";
    config_.max_length = 16;
    config_.tsv.text = "text";
    config_.tsv.label = "mood";
    config_.tsv.labels = "bad, good";
  }
  void write(const std::string& name, std::string_view text) {
    test::write_file(folder_ / name, text);
  }
  /// "ids|label" of a split.
  Lines rows(Split split) const {
    const auto task = make_task(config_, 1);
    const auto dataset = task->open(split);
    const bool is_value = task->info().fields.label == LabelKind::kValue;
    Lines lines;
    for (int64_t i = 0; i < dataset->size(); ++i) {
      std::vector<int32_t> ids(static_cast<size_t>(dataset->length({.example = i}, 0)));
      int32_t label = -1;
      float value = std::nanf("");
      ExampleSpans spans{.ids = ids};
      if (is_value) spans.values = {&value, 1};
      if (!is_value) spans.labels = {&label, 1};
      dataset->get({.example = i}, 0, spans);
      lines.push_back(is_value ? fmt::format("{}|{}", fmt::join(ids, " "), value)
                               : fmt::format("{}|{}", fmt::join(ids, " "), label));
    }
    return lines;
  }
  std::string error(Split split) const {
    try {
      rows(split);
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing";
  }

  test::ScratchFolder folder_;
  DataConfig config_;
};

TEST_F(Tsv, ColumnsAreFoundByNameInEachFile) {
  EXPECT_EQ(rows(Split::kTrain), (Lines{"2 5 6 3|1", "2 7 3|0", "2 8 3|1"}));
  EXPECT_EQ(rows(Split::kValidation), (Lines{"2 5 3|1"}));
  EXPECT_EQ(rows(Split::kTest), (Lines{"2 5 3|-1", "2 6 3|-1"}));
  EXPECT_EQ(make_task(config_, 1)->info().class_names, (Lines{"bad", "good"}));
  EXPECT_EQ(make_task(config_, 1)->info().metrics.size(), 3u);
}

TEST_F(Tsv, ColumnsAreFoundByNumberAndWithoutAHeader) {
  config_.tsv.header = false;
  config_.tsv.text = "1";
  config_.tsv.label = "0";
  config_.tsv.labels = "";
  write("train.tsv", "1.5\ta b\n-2\tc\n");
  EXPECT_EQ(rows(Split::kTrain), (Lines{"2 5 6 3|1.5", "2 7 3|-2"}));
  config_.tsv.second_text = "2";
  write("train.tsv", "1.5\ta b\tb\n-2\tc\t\n");
  EXPECT_EQ(rows(Split::kTrain), (Lines{"2 5 6 3 6 3|1.5", "2 7 3 3|-2"}));
  // A test without labels has its texts where they were.
  config_.tsv.label = "3";
  write("test.tsv", "x\ta\tb\n");
  EXPECT_EQ(rows(Split::kTest), (Lines{"2 5 3 6 3|nan"}));
}

TEST_F(Tsv, ATestMayHaveLabels) {
  write("test.tsv", "mood\ttext\ngood\ta\n");
  EXPECT_EQ(rows(Split::kTest), (Lines{"2 5 3|1"}));
}

TEST_F(Tsv, WhatIsWrongIsToldWithFileAndRow) {
  const std::string train = folder_ / "train.tsv";
  write("train.tsv", "id\ttext\tmood\n1\ta\tgood\n2\tb\tfair\n");
  EXPECT_EQ(error(Split::kTrain), train + ":3: the label 'fair' is none of bad, good");
  // A program that quotes has put a line feed into a field.
  write("train.tsv", "id\ttext\tmood\n1\t\"a\nb\"\tgood\n");
  EXPECT_EQ(error(Split::kTrain),
            train +
                ":2: the row has 2 of 3 fields; a line is a row, tabs end its fields, and "
                "quotes have no meaning");
  config_.skip_bad_rows = true;
  write("train.tsv", "id\ttext\tmood\n1\t\"a\nb\"\tgood\n2\tc\tbad\n");
  EXPECT_EQ(rows(Split::kTrain), (Lines{"2 7 3|0"}));
  EXPECT_EQ(make_task(config_, 1)->open(Split::kTrain)->intake().remarks.size(), 1u);
  config_.skip_bad_rows = false;
  config_.tsv.text = "body";
  EXPECT_EQ(error(Split::kTrain),
            train +
                ":1: there is no column 'body' (data.tsv.text); the header names id, text, "
                "mood");
  config_.tsv.text = "text";
  config_.tsv.label = "7";
  EXPECT_NE(error(Split::kTrain).find("there is no column '7' (data.tsv.label)"),
            std::string::npos);
  config_.tsv.label = "mood";
  config_.tsv.labels = "";
  write("train.tsv", "id\ttext\tmood\n1\ta\tgood\n");
  EXPECT_EQ(error(Split::kTrain), train + ":2: the label 'good' is no number");
  for (const char* number : {"nan", "inf", "1e99", "1,5", " 1", ""}) {
    write("train.tsv", fmt::format("text\tmood\na\t{}\n", number));
    EXPECT_NE(error(Split::kTrain).find("is no number"), std::string::npos) << number;
  }
}

TEST_F(Tsv, NamesOfClassesAreChecked) {
  for (const char* names : {"good", "good,good", "good,,bad"}) {
    config_.tsv.labels = names;
    EXPECT_THROW(make_task(config_, 1), ConfigError) << names;
  }
  config_.tsv.labels = "bad,fair,good";
  EXPECT_EQ(make_task(config_, 1)->info().num_classes, 3);
}

}  // namespace
}  // namespace stipple::data
