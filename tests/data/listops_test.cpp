// SPDX-License-Identifier: Apache-2.0
#include "data/listops.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "data/output_file.h"
#include "data/task_config.h"
#include "tests/data/scratch_folder.h"

namespace stipple::data::listops {
namespace {

using test::read_file;
using test::ScratchFolder;
using test::write_file;

/// The message of the DataError (or other Error) that `call` throws.
template <class ErrorType = DataError, class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const ErrorType& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "no '" << part << "' in '" << text << "'";
}

// --- text and value ------------------------------------------------------------------------------

struct Golden {
  const char* source;
  int value;
  const char* tokens;
};

// From the published program.
constexpr Golden kGolden[] = {
    {"( ( ( [MAX 2 ) 9 ) ] )", 9, "[MAX 2 9 ]"},
    {"( ( ( [MIN ( ( ( ( ( [MAX 3 ) 6 ) 0 ) 1 ) ] ) ) 3 ) ] )", 3, "[MIN [MAX 3 6 0 1 ] 3 ]"},
    {"( ( ( ( [MED 0 ) 2 ) ( ( ( [MIN ( ( ( [SM 1 ) 8 ) ] ) ) 5 ) ] ) ) ] )", 2,
     "[MED 0 2 [MIN [SM 1 8 ] 5 ] ]"},
    {"( ( ( ( [MED 5 ) ( ( ( ( ( [MED 2 ) ( ( ( ( ( [MED 5 ) 7 ) 5 ) 5 ) ] ) ) 0 ) 0 ) ] ) ) 7 ) ] "
     ")",
     5, "[MED 5 [MED 2 [MED 5 7 5 5 ] 0 0 ] 7 ]"},
    {"( ( ( ( ( [MIN 1 ) 1 ) 2 ) ( ( ( ( [MED 1 ) ( ( ( ( ( [MED 0 ) 6 ) 9 ) 5 ) ] ) ) 0 ) ] ) ) ] "
     ")",
     1, "[MIN 1 1 2 [MED 1 [MED 0 6 9 5 ] 0 ] ]"},
    {"7", 7, "7"},
};

TEST(ListopsSource, PublishedRowsReadAndEvaluate) {
  for (const Golden& row : kGolden) {
    EXPECT_EQ(evaluate(from_source(row.source)), row.value) << row.source;
    EXPECT_EQ(from_source(row.source), from_source(row.tokens)) << row.source;
  }
}

TEST(ListopsSource, PublishedRowsAreWrittenByteForByte) {
  for (const Golden& row : kGolden) EXPECT_EQ(to_source(from_source(row.tokens)), row.source);
}

TEST(ListopsSource, TokensHaveTheirDocumentedIds) {
  EXPECT_EQ(from_source("[MIN [MAX [MED [SM ] 0 9"), (std::vector<uint8_t>{1, 2, 3, 4, 5, 6, 15}));
}

TEST(ListopsSource, ParenthesesAndWhiteSpaceCarryNothing) {
  EXPECT_EQ(from_source("(([SM\t1)2)  ]\r\n"), from_source("[SM 1 2 ]"));
  EXPECT_TRUE(from_source(" ( ) ").empty());
}

TEST(ListopsSource, UnknownWordIsNamedWithItsPosition) {
  for (const char* word : {"[FIRST", "10", "-1", "[", "[MI", "[MINN", "]]", "x"}) {
    const std::string message =
        message_of([&] { from_source(std::string("[MIN 1 ") + word + " ]"); });
    expect_contains(message, std::string("'") + word + "'");
    expect_contains(message, "byte 7");
  }
}

TEST(ListopsSource, UnbalancedTokensAreNotWritten) {
  for (const char* tokens : {"[MIN 1 2", "[MIN 1 2 ] ]", "]"}) {
    EXPECT_THROW(to_source(from_source(tokens)), Error) << tokens;
  }
  EXPECT_THROW(to_source(std::vector<uint8_t>{0}), Error);
  EXPECT_THROW(to_source(std::vector<uint8_t>{16}), Error);
}

TEST(ListopsEvaluate, OperatorsMeanWhatThePaperSays) {
  EXPECT_EQ(evaluate(from_source("[MIN 4 2 8 ]")), 2);
  EXPECT_EQ(evaluate(from_source("[MAX 4 2 8 ]")), 8);
  EXPECT_EQ(evaluate(from_source("[SM 4 2 8 ]")), 4);
  EXPECT_EQ(evaluate(from_source("[MED 8 2 4 ]")), 4);
  EXPECT_EQ(evaluate(from_source("[MED 9 2 4 1 ]")), 3);
  EXPECT_EQ(evaluate(from_source("[MED 9 2 5 1 ]")), 3) << "3.5 is cut to 3";
  EXPECT_EQ(evaluate(from_source("[SM 9 9 9 9 9 9 9 9 9 9 ]")), 0);
}

TEST(ListopsEvaluate, OperatorsBelowTheDepthAreGuessed) {
  const auto tree = from_source("[SM 1 [MIN 7 [MAX 3 2 ] ] [MED [MIN 6 6 ] 9 9 ] ]");
  EXPECT_EQ(evaluate(tree, 0), 5) << "the guess for SM";
  EXPECT_EQ(evaluate(tree, 1), 5) << "1 + 0 + 4";
  EXPECT_EQ(evaluate(tree, 2), 7) << "1 + min(7, 9) + med(0, 9, 9) = 17";
  EXPECT_EQ(evaluate(tree, 3), 3) << "1 + min(7, 3) + med(6, 9, 9) = 13";
  EXPECT_EQ(evaluate(tree), 3);
  EXPECT_EQ(evaluate(from_source("[MIN 7 8 ]"), 0), 0);
  EXPECT_EQ(evaluate(from_source("[MAX 7 8 ]"), 0), 9);
  EXPECT_EQ(evaluate(from_source("[MED 7 8 ]"), 0), 4);
  EXPECT_EQ(evaluate(from_source("3"), 0), 3);
}

TEST(ListopsEvaluate, RefusesWhatIsNoExpression) {
  for (const char* tokens : {"", "[MIN 1 2", "[MIN 1 2 ] ]", "[MIN 1 2 ] 3", "1 2", "]", "[MIN ]",
                             "[MIN [MAX ] 1 ]", "1 ]"}) {
    EXPECT_THROW(evaluate(from_source(tokens)), DataError) << tokens;
  }
  EXPECT_THROW(evaluate(std::vector<uint8_t>{kMin, kPad, kClose}), Error);
  EXPECT_THROW(evaluate(std::vector<uint8_t>{kMin, kDigit0 + 10, kClose}), Error);
}

// --- generator -----------------------------------------------------------------------------------

const GeneratorOptions kSmall = {
    .seed = 3, .train = 200, .val = 50, .test = 20, .min_length = 50, .max_length = 200};

const std::vector<std::string> kFiles = {"basic_train.tsv", "basic_val.tsv", "basic_test.tsv"};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != text.npos; begin = end + 1) {
    lines.push_back(text.substr(begin, end - begin));
  }
  EXPECT_EQ(begin, text.size()) << "the last line has no end";
  return lines;
}

