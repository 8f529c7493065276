// SPDX-License-Identifier: Apache-2.0
// run.json in a run directory: what the program itself must know about the run and what may be lost
// with checkpoints/, on another file system perhaps. Not for measurements: those are metrics.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace stipple::trainer {

struct RunRecord {
  /// Of the newest checkpoint that was committed; none: the run never got that far.
  std::optional<int64_t> saved_step = {};
  /// Absolute, by configuration key: config.yaml holds what was typed, which a process in another
  /// folder cannot follow.
  std::map<std::string, std::string> paths = {};

  bool operator==(const RunRecord&) const = default;
};

/// No file: an empty record. DataError "file: what" when it holds none.
RunRecord read_run_record(const std::string& path);

/// Replaces the file, durably and at once. CheckpointError or ConfigError when it cannot.
void write_run_record(const std::string& path, const RunRecord&);

}  // namespace stipple::trainer
