// SPDX-License-Identifier: Apache-2.0
// The phases of a run: stretches of steps with a length of sequences, a batch and a learning rate of
// their own. A run without train.phases is one phase. All of it is a function of the configuration:
// nothing to save.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace stipple::trainer {

struct Phase {
  std::string name;  ///< empty: the run is one phase
  Range steps;       ///< of the run, from 0
  int64_t max_length = 0;
  int64_t batch = 0;
  int64_t micro_batch = 0;
  double learning_rate = 0;
  ScheduleConfig schedule = {};
  Range schedule_steps;  ///< that the schedule runs over: the phase's, or the run's

  int64_t num_leaves() const { return batch / micro_batch; }
  /// `step` is one of the phase's.
  StepRates rates_at(int64_t step) const;
  /// The configuration of a run whose steps are all like these. Its data.max_length stays: it is the
  /// model's.
  Config applied_to(Config) const;
};

class Phases {
 public:
  /// ConfigError when steps do not add up to train.steps, or a phase cannot be.
  explicit Phases(const Config&);

  /// In the order of the run; at least one. A share of few steps may be none at all.
  std::span<const Phase> all() const& { return phases_; }
  std::span<const Phase> all() && = delete;
  /// The one that `step` is in; of a step past the end, the last.
  const Phase& at(int64_t step) const&;
  const Phase& at(int64_t step) && = delete;
  /// Examples that the steps before this one have.
  int64_t examples_before(int64_t step) const;

 private:
  std::vector<Phase> phases_;
};

/// ConfigError where a run of this configuration cannot have `steps` in place of train.steps: they do
/// not fit its phases or its warm-up, or the `done` that are done would have been of other phases.
void require_extensible(const Config&, int64_t steps, int64_t done);

/// Where a phase begins in the examples of its length.
struct DataStart {
  int64_t position = 0;  ///< examples since epoch first_epoch began
  uint64_t first_epoch = 0;
};

/// Of each phase. Phases with one length, one after the other, go on where the one before ended; one
/// of another length has other examples, and begins them anew, in an epoch that has not been before.
/// `size_of(length)`: how many examples there are.
std::vector<DataStart> data_starts(std::span<const Phase>,
                                   FunctionRef<int64_t(int64_t length)> size_of);

/// "phase long: steps 900 to 999, 512 tokens, 32 examples in leaves of 4"; empty for a run that is
/// one phase.
std::string text_of(const Phase&);

}  // namespace stipple::trainer