std::set<std::string> names_in(const ScratchFolder& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    names.insert(entry.path().filename());
  }
  return names;
}

TEST(ListopsGenerate, SplitsHoldTheNumbersAskedForAndNothingTwice) {
  const ScratchFolder folder;
  generate(folder.path(), kSmall);
  EXPECT_EQ(names_in(folder), std::set<std::string>(kFiles.begin(), kFiles.end()));
  std::set<std::string> seen;
  std::vector<size_t> sizes;
  for (const std::string& file : kFiles) {
    const auto lines = lines_of(read_file(folder / file));
    EXPECT_EQ(lines[0], "Source\tTarget\r");
    sizes.push_back(lines.size() - 1);
    for (size_t i = 1; i < lines.size(); ++i) {
      EXPECT_TRUE(seen.insert(lines[i]).second) << "twice: " << lines[i];
      const size_t tab = lines[i].find('\t');
      const auto tokens = from_source(lines[i].substr(0, tab));
      EXPECT_GT(tokens.size(), 50u);
      EXPECT_LT(tokens.size(), 200u);
      EXPECT_EQ(lines[i].substr(tab + 1, 1), std::to_string(evaluate(tokens)));
      EXPECT_EQ(lines[i].substr(tab + 2), "\r");
    }
  }
  EXPECT_EQ(sizes, (std::vector<size_t>{200, 50, 20}));
}

TEST(ListopsGenerate, ExamplesAreTheDistinctCandidatesInOrder) {
  // One operator on digits: nearly every candidate is accepted, so one that is left out shows, and
  // some come twice.
  const GeneratorOptions options = {.train = 9000,
                                    .val = 500,
                                    .test = 500,
                                    .min_length = 3,
                                    .max_length = 20,
                                    .max_depth = 2,
                                    .operator_probability = 1};
  const ScratchFolder folder;
  generate(folder.path(), options);
  std::set<std::string> seen;
  uint64_t c = 0;
  for (const std::string& file : kFiles) {
    const auto lines = lines_of(read_file(folder / file));
    for (size_t i = 1; i < lines.size(); ++i) {
      std::string expected;
      while (expected.empty() || !seen.insert(expected).second) {
        expected = to_source(candidate(options, c++));
      }
      ASSERT_EQ(lines[i].substr(0, lines[i].find('\t')), expected) << "candidate " << c - 1;
    }
  }
  EXPECT_GT(c, 10050u) << "no candidate was a repetition";
}

