// SPDX-License-Identifier: Apache-2.0
// The training loop of one rank. All ranks construct it with the same configuration and call run().
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "comm/communicator.h"
#include "comm/gradient_reducer.h"
#include "data/batch.h"
#include "data/task_config.h"
#include "trainer/checkpoint.h"
#include "trainer/config.h"
#include "trainer/evaluate.h"
#include "trainer/guard.h"
#include "trainer/metrics.h"
#include "trainer/optimizer.h"
#include "trainer/replica.h"
#include "trainer/run_directory.h"
#include "trainer/step_observer.h"
#include "trainer/tensorboard.h"

namespace stipple::trainer {

class Trainer {
 public:
  /// Opens the data, plans and takes all memory, restores the newest checkpoint of run.dir if there
  /// is one. Collective.
  Trainer(const Config&, comm::Communicator&);

  /// Trains until train.steps; evaluates, checkpoints and logs when due. Returns an ExitCode.
  /// Collective.
  int run();

  /// One optimizer step: what the loop repeats, and what bench_step measures.
  struct StepResult {
    double loss = 0;            ///< mean over the labels of the global batch
    double auxiliary_loss = 0;  ///< weighted regularisers of the global batch
    int64_t hits = 0;
    int64_t labels = 0;
    int64_t tokens = 0;  ///< real tokens of the global batch
    StepRates rates{};
    double grad_norm = 0;
    bool skipped = false;
    bool stop = false;  ///< some rank was asked to stop
    StepSeconds seconds{};
  };
  StepResult train_step();

  int64_t step() const { return step_; }
  double density() const {
    return observer_.density();
  }  ///< of the last step's graphs, over all ranks
  const MemoryPlan& plan() const { return plan_; }
  Replica& replica() { return replica_; }

 private:
  void require_equal_ranks();
  void restore();
  void save();
  std::vector<TensorRef> tensors();
  CheckpointMeta meta();
  void run_leaves(StepResult&);
  void sum_over_ranks(StepResult&);
  void log_step(const StepResult&);
  std::optional<EvalResult> evaluate_validation(int64_t seeds);  ///< none: asked to stop
  bool has_validation_at_this_step();
  int stop();
  void tell_result(bool was_complete);
  bool due(int64_t every) const { return every > 0 && step_ % every == 0; }

  Config config_;
  comm::Communicator& communicator_;
  RunDirectory directory_;
  std::unique_ptr<data::Task> task_;
  std::unique_ptr<data::Dataset> train_set_;
  std::unique_ptr<data::Dataset> validation_set_;
  data::TrainBatches batches_;
  data::Leaf leaf_;
  MemoryPlan plan_;
  Replica replica_;
  std::unique_ptr<comm::GradientReducer> reducer_;
  Optimizer optimizer_;
  SpikeGuard guard_;
  StepObserver observer_;
  CheckpointStore checkpoints_;
  Range my_leaves_;
  int64_t step_ = 0;
  int64_t saved_step_ = -1;
  std::vector<double> sums_;                  ///< loss and auxiliary loss of each leaf, stop votes
  std::vector<int64_t> counts_;               ///< hits, labels, tokens
  std::unique_ptr<MetricsWriter> metrics_;    ///< rank 0
  std::unique_ptr<TensorBoardWriter> board_;  ///< rank 0

  /// Sums since the last log line; part of the state, so that a resumed run writes the same lines.
  struct Window {
    double loss = 0;
    double hits = 0;
    double labels = 0;
    double steps = 0;
  };
  Window window_;
  int64_t skipped_ = 0;

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
