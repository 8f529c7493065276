// SPDX-License-Identifier: Apache-2.0
// What a module may use while it runs: where, with which memory, with which randomness, and whom to
// tell.
#pragma once

#include "core/arena.h"
#include "core/function_ref.h"
#include "core/range.h"
#include "core/rng.h"
#include "core/stream.h"
#include "model/leaf_record.h"

namespace stipple::model {

/// Sections of a step whose time is reported.
enum class Phase : uint8_t { kForward, kSampling, kBackward };

/// Receives what modules measure. Called on the training thread, outside kernels.
class Observer {
 public:
  virtual ~Observer() = default;
  /// Gradients in this range of the flat arena are final. Fired in the same order every time.
  virtual void grads_ready(Range) {}
  /// Seconds spent in sampling, to be told apart from the rest of forward. CPU only: elsewhere the
  /// host does not know.
  virtual void time(Phase, double /*seconds*/) {}
};

struct Context {
  const Stream& stream;
  Arena& saved;    ///< lives from forward to the end of backward
  Arena& scratch;  ///< a stack: use Arena::Scope
  RngKey rng;
  bool training = true;
  Observer& observer;
  LeafRecord record;  ///< where facts about this leaf go
};

}  // namespace stipple::model
