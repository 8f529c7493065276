// SPDX-License-Identifier: Apache-2.0
#include "trainer/step_observer.h"

#include <algorithm>

namespace stipple::trainer {

void StepObserver::clear() {
  std::fill(graphs_.begin(), graphs_.end(), HeadGraph{});
  sampling_s_ = 0;
  auxiliary_loss_ = 0;
}

void StepObserver::all_reduce(comm::Communicator& communicator) {
  counts_.clear();
  cells_.clear();
  for (const HeadGraph& g : graphs_) {
    counts_.insert(counts_.end(), {g.edges, g.pairs, g.empty_rows, g.rows});
    cells_.push_back(g.effective_cells);
  }
  communicator.all_reduce(std::span<int64_t>(counts_), comm::Reduction::kSum);
  // A rank without leaves in this step knows no cells.
  communicator.all_reduce(std::span<double>(cells_), comm::Reduction::kMax);
  for (size_t i = 0; i < graphs_.size(); ++i) {
    const int64_t* c = counts_.data() + 4 * i;
    graphs_[i] = {c[0], c[1], c[2], c[3], cells_[i]};
  }
}

bool StepObserver::has_graphs() const {
  return std::any_of(graphs_.begin(), graphs_.end(),
                     [](const HeadGraph& g) { return g.pairs > 0; });
}

double StepObserver::density() const {
  HeadGraph all;
  for (const HeadGraph& g : graphs_) {
    all.edges += g.edges;
    all.pairs += g.pairs;
  }
  return all.density();
}

void StepObserver::grads_ready(Range range) {
  if (reducer_ == nullptr) return;
  reducer_->ready(range);
  communicator_->progress();
}

void StepObserver::auxiliary_loss(std::string_view, double value) { auxiliary_loss_ += value; }

void StepObserver::graph(const Graph& g) {
  HeadGraph& total = graphs_[static_cast<size_t>(g.layer * heads_ + g.head)];
  total.edges += g.edges;
  total.pairs += g.pairs;
  total.empty_rows += g.empty_rows;
  total.rows += g.rows;
  total.effective_cells = g.effective_cells;
}

void StepObserver::time(model::Phase phase, double seconds) {
  if (phase == model::Phase::kSampling) sampling_s_ += seconds;
}

}  // namespace stipple::trainer