TEST(ListopsGenerate, BytesDoNotDependOnTheNumberOfThreads) {
  GeneratorOptions options = {.seed = 9, .train = 600, .val = 40, .test = 40};
  const ScratchFolder one;
  generate(one.path(), options);
  for (int threads : {2, 8}) {
    options.threads = threads;
    const ScratchFolder many;
    generate(many.path(), options);
    for (const std::string& file : kFiles) {
      EXPECT_TRUE(read_file(many / file) == read_file(one / file)) << file << ", " << threads;
    }
  }
}

TEST(ListopsGenerate, SeedsMakeDifferentTrees) {
  GeneratorOptions other = kSmall;
  other.seed = 4;
  const ScratchFolder a;
  const ScratchFolder b;
  generate(a.path(), kSmall);
  generate(b.path(), other);
  EXPECT_NE(read_file(a / "basic_test.tsv"), read_file(b / "basic_test.tsv"));
}

TEST(ListopsGenerate, EmptySplitsAreFilesWithAHeader) {
  GeneratorOptions options = kSmall;
  options.train = 0;
  options.test = 0;
  const ScratchFolder folder;
  generate(folder / "new/folder", options);
  EXPECT_EQ(read_file(folder / "new/folder/basic_train.tsv"), "Source\tTarget\r\n");
  EXPECT_EQ(lines_of(read_file(folder / "new/folder/basic_val.tsv")).size(), 51u);
  EXPECT_EQ(read_file(folder / "new/folder/basic_test.tsv"), "Source\tTarget\r\n");
}

TEST(ListopsGenerate, ProgressRisesToTheTotal) {
  const ScratchFolder folder;
  std::vector<int64_t> reports;
  generate(folder.path(), {.train = 1000, .val = 0, .test = 0}, [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 1000);
    reports.push_back(done);
  });
  EXPECT_GT(reports.size(), 3u);
  EXPECT_TRUE(std::is_sorted(reports.begin(), reports.end()));
  EXPECT_EQ(reports.back(), 1000);
}

TEST(ListopsGenerate, WindowsThatHoldNothingAreRefused) {
  const ScratchFolder folder;
  for (int64_t max_length : {9, 10, 11}) {
    const std::string message = message_of<ConfigError>(
        [&] { generate(folder.path(), {.min_length = 10, .max_length = max_length}); });
    expect_contains(message, "between 10 and " + std::to_string(max_length));
  }
  EXPECT_TRUE(names_in(folder).empty());
}

TEST(ListopsGenerate, ExhaustedWindowSaysHowFarItCameAndLeavesOldFilesAlone) {
  const ScratchFolder folder;
  write_file(folder / "basic_train.tsv", "old");
  // Four operators on two digits: 400 trees.
  const GeneratorOptions options = {
      .train = 200, .val = 200, .test = 1, .min_length = 3, .max_length = 5, .replace = true};
  const std::string message = message_of<ConfigError>([&] { generate(folder.path(), options); });
  expect_contains(message, "between 3 and 5");
  expect_contains(message, "400 of 401");
  EXPECT_EQ(names_in(folder), std::set<std::string>{"basic_train.tsv"});
  EXPECT_EQ(read_file(folder / "basic_train.tsv"), "old");
}

TEST(ListopsGenerate, ImpossibleOptionsAreRefused) {
  const ScratchFolder folder;
  const auto refuse = [&](auto change) {
    GeneratorOptions options = kSmall;
    change(options);
    EXPECT_THROW(generate(folder.path(), options), ConfigError);
  };
  refuse([](GeneratorOptions& o) { o.train = -1; });
  refuse([](GeneratorOptions& o) { o.max_depth = 0; });
  refuse([](GeneratorOptions& o) { o.max_arguments = 1; });
  refuse([](GeneratorOptions& o) { o.operator_probability = 1.5; });
  refuse([](GeneratorOptions& o) { o.threads = 0; });
}

