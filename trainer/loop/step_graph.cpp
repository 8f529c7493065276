// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/step_graph.h"

#include "core/cuda/runtime.h"

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

bool StepGraph::run(const Stream& stream, size_t flight, FunctionRef<void()> work) {
  if (!is_warm_) {
    is_warm_ = true;
    work();
    return false;
  }
  Graph& graph = graphs_[flight];
  if (graph == nullptr) graph = capture(stream, work);
  cuda::launch_graph(graph.get(), stream.native());
  return true;
}

}  // namespace stipple::trainer
