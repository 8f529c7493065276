// SPDX-License-Identifier: Apache-2.0
// One rank's copy of the model with the memory to run it, and the plan of that memory. The plan
// comes from running the model on the meta device, so `dry-run` prints what the real run will use,
// and the real run allocates it once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "comm/gradient_reducer.h"
#include "core/arena.h"
#include "core/stream.h"
#include "data/batch.h"
#include "data/dataset.h"
#include "model/model.h"
#include "trainer/config.h"

namespace stipple::trainer {

/// What a configuration means to the layers below.
data::BatchOptions batch_options(const Config&);
comm::ReducerOptions reducer_options(const Config&, int64_t numel);

/// Bytes of one rank.
struct MemoryPlan {
  int64_t num_parameters = 0;  ///< trainable numbers, padding excluded
  int64_t numel = 0;           ///< of the flat arenas, padding included
  size_t parameters = 0;
  size_t moments = 0;
  size_t gradients = 0;  ///< held by the reducer, staging included
  size_t saved = 0;      ///< activations from forward to backward, of one leaf
  size_t scratch = 0;
  size_t total() const { return parameters + moments + gradients + saved + scratch; }
};

/// Runs the model of `config` on meta, training and evaluation, at the largest leaf. ConfigError or
/// ShapeError when it cannot work.
MemoryPlan plan_memory(const Config&, const data::TaskInfo&, int threads, int rank, int num_ranks);

/// Threads per rank: the config's, or the machine's cores shared among its ranks.
int threads_per_rank(const Config&, int local_ranks);

/// Labels, hits and loss of some leaves; sums are exact integers or in leaf order, so they do not
/// depend on ranks.
struct LeafTotals {
  double loss_sum = 0;
  int64_t correct = 0;
  int64_t count = 0;
};

class Replica {
 public:
  /// Allocates what `plan` says. Parameters start from run.seed.
  Replica(const Config&, const data::TaskInfo&, int threads, const MemoryPlan& plan);

  /// Forward of one leaf; with training, `backward` may follow. Neither allocates.
  LeafTotals forward(const data::Leaf&, const RngKey&, bool training, float loss_scale,
                     model::Observer&);
  /// Adds the last forward's gradients to the memory bound to parameters().bind_grads().
  void backward(model::Observer&);

  model::ParameterStore& parameters() { return parameters_; }
  const Stream& stream() const { return stream_; }
  Arena& scratch() { return scratch_; }
  size_t saved_peak() const { return saved_.peak(); }
  size_t scratch_peak() const { return scratch_.peak(); }

 private:
  Config config_;
  data::TaskInfo info_;
  Stream stream_;
  model::ParameterStore parameters_;
  model::Model model_;
  Arena saved_;
  Arena scratch_;
  std::unique_ptr<model::Model::Saved, void (*)(model::Model::Saved*)> model_saved_;
  model::Input input_;
  RngKey rng_;
};

}  // namespace stipple::trainer