TEST(ListopsGenerate, FilesThatExistAreReplacedOnlyWhenAskedTo) {
  const ScratchFolder folder;
  write_file(folder / "basic_val.tsv", "mine");
  expect_contains(message_of([&] { generate(folder.path(), kSmall); }),
                  folder / "basic_val.tsv" + " exists already");
  EXPECT_EQ(names_in(folder), std::set<std::string>{"basic_val.tsv"});
  EXPECT_EQ(read_file(folder / "basic_val.tsv"), "mine");
  GeneratorOptions replacing = kSmall;
  replacing.replace = true;
  generate(folder.path(), replacing);
  EXPECT_EQ(lines_of(read_file(folder / "basic_val.tsv")).size(), 51u);
}

TEST(ListopsGenerate, FileThatAppearsMeanwhileIsNotReplaced) {
  const ScratchFolder folder;
  const auto put = [&](int64_t, int64_t) { write_file(folder / "basic_test.tsv", "other's"); };
  EXPECT_THROW(generate(folder.path(), kSmall, put), DataError);
  EXPECT_EQ(names_in(folder), std::set<std::string>{"basic_test.tsv"});
  EXPECT_EQ(read_file(folder / "basic_test.tsv"), "other's");
}

TEST(ListopsGenerate, ASplitHoldsTheSameBytesWhenItIsWrittenAlone) {
  const ScratchFolder all;
  generate(all.path(), kSmall);
  for (size_t i = 0; i < kFiles.size(); ++i) {
    GeneratorOptions options = kSmall;
    options.splits = {static_cast<Split>(i)};
    const ScratchFolder one;
    for (const std::string& file : kFiles) {
      if (file != kFiles[i]) write_file(one / file, "mine");
    }
    generate(one.path(), options);
    for (const std::string& file : kFiles) {
      EXPECT_EQ(read_file(one / file), file == kFiles[i] ? read_file(all / file) : "mine");
    }
  }
}

TEST(ListopsGenerate, FilesOfKilledGeneratorsAreRemovedAndThoseOfLivingOnesAreNot) {
  const ScratchFolder folder;
  const std::string stale = folder / "basic_train.tsv.partial.1";
  write_file(stale, "half a file");
  write_file(folder / "basic_train.tsv.partial", "not ours");
  OutputFile living(folder / "basic_val.tsv.partial.2", folder / "elsewhere");
  generate(folder.path(), kSmall);
  std::set<std::string> expected(kFiles.begin(), kFiles.end());
  expected.insert("basic_train.tsv.partial");
  expected.insert("basic_val.tsv.partial.2");
  EXPECT_EQ(names_in(folder), expected);
}

TEST(ListopsGenerate, KilledGeneratorLeavesNothingForLong) {
  const ScratchFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    generate(folder.path(), kSmall, [](int64_t, int64_t) { ::raise(SIGKILL); });
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(names_in(folder).size(), 3u) << "three temporary files";
  generate(folder.path(), kSmall);
  EXPECT_EQ(names_in(folder), std::set<std::string>(kFiles.begin(), kFiles.end()));
}

// --- a disk that refuses -------------------------------------------------------------------------

/// No file may grow beyond `bytes` as long as this lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_limit_);
    const rlimit limit{bytes, old_limit_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_limit_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_limit_{};
  void (*old_handler_)(int);
};

TEST(ListopsGenerate, ShortWriteIsReportedAndLeavesNothing) {
  const ScratchFolder folder;
  const std::string message = message_of([&] {
    const FileSizeLimit limit(100000);
    generate(folder.path(), {.train = 100, .val = 10, .test = 10});
  });
  expect_contains(message, folder / "basic_train.tsv");
  expect_contains(message, std::strerror(EFBIG));
  EXPECT_TRUE(names_in(folder).empty());
}

TEST(ListopsGenerate, FolderThatCannotBeMadeIsNamed) {
  expect_contains(message_of([] { generate("/dev/null/folder", kSmall); }), "/dev/null/folder");
}

// --- reader --------------------------------------------------------------------------------------

std::unique_ptr<Task> task_in(const std::string& dir, int64_t max_length = 2048) {
  DataConfig config;
  config.dir = dir;
  config.max_length = max_length;
  return make_task(config, 0);
}

std::vector<uint8_t> tokens_of(const Dataset& dataset, int64_t i, int32_t* label = nullptr) {
  std::vector<int32_t> ids(static_cast<size_t>(dataset.length({.example = i}, 0)));
  int32_t ignored = 0;
  dataset.get({.example = i}, 0, {.ids = ids, .labels = {label == nullptr ? &ignored : label, 1}});
  std::vector<uint8_t> tokens;
  for (int32_t id : ids) tokens.push_back(static_cast<uint8_t>(id));
  return tokens;
}

