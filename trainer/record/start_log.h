// SPDX-License-Identifier: Apache-2.0
// starts.jsonl: every start of a run and how it ended, for people who ask later why it was
// interrupted, and how often. It only grows. A start without an end was killed, or its machine lost;
// or it goes on.
//
//   kind "start"  step at_s host ranks job
//   kind "end"    step at_s exit_code why
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace stipple::trainer {

struct StartEnd {
  int64_t step = 0;
  double at_s = 0;  ///< since 1970
  int exit_code = 0;
  std::string why = {};
  bool operator==(const StartEnd&) const = default;
};

struct Start {
  int64_t step = 0;       ///< that it began after
  double at_s = 0;        ///< since 1970
  std::string host = {};  ///< of rank 0
  int ranks = 0;
  std::string job = {};  ///< Slurm's number; empty: none
  std::optional<StartEnd> end = {};
  bool operator==(const Start&) const = default;
};

/// Rank 0. `start` without its end. Error or ConfigError when the file cannot be written.
void write_start(const std::string& path, const Start& start);
void write_end(const std::string& path, const StartEnd& end);

/// In the order of the file. No file: none. Lines that a crash cut off are left out.
std::vector<Start> read_starts(const std::string& path);

}  // namespace stipple::trainer
