// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/step_graph.h"

#include "core/cuda/runtime.h"
#include "core/log.h"

namespace stipple::trainer {

void StepGraph::Destroy::operator()(void* graph) const { cuda::destroy_graph(graph); }

StepGraph::Graph StepGraph::capture(const Stream& stream, FunctionRef<void()> work) {
  cuda::begin_capture(stream.native());
  try {
    work();
  } catch (...) {
    cuda::cancel_capture(stream.native());
    throw;
  }
  return Graph(cuda::end_capture(stream.native()));
}

/// Whether the captured graphs cannot stand for a step of this key. Tells so once.
bool StepGraph::is_unlike(const Key& key) {
  if (!key_ || *key_ == key) return false;
  if (!was_told_) {
    log::info(
        "step.graph: the number of labels differs between steps; steps unlike the captured one "
        "run eagerly");
  }
  was_told_ = true;
  return true;
}

bool StepGraph::run(const Stream& stream, const Key& key, size_t flight, FunctionRef<void()> work) {
  if (!is_warm_ || is_unlike(key)) {
    is_warm_ = true;
    work();
    return false;
  }
  Graph& graph = graphs_[flight];
  if (graph == nullptr) {
    graph = capture(stream, work);
    key_ = key;
  }
  cuda::launch_graph(graph.get(), stream.native());
  return true;
}

}  // namespace stipple::trainer