/// The training split of a folder that holds `text`.
std::unique_ptr<Dataset> open_text(std::string_view text, int64_t max_length = 2048) {
  const ScratchFolder folder;
  write_file(folder / "basic_train.tsv", text);
  return task_in(folder.path(), max_length)->open(Split::kTrain);
}

TEST(ListopsReader, ReadsBackWhatWasGenerated) {
  const ScratchFolder folder;
  generate(folder.path(), kSmall);
  const auto task = task_in(folder.path());
  uint64_t c = 0;
  for (Split split : {Split::kTrain, Split::kValidation, Split::kTest}) {
    const auto dataset = task->open(split);
    for (int64_t i = 0; i < dataset->size(); ++i) {
      std::vector<uint8_t> expected;
      while (expected.empty()) expected = candidate(kSmall, c++);
      int32_t label = -1;
      ASSERT_EQ(tokens_of(*dataset, i, &label), expected);
      ASSERT_EQ(label, evaluate(expected));
    }
  }
}

TEST(ListopsReader, InfoDescribesTheModelsEnds) {
  const TaskInfo info = task_in("anywhere", 777)->info();
  EXPECT_EQ(info.name, "listops");
  EXPECT_EQ(info.fields.label, LabelKind::kClass);
  EXPECT_EQ(info.vocab_size, 32);
  EXPECT_EQ(info.num_classes, 10);
  EXPECT_EQ(info.max_length, 777);
}

TEST(ListopsReader, LineEndsDoNotMatter) {
  const uint64_t published =
      open_text("Source\tTarget\r\n( ( ( [MAX 2 ) 9 ) ] )\t9\r\n7\t7\r\n")->fingerprint();
  for (const char* text : {"Source\tTarget\n( ( ( [MAX 2 ) 9 ) ] )\t9\n7\t7\n",
                           "Source\tTarget\r\n( ( ( [MAX 2 ) 9 ) ] )\t9\r\n7\t7",
                           "Source\tTarget\n[MAX 2 9 ]\t9\n7\t7"}) {
    const auto dataset = open_text(text);
    ASSERT_EQ(dataset->size(), 2);
    int32_t label = -1;
    EXPECT_EQ(tokens_of(*dataset, 0, &label), from_source("[MAX 2 9 ]"));
    EXPECT_EQ(label, 9);
    EXPECT_EQ(dataset->fingerprint(), published);
  }
  EXPECT_EQ(open_text("Source\tTarget\n")->size(), 0);
}

TEST(ListopsReader, LongLinesAreReadWhole) {
  const ScratchFolder folder;
  const GeneratorOptions options = {
      .train = 10, .val = 0, .test = 0, .min_length = 2500, .max_length = 5000};
  generate(folder.path(), options);
  size_t longest = 0;
  for (const std::string& line : lines_of(read_file(folder / "basic_train.tsv"))) {
    longest = std::max(longest, line.size());
  }
  EXPECT_GT(longest, 16384u);
  const auto dataset = task_in(folder.path(), 65536)->open(Split::kTrain);
  for (int64_t i = 0; i < dataset->size(); ++i) {
    int32_t label = -1;
    const auto tokens = tokens_of(*dataset, i, &label);
    EXPECT_GT(tokens.size(), 2500u);
    EXPECT_EQ(evaluate(tokens), label);
  }
}

TEST(ListopsReader, LongSequencesLoseTheirEnd) {
  const auto dataset = open_text("Source\tTarget\n[MAX 2 [MIN 3 4 ] ]\t3\n[SM 1 ]\t1\n", 4);
  EXPECT_EQ(tokens_of(*dataset, 0), from_source("[MAX 2 [MIN 3"));
  EXPECT_EQ(tokens_of(*dataset, 1), from_source("[SM 1 ]"));
}

TEST(ListopsReader, WhatIsCutIsCounted) {
  const std::string text = "Source\tTarget\n[MAX 2 [MIN 3 4 ] ]\t3\n[SM 1 ]\t1\n[SM 1 2 3 ]\t6\n";
  const Intake cut = open_text(text, 4)->intake();
  EXPECT_EQ(cut.examples, 3);
  EXPECT_EQ(cut.tokens, 7 + 3 + 5);
  EXPECT_EQ(cut.cut_examples, 2);
  EXPECT_EQ(cut.cut_tokens, 3 + 1);
  const auto lines = losses(cut, "val");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0],
            "val: 2 of 3 examples are longer than data.max_length and are cut: 27 % of all tokens "
            "are lost");
  EXPECT_TRUE(losses(open_text(text, 7)->intake(), "val").empty());
}

