// SPDX-License-Identifier: Apache-2.0
// What a person reads while a job runs. Information comes from rank 0 only; warnings and errors
// from every rank, labelled "[rank 3/8 host:pid]". Metrics are data, not log lines: see
// trainer/record/metrics.h. Lines go to standard error; where that is closed or gone, they are lost
// and the job goes on.
#pragma once

#include <string>
#include <string_view>

namespace stipple::log {

/// Called once per process, after the ranks know each other. Single-rank output carries no label.
void set_rank(int rank, int size);
/// Also append every line to this file (rank 0). Pass "" to stop. ConfigError when it cannot be
/// opened.
void set_file(const std::string& path);

void info(std::string_view message);
void warn(std::string_view message);
void error(std::string_view message);

/// One line with one write(2), so that lines of different ranks never mix; for the last words of a
/// dying rank.
void fatal(std::string_view message) noexcept;

/// A line that overwrites itself on a terminal, cut to its width, and is printed at most every few
/// seconds elsewhere (also where TERM is dumb). The log file receives each of them. Fields are
/// separated by two spaces, the most important first.
void progress(std::string_view line);

}  // namespace stipple::log
