// SPDX-License-Identifier: Apache-2.0
// The device work of a step as one CUDA graph: captured once, then replayed. What differs between
// steps (step number, rates, inputs) stands in device memory at fixed addresses; what is baked in
// must be told as the key.
#pragma once

#include <memory>

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

  /// Runs `work`: as it is the first time, when libraries may still set themselves up; captured and
  /// replayed from then on, as long as the key stays; as it is when it differs.
  void run(const Stream&, const Key&, FunctionRef<void()> work);
  bool is_captured() const { return graph_ != nullptr; }

 private:
  struct Destroy {
    void operator()(void* graph) const;
  };
  std::unique_ptr<void, Destroy> graph_;
  Key key_;
  bool is_warm_ = false;
  bool was_told_ = false;
};

}  // namespace stipple::trainer