TEST(ListopsReader, FingerprintFollowsTheContent) {
  const uint64_t here = open_text("Source\tTarget\n[SM 1 2 ]\t3\n7\t7\n")->fingerprint();
  for (const char* text :
       {"Source\tTarget\n[SM 1 3 ]\t4\n7\t7\n", "Source\tTarget\n[SM 2 1 ]\t3\n7\t7\n",
        "Source\tTarget\n[SM 1 2 ]\t3\n", "Source\tTarget\n7\t7\n[SM 1 2 ]\t3\n"}) {
    EXPECT_NE(open_text(text)->fingerprint(), here) << text;
  }
}

TEST(ListopsReader, GeneratedBytesStayTheSameBetweenVersions) {
  // A change of this number means that everybody's generated data change: only on purpose.
  const ScratchFolder folder;
  generate(folder.path(), {.seed = 0, .train = 20, .val = 1, .test = 1});
  EXPECT_EQ(task_in(folder.path())->open(Split::kTrain)->fingerprint(), 5804883973504495511u);
}

struct Malformed {
  std::string text;
  std::string place;
  std::string what;
};

TEST(ListopsReader, MalformedFilesAreNamedWithLineAndWord) {
  const std::string good = "Source\tTarget\r\n[MAX 2 9 ]\t9\r\n";
  const std::vector<Malformed> cases = {
      {good + "[MAX 2 ten ]\t9\r\n", ":3: ", "unknown token 'ten' at byte 8"},
      {good + "[MAX 2 9 ] 9\r\n", ":3: ", "no tab"},
      {good + "[MAX 2 9 ]\t10\r\n", ":3: ", "label '10'"},
      {good + "[MAX 2 9 ]\t\r\n", ":3: ", "label ''"},
      {good + "[MAX 2 9 ]\t-1\r\n", ":3: ", "label '-1'"},
      {good + "[MAX 2 9 ]\t9\t9\r\n", ":3: ", "label '9\\x099'"},
      {good + "\r\n[MAX 2 9 ]\t9\r\n", ":3: ", "empty"},
      {good + "\n", ":3: ", "empty"},
      {good + "( )\t9\r\n", ":3: ", "no expression"},
      {good + std::string("[MAX 2 \0 ]\t9\r\n", 14), ":3: ", "NUL byte"},
      {good + "[MAX 2 9", ":3: ", "no tab"},
      // The structure of the expression.
      {good + "[MAX 2 9\t9\r\n", ":3: ", "'[MAX' is not closed: a bracket is missing (byte 1 "},
      {good + "[MIN [MAX 2 9 ]\t9\r\n", ":3: ", "'[MIN' is not closed"},
      {good + "[MAX 2 9 ] ]\t9\r\n", ":3: ", "']' closes nothing: a surplus bracket (byte 12 "},
      {good + "] [MAX 2 9 ]\t9\r\n", ":3: ", "']' closes nothing: a surplus bracket (byte 1 "},
      {good + "[MAX [MIN ] 9 ]\t9\r\n", ":3: ", "'[MIN' has no arguments (byte 6 "},
      {good + "[MAX ]\t9\r\n", ":3: ", "'[MAX' has no arguments"},
      {good + "[MAX 2 9 ] [MAX 2 9 ]\t9\r\n", ":3: ", "more than one root (byte 12 "},
      {good + "9 9\t9\r\n", ":3: ", "'9' follows a complete expression"},
      {good + "( ( [MAX 2 ) 9 ) ] )\t9\r\n", ":3: ", "')' without its other half at byte 20 "},
      {good + "( ( ( [MAX 2 ) 9 ) ]\t9\r\n", ":3: ", "'(' without its other half at byte 1 "},
      {good + "( ( ( [MAX 2 ) 9 ) ] )(\t9\r\n", ":3: ", "'(' without its other half at byte 23 "},
      // The label.
      {good + "[MAX 2 9 ]\t8\r\n", ":3: ", "the label is 8, the value of the expression 9"},
      {"[MAX 2 9 ]\t9\n", ":1: ", "header"},
      {"\n[MAX 2 9 ]\t9\n", ":1: ", "header"},
      {"", ":1: ", "empty"},
  };
  for (const Malformed& malformed : cases) {
    const std::string message = message_of([&] { open_text(malformed.text); });
    expect_contains(message, "basic_train.tsv" + malformed.place);
    expect_contains(message, malformed.what);
    EXPECT_EQ(message.find('\n'), message.npos);
  }
}

