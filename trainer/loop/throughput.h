// SPDX-License-Identifier: Apache-2.0
// How fast the steps since the last log line were; of this process only.
#pragma once

#include "trainer/loop/step_result.h"

namespace stipple::trainer {

class Throughput {
 public:
  void add(const StepResult&);
  void clear() { *this = {}; }

  StepSeconds mean() const;  ///< of a step
  double examples_per_s() const { return examples_ / seconds_.step; }
  double tokens_per_s() const { return tokens_ / seconds_.step; }

 private:
  double steps_ = 0;
  double examples_ = 0;
  double tokens_ = 0;
  StepSeconds seconds_{};
};

}  // namespace stipple::trainer
