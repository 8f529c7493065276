// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/graph_predictor.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "kernels/bound_edges.h"
#include "kernels/convert.h"
#include "kernels/group_edges.h"
#include "kernels/group_occupancy.h"
#include "kernels/mips.h"
#include "kernels/place_groups.h"
#include "kernels/predict.h"
#include "kernels/token_features.h"
#include "kernels/write_edges.h"

namespace stipple::model {
namespace {

/// Keeps squared distances on the average (Johnson and Lindenstrauss).
Init projection_init(const SparsefinderConfig& config) {
  return Init::normal(1.0 / std::sqrt(static_cast<double>(config.projection.dim)));
}

}  // namespace

GraphPredictor::GraphPredictor(const SparsefinderConfig& config, ParameterStore& store,
                               FactTable& facts, const AttentionShape& shape)
    : store_(store), config_(config), is_causal_(shape.is_causal), longest_(shape.max_length) {
  const int64_t heads = shape.num_heads, r = config.compared_channels(shape.head_dim);
  if (!config.compares()) {
    draws_ = store.declare_fixed(shape.name + ".draws", {heads}, Init::uniform(1.0));
    return;
  }
  if (config.projects()) {
    query_map_ = declare_map(store, shape, config.projection.shared ? "" : "_query");
    key_map_ = config.projection.shared ? query_map_ : declare_map(store, shape, "_key");
  }
  if (!config.has_clusters()) return;
  const SparsefinderCluster& cluster = config.cluster;
  STIPPLE_CHECK_AS(ConfigError, cluster.clusters <= shape.max_length,
                   "attention.sparsefinder.cluster.clusters: ", cluster.clusters,
                   " clusters of sequences with at most ", shape.max_length,
                   " tokens; lower clusters");
  if (config.predictor == SparsefinderPredictor::kRouting) {
    routing_ = store.declare_fixed(shape.name + ".routing", {heads, r, cluster.clusters},
                                   Init::normal(1.0));
    return;
  }
  if (config.measure) {
    occupancy_ = facts.declare_per_layer<double>("occupancy", heads);
    sequences_ = facts.declare_per_layer<int64_t>("occupancy_sequences", heads);
    facts.show({.name = "occupancy",
                .title = "Occupancy of clusters",
                .unit = "entropy of a sequence's queries and keys over clusters / of equal ones",
                .is_share = true,
                .over = occupancy_,
                .under = sequences_,
                .has_total = true});
  }
  // Of one length, so that at first the direction of a token decides and not its size.
  centroids_ = store.declare_fixed(
      shape.name + ".centroids", {cluster.rounds, heads, cluster.clusters, r},
      config.predictor == SparsefinderPredictor::kReformer ? Init::opposites()
                                                           : Init::directions());
}

GraphPredictor::Map GraphPredictor::declare_map(ParameterStore& store, const AttentionShape& shape,
                                                const std::string& suffix) const {
  const int64_t heads = shape.num_heads, d = config_.content_channels(shape.head_dim);
  const int64_t hidden = config_.hidden_channels(shape.head_dim);
  const auto declare = [&](const char* name, const Shape& extents, const Init& init) {
    return store.declare_fixed(shape.name + name + suffix, extents, init);
  };
  Map map;
  if (hidden > 0) {
    map.hidden = declare(".hidden", {heads, d, hidden},
                         Init::normal(1.0 / std::sqrt(static_cast<double>(d))));
    map.bias = declare(".hidden_bias", {heads, hidden}, Init::constant(0.0));
  }
  map.project = declare(".project", {heads, hidden > 0 ? hidden : d, config_.projection.dim},
                        projection_init(config_));
  return map;
}

kernels::math::AlwaysThere GraphPredictor::always() const {
  const int64_t window = config_.window == 0 ? -1 : config_.window / 2;
  const bool is_strided = config_.predictor == SparsefinderPredictor::kStrided;
  return {.radius = is_strided ? std::max(window, config_.places.stride) : window,
          .globals = config_.global_tokens};
}

ConstRealView GraphPredictor::content_of(Context& ctx, const AttentionInputs& in,
                                         bool are_keys) const {
  const ConstRealView x = are_keys ? in.content_k : in.content_q;
  if (config_.joins_tokens()) {
    const View<float> y =
        ctx.scratch.alloc<float>({x.shape[0], x.shape[1], x.shape[2], 2 * x.shape[3]});
    kernels::join_tokens(ctx.stream, {.y = y, .first = in.content_q, .second = in.content_k});
    return y;
  }
  if (!config_.projection.mips) return x;
  const View<float> y =
      ctx.scratch.alloc<float>({x.shape[0], x.shape[1], x.shape[2], x.shape[3] + 1});
  kernels::mips_tokens(ctx.stream, {.y = y, .x = x, .mask = in.mask, .are_keys = are_keys});
  return y;
}

View<const float> GraphPredictor::compared(Context& ctx, const AttentionInputs& in,
                                           bool are_keys) const {
  ConstRealView x = content_of(ctx, in, are_keys);
  const Shape shape = x.shape;
  if (!config_.projects() && x.precision == Precision::kFp32) return x.floats();
  const View<float> y = ctx.scratch.alloc<float>(
      {shape[0], shape[1], shape[2], config_.compared_channels(in.q.shape[3])});
  if (!config_.projects()) {
    kernels::convert(ctx.stream, {.y = y, .x = x});
    return y;
  }
  const Map& map = are_keys ? key_map_ : query_map_;
  if (const int64_t hidden = config_.hidden_channels(in.q.shape[3]); hidden > 0) {
    const View<float> h = ctx.scratch.alloc<float>({shape[0], shape[1], shape[2], hidden});
    kernels::hidden_tokens(
        ctx.stream,
        {.y = h, .x = x, .weight = store_.value(map.hidden), .bias = store_.value(map.bias)});
    x = h;
  }
  kernels::project_tokens(ctx.stream,
                          {.y = y,
                           .x = x,
                           .weight = store_.value(map.project),
                           .to_unit_length = config_.predictor == SparsefinderPredictor::kRouting});
  return y;
}

View<int32_t> GraphPredictor::groups_of(Context& ctx, View<const float> x,
                                        View<const uint8_t> mask) const {
  const View<int32_t> groups =
      ctx.scratch.alloc<int32_t>({x.shape[0], x.shape[1], x.shape[2], config_.groups_of_token()});
  if (config_.predictor == SparsefinderPredictor::kQuantize) {
    kernels::quantise_tokens(ctx.stream,
                             {.groups = groups,
                              .x = x,
                              .mask = mask,
                              .kind = config_.quantize.kind,
                              .buckets = config_.quantize.buckets,
                              .temperature = static_cast<float>(config_.quantize.temperature),
                              .scratch = &ctx.scratch});
    return groups;
  }
  if (config_.predictor == SparsefinderPredictor::kRouting) {
    const int64_t clusters = config_.cluster.clusters;
    const View<float> far =
        ctx.scratch.alloc<float>({x.shape[0], x.shape[1], x.shape[2], clusters});
    kernels::project_tokens(ctx.stream, {.y = far, .x = x, .weight = store_.value(routing_)});
    kernels::quantise_tokens(ctx.stream, {.groups = groups,
                                          .x = far,
                                          .mask = mask,
                                          .kind = kernels::Quantisation::kLowest,
                                          .buckets = clusters,
                                          .scratch = &ctx.scratch});
    return groups;
  }
  const int64_t rounds = config_.cluster.rounds;
  const auto of_round = static_cast<int32_t>(config_.num_groups() / rounds);
  for (int64_t round = 0; round < rounds; ++round) {
    kernels::nearest_groups(ctx.stream,
                            {.groups = groups,
                             .x = x,
                             .centroids = store_.value(centroids_).at(round),
                             .mask = mask,
                             .first_slot = round * config_.cluster.top,
                             .top = config_.cluster.top,
                             .first_group = static_cast<int32_t>(round) * of_round,
                             .is_ranked = config_.compat == SparsefinderCompat::kOfficial});
  }
  return groups;
}

void GraphPredictor::tell_occupancy(Context& ctx, const Groups& groups) const {
  kernels::group_occupancy(ctx.stream, {.entropy = ctx.facts.at<double>(occupancy_, ctx.layer),
                                        .sequences = ctx.facts.at<int64_t>(sequences_, ctx.layer),
                                        .query_groups = groups.queries,
                                        .key_groups = groups.keys,
                                        .num_groups = groups.count,
                                        .scratch = &ctx.scratch});
}

GraphPredictor::Groups GraphPredictor::groups_by_place(Context& ctx,
                                                       const AttentionInputs& in) const {
  const kernels::math::PlaceRule rule = config_.place_rule(is_causal_, longest_);
  const int64_t slots = kernels::groups_of_place(rule);
  const Shape& q = in.q.shape;
  const auto groups = [&] { return ctx.scratch.alloc<int32_t>({q[0], q[1], q[2], slots}); };
  const Groups all{
      .queries = groups(), .keys = groups(), .count = kernels::num_place_groups(rule, q[2])};
  kernels::place_groups(ctx.stream, {.query_groups = all.queries,
                                     .key_groups = all.keys,
                                     .draws = store_.value(draws_),
                                     .mask = in.mask,
                                     .rule = rule});
  return all;
}

void GraphPredictor::write_group_edges(Context& ctx, const AttentionInputs& in,
                                       const Groups& groups, const kernels::EdgeSet& edges) const {
  kernels::write_group_edges(ctx.stream, {.edges = edges,
                                          .query_groups = groups.queries,
                                          .key_groups = groups.keys,
                                          .num_groups = groups.count,
                                          .always = always(),
                                          .is_causal = is_causal_,
                                          .query_mask = in.mask,
                                          .key_mask = in.mask,
                                          .scratch = &ctx.scratch});
}

void GraphPredictor::write_edges(Context& ctx, const AttentionInputs& in,
                                 const kernels::EdgeSet& edges) const {
  const Arena::Scope scope(ctx.scratch);
  if (!config_.compares()) return write_group_edges(ctx, in, groups_by_place(ctx, in), edges);
  const View<const float> q = compared(ctx, in, /*are_keys=*/false);
  const View<const float> k = config_.joins_tokens() ? q : compared(ctx, in, /*are_keys=*/true);
  if (config_.predictor == SparsefinderPredictor::kDistance) {
    return kernels::write_near_edges(ctx.stream,
                                     {.edges = edges,
                                      .q = q,
                                      .k = k,
                                      .nearness = config_.distance.metric,
                                      .threshold = static_cast<float>(config_.distance.threshold),
                                      .always = always(),
                                      .is_causal = is_causal_,
                                      .query_mask = in.mask,
                                      .key_mask = in.mask,
                                      .scratch = &ctx.scratch});
  }
  const View<int32_t> of_queries = groups_of(ctx, q, in.mask);
  const Groups groups{.queries = of_queries,
                      .keys = config_.joins_tokens() ? of_queries : groups_of(ctx, k, in.mask),
                      .count = config_.num_groups()};
  if (occupancy_.exists() && !ctx.training) tell_occupancy(ctx, groups);
  write_group_edges(ctx, in, groups, edges);
}

kernels::EdgeSet GraphPredictor::alloc_graph(Context& ctx, const AttentionInputs& in,
                                             View<int32_t> overflow) const {
  // Above any density: lists of keys are all that is ever kept.
  constexpr double kNeverBits = 2.0;
  kernels::EdgeSet edges =
      kernels::alloc_edges(ctx.saved, in.q.shape[0] * in.q.shape[1], in.q.shape[2], in.k.shape[2],
                           {.tile_density = kNeverBits, .max_density = config_.max_density});
  if (!edges.overflow.empty()) edges.overflow = overflow;
  return edges;
}

/// Whoever owns the settings says under which name.
template <class Write>
auto naming_the_key(const Write& write) try {
  return write();
} catch (const kernels::EdgeRoomError& error) {
  throw ConfigError(detail::concat("attention.sparsefinder: ", error.what()));
}

kernels::EdgeSet GraphPredictor::predict(Context& ctx, const AttentionInputs& in,
                                         View<int32_t> overflow) const {
  return naming_the_key([&] {
    kernels::EdgeSet edges = alloc_graph(ctx, in, overflow);
    if (config_.has_clusters() && config_.groups_of_token() == 1) {
      edges.groups = kernels::alloc_edge_groups(ctx.saved, edges, config_.num_groups());
    }
    ctx.observer.begin(Phase::kSampling, ctx.stream);
    write_edges(ctx, in, edges);
    ctx.observer.end(Phase::kSampling, ctx.stream);
    return edges;
  });
}

kernels::EdgeSet GraphPredictor::certify(Context& ctx, const AttentionInputs& in,
                                         const kernels::EntmaxHeads& heads, float scale,
                                         View<const float> tau, View<int32_t> overflow) const {
  return naming_the_key([&] {
    const kernels::EdgeSet edges = alloc_graph(ctx, in, overflow);
    const Arena::Scope scope(ctx.scratch);
    const View<const float> k = compared(ctx, in, /*are_keys=*/true);
    kernels::write_bound_edges(ctx.stream, {.edges = edges,
                                            .q = in.q,
                                            .k = in.k,
                                            .tau = tau,
                                            .key_groups = groups_of(ctx, k, in.mask),
                                            .num_groups = config_.num_groups(),
                                            .heads = heads,
                                            .scale = scale,
                                            .is_causal = is_causal_,
                                            .query_mask = in.mask,
                                            .key_mask = in.mask,
                                            .scratch = &ctx.scratch});
    return edges;
  });
}

}  // namespace stipple::model
