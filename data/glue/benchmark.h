// SPDX-License-Identifier: Apache-2.0
// The tasks of GLUE as they are published: folders, files, columns, labels, measures, sizes.
// Columns are numbered from 0. Source: the benchmark's own files; the order of classes is ours.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "data/dataset.h"
#include "data/metric.h"

namespace stipple::data::glue {

/// In the order of the names in `data.glue.task`.
enum class TaskId : uint8_t {
  kCola,
  kSst2,
  kMrpc,
  kQqp,
  kStsb,
  kMnli,    ///< judged by the matched files
  kMnliMm,  ///< the same training; judged by the mismatched files
  kQnli,
  kRte,
  kWnli,
  kAx,  ///< the diagnostic: a test alone, for a model of kMnli
};

/// Where something stands in a file; number < 0: nowhere.
struct PublishedColumn {
  int number = -1;
  std::string_view name = {};
};

struct PublishedColumns {
  PublishedColumn first, second, label;
};

struct Published {
  TaskId id;
  std::string_view name;                  ///< in data.glue.task
  std::string_view folder;                ///< below data.dir
  std::array<std::string_view, 3> files;  ///< by Split; empty: there is none
  bool has_header;                        ///< of training and validation; tests always have one
  PublishedColumns labelled, test;        ///< columns of training and validation, and of tests
  bool label_is_last;                     ///< whatever its number
  std::span<const std::string_view>
      classes;                  ///< in the order of our ids; none: numbers from 0 to 5
  std::array<int64_t, 3> rows;  ///< as published, by Split
  std::string_view submission;  ///< the leaderboard's name of the file
};

const Published& published(TaskId);
std::span<const Published> all_published();  ///< in the order of TaskId
std::span<const std::string_view> task_names();
/// The first one chooses among epochs.
std::vector<Metric> metrics_of(TaskId);
/// Whether the leaderboard takes for `asked` what a model says that was trained for `trained`: the
/// same training files, or those of MNLI for the diagnostic.
bool answers_for(TaskId asked, TaskId trained);

}  // namespace stipple::data::glue