TEST(ListopsReader, LabelsOfTheWrongRowAreFound) {
  // Every label one row further down, as a spreadsheet would shift a column.
  const ScratchFolder folder;
  generate(folder.path(), kSmall);
  const auto lines = lines_of(read_file(folder / "basic_val.tsv"));
  std::string shifted = "Source\tTarget\r\n";
  for (size_t i = 2; i < lines.size(); ++i) {
    shifted += lines[i].substr(0, lines[i].find('\t')) +
               lines[i - 1].substr(lines[i - 1].find('\t')) + "\n";
  }
  expect_contains(message_of([&] { open_text(shifted); }), "the label is ");
}

TEST(ListopsReader, CutRowsAreCheckedWhole) {
  const std::string good = "Source\tTarget\n[MAX 2 9 [MIN 4 5 ] ]\t9\n";
  EXPECT_EQ(open_text(good, 3)->length({}, 0), 3);
  EXPECT_THROW(open_text(good + "[MAX 2 9 [MIN 4 5 ]\t9\n", 3), DataError);
  EXPECT_THROW(open_text(good + "[MAX 2 9 [MIN 4 5 ] ]\t8\n", 3), DataError);
}

TEST(ListopsReader, BadRowsAreLeftOutAndCountedWhenAskedTo) {
  const ScratchFolder folder;
  write_file(folder / "basic_train.tsv",
             "Source\tTarget\n7\t7\n[MAX 2 9\t9\n\n[MAX 2 9 ]\t9\n[MIN 1 2 ]\t2\n3\t3\n");
  DataConfig config;
  config.dir = folder.path();
  config.skip_bad_rows = true;
  const auto dataset = make_task(config, 0)->open(Split::kTrain);
  ASSERT_EQ(dataset->size(), 3);
  int32_t label = -1;
  EXPECT_EQ(tokens_of(*dataset, 1, &label), from_source("[MAX 2 9 ]"));
  EXPECT_EQ(label, 9);
  EXPECT_EQ(tokens_of(*dataset, 2, &label), from_source("3"));
  EXPECT_EQ(dataset->fingerprint(),
            open_text("Source\tTarget\n7\t7\n[MAX 2 9 ]\t9\n3\t3\n")->fingerprint());

  EXPECT_EQ(dataset->intake().skipped_rows, 3);
  const auto lines = losses(dataset->intake(), "train");
  ASSERT_EQ(lines.size(), 1u);
  expect_contains(lines[0], "train: 3 bad rows left out");
  expect_contains(lines[0], folder / "basic_train.tsv:3: '[MAX' is not closed");
}

TEST(ListopsReader, AFileWithoutItsHeaderIsNeverSkipped) {
  const ScratchFolder folder;
  write_file(folder / "basic_train.tsv", "7\t7\n");
  DataConfig config;
  config.dir = folder.path();
  config.skip_bad_rows = true;
  EXPECT_THROW(make_task(config, 0)->open(Split::kTrain), DataError);
}

TEST(ListopsReader, MissingDataComeWithTheCommandThatMakesThem) {
  const ScratchFolder folder;
  const std::string message = message_of([&] { task_in(folder.path())->open(Split::kValidation); });
  expect_contains(message, folder / "basic_val.tsv");
  expect_contains(message, std::strerror(ENOENT));
  expect_contains(message, "`stipple data listops --out " + folder.path() + "`");
}

TEST(ListopsReader, MissingSplitComesWithTheCommandThatMakesItAlone) {
  const ScratchFolder folder;
  generate(folder.path(), kSmall);
  const auto task = task_in(folder.path());
  std::filesystem::remove(folder / "basic_val.tsv");
  expect_contains(message_of([&] { task->open(Split::kValidation); }),
                  "`stipple data listops --out " + folder.path() + " --splits val`");
  std::filesystem::remove(folder / "basic_test.tsv");
  expect_contains(message_of([&] { task->open(Split::kTest); }),
                  "`stipple data listops --out " + folder.path() + " --splits val,test`");
}

TEST(ListopsReader, FileThatMayNotBeReadIsNotToBeMade) {
  if (::geteuid() == 0 && ::seteuid(65534) != 0) GTEST_SKIP() << "cannot be another user";
  {
    const ScratchFolder folder;
    write_file(folder / "basic_train.tsv", "Source\tTarget\n");
    std::filesystem::permissions(folder / "basic_train.tsv", std::filesystem::perms::none);
    const std::string message = message_of([&] { task_in(folder.path())->open(Split::kTrain); });
    expect_contains(message, std::strerror(EACCES));
    EXPECT_EQ(message.find("stipple data"), message.npos) << message;
  }
  if (::getuid() == 0) {
    ASSERT_EQ(::seteuid(0), 0);
  }
}

