// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/run_record.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "trainer/checkpoint/durable_file.h"

namespace stipple::trainer {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kMaxBytes = int64_t{1} << 20;
constexpr const char* kSavedStep = "saved_step";

}  // namespace

RunRecord read_run_record(const std::string& path) {
  RunRecord record;
  if (!path_exists(path)) return record;
  try {
    const auto j = ordered_json::parse(read_text(path, kMaxBytes));
    if (!j.at(kSavedStep).is_null()) record.saved_step = j.at(kSavedStep).get<int64_t>();
  } catch (const ordered_json::exception& e) {
    throw DataError(fmt::format("{}: no record of a run ({}); move it away", path, e.what()));
  }
  return record;
}

void write_run_record(const std::string& path, const RunRecord& record) {
  ordered_json j;
  j[kSavedStep] = record.saved_step ? ordered_json(*record.saved_step) : ordered_json(nullptr);
  replace_durably(path, j.dump(2) + "\n");
}

}  // namespace stipple::trainer
