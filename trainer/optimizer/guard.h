// SPDX-License-Identifier: Apache-2.0
// Decides from loss and gradient norm whether a step is applied: a step with non-finite numbers
// never is, a spike is not when asked for, and a run that skips too often in a row is stopped.
// Every rank sees the same two numbers, so every rank decides the same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/state_visitor.h"

namespace stipple::trainer {

struct GuardConfig {
  double spike_factor = 0.0;  ///< 0: only non-finite numbers are skipped
  int64_t window = 64;
  int64_t max_skips = 10;
  void describe(ConfigVisitor&);
};

class SpikeGuard {
 public:
  explicit SpikeGuard(const GuardConfig&);

  enum class Verdict : uint8_t { kApply, kSkip };

  /// Judges one step and remembers it. A spike is a loss or norm above spike_factor times the
  /// median of the last `window` good values, once there are so many. A skip is logged with its
  /// reason; Error after max_skips skips in a row.
  Verdict check(int64_t step, double loss, double grad_norm);

  int64_t consecutive_skips() const { return consecutive_skips_; }

  /// All that check() depends on. CheckpointError when restored values are none of a guard's; with
  /// another window than at saving, the newest values are kept.
  void describe_state(StateVisitor&);

 private:
  std::string fault(double loss, double grad_norm) const;
  std::string stop_message(int64_t step, const std::string& reason) const;

  GuardConfig config_;
  int64_t consecutive_skips_ = 0;
  std::vector<double> losses_;  // of the last good steps, oldest first, at most `window`
  std::vector<double> norms_;
};

}  // namespace stipple::trainer
