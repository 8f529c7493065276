// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/graph_predictor.h"

#include <cmath>

#include "core/error.h"
#include "kernels/group_edges.h"
#include "kernels/predict.h"
#include "kernels/write_edges.h"

namespace stipple::model {
namespace {

/// Keeps squared distances on the average (Johnson and Lindenstrauss).
Init projection_init(const SparsefinderConfig& config) {
  return Init::normal(1.0 / std::sqrt(static_cast<double>(config.projection.dim)));
}

}  // namespace

GraphPredictor::GraphPredictor(const SparsefinderConfig& config, ParameterStore& store,
                               const AttentionShape& shape)
    : store_(store), config_(config), is_causal_(shape.is_causal) {
  const int64_t heads = shape.num_heads, r = config.projection.dim;
  const auto declare = [&](const char* name) {
    return store.declare_fixed(shape.name + name, {heads, shape.head_dim, r},
                               projection_init(config));
  };
  query_projection_ = declare(config.projection.shared ? ".project" : ".project_query");
  key_projection_ = config.projection.shared ? query_projection_ : declare(".project_key");
  if (config.predictor != SparsefinderPredictor::kCluster) return;
  const SparsefinderCluster& cluster = config.cluster;
  STIPPLE_CHECK_AS(ConfigError, cluster.clusters <= shape.max_length,
                   "attention.sparsefinder.cluster.clusters: ", cluster.clusters,
                   " clusters of sequences with at most ", shape.max_length,
                   " tokens; lower clusters");
  // Of one length, so that at first the direction of a token decides and not its size.
  centroids_ = store.declare_fixed(
      shape.name + ".centroids", {cluster.rounds, heads, cluster.clusters, r}, Init::directions());
}

kernels::math::AlwaysThere GraphPredictor::always() const {
  return {.radius = config_.window == 0 ? -1 : config_.window / 2,
          .globals = config_.global_tokens};
}

GraphPredictor::Projected GraphPredictor::project(Context& ctx, const AttentionInputs& in) const {
  const auto projected = [&](ConstRealView x, ParamId weight) {
    const View<float> y =
        ctx.scratch.alloc<float>({x.shape[0], x.shape[1], x.shape[2], config_.projection.dim});
    kernels::project_tokens(ctx.stream, {.y = y, .x = x, .weight = store_.value(weight)});
    return y;
  };
  return {.q = projected(in.content_q, query_projection_),
          .k = projected(in.content_k, key_projection_)};
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

void GraphPredictor::write_edges(Context& ctx, const AttentionInputs& in,
                                 const kernels::EdgeSet& edges) const {
  const Arena::Scope scope(ctx.scratch);
  const Projected x = project(ctx, in);
  if (config_.predictor == SparsefinderPredictor::kDistance) {
    return kernels::write_near_edges(ctx.stream,
                                     {.edges = edges,
                                      .q = x.q,
                                      .k = x.k,
                                      .nearness = config_.distance.metric,
                                      .threshold = static_cast<float>(config_.distance.threshold),
                                      .always = always(),
                                      .is_causal = is_causal_,
                                      .query_mask = in.mask,
                                      .key_mask = in.mask,
                                      .scratch = &ctx.scratch});
  }
  kernels::write_group_edges(ctx.stream, {.edges = edges,
                                          .query_groups = groups_of(ctx, x.q, in.mask),
                                          .key_groups = groups_of(ctx, x.k, in.mask),
                                          .num_groups = config_.num_groups(),
                                          .always = always(),
                                          .is_causal = is_causal_,
                                          .query_mask = in.mask,
                                          .key_mask = in.mask,
                                          .scratch = &ctx.scratch});
}

kernels::EdgeSet GraphPredictor::predict(Context& ctx, const AttentionInputs& in,
                                         View<int32_t> overflow) const try {
  // Above any density: lists of keys are all that is ever kept.
  constexpr double kNeverBits = 2.0;
  kernels::EdgeSet edges =
      kernels::alloc_edges(ctx.saved, in.q.shape[0] * in.q.shape[1], in.q.shape[2], in.k.shape[2],
                           {.tile_density = kNeverBits, .max_density = config_.max_density});
  if (!edges.overflow.empty()) edges.overflow = overflow;
  ctx.observer.begin(Phase::kSampling, ctx.stream);
  write_edges(ctx, in, edges);
  ctx.observer.end(Phase::kSampling, ctx.stream);
  return edges;
} catch (const kernels::EdgeRoomError& error) {
  throw ConfigError(detail::concat("attention.sparsefinder: ", error.what()));
}

}  // namespace stipple::model
