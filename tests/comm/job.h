// SPDX-License-Identifier: Apache-2.0
// Runs a job of several processes and keeps all it says, for tests of jobs that fail.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <regex>
#include <string>

namespace stipple::comm::test {

struct Job {
  std::string output;
  int exit_code = -1;
  double seconds = 0;
};

/// mpirun with `environment` ("NAME=value ..."). It ends the job after a minute. The one of
/// Open MPI 4.1 can also, rarely, wait for itself for ever after a rank has failed and all have
/// ended: then the job is run again.
inline Job run_job(int ranks, const std::string& environment, const std::string& program) {
  constexpr int kKilled = 128 + SIGKILL;
  const std::string command = "env " + environment +
                              " timeout -s KILL 75 " MPIEXEC " -q --timeout 60 -np " +
                              std::to_string(ranks) + " " + program + " </dev/null 2>&1";
  Job job;
  for (int attempt = 0; attempt < 3; ++attempt) {
    job.output.clear();
    const auto begin = std::chrono::steady_clock::now();
    FILE* const pipe = popen(command.c_str(), "r");
    std::array<char, 4096> text{};
    while (fgets(text.data(), text.size(), pipe) != nullptr) job.output += text.data();
    job.exit_code = WEXITSTATUS(pclose(pipe));
    job.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (job.exit_code != kKilled) break;
  }
  return job;
}

inline void expect_line(const Job& job, const std::string& pattern) {
  EXPECT_TRUE(std::regex_search(job.output, std::regex(pattern)))
      << "missing: " << pattern << "\nin:\n"
      << job.output;
}

}  // namespace stipple::comm::test
