// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/task_config.h"
#include "data/text/corpus.h"
#include "tests/data/scratch_folder.h"
#include "tests/data/what_open_says.h"

namespace stipple::data {
namespace {

using text::kSeparator;

DataConfig text_in(const test::ScratchFolder& folder, int64_t max_length = 64) {
  DataConfig config;
  config.task = TaskKind::kTextLm;
  config.dir = folder.path();
  config.max_length = max_length;
  return config;
}

struct Window {
  std::vector<int32_t> ids, labels;
  bool operator==(const Window&) const = default;
};

Window window_at(const Dataset& dataset, int64_t i, uint64_t epoch = 0) {
  const auto n = static_cast<size_t>(dataset.length({.example = i}, 0));
  Window window{std::vector<int32_t>(n, -7), std::vector<int32_t>(n, -7)};
  dataset.get({.example = i, .epoch = epoch}, 0, {.ids = window.ids, .labels = window.labels});
  return window;
}

/// Tokens as text, separators as '|'.
std::string text_of(const std::vector<int32_t>& tokens) {
  std::string text;
  for (const int32_t token : tokens) text += token == kSeparator ? '|' : static_cast<char>(token);
  return text;
}

/// "ids>labels" of every window.
std::vector<std::string> windows(const DataConfig& config, Split split) {
  const auto dataset = make_task(config, 0)->open(split);
  std::vector<std::string> all;
  for (int64_t i = 0; i < dataset->size(); ++i) {
    const Window window = window_at(*dataset, i);
    EXPECT_EQ(dataset->num_labels({.example = i}), static_cast<int64_t>(window.labels.size()));
    all.push_back(text_of(window.ids) + ">" + text_of(window.labels));
  }
  return all;
}

/// What a split holds, without separators.
std::string labels_of(const DataConfig& config, Split split) {
  std::string all;
  for (const std::string& window : windows(config, split)) {
    for (const char c : window.substr(window.find('>') + 1)) {
      if (c != '|') all += c;
    }
  }
  return all;
}

std::string letters(int64_t count) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) text += static_cast<char>('a' + i * 7 % 26);
  return text;
}

using Lines = std::vector<std::string>;

TEST(TextLm, EveryByteIsAskedForOnceAndTheOneBeforeItIsShown) {
  const test::ScratchFolder folder;
  test::write_file(folder / "one.txt", letters(200));
  const DataConfig config = text_in(folder, 7);
  EXPECT_EQ(labels_of(config, Split::kTrain) + labels_of(config, Split::kValidation) +
                labels_of(config, Split::kTest),
            letters(200));
  EXPECT_EQ(windows(config, Split::kTrain)[0], "|ahovcj>ahovcjq");
  EXPECT_EQ(windows(config, Split::kTrain)[1], "qxelszg>xelszgn");
}

TEST(TextLm, AWindowHoldsOneDocument) {
  const test::ScratchFolder folder;
  test::write_file(folder / "a.txt", "abcdefghij");
  test::write_file(folder / "b.txt", "klm");
  test::write_file(folder / "c.txt", letters(100));
  const Lines all = windows(text_in(folder, 4), Split::kTrain);
  EXPECT_EQ(Lines(all.begin(), all.begin() + 4),
            (Lines{"|abc>abcd", "defg>efgh", "hi>ij", "|kl>klm"}));
}

TEST(TextLm, PackedDocumentsFollowEachOtherBehindOneSeparator) {
  const test::ScratchFolder folder;
  test::write_file(folder / "a.txt", "abcdefghij");
  test::write_file(folder / "b.txt", "klm");
  test::write_file(folder / "c.txt", letters(100));
  DataConfig config = text_in(folder, 4);
  config.text_lm.pack = true;
  const Lines all = windows(config, Split::kTrain);
  EXPECT_EQ(Lines(all.begin(), all.begin() + 4),
            (Lines{"|abc>abcd", "defg>efgh", "hij|>ij|k", "klm|>lm|a"}));
  for (size_t i = 0; i + 1 < all.size(); ++i) EXPECT_EQ(all[i].size(), 9u) << "no padding";
  EXPECT_EQ(all.back().back(), '|');
}

