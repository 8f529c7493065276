// SPDX-License-Identifier: Apache-2.0
// One rank's copy of the model with the memory to run it, and the plan of that memory. The plan
// comes from running the model on the meta device, so `dry-run` prints what the real run will use,
// and the real run allocates it once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "comm/gradient_reducer.h"
#include "core/arena.h"
#include "core/stream.h"
#include "data/batch.h"
#include "data/dataset.h"
#include "model/decoder.h"
#include "model/model.h"
#include "trainer/config/config.h"
#include "trainer/loop/feed.h"

namespace stipple::trainer {

/// What a configuration, or a task, means to the layers below.
model::ModelTask model_task(const data::TaskInfo&);
/// Logits, or a number: what is kept of an example in evaluation; 0 where the task tells no answers.
int64_t num_answer_outputs(const data::TaskInfo&);
data::BatchOptions batch_options(const Config&, bool is_captured);
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
  size_t inputs = 0;     ///< leaves on a device with memory of its own
  size_t fitting = 0;    ///< while what predicts graphs is fitted, at most
  size_t libraries = 0;  ///< what cuBLASLt and NCCL take for themselves, an estimate
  size_t total() const {
    return parameters + moments + gradients + saved + scratch + inputs + fitting + libraries;
  }
};

/// Runs the model of `config` on meta, training and evaluation, at the largest leaf of each phase,
/// for the device of the config; evaluation alone needs less. For fitting: evaluation, and
/// attention.sparsefinder.refresh_examples examples to fit to. For writing: a sequence token by
/// token, as model::Decoder does. ConfigError or ShapeError when it cannot work.
inline constexpr int kLargestRank = -1;  ///< in place of a rank: what none needs more than
enum class PlanFor : uint8_t { kTraining, kEvaluation, kFitting, kWriting };
MemoryPlan plan_memory(const Config&, const data::TaskInfo&, int threads, int rank, int num_ranks,
                       PlanFor = PlanFor::kTraining);
/// What a decoder of this task must have room for.
model::DecoderOptions decoder_options(const data::TaskInfo&);
/// Threads per rank: the config's, or the machine's cores shared among its ranks.
int threads_per_rank(const Config&, int local_ranks);

/// The CPU, or this rank's own GPU. Collective; ConfigError when there is none.
Device choose_device(const Config&, comm::Communicator&);

/// Leaves that the largest share of a rank has in one step, in the phase that has most; others have
/// one less at most.
int64_t leaves_per_rank(const Config&, int num_ranks);
/// "3 of 8 ranks have no work: ...", and what would help; empty when all have some.
std::string idle_ranks_text(const Config&, int num_ranks);

class Replica {
 public:
  /// Allocates what `plan` says, with room for `slots` leaves. Parameters start from run.seed.
  Replica(const Config&, const data::TaskInfo&, Device, int threads, int64_t slots,
          const MemoryPlan& plan);

  /// Before the first leaf of a training step, also where this rank has none: the ranks' parameters
  /// stay alike.
  void begin_step(const RngKey& rng) { model_.begin_step(stream_, rng); }
  /// Forward of the leaf that was put into this slot of feed(); with training, `backward` may
  /// follow. What it finds out stands in the slot's facts once the stream has come there. Neither
  /// allocates nor waits, unless somebody wants the graphs.
  void forward(int64_t slot, const RngKey&, bool training, model::Observer&,
               model::GraphSink* graphs = nullptr);
  /// Adds the last forward's gradients to the memory bound to parameters().bind_grads(), but not
  /// those of the lowest `frozen_stages` (model::Model::backward).
  void backward(model::Observer&, int64_t frozen_stages = 0);

  Feed& feed() { return feed_; }
  /// Copies the facts of the first `slots` leaves to host memory, in stream order: facts().bytes()
  /// each.
  void fetch_facts(int64_t slots, std::byte* to);
  /// Copies what the last forward, not of training, said of each example to host memory, in stream
  /// order: num_answer_outputs() each.
  void fetch_outputs(std::span<float> to);
  const model::FactTable& facts() const { return facts_; }

  model::ParameterStore& parameters() { return parameters_; }
  const model::ParameterStore& parameters() const { return parameters_; }
  const Stream& stream() const { return stream_; }
  Arena& scratch() { return scratch_; }
  size_t saved_peak() const { return saved_.peak(); }
  size_t scratch_peak() const { return scratch_.peak(); }

 private:
  Config config_;
  Stream stream_;
  model::ParameterStore parameters_;
  model::FactTable facts_;
  model::Model model_;
  Arena saved_;
  Arena scratch_;
  Feed feed_;
  Buffer leaf_facts_;    ///< by slot
  int64_t num_outputs_;  ///< that the head makes of an example and somebody may ask for
  Buffer outputs_;       ///< [micro_batch, num_outputs]
  std::unique_ptr<model::Model::Saved, void (*)(model::Model::Saved*)> model_saved_;
  int64_t slot_ = 0;  ///< of the last forward
  RngKey rng_;
};

}  // namespace stipple::trainer
