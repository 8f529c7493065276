// SPDX-License-Identifier: Apache-2.0
// Hears the model during a step: hands finished gradients to the reducer, and measures where
// sampling begins and ends.
#pragma once

#include "comm/communicator.h"
#include "comm/gradient_reducer.h"
#include "core/section_timer.h"
#include "model/context.h"

namespace stipple::trainer {

class StepObserver final : public model::Observer {
 public:
  /// Gradients that become final go here; nullptr: nowhere (evaluation).
  void attach(comm::GradientReducer* reducer, comm::Communicator* communicator) {
    reducer_ = reducer;
    communicator_ = communicator;
  }
  /// Sampling is measured here; nullptr: nowhere (evaluation).
  void measure_into(SectionTimer* sampling) { sampling_ = sampling; }

  void grads_ready(Range range) override;
  void begin(model::Phase, const Stream&) override;
  void end(model::Phase, const Stream&) override;

 private:
  comm::GradientReducer* reducer_ = nullptr;
  comm::Communicator* communicator_ = nullptr;
  SectionTimer* sampling_ = nullptr;
};

}  // namespace stipple::trainer