TEST(TextLm, BlankLinesEndDocumentsWhereAskedFor) {
  const std::string text = "\n \none\ntwo\n\t\r\n\nthree\r\n\nfour";
  const auto documents = [&](TextDocuments rule) {
    Lines all;
    for (const Range& range : text::documents_of(text, rule))
      all.push_back(
          text.substr(static_cast<size_t>(range.begin), static_cast<size_t>(range.size())));
    return all;
  };
  EXPECT_EQ(documents(TextDocuments::kBlankLine), (Lines{"one\ntwo", "three\r", "four"}));
  EXPECT_EQ(documents(TextDocuments::kFile), Lines{text});
  EXPECT_TRUE(text::documents_of("", TextDocuments::kFile).empty());
  EXPECT_TRUE(text::documents_of("\n \n", TextDocuments::kBlankLine).empty());
}

TEST(TextLm, SplitsAreCutAtTheNearestEndOfADocument) {
  const test::ScratchFolder folder;
  // 1000 bytes: validation is to begin at 900 and the test at 950, give or take 25.
  test::write_file(folder / "a.txt", std::string(885, 'a'));
  test::write_file(folder / "b.txt", std::string(40, 'b'));
  test::write_file(folder / "c.txt", std::string(75, 'c'));
  const DataConfig config = text_in(folder, 2000);
  EXPECT_EQ(labels_of(config, Split::kTrain), std::string(885, 'a'));
  EXPECT_EQ(windows(config, Split::kValidation).size(), 2u);
  EXPECT_EQ(labels_of(config, Split::kValidation), std::string(40, 'b') + std::string(25, 'c'));
  EXPECT_EQ(labels_of(config, Split::kTest), std::string(50, 'c'));
}

TEST(TextLm, ATestBegunWithinADocumentBeginsBehindASeparator) {
  const test::ScratchFolder folder;
  test::write_file(folder / "a.txt", letters(1000));
  EXPECT_EQ(windows(text_in(folder, 4), Split::kTest)[0].front(), '|');
}

TEST(TextLm, FilesAreFoundByNameBelowTheFolderInTheOrderOfPaths) {
  const test::ScratchFolder folder;
  std::filesystem::create_directories(folder.path() + "/deep/er");
  for (const char* name : {"b.txt", "a.md", "deep/er/c.txt", "deep/a.txt"})
    test::write_file(folder / name, "text");
  const auto found = [&](const std::string& files) {
    DataConfig config = text_in(folder);
    config.files = files;
    Lines names;
    for (const std::string& path : text::files_of(config))
      names.push_back(path.substr(folder.path().size() + 1));
    return names;
  };
  EXPECT_EQ(found("*.txt"), (Lines{"b.txt", "deep/a.txt", "deep/er/c.txt"}));
  EXPECT_EQ(found("*.md, b.*"), (Lines{"a.md", "b.txt"}));
  EXPECT_EQ(found("deep/*.txt"), Lines{"deep/a.txt"});
  EXPECT_EQ(found("?.txt"), (Lines{"b.txt", "deep/a.txt", "deep/er/c.txt"}));
}

TEST(TextLm, BytesAreTakenAsTheyAreAndThatIsSaidOnce) {
  const test::ScratchFolder folder;
  const std::string latin = "caf\xe9 " + letters(500) + "\xe9";
  test::write_file(folder / "a.txt", "caf\xc3\xa9");
  test::write_file(folder / "b.txt", latin);
  const DataConfig config = text_in(folder, 100);
  EXPECT_NE(labels_of(config, Split::kTrain).find("caf\xe9"), std::string::npos);
  Lines said;
  for (const Split split : {Split::kTrain, Split::kValidation, Split::kTest}) {
    const Intake intake = make_task(config, 0)->open(split)->intake();
    for (const std::string& line : losses(intake, split_name(split))) said.push_back(line);
  }
  EXPECT_EQ(said, Lines{"train: " + folder.path() +
                        "/b.txt is not UTF-8 from byte 3 on; bytes are taken as they are"});
}

