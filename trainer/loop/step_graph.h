// SPDX-License-Identifier: Apache-2.0
// The device work of a step as a CUDA graph: captured once, then replayed. What differs between
// steps (step number, rates, inputs) stands in device memory at fixed addresses; what is baked in
// must be told as the key. Timed events are baked in, too, and a step may be enqueued before those
// of the step before are read: so there is one graph a flight, each recording events of its own.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "core/function_ref.h"
#include "core/stream.h"

namespace stipple::trainer {

class StepGraph {
 public:
  /// What a captured step cannot be replayed with other values of.
  struct Key {
    float loss_scale = 0;
    bool operator==(const Key&) const = default;
  };

  /// flights: how many steps are on their way at one time. They take turns.
  explicit StepGraph(size_t flights) : graphs_(flights) {}

  /// Runs `work`: as it is the first time, when libraries may still set themselves up; captured and
  /// replayed from then on, as long as the key stays; as it is when it differs. Whether a graph
  /// ran.
  bool run(const Stream&, const Key&, size_t flight, FunctionRef<void()> work);

 private:
  struct Destroy {
    void operator()(void* graph) const;
  };
  using Graph = std::unique_ptr<void, Destroy>;
  static Graph capture(const Stream&, FunctionRef<void()> work);
  bool is_unlike(const Key&);

  std::vector<Graph> graphs_;  ///< by flight; null: not captured yet
  std::optional<Key> key_;     ///< of all of them
  bool is_warm_ = false;
  bool was_told_ = false;
};

}  // namespace stipple::trainer
