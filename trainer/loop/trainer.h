// SPDX-License-Identifier: Apache-2.0
// The training loop of one rank. All ranks construct it with the same configuration and call run().
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "comm/communicator.h"
#include "comm/gradient_reducer.h"
#include "data/batch.h"
#include "data/task_config.h"
#include "trainer/checkpoint/store.h"
#include "trainer/config/config.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/fact_sums.h"
#include "trainer/loop/replica.h"
#include "trainer/loop/run_log.h"
#include "trainer/loop/run_state.h"
#include "trainer/loop/step_graph.h"
#include "trainer/loop/step_observer.h"
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
  ~Trainer();

  /// Trains until train.steps; evaluates, checkpoints and logs when due. Returns an ExitCode.
  /// Collective.
  int run();

  /// What one optimizer step came to.
  struct StepResult {
    double loss = 0;            ///< mean over the labels of the global batch
    double auxiliary_loss = 0;  ///< weighted regularisers of the global batch
    int64_t tokens = 0;         ///< real tokens of the global batch
    StepRates rates{};
    double grad_norm = 0;
    bool skipped = false;
    bool stop = false;  ///< some rank was asked to stop
    StepSeconds seconds{};
  };
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

  // A step is enqueued on the device, and its result collected when the device has come to its end.
  // On CUDA the next step is enqueued before that, so the device never waits for the host.
  struct Flight;
  void enqueue_step();
  void load_leaves(Flight&);
  void compute(Flight&);
  void compute_leaves(Flight&);
  void compute_or_replay(Flight&);
  size_t flight_number(int64_t step) const { return static_cast<size_t>(step) % flights_.size(); }
  bool may_enqueue() const;
  bool is_boundary(int64_t step) const;
  StepResult collect_step();
  void gather_facts(Flight&);
  void sum_over_ranks(Flight&);
  StepSeconds seconds_of(const Flight&) const;
  std::optional<EvalResult> evaluate_validation(int64_t seeds);  ///< none: asked to stop
  bool has_validation_at_this_step();
  int stop();
  void tell_result(bool was_complete);
  bool due(int64_t every) const { return every > 0 && step() % every == 0; }

  Config config_;
  comm::Communicator& communicator_;
  RunDirectory directory_;
  std::unique_ptr<data::Task> task_;
  std::unique_ptr<data::Dataset> train_set_;
  std::unique_ptr<data::Dataset> validation_set_;
  data::TrainBatches batches_;
  Range my_leaves_;
  std::vector<data::Leaf> leaves_;
  Device device_;
  MemoryPlan plan_;
  Replica replica_;
  std::unique_ptr<comm::Communicator> data_plane_;  ///< of device memory; none on the CPU
  std::unique_ptr<comm::GradientReducer> reducer_;
  Optimizer optimizer_;
  SpikeGuard guard_;
  RunState state_;
  StepObserver observer_;
  CheckpointStore checkpoints_;
  int64_t enqueued_ = 0;  ///< steps; at least step()
  bool host_decides_;     ///< every step is judged by the host before it is applied
  std::vector<std::unique_ptr<Flight>> flights_;  ///< by step, modulo their number
  Buffer device_step_;  ///< the number of the step that is computed, for captured random numbers
  std::unique_ptr<StepGraph> graph_;  ///< none: every step is enqueued kernel by kernel
  FactSums facts_;                    ///< of the last gathered step
  RunLog log_;

  /// What throughput is measured over; of this process only.
  struct SinceLog {
    double steps = 0;
    double tokens = 0;
    StepSeconds seconds{};
    void add(const StepResult&);
    StepSeconds mean() const;
  };
  SinceLog since_log_;
};

}  // namespace stipple::trainer
