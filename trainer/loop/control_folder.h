// SPDX-License-Identifier: Apache-2.0
// What a person asks of a run through files in its folder `control`, from any machine that sees it:
//
//   touch runs/x/control/save          a checkpoint now; the file goes when it is taken
//   touch runs/x/control/stop          save and stop; no job goes on with the run while the file is there
//   echo 20000 >runs/x/control/extend  train.steps becomes 20000, now and for every later job
//
// Rank 0 looks; Requests lets the others know.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace stipple::trainer {

class ControlFolder {
 public:
  /// Seconds between two looks, for the sake of shared file systems.
  static constexpr double kEvery_s = 1;

  /// Throws an Error where a run cannot have `steps` once `done` of them are done.
  using CheckSteps = std::function<void(int64_t steps, int64_t done)>;

  /// An empty path: nobody asks for anything.
  explicit ControlFolder(const std::string& path, CheckSteps check = {})
      : check_(std::move(check)),
        path_(path),
        stop_file_(path + "/stop"),
        save_file_(path + "/save"),
        extend_file_(path + "/extend") {}

  /// Looks, unless it did within the last kEvery_s. Allocates nothing where nothing is asked.
  /// `steps`: train.steps; `done`: of them. A mistake in a file is told once, and ignored.
  void look(int64_t done, int64_t steps);

  bool wants_stop() const { return wants_stop_; }
  /// Until saved().
  bool wants_save() const { return wants_save_; }
  void saved() { wants_save_ = false; }
  /// The steps that `extend` asks for in place of train.steps; none: it asks for nothing else.
  std::optional<int64_t> wants_steps() const { return wants_steps_; }

  const std::string& stop_file() const { return stop_file_; }
  const std::string& save_file() const { return save_file_; }
  const std::string& extend_file() const { return extend_file_; }

  /// Rank 0, before training: makes the folder. ConfigError while `stop` is there.
  void open() const;
  /// The steps that `extend` asks for in place of `steps`, at least `least`, where the run can have
  /// them; none: it asks for nothing else, or for what cannot be, of which it warns once.
  std::optional<int64_t> accepted_steps(int64_t least, int64_t done, int64_t steps);

 private:
  std::optional<int64_t> extended_steps() const;
  void take_save();
  void warn_once(const std::string&);

  CheckSteps check_;
  std::string path_;
  std::string stop_file_;
  std::string save_file_;
  std::string extend_file_;
  double looked_at_s_ = 0;
  bool wants_stop_ = false;
  bool wants_save_ = false;
  std::optional<int64_t> wants_steps_;
  std::string told_;  ///< what was warned of already
};

}  // namespace stipple::trainer
