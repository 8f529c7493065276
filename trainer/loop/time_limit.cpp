// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/time_limit.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <limits>

#include "core/error.h"
#include "core/text.h"
#include "trainer/config/duration.h"

namespace stipple::trainer {
namespace {

double seconds_since_1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

const double process_start_s = seconds_since_1970();

void remember(double& longest, double seconds, double memory) {
  longest = std::max(seconds, memory * longest);
}

}  // namespace

double unix_time_s() { return seconds_since_1970(); }

std::optional<JobEnd> end_of_job(const Config& config, const char* slurm_job_end_time) {
  std::optional<JobEnd> end;
  if (const auto seconds = parse_duration(config.run.max_time))
    end = {process_start_s + static_cast<double>(*seconds), "run.max_time"};
  const std::string_view text = slurm_job_end_time == nullptr ? "" : slurm_job_end_time;
  if (text.empty()) return end;
  int64_t at_s = 0;
  const auto [stopped, code] = std::from_chars(text.data(), text.data() + text.size(), at_s);
  STIPPLE_CHECK_AS(ConfigError, code == std::errc() && stopped == text.data() + text.size(),
                   "SLURM_JOB_END_TIME: '", one_line(text),
                   "' is no number of seconds since 1970; unset it, or give what `squeue -j JOB -o "
                   "%e` says through `date -d ... +%s`");
  const auto slurm_end_s = static_cast<double>(at_s);
  if (!end || slurm_end_s < end->at_s) end = {slurm_end_s, "SLURM_JOB_END_TIME"};
  return end;
}

TimeLimit::TimeLimit(std::optional<JobEnd> end, double first_save_s, double (*now_s)())
    : end_(std::move(end)), now_s_(now_s), save_s_(first_save_s), asked_at_s_(now_s()) {}

void TimeLimit::begin() { asked_at_s_ = now_s_(); }

bool TimeLimit::is_reached() {
  if (!end_) return false;
  const double now = now_s_();
  remember(step_s_, now - asked_at_s_, step_memory_);
  asked_at_s_ = now;
  return left_s() < kMargin * (save_s_ + step_s_) + kExit_s;
}

void TimeLimit::saved(double seconds) {
  // What was only expected gives way to what was measured.
  if (is_measured_) {
    remember(save_s_, seconds, kMemory);
  } else {
    save_s_ = seconds;
  }
  is_measured_ = true;
  begin();
}

double TimeLimit::left_s() const {
  return end_ ? end_->at_s - now_s_() : std::numeric_limits<double>::infinity();
}

std::string TimeLimit::text() const {
  return fmt::format("{:.0f} s are left ({}), a save takes {:.1f} s and a step {:.1f} s", left_s(),
                     end_ ? end_->said_by : "no end", save_s_, step_s_);
}

}  // namespace stipple::trainer