TEST(TextLm, TellsOfEmptyFiles) {
  const test::ScratchFolder folder;
  test::write_file(folder / "a.txt", letters(100));
  test::write_file(folder / "b.txt", "");
  const Intake intake = make_task(text_in(folder), 0)->open(Split::kTrain)->intake();
  EXPECT_EQ(losses(intake, "train"), Lines{"train: 1 of 2 files are empty"});
  EXPECT_EQ(intake.tokens, 90);
}

TEST(TextLm, SaysWhatIsWrongWithTheFiles) {
  const test::ScratchFolder folder;
  DataConfig config = text_in(folder);
  EXPECT_EQ(what_open_says(config), "data.files: no file below " + folder.path() +
                                        " is called *.txt; name the files, or another folder by "
                                        "data.dir");
  test::write_file(folder / "a.txt", "");
  EXPECT_EQ(what_open_says(config),
            folder.path() +
                ": 1 file (data.files: *.txt) with 0 bytes of text, too short to hold out 5 % for "
                "validation and 5 % for the test; at least 20 bytes are needed");
  test::write_file(folder / "b.txt", letters(19));
  EXPECT_NE(what_open_says(config).find("2 files (data.files: *.txt) with 19 bytes"),
            std::string::npos);
  test::write_file(folder / "b.txt", letters(20));
  EXPECT_EQ(what_open_says(config), "nothing");
  config.dir = folder.path() + "/absent";
  EXPECT_EQ(what_open_says(config),
            "data.dir: cannot read " + config.dir +
                ": No such file or directory; it is to be the folder of the "
                "text");
}

TEST(TextLm, FingerprintTellsCollectionsApart) {
  const test::ScratchFolder folder;
  test::write_file(folder / "a.txt", letters(400));
  const auto fingerprint = [&](const DataConfig& config) {
    return make_task(config, 0)->open(Split::kTrain)->fingerprint();
  };
  DataConfig config = text_in(folder, 16);
  const uint64_t here = fingerprint(config);
  EXPECT_EQ(fingerprint(config), here);
  config.max_length = 17;
  EXPECT_NE(fingerprint(config), here);
  config = text_in(folder, 16);
  config.text_lm.pack = true;
  EXPECT_NE(fingerprint(config), here);
  test::write_file(folder / "a.txt", letters(399) + "!");
  EXPECT_EQ(fingerprint(text_in(folder, 16)), here) << "a change in the test";
  test::write_file(folder / "a.txt", "!" + letters(399));
  EXPECT_NE(fingerprint(text_in(folder, 16)), here);
}

TEST(TextLm, LadderIsWhatCountingTells) {
  const test::ScratchFolder folder;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "ab";
  test::write_file(folder / "a.txt", text);
  const auto task = make_task(text_in(folder, 5000), 0);
  const std::vector<Rung> rungs = task->ladder(*task->open(Split::kTrain));
  ASSERT_EQ(rungs.size(), 3u);
  EXPECT_NEAR(rungs[0].value, 0.0, 1e-9);
  EXPECT_EQ(rungs[0].name, "pairs of bytes");
  EXPECT_NEAR(rungs[1].value, 1.0, 1e-9);
  EXPECT_EQ(rungs[2].value, 8.0);
}

TEST(TextLm, InfoDescribesTheModelsEnds) {
  const test::ScratchFolder folder;
  const TaskInfo info = make_task(text_in(folder, 33), 0)->info();
  EXPECT_EQ(info.fields.label, LabelKind::kNextToken);
  EXPECT_EQ(info.vocab_size, 257);
  EXPECT_EQ(info.max_length, 33);
  EXPECT_TRUE(predicts_next_token(TaskKind::kTextLm));
  EXPECT_FALSE(predicts_next_token(TaskKind::kListops));
}

TEST(Metric, BitsAreLossesInBaseTwo) {
  const auto of = [](const Metric& metric, double loss_sum) {
    return metric.of([&](std::string_view name) { return name == "loss_sum" ? loss_sum : 4.0; });
  };
  EXPECT_NEAR(of(kBitsPerByte, 4 * std::log(8.0)), 3.0, 1e-12);
  EXPECT_NEAR(of(kPerplexity, 4 * std::log(8.0)), 8.0, 1e-12);
}

}  // namespace
}  // namespace stipple::data
