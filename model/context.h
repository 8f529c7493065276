// SPDX-License-Identifier: Apache-2.0
// What a module may use while it runs: where, with which memory, with which randomness, and whom to
// tell.
#pragma once

#include "core/arena.h"
#include "core/range.h"
#include "core/rng.h"
#include "core/stream.h"
#include "core/view.h"
#include "model/decoding.h"
#include "model/facts.h"

namespace stipple::model {

/// Sections of forward and backward whose time is told apart.
enum class Phase : uint8_t { kSampling };

/// Receives what modules measure. Called on the training thread, outside kernels.
class Observer {
 public:
  virtual ~Observer() = default;
  /// Gradients in this range of the flat arena are final. Fired in the same order every time.
  virtual void grads_ready(Range) {}
  /// Where in the stream's work a section begins and ends. Not nested.
  virtual void begin(Phase, const Stream&) {}
  virtual void end(Phase, const Stream&) {}
};

class GraphSink;

struct Context {
  const Stream& stream;
  Arena& saved;    ///< lives from forward to the end of backward
  Arena& scratch;  ///< a stack: use Arena::Scope
  RngKey rng;
  bool training = true;
  Observer& observer;
  Facts facts;  ///< where facts about this leaf go; none in backward
  int layer =
      0;  ///< the block that runs: tells random streams and facts of layers apart, also where
          ///< layers share a module
  GraphSink* graphs = nullptr;  ///< gets the graphs that forward draws (attention/graph.h); null:
                                ///< nobody asked
  View<float>
      outputs{};  ///< [B, outputs]  written by a head of examples: logits, or the number, as
                  ///< they are before the loss; empty: nobody asked
  Decoding* decoding = nullptr;  ///< evaluation of a sequence token by token; null: passes see
                                 ///< whole sequences

  /// Where the first token of each row stands.
  int64_t first_position() const { return decoding == nullptr ? 0 : decoding->position; }

  /// Storage of activations that branch off the residual stream, and of their gradients.
  Precision precision() const { return stream.precision(); }
};

}  // namespace stipple::model
