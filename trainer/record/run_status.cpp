// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/run_status.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <ctime>

#include "trainer/checkpoint/step_directory.h"
#include "trainer/config/duration.h"
#include "trainer/exit_code.h"
#include "trainer/record/host_name.h"

namespace stipple::trainer {
namespace {

/// A run whose lock cannot be seen, on a file system without locks, goes on if it wrote so lately.
constexpr double kLately_s = 60;
/// One that holds its lock and writes nothing for so many times the usual is worth a word.
constexpr double kSilentTimes = 20;

double modified_at_s(const std::string& path) {
  struct stat s = {};
  if (stat(path.c_str(), &s) != 0) return 0;
  return static_cast<double>(s.st_mtim.tv_sec) + static_cast<double>(s.st_mtim.tv_nsec) / 1e9;
}

std::string time_text(double at_s) {
  const auto seconds = static_cast<std::time_t>(at_s);
  std::tm local = {};
  localtime_r(&seconds, &local);
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", local);
}

std::string ago_text(double at_s, double now_s) {
  return duration_text(std::max(0.0, now_s - at_s)) + " ago";
}

std::string place_text(const Start& start) {
  std::string text =
      fmt::format("{} rank{} on {}", start.ranks, start.ranks == 1 ? "" : "s", start.host);
  if (!start.job.empty()) text += ", Slurm job " + start.job;
  return text;
}

bool goes_on(const RunStatus& status, double now_s) {
  const bool has_ended = !status.starts.empty() && status.starts.back().end.has_value();
  if (status.is_held) return true;
  return status.is_elsewhere && !has_ended && now_s - status.written_at_s < kLately_s;
}

std::string end_text(const StartEnd& end) {
  if (end.exit_code == kDone) return end.why;
  if (end.exit_code == kRequeue) return "saved and stopped, " + end.why;
  return fmt::format("failed with exit code {}: {}", end.exit_code, end.why);
}

constexpr const char* kWithoutAWord = "ended without a word: killed, or its machine was lost";

std::string state_text(const RunStatus& status, double now_s) {
  if (goes_on(status, now_s)) {
    std::string text = "training";
    if (!status.starts.empty())
      text += fmt::format(" with {}, since {}", place_text(status.starts.back()),
                          time_text(status.starts.back().at_s));
    const double usual_s = status.trained ? status.trained->seconds.step : 0;
    const double silent_s = now_s - status.written_at_s;
    if (silent_s > std::max(kLately_s, kSilentTimes * usual_s))
      text += fmt::format("; nothing written for {}", duration_text(silent_s));
    return text;
  }
  if (status.starts.empty()) return "not training";
  const Start& last = status.starts.back();
  return last.end ? end_text(*last.end) : kWithoutAWord;
}

class StatusLines {
 public:
  void add(std::string_view title, const std::string& text) {
    text_ += fmt::format("{:<12} {}\n", title, text);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

void tell_training(const RunStatus& status, double now_s, StatusLines& lines) {
  if (!status.trained) return lines.add("step", fmt::format("0 of {}", status.steps));
  const TrainRecord& record = *status.trained;
  const double share = 100.0 * static_cast<double>(record.step) /
                       static_cast<double>(std::max<int64_t>(1, status.steps));
  lines.add("step", fmt::format("{} of {} ({:.1f} %), {}", record.step, status.steps, share,
                                ago_text(status.written_at_s, now_s)));
  lines.add("speed", fmt::format("{:.3g} s a step, {:.0f} examples/s, {:.0f} tokens/s",
                                 record.seconds.step, record.examples_per_s, record.tokens_per_s));
  const double left_s = record.seconds.step * static_cast<double>(status.steps - record.step);
  if (goes_on(status, now_s) && left_s > 0)
    lines.add("ETA", fmt::format("{}, at {}", duration_text(left_s), time_text(now_s + left_s)));
  lines.add("training", fmt::format("loss {:.4f}", record.loss));
}

void tell_validation(const RunStatus& status, StatusLines& lines) {
  if (!status.validated) return;
  std::string text =
      fmt::format("step {}  loss {:.4f}", status.validated->step, status.validated->loss);
  if (!status.validated->values.empty()) {
    const auto& [name, value] = status.validated->values.front();
    text += fmt::format("  {} {:.4g}", name, value);
  }
  lines.add("validation", text);
}

void tell_starts(const RunStatus& status, double now_s, StatusLines& lines) {
  lines.add("starts", std::to_string(status.starts.size()));
  for (size_t i = 0; i < status.starts.size(); ++i) {
    const Start& start = status.starts[i];
    const bool is_last = i + 1 == status.starts.size();
    std::string end = kWithoutAWord;
    if (start.end)
      end = fmt::format("step {}, {}", start.end->step, end_text(*start.end));
    else if (is_last && goes_on(status, now_s))
      end = "now";
    lines.add("", fmt::format("{}  step {}  {}  until {}", time_text(start.at_s), start.step,
                              place_text(start), end));
  }
}

}  // namespace

RunStatus read_status(const RunDirectory& directory) {
  directory.require_run();
  RunStatus status{.path = directory.path(), .steps = directory.load_config().train.steps};
  status.written_at_s = modified_at_s(directory.metrics());
  Metrics metrics = read_metrics(directory.metrics());
  if (!metrics.train.empty()) status.trained = std::move(metrics.train.back());
  for (EvalRecord& record : metrics.eval)
    if (record.is_plain() && record.split == "val") status.validated = std::move(record);
  const std::vector<int64_t> saved = steps_in(directory.checkpoints());
  if (!saved.empty()) {
    status.saved_step = saved.front();
    status.saved_at_s = modified_at_s(directory.checkpoints() + "/" + step_name(saved.front()));
  }
  status.is_held = RunLock::is_held(directory);
  status.starts = read_starts(directory.starts());
  status.is_elsewhere = !status.starts.empty() && status.starts.back().host != host_name();
  return status;
}

std::string status_text(const RunStatus& status, double now_s) {
  StatusLines lines;
  lines.add("run", status.path);
  lines.add("state", state_text(status, now_s));
  tell_training(status, now_s, lines);
  tell_validation(status, lines);
  lines.add("checkpoint", status.saved_step ? fmt::format("step {}, {}", *status.saved_step,
                                                          ago_text(status.saved_at_s, now_s))
                                            : "none yet");
  tell_starts(status, now_s, lines);
  return lines.text();
}

}  // namespace stipple::trainer
