// SPDX-License-Identifier: Apache-2.0
#include "model/attention/attention_config.h"

#include "model/attention/registry.h"

namespace stipple::model {

void AttentionConfig::describe(ConfigVisitor& v) {
  static const std::string docs = attention_docs();
  v.choice("kind", kind, attention_names(), {.doc = docs});
  v.field("dropout", dropout,
          {.doc = "Probability of dropping a normalised attention weight in training.",
           .min = 0,
           .max = 0.99});
  v.choice("implementation", implementation, {"own", "cusparse"},
           {.doc = "Who computes attention over a graph: own, kernels made for it; cusparse (GPUs "
                   "only), the library's, slower and with memory for every possible edge, to "
                   "compare with."});
  v.section("sbm", sbm, "The stochastic block model (attention.kind = sbm).");
  v.section("combiner", combiner, "Regions and their summaries (attention.kind = combiner).");
  v.section("entmax", entmax, "alpha-entmax in place of softmax (attention.kind = entmax).");
  v.section("sparsefinder", sparsefinder,
            "Entmax, by attention.entmax, over a predicted graph (attention.kind = sparsefinder).");
}

}  // namespace stipple::model
