// SPDX-License-Identifier: Apache-2.0
#include "model/attention/attention_config.h"

namespace stipple::model {

void AttentionConfig::describe(ConfigVisitor& v) {
  v.choice("kind", kind, {"softmax", "sbm", "none"},
           {.doc = "softmax: every query sees every key. sbm: a graph sampled from a stochastic "
                   "block model of the data. none: every token sees itself only, to tell what a "
                   "task is worth without attention."});
  v.field("dropout", dropout,
          {.doc = "Probability of dropping a normalised attention weight in training.",
           .min = 0,
           .max = 0.99});
  v.choice("implementation", implementation, {"own", "cusparse"},
           {.doc = "Who computes attention over a graph: own, kernels made for it; cusparse (GPUs "
                   "only), the library's, slower and with memory for every possible edge, to "
                   "compare with."});
  v.section("sbm", sbm, "The stochastic block model (attention.kind = sbm).");
}

}  // namespace stipple::model
