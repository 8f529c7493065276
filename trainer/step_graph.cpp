// SPDX-License-Identifier: Apache-2.0
#include "trainer/step_graph.h"

#include "core/cuda/runtime.h"
#include "core/log.h"

namespace stipple::trainer {

void StepGraph::Destroy::operator()(void* graph) const { cuda::destroy_graph(graph); }

void StepGraph::run(const Stream& stream, const Key& key, FunctionRef<void()> work) {
  const bool is_other = graph_ != nullptr && !(key == key_);
  if (!is_warm_ || is_other) {
    if (is_other && !was_told_) {
      log::info(
          "step.graph: the number of labels differs between steps; steps unlike the captured one "
          "run eagerly");
    }
    was_told_ |= is_other;
    is_warm_ = true;
    return work();
  }
  if (graph_ == nullptr) {
    cuda::begin_capture(stream.native());
    try {
      work();
    } catch (...) {
      cuda::cancel_capture(stream.native());
      throw;
    }
    graph_.reset(cuda::end_capture(stream.native()));
    key_ = key;
  }
  cuda::launch_graph(graph_.get(), stream.native());
}

}  // namespace stipple::trainer
