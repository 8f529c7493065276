// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/support_facts.h"

#include "kernels/entmax_heads.h"

namespace stipple::model {

SupportFacts::SupportFacts(FactTable& facts, int64_t heads)
    : edges_(facts.declare_per_layer<int64_t>("support_edges", heads)),
      pairs_(facts.declare_per_layer<int64_t>("support_pairs", heads)),
      rows_(facts.declare_per_layer<int64_t>("support_rows", heads)) {
  facts.show({.name = "density",
              .title = "Density",
              .unit = "edges / pairs",
              .is_share = true,
              .over = edges_,
              .under = pairs_,
              .has_total = true});
  facts.show({.name = "support_size",
              .title = "Support",
              .unit = "keys with a weight, of a query",
              .over = edges_,
              .under = rows_});
}

void SupportFacts::tell(Context& ctx, const AttentionInputs& in,
                        const kernels::EntmaxSupport& support, bool is_causal) const {
  const auto counts = [&](FactId id) { return ctx.facts.at<int64_t>(id, ctx.layer); };
  kernels::support_statistics(ctx.stream, {.edges = counts(edges_),
                                           .pairs = counts(pairs_),
                                           .rows = counts(rows_),
                                           .size = support.size,
                                           .mask = in.mask,
                                           .is_causal = is_causal});
}

}  // namespace stipple::model
