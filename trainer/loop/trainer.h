// SPDX-License-Identifier: Apache-2.0
// The training loop of one rank: makes the parts of a run and says when each has its turn. Steps are
// made by StepPipeline, what the run has come to is RunState, what it tells is RunLog. All ranks
// construct it with the same configuration and call run().
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "data/task_config.h"
#include "trainer/checkpoint/store.h"
#include "trainer/config/config.h"
#include "trainer/config/phases.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/phase_data.h"
#include "trainer/loop/replica.h"
#include "trainer/loop/requests.h"
#include "trainer/loop/run_log.h"
#include "trainer/loop/run_state.h"
#include "trainer/loop/step_pipeline.h"
#include "trainer/loop/step_result.h"
#include "trainer/loop/throughput.h"
#include "trainer/optimizer/guard.h"
#include "trainer/optimizer/optimizer.h"
#include "trainer/record/metrics.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {

class Trainer {
 public:
  /// Opens the data, plans and takes all memory, restores the newest checkpoint of run.dir if there
  /// is one. Collective.
  Trainer(const Config&, comm::Communicator&);
  Trainer(const Trainer&) = delete;  // its parts know each other
  Trainer& operator=(const Trainer&) = delete;

  /// Trains until train.steps; evaluates, checkpoints and logs when due. Returns an ExitCode.
  /// Collective.
  int run();
  /// Why run() returned, in words.
  const std::string& ended() const { return ended_; }
  /// run() returned to go on with another train.steps, which control/extend holds.
  bool is_to_extend() const { return is_to_extend_; }

  /// One optimizer step from beginning to end: enqueue and collect.
  StepResult train_step();

  int64_t step() const { return state_.step(); }
  /// One of the model's figures, of the last step, over all layers, heads and ranks; NaN: none of
  /// that name.
  double figure(std::string_view name) const;
  const MemoryPlan& plan() const { return plan_; }
  Replica& replica() { return replica_; }

 private:
  void require_equal_ranks();
  void save();
  void log_step(const StepResult&);
  TrainRecord train_record(const StepResult&) const;

  void enqueue_step();
  StepResult collect_step();
  bool may_enqueue() const;
  bool is_boundary(int64_t step) const;
  void begin_phase(int64_t step);
  const PhaseData* data_of(int64_t length) const;  ///< nullptr: that of data.max_length
  const data::Dataset& train_set_of(int64_t length) const;
  void look_at_graphs(EvalResult&);
  std::optional<EvalResult> evaluate_validation(int64_t seeds);  ///< none: asked to leave
  bool has_validation_at_this_step();
  void protect_best_checkpoint();
  void drain();
  int leave();
  void tell_result(bool was_complete);
  bool due(int64_t every) const { return every > 0 && step() % every == 0; }

  Config config_;
  comm::Communicator& communicator_;
  RunDirectory directory_;
  std::unique_ptr<data::Task> task_;
  std::unique_ptr<data::Dataset> train_set_;
  std::unique_ptr<data::Dataset> validation_set_;
  Phases phases_;
  std::vector<PhaseData> phase_data_;   ///< by length
  std::vector<DataStart> data_starts_;  ///< by phase
  Device device_;
  MemoryPlan plan_;
  Replica replica_;
  Optimizer optimizer_;
  SpikeGuard guard_;
  RunState state_;
  CheckpointStore checkpoints_;
  std::vector<EvalRecord> validations_;  ///< the first metric of each; rank 0 only
  Requests requests_;
  std::unique_ptr<comm::Communicator> data_plane_;
  std::optional<StepPipeline> pipeline_;
  const Phase* phase_ = nullptr;  ///< the pipeline's
  int64_t enqueued_ = 0;          ///< steps; at least step()
  RunLog log_;
  Throughput throughput_;
  std::string ended_;
  bool is_to_extend_ = false;
};

}  // namespace stipple::trainer
