// SPDX-License-Identifier: Apache-2.0
#include "data/glue/submission.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <zip.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/text.h"
#include "data/glue/files.h"
#include "data/mapped_file.h"
#include "data/tsv/read.h"

namespace stipple::data::glue {
namespace {

/// 1980-01-01, the first that a zip can say, so that the bytes do not depend on when it is written.
constexpr zip_uint16_t kFirstDay = (1 << 5) | 1;

const Published& task_of(const std::string& path) {
  const std::string name = std::filesystem::path(path).filename().string();
  std::vector<std::string_view> names;
  for (const Published& task : all_published()) {
    if (task.submission == name) return task;
    names.push_back(task.submission);
  }
  throw DataError(fmt::format("{}: the leaderboard has no file of that name; it takes {}", path,
                              fmt::join(names, ", ")));
}

/// How many rows there are.
int64_t check_rows(const Published& task, const std::string& path) {
  const tsv::Labels labels = labels_of(task);
  tsv::RowReader rows(path);
  std::vector<std::string_view> fields;
  const auto require = [&](bool holds, const std::string& what) {
    if (!holds) throw DataError(fmt::format("{}: {}", rows.place(), what));
  };
  rows.next(fields);
  require(fields == std::vector<std::string_view>{"index", "prediction"},
          "the header is to be index<TAB>prediction");
  int64_t count = 0;
  for (; rows.next(fields); ++count) {
    require(fields.size() == 2, fmt::format("the row has {} fields, not 2", fields.size()));
    require(fields[0] == std::to_string(count),
            fmt::format("the index is {}, and {} is expected", one_line(fields[0]), count));
    try {
      label_of(fields[1], labels);
    } catch (const DataError& e) {
      require(false, e.what());
    }
  }
  return count;
}

[[noreturn]] void fail(zip_error_t* error) {
  throw Error(std::string("cannot make a zip: ") + zip_error_strerror(error));
}

}  // namespace

Submission read_submission(const std::vector<std::string>& paths) {
  Submission submission;
  for (const std::string& path : paths) {
    const Published& task = task_of(path);
    const bool is_known = std::ranges::any_of(
        submission.files, [&](const Submission::File& file) { return file.task == &task; });
    STIPPLE_CHECK_AS(DataError, !is_known, path, ": ", task.submission, " is there twice");
    const int64_t rows = check_rows(task, path);
    const int64_t known = task.rows[static_cast<size_t>(Split::kTest)];
    if (rows != known) {
      submission.remarks.push_back(fmt::format(
          "{} has {} predictions, and the published test {} examples", path, rows, known));
    }
    submission.files.push_back({&task, std::string(MappedFile(path).text())});
  }
  std::ranges::sort(submission.files, {}, [](const auto& file) { return file.task->id; });
  std::vector<std::string_view> missing;
  for (const Published& task : all_published()) {
    if (std::ranges::none_of(submission.files,
                             [&](const Submission::File& file) { return file.task == &task; }))
      missing.push_back(task.submission);
  }
  if (!missing.empty()) {
    submission.remarks.push_back(fmt::format(
        "without {}; the leaderboard takes whole submissions only", fmt::join(missing, ", ")));
  }
  return submission;
}

std::string zip_of(const Submission& submission) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* const bytes = zip_source_buffer_create(nullptr, 0, 0, &error);
  if (bytes == nullptr) fail(&error);
  const std::unique_ptr<zip_source_t, void (*)(zip_source_t*)> kept(bytes, &zip_source_free);
  zip_source_keep(bytes);  // closing the archive frees it once
  zip_t* const archive = zip_open_from_source(bytes, ZIP_TRUNCATE, &error);
  if (archive == nullptr) {
    zip_source_free(bytes);
    fail(&error);
  }
  std::unique_ptr<zip_t, void (*)(zip_t*)> open(archive, &zip_discard);
  for (const auto& [task, text] : submission.files) {
    zip_source_t* const file = zip_source_buffer(archive, text.data(), text.size(), 0);
    const zip_int64_t index =
        zip_file_add(archive, std::string(task->submission).c_str(), file, ZIP_FL_ENC_UTF_8);
    if (index < 0) {
      zip_source_free(file);
      fail(zip_get_error(archive));
    }
    zip_file_set_dostime(archive, static_cast<zip_uint64_t>(index), 0, kFirstDay, 0);
  }
  if (zip_close(archive) != 0) fail(zip_get_error(archive));
  static_cast<void>(open.release());  // closed
  if (zip_source_open(bytes) != 0) fail(zip_source_error(bytes));
  zip_source_seek(bytes, 0, SEEK_END);
  std::string zip(static_cast<size_t>(zip_source_tell(bytes)), '\0');
  zip_source_seek(bytes, 0, SEEK_SET);
  const zip_int64_t read = zip_source_read(bytes, zip.data(), zip.size());
  zip_source_close(bytes);
  STIPPLE_CHECK(read == static_cast<zip_int64_t>(zip.size()), "cannot make a zip: ", read, " of ",
                zip.size(), " bytes");
  return zip;
}

}  // namespace stipple::data::glue
