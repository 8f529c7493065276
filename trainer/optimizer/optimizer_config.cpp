// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/optimizer_config.h"

namespace stipple::trainer {

void LambConfig::describe(ConfigVisitor& v) {
  v.choice(
      "variant", variant, {"paper", "nvidia"},
      {.doc = "paper: the length of a step follows the length of the tensor everywhere. nvidia, "
              "as NVIDIA's BERT: not in tensors without decay, and gradients are scaled down to "
              "a global norm of 1 first (of optimizer.clip_norm, where that is set)."});
}

void GroupConfig::describe(ConfigVisitor& v) {
  v.field("tensors", tensors,
          {.doc = "Names of the group's tensors, with commas between; * stands for any letters: "
                  "*.bias, embedding.*, head.*. Each must match a tensor, and no tensor may be in "
                  "two groups. `stipple inspect RUN_DIR` lists names."});
  v.field("weight_decay", weight_decay,
          {.doc = "In place of optimizer.weight_decay, also where that exempts them; 0 exempts. "
                  "-1: as without the group.",
           .min = -1,
           .max = 10});
  v.field("rate_factor", rate_factor,
          {.doc = "The learning rate of these tensors is this times that of the others.",
           .min = 0,
           .max = 1000});
}

void FreezeConfig::describe(ConfigVisitor& v) {
  v.field("embeddings", embeddings, {.doc = "All that stands below the first block."});
  v.field("layers", layers,
          {.doc = "So many of the encoder's lowest blocks. With embeddings, backward ends above "
                  "them.",
           .unit = "blocks",
           .min = 0,
           .max = 4095});
  v.field("tensors", tensors,
          {.doc = "Names of tensors, with commas between, as in optimizer.groups.*.tensors."});
}

void OptimizerConfig::describe(ConfigVisitor& v) {
  v.choice("kind", kind, {"adamw", "lamb"},
           {.doc = "adamw; or lamb, which scales Adam's step tensor by tensor to the length of the "
                   "tensor, for large batches."});
  v.field("learning_rate", learning_rate,
          {.doc = "The rate that the schedule scales: its peak (rsqrt: peak times the square root "
                  "of warmup_steps).",
           .min = 0,
           .max = 1000});
  v.field("beta1", beta1,
          {.doc = "Decay of the mean of gradients. one_cycle replaces it by its own.",
           .min = 0,
           .max = 0.9999});
  v.field("beta2", beta2,
          {.doc = "Decay of the mean of squared gradients.", .min = 0, .max = 0.999999});
  v.field("eps", eps, {.doc = "Added to the root of the second moment.", .min = 1e-30, .max = 1});
  v.field("bias_correction", bias_correction,
          {.doc = "Moments, which begin at zero, are scaled up by what they lack. false: they are "
                  "not, as in BERT's own optimizer."});
  v.field("weight_decay", weight_decay,
          {.doc = "Decoupled decay (AdamW) of matrices; biases, norms and embeddings are exempt. "
                  "optimizer.groups tells otherwise.",
           .min = 0,
           .max = 10});
  v.field("clip_norm", clip_norm,
          {.doc = "Gradients are scaled down to at most this global L2 norm. 0: never.",
           .min = 0,
           .max = 1e9});
  v.field(
      "layer_decay", layer_decay,
      {.doc = "Fine-tuning: the learning rate of a block of the encoder is this times that of "
              "the block above; the last block's, this times that of the head; the embedding's, "
              "this times that of the first block. 1: all learn alike.",
       .min = 1e-6,
       .max = 1});
  v.section("freeze", freeze,
            "Fine-tuning: parameters that keep their values. They take no part in the gradients' "
            "norm.");
  v.sections("groups", groups,
             "Tensors with a decay or a learning rate of their own, by groups that you name.");
  v.section("lamb", lamb, "With optimizer.kind=lamb.");
  v.section("schedule", schedule, "How the learning rate changes during the run.");
}

}  // namespace stipple::trainer
