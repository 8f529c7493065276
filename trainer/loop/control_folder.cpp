// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/control_folder.h"

#include <fmt/format.h>
#include <unistd.h>

#include "core/config/number.h"
#include "core/error.h"
#include "core/log.h"
#include "core/text.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/loop/time_limit.h"

namespace stipple::trainer {
namespace {

constexpr int64_t kMaxExtendBytes = 64;
constexpr int64_t kMostSteps = 1'000'000'000;

bool is_there(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") + 1 - first);
}

}  // namespace

void ControlFolder::open() const {
  create_directories(path_);
  STIPPLE_CHECK_AS(ConfigError, !is_there(stop_file()), stop_file(),
                   " asks this run to stop; remove the file to go on");
}

std::optional<int64_t> ControlFolder::extended_steps() const {
  if (path_.empty() || !is_there(extend_file())) return std::nullopt;
  const std::string text = trimmed(read_text(extend_file(), kMaxExtendBytes));
  if (text.empty()) return std::nullopt;  // about to be written
  const auto steps = config::parse_integer(text);
  STIPPLE_CHECK_AS(ConfigError, steps && *steps > 0 && *steps <= kMostSteps, extend_file(), ": '",
                   one_line(text), "' is no number of steps from 1 to ", kMostSteps,
                   "; write train.steps of the whole run into it, or remove it");
  return steps;
}

/// A mistake in a file is no reason to end a run, and one word about it is enough.
void ControlFolder::warn_once(const std::string& text) {
  if (told_ != text) log::warn(text + "; the run goes on as it is");
  told_ = text;
}

std::optional<int64_t> ControlFolder::accepted_steps(int64_t least, int64_t done, int64_t steps) {
  try {
    const auto asked = extended_steps();
    if (!asked || *asked == steps) return std::nullopt;
    STIPPLE_CHECK_AS(ConfigError, *asked >= least, extend_file(), ": more than ", *asked,
                     " steps are done");
    if (check_) check_(*asked, done);
    return asked;
  } catch (const Error& e) {
    const std::string text = e.what();
    warn_once(text.starts_with(extend_file()) ? text : extend_file() + ": " + text);
    return std::nullopt;
  }
}

/// At once: what is asked while the save goes on is another one.
void ControlFolder::take_save() {
  try {
    remove_tree(save_file());
    wants_save_ = true;
  } catch (const Error& e) {
    warn_once(e.what());
  }
}

void ControlFolder::look(int64_t done, int64_t steps) {
  if (path_.empty()) return;
  const double now = unix_time_s();
  if (now >= looked_at_s_ && now < looked_at_s_ + kEvery_s) return;
  looked_at_s_ = now;
  wants_stop_ = is_there(stop_file());
  if (is_there(save_file())) take_save();
  wants_steps_ = accepted_steps(done + 1, done, steps);
}

}  // namespace stipple::trainer
