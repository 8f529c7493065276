// SPDX-License-Identifier: Apache-2.0
// The classifier of the Long Range Arena family: embeddings, encoder, pooled or per-token head
// (docs/attention/sbm.md); with norm, segments and pooler as BERT has them, BERT. Or, for a task that asks for the next token, a language model: the
// same encoder, causal, under a head that is tied to the embedding (model/language_head.h); for
// one that asks for masked tokens, not causal, under one of its own (model/masked_head.h).
#pragma once

#include <memory>
#include <vector>

#include "core/config.h"
#include "core/leaf.h"
#include "kernels/pooling.h"
#include "model/attention/attention_config.h"
#include "model/context.h"
#include "model/input.h"
#include "model/norm.h"
#include "model/parameter_store.h"
#include "model/positions.h"

namespace stipple::model {

struct ModelConfig {
  int64_t layers = 2;
  int64_t width = 64;
  int64_t heads = 2;
  int64_t feedforward = 128;
  int64_t head_hidden = 128;  ///< hidden units of the classifier
  double dropout = 0.1;
  bool causal = false;
  Positions positions = Positions::kLearned;
  int64_t max_positions = 0;  ///< of learned positions; 0: those of the task
  int64_t segments = 0;       ///< at least; a task may have more
  NormPlace norm = NormPlace::kPre;
  double norm_eps = 1e-5;
  kernels::MeanOver mean_over = kernels::MeanOver::kPadded;
  bool pooler = false;  ///< the head is BERT's
  InitRule init = InitRule::kModules;
  void describe(ConfigVisitor&);
};

/// What the task asks of the model; from data::TaskInfo, kept apart so that model never sees data.
struct ModelTask {
  LeafFields fields{};
  int64_t vocab_size = 0;
  int64_t num_classes = 0;
  int64_t max_length = 0;
};

class Model {
 public:
  struct Saved;

  /// Declares all parameters in `store` and all facts in `facts`; call store.allocate() afterwards.
  Model(ParameterStore& store, FactTable& facts, const ModelConfig&, const AttentionConfig&,
        const ModelTask&);
  ~Model();

  /// Made once, refilled every leaf. Two leaves in flight need two.
  std::unique_ptr<Saved, void (*)(Saved*)> make_saved() const;

  /// Before the first forward of a training step, on every rank: sets what follows the step that
  /// `rng` names (Attention::begin_step).
  void begin_step(const Stream&, const RngKey& rng) const;
  /// Tells the leaf's loss and more in ctx.facts. With ctx.training, keeps in `saved` and ctx.saved
  /// what backward reads. prediction [B] or [R, N]: classes, written; empty: not wanted, and of
  /// masked tokens impossible.
  void forward(Context&, const Input&, Saved&, View<int32_t> prediction = {}) const;
  /// Adds the gradient of (loss * loss_scale + regularisers) to the store's gradients;
  /// reports ranges as they become final.
  /// frozen_stages: how many parts, from the bottom, need no gradients: the embedding, then blocks
  /// of the encoder. They are left out, and reported as if they had been done.
  void backward(Context&, const Input&, Saved&, int64_t frozen_stages = 0) const;

  /// Logits [1, V] of what follows the last token of ids [1, N]: of a language model, in
  /// evaluation. Of the input's arrays, ids, mask and samples are read. With ctx.decoding, N = 1.
  void next_logits(Context&, const Input&, Saved&, View<float> logits) const;
  /// What a model makes of a leaf, in evaluation: token vectors [R, N, width], written, zero on
  /// padding. Of the input's arrays, ids, segments, mask and samples are read.
  void encode(Context&, const Input&, Saved&, View<float> encoded) const;
  /// And what its head makes of these: logits [rows, V] of some, [rows, width], of a masked language
  /// model; or [B, hidden], what the last layer of a classifier is given.
  void masked_logits(Context&, View<const float> encoded, View<float> logits) const;
  void pooled(Context&, const Input&, View<const float> encoded, View<float> pooled) const;
  /// Of one sequence of at most `longest` tokens, for Decoding; empty where the attention has none.
  std::vector<std::unique_ptr<AttentionCache>> make_caches(Arena&, const Stream&,
                                                           int64_t longest) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace stipple::model
