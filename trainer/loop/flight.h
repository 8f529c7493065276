// SPDX-License-Identifier: Apache-2.0
// One step on its way through the device: its place in host memory, and the events that measure it.
// Flights take turns, so that a step can be enqueued before the one before is collected.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/section_timer.h"
#include "core/stream.h"
#include "trainer/loop/replica.h"
#include "trainer/loop/step_result.h"
#include "trainer/optimizer/optimizer.h"

namespace stipple::trainer {

struct Flight {
  Flight(const Replica& replica, Device device, int64_t leaves, int64_t layers)
      : facts(Buffer::staging(device, static_cast<size_t>(leaves) * replica.facts().bytes())),
        staged(Buffer::staging(device, sizeof(Staged))),
        begin(device),
        reduced(device),
        done(device),
        forward(device, static_cast<size_t>(leaves)),
        sampling(device, static_cast<size_t>(leaves * layers)),
        backward(device, static_cast<size_t>(leaves)) {}

  /// Crosses between host and device.
  struct Staged {
    uint64_t step;               // to the device
    Optimizer::Outcome outcome;  // from it
  };
  Staged& host() const { return *reinterpret_cast<Staged*>(staged.data()); }

  int64_t step = 0;
  Buffer facts;
  Buffer staged;
  Event begin, reduced, done;
  SectionTimer forward, sampling, backward;
  bool is_gathered = false;  ///< facts summed over ranks, and the step judged by the guard
  double data_s = 0;
  int64_t tokens = 0;  ///< of this rank
  StepResult result{};
};

}  // namespace stipple::trainer
