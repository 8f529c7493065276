// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/prediction_facts.h"

#include "kernels/entmax_heads.h"

namespace stipple::model {

PredictionFacts::PredictionFacts(FactTable& facts, int64_t heads, bool measures,
                                 bool computes_apart)
    : edges_(facts.declare_per_layer<int64_t>("edges", heads)),
      empty_rows_(facts.declare_per_layer<int64_t>("empty_rows", heads)),
      weighted_(facts.declare_per_layer<int64_t>("weighted", heads)),
      pairs_(facts.declare_per_layer<int64_t>("pairs", heads)),
      rows_(facts.declare_per_layer<int64_t>("rows", heads)),
      overflow_(facts.declare_per_layer<int32_t>("overflow")) {
  facts.show({.name = "density",
              .title = "Density",
              .unit = "predicted edges / pairs",
              .is_share = true,
              .over = edges_,
              .under = pairs_,
              .has_total = true});
  facts.show({.name = "empty_rows",
              .title = "Empty rows",
              .unit = "share of queries without an edge",
              .is_share = true,
              .over = empty_rows_,
              .under = rows_});
  facts.show({.name = "support_size",
              .title = "Support",
              .unit = "keys with a weight, of a query",
              .over = weighted_,
              .under = rows_});
  const auto require_room = [&](FactId overflow) {
    facts.require_zero({.fact = overflow,
                        .message_before = "attention.sparsefinder.max_density: the graphs of this "
                                          "step have ",
                        .message_after = " edges more than was reserved; raise it"});
  };
  require_room(overflow_);
  if (computes_apart) {
    computed_ = facts.declare_per_layer<int64_t>("computed", heads);
    computed_overflow_ = facts.declare_per_layer<int32_t>("computed_overflow");
    require_room(computed_overflow_);
    facts.show({.name = "computed",
                .title = "Computed",
                .unit = "pairs that bounds do not rule out / pairs",
                .is_share = true,
                .over = computed_,
                .under = pairs_,
                .has_total = true});
  }
  if (measures) show_recall(facts, heads);
}

void PredictionFacts::show_recall(FactTable& facts, int64_t heads) {
  support_ = facts.declare_per_layer<int64_t>("support", heads);
  found_ = facts.declare_per_layer<int64_t>("support_found", heads);
  measured_edges_ = facts.declare_per_layer<int64_t>("measured_edges", heads);
  exact_rows_ = facts.declare_per_layer<int64_t>("exact_rows", heads);
  measured_rows_ = facts.declare_per_layer<int64_t>("measured_rows", heads);
  dropped_ = facts.declare_per_layer<double>("dropped", heads);
  const auto share = [&](const char* name, const char* title, const char* unit, FactId over,
                         FactId under) {
    facts.show({.name = name,
                .title = title,
                .unit = unit,
                .is_share = true,
                .over = over,
                .under = under,
                .has_total = true});
  };
  share("recall", "Recall", "share of the exact support that is predicted", found_, support_);
  share("precision", "Precision", "share of predicted edges in the exact support", found_,
        measured_edges_);
  share("exact", "Exact rows", "share of queries whose whole support is predicted", exact_rows_,
        measured_rows_);
  share("dropped_mass", "Dropped mass", "share of exact attention on no predicted edge", dropped_,
        measured_rows_);
}

View<int32_t> PredictionFacts::overflow(Context& ctx) const {
  return ctx.facts.at<int32_t>(overflow_, ctx.layer);
}

View<int32_t> PredictionFacts::computed_overflow(Context& ctx) const {
  return ctx.facts.at<int32_t>(computed_overflow_, ctx.layer);
}

void PredictionFacts::tell_graph(Context& ctx, const AttentionInputs& in,
                                 const kernels::EdgeSet& graph,
                                 const kernels::EntmaxSupport& support, bool is_causal) const {
  const auto counts = [&](FactId id) { return ctx.facts.at<int64_t>(id, ctx.layer); };
  kernels::support_statistics(ctx.stream, {.edges = counts(weighted_),
                                           .pairs = counts(pairs_),
                                           .rows = counts(rows_),
                                           .size = support.size,
                                           .mask = in.mask,
                                           .is_causal = is_causal});
  tell_edges(ctx, in, graph, edges_, counts(empty_rows_));
}

void PredictionFacts::tell_computed(Context& ctx, const AttentionInputs& in,
                                    const kernels::EdgeSet& pairs) const {
  const Arena::Scope scope(ctx.scratch);
  tell_edges(ctx, in, pairs, computed_, ctx.scratch.alloc<int64_t>({in.q.shape[1]}));
}

void PredictionFacts::tell_edges(Context& ctx, const AttentionInputs& in,
                                 const kernels::EdgeSet& graph, FactId edges,
                                 View<int64_t> empty_rows) const {
  const Arena::Scope scope(ctx.scratch);
  const int64_t heads = in.q.shape[1];
  // Pairs up to oneself only are another matter to it.
  kernels::edge_statistics(ctx.stream, {.edges = ctx.facts.at<int64_t>(edges, ctx.layer),
                                        .pairs = ctx.scratch.alloc<int64_t>({heads}),
                                        .empty_rows = empty_rows,
                                        .rows = ctx.scratch.alloc<int64_t>({heads}),
                                        .graph = graph,
                                        .query_mask = in.mask,
                                        .key_mask = in.mask});
}

void PredictionFacts::tell_recall(Context& ctx, const AttentionInputs& in,
                                  const kernels::EdgeSet& graph, const Exact& exact,
                                  const kernels::EntmaxHeads& heads, float scale) const {
  const auto counts = [&](FactId id) { return ctx.facts.at<int64_t>(id, ctx.layer); };
  kernels::graph_recall(ctx.stream, {.support = counts(support_),
                                     .found = counts(found_),
                                     .edges = counts(measured_edges_),
                                     .exact_rows = counts(exact_rows_),
                                     .rows = counts(measured_rows_),
                                     .dropped = ctx.facts.at<double>(dropped_, ctx.layer),
                                     .graph = graph,
                                     .q = in.q,
                                     .k = in.k,
                                     .tau = exact.tau,
                                     .support_size = exact.support_size,
                                     .heads = heads,
                                     .query_mask = in.mask,
                                     .scale = scale,
                                     .scratch = &ctx.scratch});
}

}  // namespace stipple::model
