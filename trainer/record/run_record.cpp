// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/run_record.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/json.h"
#include "trainer/checkpoint/durable_file.h"

namespace stipple::trainer {
namespace {

constexpr int64_t kMaxRecordBytes = int64_t{1} << 20;
constexpr const char* kSavedStep = "saved_step";
constexpr const char* kPaths = "paths";

}  // namespace

RunRecord read_run_record(const std::string& path) {
  RunRecord record;
  if (!path_exists(path)) return record;
  try {
    const Json j = Json::parse(read_text(path, kMaxRecordBytes));
    if (!j.at(kSavedStep).is_null()) record.saved_step = j.at(kSavedStep).get<int64_t>();
    for (const auto& [key, value] : j.at(kPaths).members()) record.paths.emplace(key, value);
  } catch (const DataError& e) {
    throw DataError(fmt::format("{}: no record of a run ({}); move it away", path, e.what()));
  }
  return record;
}

void write_run_record(const std::string& path, const RunRecord& record) {
  Json j;
  j[kSavedStep] = record.saved_step ? Json(*record.saved_step) : Json();
  Json& paths = j[kPaths] = Json::object();
  for (const auto& [key, value] : record.paths) paths.add(key, value);
  replace_durably(path, j.dump(2) + "\n");
}

}  // namespace stipple::trainer
