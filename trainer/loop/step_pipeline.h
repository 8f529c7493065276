// SPDX-License-Identifier: Apache-2.0
// Optimizer steps of one rank in one phase of the run (config/phases.h), from the examples to the
// updated parameters. A step is enqueued on
// the device, and its result collected when the device has come to its end; on CUDA the next step is
// enqueued before that, so the device never waits for the host.
//
//   StepPipeline pipeline({.config = config, ...});
//   pipeline.enqueue(step);
//   StepResult result = pipeline.collect(step);
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/gradient_reducer.h"
#include "data/batch.h"
#include "trainer/config/config.h"
#include "trainer/config/phases.h"
#include "trainer/loop/fact_sums.h"
#include "trainer/loop/flight.h"
#include "trainer/loop/replica.h"
#include "trainer/loop/requests.h"
#include "trainer/loop/step_graph.h"
#include "trainer/loop/step_observer.h"
#include "trainer/loop/step_result.h"
#include "trainer/optimizer/guard.h"
#include "trainer/optimizer/optimizer.h"

namespace stipple::trainer {

/// How ranks exchange what is in the memory of their devices; none on the CPU. Collective.
std::unique_ptr<comm::Communicator> make_data_plane(const Config&, comm::Communicator& control,
                                                    const Stream&);

class StepPipeline {
 public:
  /// What a step works with. All must outlive the pipeline.
  struct Parts {
    const Config& config;
    const Phase& phase;
    DataStart data_start;
    comm::Communicator& communicator;
    comm::Communicator* data_plane;  ///< of device memory; none on the CPU
    const data::Dataset& train_set;  ///< of the phase's length, as is the task
    const data::TaskInfo& task;
    Replica& replica;
    Optimizer& optimizer;
    SpikeGuard& guard;
    Requests& requests;
  };
  explicit StepPipeline(const Parts&);

  /// Steps that may be enqueued and not collected at one time.
  int64_t capacity() const { return static_cast<int64_t>(flights_.size()); }
  /// In ascending order, as are the calls of collect(), on every rank.
  void enqueue(int64_t step);
  /// Waits for the step's end. Collective. Error of all ranks when the guard ends the run.
  StepResult collect(int64_t step);
  /// Of the last collected step, over all leaves and ranks.
  const FactSums& facts() const { return facts_; }

 private:
  Flight& flight_of(int64_t step) const { return *flights_[flight_number(step)]; }
  size_t flight_number(int64_t step) const { return static_cast<size_t>(step) % flights_.size(); }
  void load_leaves(Flight&);
  void compute(Flight&);
  void compute_leaves(Flight&);
  void compute_or_replay(Flight&);
  void gather(Flight&);
  void sum_over_ranks(Flight&);
  void judge(Flight&);
  StepSeconds seconds_of(const Flight&) const;

  const Config config_;  ///< of steps like the phase's
  const Phase& phase_;
  comm::Communicator& communicator_;
  Replica& replica_;
  Optimizer& optimizer_;
  SpikeGuard& guard_;
  Requests& requests_;
  data::TrainBatches batches_;
  Range my_leaves_;
  std::vector<data::Leaf> leaves_;
  comm::Communicator* data_plane_;
  std::unique_ptr<comm::GradientReducer> reducer_;
  StepObserver observer_;
  bool host_decides_;  ///< every step is judged by the host before it is applied
  std::vector<std::unique_ptr<Flight>> flights_;  ///< by step, modulo their number
  Buffer device_step_;  ///< the number of the step that is computed, for captured random numbers
  std::unique_ptr<StepGraph> graph_;  ///< none: every step is enqueued kernel by kernel
  FactSums facts_;
};

}  // namespace stipple::trainer
