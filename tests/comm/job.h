// SPDX-License-Identifier: Apache-2.0
// Runs a job of several processes and keeps all it says, for tests of jobs that fail.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <regex>
#include <string>

namespace stipple::comm::test {

struct Job {
  std::string output;
  int exit_code = -1;
  double seconds = 0;
};

/// mpirun with `environment` ("NAME=value ..."); it gives up after a minute.
inline Job run_job(int ranks, const std::string& environment, const std::string& program) {
  const std::string command = "env " + environment + " " MPIEXEC " -q --timeout 60 -np " +
                              std::to_string(ranks) + " " + program + " 2>&1";
  const auto begin = std::chrono::steady_clock::now();
  Job job;
  FILE* const pipe = popen(command.c_str(), "r");
  std::array<char, 4096> text{};
  while (fgets(text.data(), text.size(), pipe) != nullptr) job.output += text.data();
  job.exit_code = WEXITSTATUS(pclose(pipe));
  job.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return job;
}

inline void expect_line(const Job& job, const std::string& pattern) {
  EXPECT_TRUE(std::regex_search(job.output, std::regex(pattern)))
      << "missing: " << pattern << "\nin:\n"
      << job.output;
}

}  // namespace stipple::comm::test
