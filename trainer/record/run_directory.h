// SPDX-License-Identifier: Apache-2.0
// The folder of one run: config.yaml, run.json, metrics.jsonl, log.txt, TensorBoard events,
// figures.json, ladder.json, data.json, graphs.safetensors, report.html, lock,
// starts.jsonl, control/, checkpoints/.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "trainer/config/config.h"
#include "trainer/record/report.h"

namespace stipple::trainer {

class RunDirectory {
 public:
  explicit RunDirectory(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string config() const { return path_ + "/config.yaml"; }
  std::string record() const { return path_ + "/run.json"; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string figures() const { return path_ + "/figures.json"; }
  std::string ladder() const { return path_ + "/ladder.json"; }
  std::string data_summary() const { return path_ + "/data.json"; }
  std::string report() const { return path_ + "/report.html"; }
  /// The graphs of one example at the last evaluation: what the report shows.
  std::string graphs() const { return path_ + "/graphs.safetensors"; }
  /// What `stipple eval --dump-graphs` writes after that step.
  std::string graphs(std::string_view split, int64_t step) const;
  /// Where a person asks something of the run: trainer/loop/control_folder.h.
  std::string control() const { return path_ + "/control"; }
  /// When it was started and how that ended: trainer/record/start_log.h.
  std::string starts() const { return path_ + "/starts.jsonl"; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }

  /// Training has begun here: there is something to resume.
  bool has_run() const;

  /// ConfigError unless this is the folder of a run. For those who read, or add to, what is there.
  void require_run() const;

  /// Rank 0: obeys `resume`, makes the folder, opens log.txt. ConfigError also where the run has
  /// saved checkpoints and none is there: starting at step 0 would replace its results.
  void open(Resume resume) const;

  /// Rank 0, under the lock: removes what a killed writer left.
  void sweep() const;

  /// Rank 0, after a checkpoint was committed or restored: keeps in mind that there is one.
  void remember_checkpoint(int64_t step) const;

  /// config.yaml as the run understands it: presets applied, paths absolute where it is known what
  /// they were. ConfigError.
  Config load_config() const;

  /// Rank 0, when training begins after `step`: config.yaml becomes this configuration. The one
  /// that was used up to here, if it is another, stays as config.until-step-<step>.yaml; those of
  /// later steps go, because these will be done again.
  void write_config(const Config&, int64_t step, const std::string& until_now) const;

  /// Configurations that are no longer in force, by ascending step.
  std::vector<EarlierConfig> earlier_configs() const;

  /// What the report needs to know of the task and the model.
  void write_figures(const std::vector<ShownFigure>&) const;
  void write_ladder(const Ladder&) const;
  void write_data_summary(const std::vector<SplitSummary>&) const;

 private:
  void require_checkpoints() const;
  std::string earlier_config(int64_t step) const;

  std::string path_;
};

/// Holds a run directory for one job. The kernel gives the lock back however the process ends.
class RunLock {
 public:
  /// ConfigError naming the holder when another process has it, or when the lock cannot be had.
  explicit RunLock(const RunDirectory&);
  ~RunLock();
  /// Whether another process has it, on any machine where the file system knows of locks. Takes
  /// nothing.
  static bool is_held(const RunDirectory&);
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int descriptor_ = -1;
};

std::string yaml_of(Config);

/// Config::load of files from the command line, but for config.yaml of a run as the first file: that
/// stands for the run's load_config(), whose values nobody typed and whose paths are those of the
/// run.
Config load_arguments(std::vector<std::string> files, const std::vector<std::string>& overrides);

/// Rank 0 loads and validates, all get the result with presets applied: a mistake is found once,
/// and told once. From then on the communicator waits for comm.timeout_s. ConfigError, collective.
Config load_config_on_all_ranks(comm::Communicator&, const std::function<Config()>& load);

}  // namespace stipple::trainer
