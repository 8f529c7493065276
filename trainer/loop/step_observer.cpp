// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/step_observer.h"

namespace stipple::trainer {

void StepObserver::grads_ready(Range range) {
  if (reducer_ == nullptr) return;
  reducer_->ready(range);
  communicator_->progress();
}

void StepObserver::begin(model::Phase phase, const Stream& stream) {
  if (phase == model::Phase::kSampling && sampling_ != nullptr) sampling_->begin(stream);
}

void StepObserver::end(model::Phase phase, const Stream& stream) {
  if (phase == model::Phase::kSampling && sampling_ != nullptr) sampling_->end(stream);
}

}  // namespace stipple::trainer
