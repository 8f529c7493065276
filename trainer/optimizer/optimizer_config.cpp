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
          {.doc = "Decoupled decay (AdamW) of matrices; biases, norms and embeddings are exempt.",
           .min = 0,
           .max = 10});
  v.field("clip_norm", clip_norm,
          {.doc = "Gradients are scaled down to at most this global L2 norm. 0: never.",
           .min = 0,
           .max = 1e9});
  v.section("lamb", lamb, "With optimizer.kind=lamb.");
  v.section("schedule", schedule, "How the learning rate changes during the run.");
}

}  // namespace stipple::trainer
