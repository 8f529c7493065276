// SPDX-License-Identifier: Apache-2.0
// Collects what the model reports during a step, summed over leaves, and hands finished gradients
// to the reducer.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "comm/gradient_reducer.h"
#include "core/section_timer.h"
#include "model/context.h"

namespace stipple::trainer {

/// Counts of one head's graphs; ratios are taken of sums, never averaged.
struct HeadGraph {
  int64_t edges = 0;
  int64_t pairs = 0;
  int64_t empty_rows = 0;
  int64_t rows = 0;
  double effective_cells = 0;  ///< of S, which all leaves of a step share
  double empty_row_share() const {
    return rows == 0 ? 0.0 : static_cast<double>(empty_rows) / static_cast<double>(rows);
  }
  double density() const {
    return pairs == 0 ? 0.0 : static_cast<double>(edges) / static_cast<double>(pairs);
  }
};

class StepObserver final : public model::Observer {
 public:
  StepObserver(int64_t layers, int64_t heads)
      : heads_(heads), graphs_(static_cast<size_t>(layers * heads)) {}

  /// Gradients that become final go here; nullptr: nowhere (evaluation).
  void attach(comm::GradientReducer* reducer, comm::Communicator* communicator) {
    reducer_ = reducer;
    communicator_ = communicator;
  }
  /// Sampling is measured here; nullptr: nowhere (evaluation).
  void measure_into(SectionTimer* sampling) { sampling_ = sampling; }
  void clear();
  /// Adds what one leaf found out; host memory. Returns how many edges had no room.
  int64_t add(const model::LeafRecord&);
  /// Sums graphs over the ranks: every rank then holds the totals.
  void all_reduce(comm::Communicator&);

  const std::vector<HeadGraph>& graphs() const { return graphs_; }  ///< [layer * heads + head]
  bool has_graphs() const;
  double density() const;  ///< over all layers and heads
  void grads_ready(Range range) override;
  void begin(model::Phase, const Stream&) override;
  void end(model::Phase, const Stream&) override;

 private:
  int64_t heads_;
  std::vector<HeadGraph> graphs_;
  std::vector<int64_t> counts_;
  std::vector<double> cells_;
  comm::GradientReducer* reducer_ = nullptr;
  comm::Communicator* communicator_ = nullptr;
  SectionTimer* sampling_ = nullptr;
};

/// Graphs that did not fit are a promise of the configuration that was broken: the sum over all
/// ranks is told by all.
void require_no_overflow(int64_t edges);

/// Seconds since construction or the last lap().
class Stopwatch {
 public:
  double lap() {
    const Clock::time_point now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point last_ = Clock::now();
};

}  // namespace stipple::trainer
