// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/step_observer.h"

#include <algorithm>

#include "core/error.h"

namespace stipple::trainer {

void StepObserver::clear() { std::fill(graphs_.begin(), graphs_.end(), HeadGraph{}); }

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

int64_t StepObserver::add(const model::LeafRecord& record) {
  int64_t overflow = 0;
  for (int64_t layer = 0; layer < record.layers(); ++layer) {
    const model::LeafRecord::Layer facts = record.layer(layer);
    overflow += facts.overflow[0];
    for (int64_t head = 0; head < record.heads(); ++head) {
      HeadGraph& total = graphs_[static_cast<size_t>(layer * heads_ + head)];
      total.edges += facts.edges[head];
      total.pairs += facts.pairs[head];
      total.empty_rows += facts.empty_rows[head];
      total.rows += facts.rows[head];
      total.effective_cells = static_cast<double>(facts.effective_cells[head]);
    }
  }
  return overflow;
}

void require_no_overflow(int64_t edges) {
  if (edges == 0) return;
  ConfigError error(detail::concat("attention.sbm.max_density: the graphs of this step have ",
                                   edges,
                                   " edges more than was reserved; raise it, or "
                                   "attention.sbm.tile_density"));
  error.set_collective();
  throw error;
}

void StepObserver::begin(model::Phase phase, const Stream& stream) {
  if (phase == model::Phase::kSampling && sampling_ != nullptr) sampling_->begin(stream);
}

void StepObserver::end(model::Phase phase, const Stream& stream) {
  if (phase == model::Phase::kSampling && sampling_ != nullptr) sampling_->end(stream);
}

}  // namespace stipple::trainer
