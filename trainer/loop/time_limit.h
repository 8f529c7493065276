// SPDX-License-Identifier: Apache-2.0
// Leaves a job in time, by the clock alone: knows when the job ends and learns how long a save takes
// and how long the loop goes between two questions. Of this process; ranks agree elsewhere.
//
//   TimeLimit limit(end_of_job(config, getenv("SLURM_JOB_END_TIME")), first_save_s);
//   limit.begin();
//   if (limit.is_reached()) ...;        // at every boundary at which the run could be saved
//   save(); limit.saved(seconds);       // time that does not count as one between two questions
#pragma once

#include <optional>
#include <string>

#include "trainer/config/config.h"

namespace stipple::trainer {

/// Seconds of the system's clock since 1970.
double unix_time_s();

struct JobEnd {
  double at_s = 0;      ///< unix_time_s()
  std::string said_by;  ///< the key or the variable
};

/// The earlier of run.max_time, from the start of this process, and what Slurm says
/// (SLURM_JOB_END_TIME, seconds since 1970; nullptr: nothing). None: neither is set. ConfigError
/// where the variable holds no number.
std::optional<JobEnd> end_of_job(const Config&, const char* slurm_job_end_time);

class TimeLimit {
 public:
  /// What was slow once is forgotten: after 50 questions it counts for a hundredth.
  static constexpr double kMemory = 0.91;
  /// How often the time of a save and of what comes between two questions must still fit in.
  static constexpr double kMargin = 3;
  /// For processes to end, and for a batch script to hand the job back.
  static constexpr double kExit_s = 10;

  /// first_save_s: what a save is expected to take before one was measured.
  TimeLimit(std::optional<JobEnd>, double first_save_s, double (*now_s)() = unix_time_s);

  /// From here on the time up to the next question counts as a step.
  void begin();
  /// Time to save and leave: what is left is below kMargin * (save + step) + kExit_s.
  bool is_reached();
  /// The longest step counts for good, not only of late.
  void never_forget_steps() { step_memory_ = 1; }
  /// One more save was made just now, and took so long.
  void saved(double seconds);

  const std::optional<JobEnd>& end() const { return end_; }
  double left_s() const;  ///< infinite without an end
  /// "12 s are left (SLURM_JOB_END_TIME), a save takes 0.2 s and a step 0.1 s"
  std::string text() const;

 private:
  std::optional<JobEnd> end_;
  double (*now_s_)();
  double save_s_;  ///< the longest of late; first, what is expected
  bool is_measured_ = false;
  double step_s_ = 0;             ///< the longest of late between two questions
  double step_memory_ = kMemory;  ///< what a longest step counts at the next question
  double asked_at_s_;
};

}  // namespace stipple::trainer
