// SPDX-License-Identifier: Apache-2.0
// What a module may use while it runs: where, with which memory, with which randomness, and whom to
// tell.
#pragma once

#include <string_view>

#include "core/arena.h"
#include "core/function_ref.h"
#include "core/range.h"
#include "core/rng.h"
#include "core/stream.h"

namespace stipple::model {

/// Sections of a step whose time is reported.
enum class Phase : uint8_t { kForward, kSampling, kBackward };

/// Receives what modules measure. Called on the training thread, outside kernels.
class Observer {
 public:
  virtual ~Observer() = default;
  /// Gradients in this range of the flat arena are final. Fired in the same order every time.
  virtual void grads_ready(Range) {}
  /// A loss term added to the task's loss, already weighted; its gradient was folded in by the
  /// module.
  virtual void auxiliary_loss(std::string_view /*name*/, double /*value*/) {}
  /// Facts about one head's graph on this leaf (counts sum over leaves and ranks).
  struct Graph {
    int layer = 0;
    int head = 0;
    int64_t edges = 0;
    int64_t pairs = 0;
    int64_t empty_rows = 0;
    int64_t rows = 0;
    double effective_cells = 0;
  };
  virtual void graph(const Graph&) {}
  /// Seconds spent in sampling, to be told apart from the rest of forward.
  virtual void time(Phase, double /*seconds*/) {}
};

struct Context {
  const Stream& stream;
  Arena& saved;    ///< lives from forward to the end of backward
  Arena& scratch;  ///< a stack: use Arena::Scope
  RngKey rng;
  bool training = true;
  Observer& observer;
};

}  // namespace stipple::model
