// SPDX-License-Identifier: Apache-2.0
#include "data/glue/benchmark.h"

#include "core/error.h"

namespace stipple::data::glue {
namespace {

constexpr std::array<std::string_view, 2> kNoYes = {"0", "1"};
constexpr std::array<std::string_view, 2> kEntails = {"entailment", "not_entailment"};
constexpr std::array<std::string_view, 3> kEntailsOrNot = {"entailment", "neutral",
                                                           "contradiction"};

constexpr std::array<std::string_view, 3> kFiles = {"train.tsv", "dev.tsv", "test.tsv"};

constexpr PublishedColumns kSentencesAt1 = {{1, "sentence1"}, {2, "sentence2"}, {3, "label"}};
constexpr PublishedColumns kTestSentencesAt1 = {{1, "sentence1"}, {2, "sentence2"}, {}};
constexpr PublishedColumns kSentenceAt1 = {{1, "sentence"}, {}, {}};
/// Training has 12 columns, validation 16; the judgement that counts is the last one of both.
constexpr PublishedColumns kMnliColumns = {{8, "sentence1"}, {9, "sentence2"}, {11, "gold_label"}};
constexpr PublishedColumns kMnliTest = {{8, "sentence1"}, {9, "sentence2"}, {}};

constexpr std::array<Published, 11> kTable = {{
    {.id = TaskId::kCola,
     .name = "cola",
     .folder = "CoLA",
     .files = kFiles,
     .has_header = false,
     .labelled = {{3, {}}, {}, {1, {}}},
     .test = kSentenceAt1,
     .label_is_last = false,
     .classes = kNoYes,
     .rows = {8551, 1043, 1063},
     .submission = "CoLA.tsv"},
    {.id = TaskId::kSst2,
     .name = "sst2",
     .folder = "SST-2",
     .files = kFiles,
     .has_header = true,
     .labelled = {{0, "sentence"}, {}, {1, "label"}},
     .test = kSentenceAt1,
     .label_is_last = false,
     .classes = kNoYes,
     .rows = {67349, 872, 1821},
     .submission = "SST-2.tsv"},
    {.id = TaskId::kMrpc,
     .name = "mrpc",
     .folder = "MRPC",
     .files = kFiles,
     .has_header = true,
     .labelled = {{3, "#1 String"}, {4, "#2 String"}, {0, "Quality"}},
     .test = {{3, "#1 String"}, {4, "#2 String"}, {}},
     .label_is_last = false,
     .classes = kNoYes,
     .rows = {3668, 408, 1725},
     .submission = "MRPC.tsv"},
    {.id = TaskId::kQqp,
     .name = "qqp",
     .folder = "QQP",
     .files = kFiles,
     .has_header = true,
     .labelled = {{3, "question1"}, {4, "question2"}, {5, "is_duplicate"}},
     .test = {{1, "question1"}, {2, "question2"}, {}},
     .label_is_last = false,
     .classes = kNoYes,
     .rows = {363846, 40430, 390965},
     .submission = "QQP.tsv"},
    {.id = TaskId::kStsb,
     .name = "stsb",
     .folder = "STS-B",
     .files = kFiles,
     .has_header = true,
     .labelled = {{7, "sentence1"}, {8, "sentence2"}, {9, "score"}},
     .test = {{7, "sentence1"}, {8, "sentence2"}, {}},
     .label_is_last = false,
     .classes = {},
     .rows = {5749, 1500, 1379},
     .submission = "STS-B.tsv"},
    {.id = TaskId::kMnli,
     .name = "mnli",
     .folder = "MNLI",
     .files = {"train.tsv", "dev_matched.tsv", "test_matched.tsv"},
     .has_header = true,
     .labelled = kMnliColumns,
     .test = kMnliTest,
     .label_is_last = true,
     .classes = kEntailsOrNot,
     .rows = {392702, 9815, 9796},
     .submission = "MNLI-m.tsv"},
    {.id = TaskId::kMnliMm,
     .name = "mnli_mm",
     .folder = "MNLI",
     .files = {"train.tsv", "dev_mismatched.tsv", "test_mismatched.tsv"},
     .has_header = true,
     .labelled = kMnliColumns,
     .test = kMnliTest,
     .label_is_last = true,
     .classes = kEntailsOrNot,
     .rows = {392702, 9832, 9847},
     .submission = "MNLI-mm.tsv"},
    {.id = TaskId::kQnli,
     .name = "qnli",
     .folder = "QNLI",
     .files = kFiles,
     .has_header = true,
     .labelled = {{1, "question"}, {2, "sentence"}, {3, "label"}},
     .test = {{1, "question"}, {2, "sentence"}, {}},
     .label_is_last = false,
     .classes = kEntails,
     .rows = {104743, 5463, 5463},
     .submission = "QNLI.tsv"},
    {.id = TaskId::kRte,
     .name = "rte",
     .folder = "RTE",
     .files = kFiles,
     .has_header = true,
     .labelled = kSentencesAt1,
     .test = kTestSentencesAt1,
     .label_is_last = false,
     .classes = kEntails,
     .rows = {2490, 277, 3000},
     .submission = "RTE.tsv"},
    {.id = TaskId::kWnli,
     .name = "wnli",
     .folder = "WNLI",
     .files = kFiles,
     .has_header = true,
     .labelled = kSentencesAt1,
     .test = kTestSentencesAt1,
     .label_is_last = false,
     .classes = kNoYes,
     .rows = {635, 71, 146},
     .submission = "WNLI.tsv"},
    {.id = TaskId::kAx,
     .name = "ax",
     .folder = "diagnostic",
     .files = {"", "", "diagnostic.tsv"},
     .has_header = true,
     .labelled = {},
     .test = kTestSentencesAt1,
     .label_is_last = false,
     .classes = kEntailsOrNot,
     .rows = {0, 0, 1104},
     .submission = "AX.tsv"},
}};

constexpr std::array<std::string_view, kTable.size()> names_of_table() {
  std::array<std::string_view, kTable.size()> names;
  for (size_t i = 0; i < kTable.size(); ++i) names[i] = kTable[i].name;
  return names;
}
constexpr std::array<std::string_view, kTable.size()> kNames = names_of_table();

}  // namespace

const Published& published(TaskId id) {
  const Published& task = kTable.at(static_cast<size_t>(id));
  STIPPLE_CHECK(task.id == id, "GLUE's table is out of order at ", task.name);
  return task;
}

std::span<const Published> all_published() { return kTable; }

std::span<const std::string_view> task_names() { return kNames; }

bool answers_for(TaskId asked, TaskId trained) {
  const std::string_view folder = published(asked == TaskId::kAx ? TaskId::kMnli : asked).folder;
  return published(trained).folder == folder;
}

std::vector<Metric> metrics_of(TaskId id) {
  switch (id) {
    case TaskId::kCola:
    case TaskId::kAx:
      return {kMatthews, kAccuracy};
    case TaskId::kMrpc:
    case TaskId::kQqp:
      return {kAccuracy, kF1};
    case TaskId::kStsb:
      return {kPearson, kSpearman, kMeanSquaredError};
    default:
      return {kAccuracy};
  }
}

}  // namespace stipple::data::glue
