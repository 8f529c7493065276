// SPDX-License-Identifier: Apache-2.0
#include "data/dataset.h"

#include <algorithm>

#include "core/error.h"

namespace stipple::data {

std::string_view split_name(Split split) {
  switch (split) {
    case Split::kTrain:
      return "train";
    case Split::kValidation:
      return "val";
    case Split::kTest:
      return "test";
  }
  throw Error("split_name: not a split");
}

std::vector<int32_t> Task::tokens_of(std::string_view) const {
  throw Error(info().name + " does not write");
}

std::string Task::text_of(std::span<const int32_t>) const {
  throw Error(info().name + " has no text of tokens");
}

Picture Task::picture_of(std::span<const int32_t>) const {
  throw Error(info().name + " has no pictures of tokens");
}

std::unique_ptr<Dataset> Task::open_input(const std::string&) const {
  throw ConfigError("data.task of this run (" + info().name +
                    ") reads no file of texts; only glue and tsv do");
}

Range Task::next_tokens(int64_t) const { return {0, info().vocab_size}; }

std::vector<Split> splits_named(const std::vector<std::string>& names) {
  std::vector<Split> splits;
  for (Split split : {Split::kTrain, Split::kValidation, Split::kTest}) {
    if (std::count(names.begin(), names.end(), split_name(split)) > 0) splits.push_back(split);
  }
  return splits;
}

}  // namespace stipple::data