TEST(ListopsReader, FolderInPlaceOfAFileIsRefused) {
  const ScratchFolder folder;
  std::filesystem::create_directory(folder / "basic_test.tsv");
  const std::string message = message_of([&] { task_in(folder.path())->open(Split::kTest); });
  expect_contains(message, std::strerror(EISDIR));
  EXPECT_EQ(message.find("stipple data"), message.npos) << message;
}

TEST(ListopsReader, ExampleOutOfRangeIsRefused) {
  const auto dataset = open_text("Source\tTarget\n7\t7\n");
  int32_t id = 0;
  int32_t label = 0;
  EXPECT_THROW(dataset->get({1}, 0, {.ids = {&id, 1}, .labels = {&label, 1}}), Error);
  EXPECT_THROW(dataset->get({-1}, 0, {.ids = {&id, 1}, .labels = {&label, 1}}), Error);
  EXPECT_THROW(dataset->get({0}, 0, {.ids = {}, .labels = {&label, 1}}), Error);
}

// --- ladder --------------------------------------------------------------------------------------

TEST(ListopsLadder, RungsOfGeneratedExamplesStandWhereExpected) {
  const ScratchFolder folder;
  generate(folder.path(), {.seed = 1, .train = 0, .val = 3000, .test = 0});
  const auto task = task_in(folder.path());
  const auto rungs = task->ladder(*task->open(Split::kValidation));
  const std::vector<Rung> expected = {
      {"majority class", .169}, {"root operator", .362}, {"depth 1", .598}, {"depth 2", .741},
      {"depth 3", .837},        {"depth 4", .899},       {"depth 5", .937}};
  ASSERT_EQ(rungs.size(), expected.size());
  for (size_t i = 0; i < rungs.size(); ++i) {
    EXPECT_EQ(rungs[i].name, expected[i].name);
    // Four standard deviations of 3000 examples at one half.
    EXPECT_NEAR(rungs[i].value, expected[i].value, 0.037) << rungs[i].name;
  }
}

double rung(const std::vector<Rung>& rungs, const std::string& name) {
  for (const Rung& rung : rungs) {
    if (rung.name == name) return rung.value;
  }
  ADD_FAILURE() << "no rung " << name;
  return -1;
}

TEST(ListopsLadder, CountsOnTheGivenExamples) {
  const auto dataset = open_text(
      "Source\tTarget\n[MIN 1 [MAX 0 0 ] ]\t0\n[MIN 2 3 ]\t2\n[MIN 2 4 ]\t2\n[MAX 9 [MIN 1 1 ] "
      "]\t9\n");
  const auto rungs = task_in("unused")->ladder(*dataset);
  EXPECT_DOUBLE_EQ(rung(rungs, "majority class"), 0.5);  // 2
  EXPECT_DOUBLE_EQ(rung(rungs, "root operator"), 0.75);  // MIN 2, MAX 9
  EXPECT_DOUBLE_EQ(rung(rungs, "depth 1"), 0.75);        // takes [MAX 0 0 ] for 9
  EXPECT_DOUBLE_EQ(rung(rungs, "depth 2"), 1);
  EXPECT_TRUE(std::is_sorted(rungs.begin(), rungs.end(),
                             [](const auto& a, const auto& b) { return a.value < b.value; }));
}

TEST(ListopsLadder, CutExamplesCountAsFarAsTheyAreSeen) {
  // Seen: [MIN 5 [MAX 3, [MIN 5 [MAX and [MIN.
  const auto rungs_of = [](const char* line, int64_t max_length) {
    return task_in("unused")->ladder(
        *open_text(std::string("Source\tTarget\n") + line, max_length));
  };
  EXPECT_DOUBLE_EQ(rung(rungs_of("[MIN 5 [MAX 3 2 ] ]\t3\n", 4), "depth 2"), 1);
  EXPECT_DOUBLE_EQ(rung(rungs_of("[MIN 5 [MAX 6 2 ] ]\t5\n", 3), "depth 2"), 1);
  EXPECT_DOUBLE_EQ(rung(rungs_of("[MIN 0 1 ]\t0\n", 1), "depth 2"), 1);
  EXPECT_DOUBLE_EQ(rung(rungs_of("[MIN 1 1 ]\t1\n", 1), "depth 2"), 0);
}

TEST(ListopsLadder, NoExamplesHaveNoLadder) {
  EXPECT_TRUE(task_in("unused")->ladder(*open_text("Source\tTarget\n")).empty());
}

}  // namespace
}  // namespace stipple::data::listops
