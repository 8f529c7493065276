// SPDX-License-Identifier: Apache-2.0
#include "trainer/step_graph.h"

#include "core/cuda/runtime.h"

namespace stipple::trainer {

void StepGraph::Destroy::operator()(void* graph) const { cuda::destroy_graph(graph); }

void StepGraph::run(const Stream& stream, const Key& key, FunctionRef<void()> work) {
  const bool is_other = graph_ != nullptr && !(key == key_);
  if (!is_warm_ || is_other) {
    is_warm_ = true;
    return work();
  }
  if (graph_ == nullptr) {
    cuda::begin_capture(stream.native());
    work();
    graph_.reset(cuda::end_capture(stream.native()));
    key_ = key;
  }
  cuda::launch_graph(graph_.get(), stream.native());
}

}  // namespace stipple::trainer
