// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "core/error.h"
#include "core/text.h"
#include "data/tasks/tasks.h"
#include "data/tsv/text_task.h"

namespace stipple::data {
namespace {

/// What stands between commas, without blanks around it.
std::vector<std::string> listed(std::string_view list) {
  std::vector<std::string> names;
  while (!list.empty()) {
    const size_t end = std::min(list.find(','), list.size());
    std::string_view name = list.substr(0, end);
    name.remove_prefix(std::min(name.find_first_not_of(' '), name.size()));
    name = name.substr(0, name.find_last_not_of(' ') + 1);
    names.emplace_back(name);
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return names;
}

std::vector<std::string> classes_of(const TsvConfig& config) {
  std::vector<std::string> names = listed(config.labels);
  for (size_t i = 0; i < names.size(); ++i) {
    STIPPLE_CHECK_AS(ConfigError, !names[i].empty(), "data.tsv.labels: a name is empty in '",
                     config.labels, "'");
    STIPPLE_CHECK_AS(ConfigError,
                     std::find(names.begin(), names.begin() + static_cast<int64_t>(i), names[i]) ==
                         names.begin() + static_cast<int64_t>(i),
                     "data.tsv.labels: '", names[i], "' is there twice");
  }
  STIPPLE_CHECK_AS(ConfigError, names.size() != 1, "data.tsv.labels: one class alone ('",
                   config.labels, "') leaves nothing to tell; name all, or none for numbers");
  return names;
}

std::vector<Metric> metrics_of_classes(size_t classes) {
  if (classes == 0) return {kPearson, kSpearman, kMeanSquaredError};
  if (classes == 2) return {kAccuracy, kF1, kMatthews};
  return {kAccuracy, kMacroF1, kMatthews};
}

using Row = std::vector<std::string_view>;

/// The place of a column that is given by its name or its number; none: the file has no such.
std::optional<int64_t> find_column(const std::string& wanted, const Row& first_row,
                                   bool has_header) {
  if (has_header) {
    const auto named = std::ranges::find(first_row, wanted);
    if (named != first_row.end()) return named - first_row.begin();
  }
  int64_t number = 0;
  const auto [end, error] = std::from_chars(wanted.data(), wanted.data() + wanted.size(), number);
  const bool is_number = error == std::errc() && end == wanted.data() + wanted.size();
  if (!is_number || number < 0 || number >= static_cast<int64_t>(first_row.size()))
    return std::nullopt;
  return number;
}

class TsvTask final : public tsv::TextTask {
 public:
  TsvTask(const DataConfig& config, uint64_t seed)
      : TextTask(config, seed, options_of(config)), dir_(config.dir), config_(config.tsv) {
    STIPPLE_CHECK_AS(ConfigError, !config_.text.empty(), "data.tsv.text: names no column of texts");
    STIPPLE_CHECK_AS(ConfigError, !config_.label.empty(),
                     "data.tsv.label: names no column of labels");
  }

  std::vector<std::string> files(Split split) const override { return {path_of(split)}; }

 private:
  static tsv::TextTaskOptions options_of(const DataConfig& config) {
    std::vector<std::string> classes = classes_of(config.tsv);
    std::vector<Metric> metrics = metrics_of_classes(classes.size());
    return {.name = "tsv",
            .is_pair = !config.tsv.second_text.empty(),
            .labels = {.names = std::move(classes)},
            .metrics = std::move(metrics)};
  }

  std::string path_of(Split split) const {
    const std::string& file = split == Split::kTrain        ? config_.train
                              : split == Split::kValidation ? config_.validation
                                                            : config_.test;
    return (std::filesystem::path(dir_) / file).string();
  }

  Read read(Split split) const override {
    const tsv::Layout layout = layout_of(split);
    Read read{.texts = read_texts(layout, labels()), .remarks = {}};
    if (read.texts.bad_rows > 0) {
      read.remarks.push_back(
          fmt::format("{} bad row{} {} (data.skip_bad_rows), the first: {}", read.texts.bad_rows,
                      read.texts.bad_rows == 1 ? "" : "s",
                      split == Split::kTest ? "predicted as empty texts" : "left out",
                      read.texts.first_bad_row));
    }
    return read;
  }

  tsv::Layout layout_of(Split split) const {
    const std::string path = path_of(split);
    Row first_row;
    tsv::RowReader reader(path);
    reader.next(first_row);
    const auto column = [&](const char* key, const std::string& wanted) {
      const auto number = find_column(wanted, first_row, config_.header);
      STIPPLE_CHECK_AS(DataError, number.has_value(), path, ":1: there is no column '",
                       one_line(wanted), "' (data.tsv.", key, "); ", columns_text(first_row));
      return tsv::Column{.number = *number};
    };
    tsv::Layout layout{.path = path,
                       .has_header = config_.header,
                       .first = column("text", config_.text),
                       .bad_row = bad_row(split),
                       .short_row = bad_row(split)};
    if (!config_.second_text.empty()) layout.second = column("second_text", config_.second_text);
    const bool may_lack_labels = split == Split::kTest;
    if (!may_lack_labels || find_column(config_.label, first_row, config_.header))
      layout.label = column("label", config_.label);
    return layout;
  }

  std::string columns_text(const Row& first_row) const {
    if (!config_.header) return fmt::format("the first row has {} fields", first_row.size());
    std::vector<std::string> names;
    for (const std::string_view name : first_row) names.push_back(one_line(name));
    return fmt::format("the header names {}", fmt::join(names, ", "));
  }

  std::string dir_;
  TsvConfig config_;
};

}  // namespace

void TsvConfig::describe(ConfigVisitor& visitor) {
  visitor.field("train", train, {.doc = "The training file, below data.dir."});
  visitor.field("validation", validation, {.doc = "The validation file."});
  visitor.field("test", test,
                {.doc = "The file that is predicted; its column of labels may be missing."});
  visitor.field("header", header, {.doc = "The first line of each file names its columns."});
  visitor.field("text", text,
                {.doc = "The column of texts, by its name in the header or its number, from 0."});
  visitor.field("second_text", second_text,
                {.doc = "The column of second texts, where a label is of two; empty: of one."});
  visitor.field("label", label, {.doc = "The column of labels."});
  visitor.field("labels", labels,
                {.doc = "Names of the classes, separated by commas, in the order of their ids; "
                        "empty: labels are numbers."});
}

std::unique_ptr<Task> tasks::make_tsv(const DataConfig& config, uint64_t seed) {
  return std::make_unique<TsvTask>(config, seed);
}

}  // namespace stipple::data
