// SPDX-License-Identifier: Apache-2.0
// The device work of a step as a CUDA graph: captured once, then replayed. What differs between
// steps (step number, rates, inputs and the scale of their loss) stands in device memory at fixed
// addresses. Timed events are baked in, and a step may be enqueued before those of the step before
// are read: so there is one graph a flight, each recording events of its own.
#pragma once

#include <memory>
#include <vector>

#include "core/function_ref.h"
#include "core/stream.h"

namespace stipple::trainer {

class StepGraph {
 public:
  /// flights: how many steps are on their way at one time. They take turns.
  explicit StepGraph(size_t flights) : graphs_(flights) {}

  /// Runs `work`: as it is the first time, when libraries may still set themselves up; captured and
  /// replayed from then on. Whether a graph ran.
  bool run(const Stream&, size_t flight, FunctionRef<void()> work);

 private:
  struct Destroy {
    void operator()(void* graph) const;
  };
  using Graph = std::unique_ptr<void, Destroy>;
  static Graph capture(const Stream&, FunctionRef<void()> work);

  std::vector<Graph> graphs_;  ///< by flight; null: not captured yet
  bool is_warm_ = false;
};

}  // namespace stipple::trainer
