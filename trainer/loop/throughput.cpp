// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/throughput.h"

namespace stipple::trainer {

void Throughput::add(const StepResult& result) {
  steps_ += 1;
  examples_ += static_cast<double>(result.examples);
  tokens_ += static_cast<double>(result.tokens);
  seconds_.step += result.seconds.step;
  seconds_.data += result.seconds.data;
  seconds_.forward += result.seconds.forward;
  seconds_.sampling += result.seconds.sampling;
  seconds_.backward += result.seconds.backward;
  seconds_.reduce += result.seconds.reduce;
  seconds_.optimizer += result.seconds.optimizer;
}

StepSeconds Throughput::mean() const {
  return {.step = seconds_.step / steps_,
          .data = seconds_.data / steps_,
          .forward = seconds_.forward / steps_,
          .sampling = seconds_.sampling / steps_,
          .backward = seconds_.backward / steps_,
          .reduce = seconds_.reduce / steps_,
          .optimizer = seconds_.optimizer / steps_};
}

}  // namespace stipple::trainer
