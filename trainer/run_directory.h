// SPDX-License-Identifier: Apache-2.0
// The folder of one run: config.yaml, metrics.jsonl, log.txt, TensorBoard events, ladder.json,
// report.html, checkpoints/.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/dataset.h"
#include "trainer/config.h"

namespace stipple::trainer {

class RunDirectory {
 public:
  explicit RunDirectory(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string config() const { return path_ + "/config.yaml"; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string ladder() const { return path_ + "/ladder.json"; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  bool has_run() const;  ///< a run has started here

  /// Rank 0: obeys run.resume (ConfigError), makes the folder, opens log.txt. Says which keys
  /// differ from the run's config.yaml, which is then replaced.
  void open(Config&) const;

  void write_ladder(const std::vector<data::Task::Rung>&) const;
  std::vector<data::Task::Rung> read_ladder() const;

 private:
  std::string path_;
};

/// Rank 0 reads and validates, all get the result: a mistake is found once, and told once.
/// ConfigError on every rank.
Config load_config_on_all_ranks(comm::Communicator&, const std::vector<std::string>& files,
                                const std::vector<std::string>& overrides);

/// RunDirectory::open on rank 0; what it throws there is thrown on all.
void open_on_rank_zero(comm::Communicator&, const RunDirectory&, Config&);

}  // namespace stipple::trainer
