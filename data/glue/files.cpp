// SPDX-License-Identifier: Apache-2.0
#include "data/glue/files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <utility>

#include "core/error.h"

namespace stipple::data::glue {
namespace {

namespace fs = std::filesystem;
using tsv::BadRow;
using tsv::Layout;
using tsv::Texts;
using Row = std::vector<std::string_view>;

constexpr float kHighestScore = 5;  ///< of STS-B

/// Rows of QNLI as it was before January 2019, by Split: other sentences, drawn otherwise.
constexpr std::array<int64_t, 3> kFirstQnli = {108436, 5732, 5740};

constexpr std::string_view kMrpcTrain = "msr_paraphrase_train.txt";
constexpr std::string_view kMrpcTest = "msr_paraphrase_test.txt";

tsv::Column column_of(const PublishedColumn& column) {
  return {.number = column.number, .name = std::string(column.name)};
}

std::string path_of(const Published& task, const std::string& dir, std::string_view file) {
  return (fs::path(dir) / task.folder / file).string();
}

/// Some copies keep the diagnostic beside MNLI.
std::string test_of_diagnostic(const Published& task, const std::string& dir) {
  const std::string own = path_of(task, dir, task.files[2]);
  const std::string beside = (fs::path(dir) / "MNLI" / task.files[2]).string();
  return !fs::exists(own) && fs::exists(beside) ? beside : own;
}

/// Whether MRPC is there as its corpus comes, not as GLUE's files.
bool is_raw_mrpc(const Published& task, const std::string& dir) {
  return task.id == TaskId::kMrpc && !fs::exists(path_of(task, dir, task.files[0])) &&
         fs::exists(path_of(task, dir, kMrpcTrain));
}

std::string mrpc_dev_ids(const Published& task, const std::string& dir) {
  const std::string other = path_of(task, dir, "mrpc_dev_ids.tsv");
  return fs::exists(other) ? other : path_of(task, dir, "dev_ids.tsv");
}

Layout layout_of(const Published& task, std::string path, Split split, BadRow bad_row) {
  const bool is_test = split == Split::kTest;
  const PublishedColumns& columns = is_test ? task.test : task.labelled;
  const bool has_short_rows = task.id == TaskId::kQqp;
  Layout layout{.path = std::move(path),
                .has_header = is_test || task.has_header,
                .first = column_of(columns.first),
                .label_is_last = task.label_is_last,
                .more_fields_are_bad = !has_short_rows,
                .bad_row = bad_row,
                .short_row = bad_row};
  if (has_short_rows) layout.short_row = is_test ? BadRow::kBlank : BadRow::kSkip;
  if (columns.second.number >= 0) layout.second = column_of(columns.second);
  if (columns.label.number >= 0) layout.label = column_of(columns.label);
  return layout;
}

/// Two ids a line.
std::set<std::pair<std::string, std::string>> read_dev_ids(const std::string& path) {
  std::set<std::pair<std::string, std::string>> ids;
  tsv::RowReader rows(path);
  Row fields;
  while (rows.next(fields)) {
    STIPPLE_CHECK_AS(DataError, fields.size() == 2, rows.place(),
                     ": two ids with a tab between "
                     "them are expected, and there are ",
                     fields.size(), " fields");
    ids.emplace(fields[0], fields[1]);
  }
  return ids;
}

/// As GLUE's files are made of it: validation is the training rows whose ids are listed, and a test
/// has no labels.
Texts read_raw_mrpc(const Published& task, const std::string& dir, Split split, BadRow bad_row) {
  const tsv::Labels labels = labels_of(task);
  if (split == Split::kTest) {
    Layout layout = layout_of(task, path_of(task, dir, kMrpcTest), Split::kTrain, bad_row);
    layout.label.reset();
    return read_texts(layout, labels);
  }
  const auto ids = read_dev_ids(mrpc_dev_ids(task, dir));
  const Layout layout = layout_of(task, path_of(task, dir, kMrpcTrain), split, bad_row);
  return read_texts(layout, labels, [&](const Row& fields) {
    const bool is_listed = ids.contains({std::string(fields[1]), std::string(fields[2])});
    return is_listed == (split == Split::kValidation);
  });
}

/// What there is to do about a file that is not there.
std::string advice(const Published& task, const std::string& dir, Split split) {
  if (task.id == TaskId::kMrpc) {
    return fmt::format("; {} takes the published files, or {}, {} and dev_ids.tsv", task.folder,
                       kMrpcTrain, kMrpcTest);
  }
  return fmt::format("; data.dir ({}) is the folder with {}/{} of GLUE, as published", dir,
                     task.folder, task.files[static_cast<size_t>(split)]);
}

std::vector<std::string> remarks_of(const Published& task, Split split, const Texts& texts) {
  std::vector<std::string> remarks;
  if (texts.bad_rows > 0) {
    remarks.push_back(fmt::format(
        "{} row{} {}, the first: {}", texts.bad_rows, texts.bad_rows == 1 ? "" : "s",
        split == Split::kTest ? "without proper fields, predicted as empty texts" : "left out",
        texts.first_bad_row));
  }
  const int64_t known = task.rows[static_cast<size_t>(split)];
  const auto found = static_cast<int64_t>(texts.rows.size());
  if (found != known)
    remarks.push_back(fmt::format("{} has {} examples, {} as published", task.name, found, known));
  return remarks;
}

}  // namespace

tsv::Labels labels_of(const Published& task) {
  tsv::Labels labels;
  for (const std::string_view name : task.classes) labels.names.emplace_back(name);
  if (labels.names.empty()) labels.range = {.low = 0, .high = kHighestScore};
  return labels;
}

std::vector<std::string> split_files(const Published& task, const std::string& dir, Split split) {
  if (is_raw_mrpc(task, dir)) {
    if (split == Split::kTest) return {path_of(task, dir, kMrpcTest)};
    return {path_of(task, dir, kMrpcTrain), mrpc_dev_ids(task, dir)};
  }
  const std::string_view file = task.files[static_cast<size_t>(split)];
  STIPPLE_CHECK_AS(DataError, !file.empty(), "data.glue.task: ", task.name, " is a test alone: ",
                   "predict it by a run of data.glue.task=mnli, with `stipple predict RUN_DIR "
                   "--split test --out AX.tsv data.glue.task=",
                   task.name, "`");
  if (task.id == TaskId::kAx) return {test_of_diagnostic(task, dir)};
  return {path_of(task, dir, file)};
}

SplitTexts read_split(const Published& task, const std::string& dir, Split split, BadRow bad_row) {
  SplitTexts read;
  try {
    if (is_raw_mrpc(task, dir)) {
      read.texts = read_raw_mrpc(task, dir, split, bad_row);
    } else {
      const std::string path = split_files(task, dir, split).front();
      read.texts = read_texts(layout_of(task, path, split, bad_row), labels_of(task));
    }
  } catch (const UnreadableFile& e) {
    if (e.reason() != ENOENT) throw;
    throw DataError(e.what() + advice(task, dir, split));
  }
  const auto found = static_cast<int64_t>(read.texts.rows.size());
  STIPPLE_CHECK_AS(DataError,
                   task.id != TaskId::kQnli || found != kFirstQnli[static_cast<size_t>(split)],
                   split_files(task, dir, split).front(), " has ", found,
                   " rows: QNLI as it was before January 2019, whose numbers cannot be compared "
                   "with those of QNLI today; take the present files");
  read.remarks = remarks_of(task, split, read.texts);
  return read;
}

}  // namespace stipple::data::glue
