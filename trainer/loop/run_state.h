// SPDX-License-Identifier: Apache-2.0
// All that a run is after a step: what is saved, and what a resumed run begins with. Everything
// else of a run follows from this, its configuration and its data.
#pragma once

#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "data/dataset.h"
#include "trainer/checkpoint/host_tensors.h"
#include "trainer/checkpoint/store.h"
#include "trainer/config/config.h"
#include "trainer/loop/fact_sums.h"
#include "trainer/loop/replica.h"
#include "trainer/loop/window.h"
#include "trainer/optimizer/guard.h"
#include "trainer/optimizer/optimizer.h"

namespace stipple::trainer {

class RunState {
 public:
  /// What has state of its own, and what the state belongs to. All must outlive the RunState.
  struct Parts {
    const Config& config;
    Replica& replica;
    Optimizer& optimizer;
    SpikeGuard& guard;
    uint64_t train_fingerprint;
    uint64_t validation_fingerprint;
    const data::TaskInfo& info;
  };
  explicit RunState(const Parts&);

  int64_t step() const { return step_; }        ///< done, skipped ones included
  int64_t skipped() const { return skipped_; }  ///< not applied
  const Window& window() const { return window_; }
  void clear_window() { window_.clear(); }
  /// One more step is done.
  void advance(double loss, const FactSums&, bool was_skipped);

  /// The step that is in the newest checkpoint; -1: none.
  int64_t saved_step() const { return saved_step_; }
  /// False: the present step was saved before. Collective.
  bool save(CheckpointStore&);
  /// Takes the newest good checkpoint. The configuration that the run was made with so far; empty
  /// for a new run. ConfigError where the checkpoint is another run's. Collective.
  std::string restore(CheckpointStore&, comm::Communicator&);

 private:
  void describe(StateVisitor&);
  Snapshot snapshot();
  void require_same_run(const CheckpointMeta&) const;
  void tell(const CheckpointMeta&) const;

  Parts parts_;
  int64_t step_ = 0;
  int64_t skipped_ = 0;
  int64_t saved_step_ = -1;
  Window window_;
  HostTensors tensors_;
};

}  // namespace stipple::trainer
