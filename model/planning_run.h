// SPDX-License-Identifier: Apache-2.0
// Plans the memory of modules by running them on meta, where shapes are checked and arenas count
// bytes, but nothing is stored or computed. What is counted there is allocated once, before the
// first step; the real run then takes exactly that.
//
//   PlanningRun plan(DeviceType::kCpu, {.threads = 2}, facts);
//   Context context = plan.begin(/*training=*/true);
//   model.forward(context, shapes_only, *saved);
//   model.backward(context, shapes_only, *saved);
//   Arena activations("saved", kCpuDevice, plan.saved_bytes());
#pragma once

#include <cstddef>

#include "core/arena.h"
#include "core/stream.h"
#include "model/context.h"

namespace stipple::model {

class PlanningRun {
 public:
  /// For modules that have declared their facts in `facts`, which stays; of a stream with `options`
  /// on the planned device, which need not be there.
  PlanningRun(DeviceType planned, const Stream::Options& options, const FactTable& facts)
      : stream_(meta_device(planned), options), facts_(facts) {}
  PlanningRun(const PlanningRun&) = delete;
  PlanningRun& operator=(const PlanningRun&) = delete;

  /// The context of a pass that begins with empty arenas; good until the next one, or the end of
  /// this. All passes count.
  Context begin(bool training) { return begin(training, nobody_); }
  Context begin(bool training, Observer& observer) {
    saved_.rewind(0);
    scratch_.rewind(0);
    return {.stream = stream_,
            .saved = saved_,
            .scratch = scratch_,
            .rng = {},
            .training = training,
            .observer = observer,
            .facts = {facts_, nullptr}};
  }

  /// For what else works in the same scratch.
  const Stream& stream() const { return stream_; }
  Arena& scratch() { return scratch_; }

  size_t saved_bytes() const { return saved_.peak(); }
  size_t scratch_bytes() const { return scratch_.peak(); }

 private:
  Stream stream_;
  const FactTable& facts_;
  Arena saved_{"saved", stream_.device()};
  Arena scratch_{"scratch", stream_.device()};
  Observer nobody_;
};

}  // namespace stipple::model
