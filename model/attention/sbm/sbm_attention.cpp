// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sbm/sbm_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/copy.h"
#include "core/error.h"
#include "kernels/activation.h"
#include "kernels/math/edge_form.h"
#include "kernels/matmul.h"
#include "kernels/sbm.h"
#include "model/attention/sbm/sbm_graph.h"

namespace stipple::model {
namespace {

constexpr kernels::ActivationKind kSigmoid = kernels::ActivationKind::kSigmoid;

/// A `spread` cluster's mean squared norm is ln K + this: some 55 effective cells at K = 128, D
/// = 32.
constexpr double kSpreadExcess = 1.5;

double cluster_stddev(ClusterInit init, int64_t clusters, int64_t head_dim) {
  const double k = static_cast<double>(clusters);
  const double d = static_cast<double>(head_dim);
  if (init == ClusterInit::kOfficial) return std::sqrt(2.0 / (k * d));
  return std::sqrt((std::log(k) + kSpreadExcess) / d);
}

/// [B, H, N, C] as the B * H matrices of a batched product.
template <class Array>
Array as_matrices(const Array& x) {
  return x.reshape({x.shape[0] * x.shape[1], x.shape[2], x.shape[3]});
}

/// Floats of the shape of `spent`: its own memory where that is what it holds, else scratch.
View<float> floats_like(Context& ctx, RealView spent) {
  if (spent.precision == Precision::kFp32) return spent.floats();
  return ctx.scratch.alloc<float>(spent.shape);
}

/// The result of `body`; its errors about the room of a graph name the section whose keys
/// reserve it.
template <class Body>
auto naming_settings(const Body& body) {
  try {
    return body();
  } catch (const kernels::EdgeRoomError& error) {
    throw ConfigError(detail::concat("attention.sbm: ", error.what()));
  }
}

}  // namespace

SbmAttention::GraphFacts SbmAttention::declare(FactTable& facts, int64_t heads) {
  const GraphFacts ids{
      .edges = facts.declare_per_layer<int64_t>("edges", heads),
      .pairs = facts.declare_per_layer<int64_t>("pairs", heads),
      .empty_rows = facts.declare_per_layer<int64_t>("empty_rows", heads),
      .rows = facts.declare_per_layer<int64_t>("rows", heads),
      .effective_cells = facts.declare_per_layer<float>("effective_cells", heads, Unite::kSame),
      .overflow = facts.declare_per_layer<int32_t>("overflow"),
      .auxiliary_loss = facts.declare_per_layer<double>(kAuxiliaryLoss)};
  facts.show({.name = "density",
              .title = "Density",
              .unit = "edges / pairs",
              .is_share = true,
              .over = ids.edges,
              .under = ids.pairs,
              .has_total = true});
  facts.show({.name = "empty_rows",
              .title = "Empty rows",
              .unit = "share of queries without an edge",
              .is_share = true,
              .over = ids.empty_rows,
              .under = ids.rows});
  facts.show({.name = "effective_cells",
              .title = "Effective cells",
              .unit = "block-matrix cells that carry the edges",
              .over = ids.effective_cells});
  facts.require_zero({.fact = ids.overflow,
                      .message_before = "attention.sbm.max_density: the graphs of this step have ",
                      .message_after = " edges more than was reserved; raise it, or "
                                       "attention.sbm.tile_density"});
  return ids;
}

SbmAttention::SbmAttention(const AttentionConfig& config, ParameterStore& store, FactTable& facts,
                           const AttentionShape& shape)
    : store_(store),
      config_(config.sbm.resolved()),
      shape_(shape),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)))),
      dropout_rate_(static_cast<float>(config.dropout)),
      implementation_(config.implementation),
      facts_(declare(facts, shape.num_heads)),
      phi_hidden_(store, shape.name + ".phi.hidden", shape.head_dim, shape.head_dim),
      phi_out_(store, shape.name + ".phi.out", shape.head_dim, shape.head_dim),
      clusters_(store.declare(
          shape.name + ".clusters", {shape.num_heads, config_.clusters, shape.head_dim},
          Init::normal(cluster_stddev(config_.cluster_init, config_.clusters, shape.head_dim)),
          Decay::kNo)) {}

AttentionTraits SbmAttention::traits(const AttentionConfig& config) {
  return {.fixed_length = config.sbm.resolved().padding == SbmPadding::kOfficial,
          .has_graph = true,
          .graph_groups = config.sbm.clusters,
          .over_edges = true};
}

void SbmAttention::validate(const AttentionConfig& config) {
  const SbmConfig sbm = config.sbm.resolved();
  STIPPLE_CHECK_AS(ConfigError, sbm.max_density > 0,
                   "attention.sbm.max_density: 0 leaves no room for any edge; use up to 1");
  const bool wants_bits =
      sbm.sampler == kernels::SamplerKind::kTiles && sbm.law != kernels::MaskLaw::kPoissonMulti;
  STIPPLE_CHECK_AS(ConfigError, !wants_bits || sbm.tile_density <= sbm.max_density,
                   "attention.sbm.tile_density: ", sbm.tile_density,
                   " is above attention.sbm.max_density ", sbm.max_density,
                   ", which reserves no room for what attention.sbm.sampler=tiles writes; lower "
                   "tile_density or use sampler=auto");
}

std::unique_ptr<Attention::Saved> SbmAttention::make_saved() const {
  return std::make_unique<Saved>();
}

View<const uint8_t> SbmAttention::graph_mask(const AttentionInputs& in) const {
  return config_.padding == SbmPadding::kExcluded ? in.mask : View<const uint8_t>{};
}

/// What one edge adds to the sparsity loss: weight / (L H sequences max_length²), over the
/// sequences of the global batch.
double SbmAttention::edge_weight(const AttentionInputs& in) const {
  const double sequences = static_cast<double>(in.q.shape[0]) / static_cast<double>(in.batch_share);
  const double length = static_cast<double>(shape_.max_length);
  return config_.sparsity_weight / static_cast<double>(shape_.num_layers * shape_.num_heads) /
         (sequences * length * length);
}

/// What every real pair's probability is raised by.
float SbmAttention::exploration(const Context& ctx) const {
  if (!ctx.training && !config_.explore_eval) return 0.0f;
  if (config_.exploration == Exploration::kFixed) return static_cast<float>(config_.delta);
  const double per_key = config_.delta_keys / static_cast<double>(shape_.max_length);
  return static_cast<float>(std::min(config_.delta, per_key));
}

float SbmAttention::ste_clip() const {
  switch (config_.ste_clip) {
    case SteClip::kOff:
      return std::numeric_limits<float>::infinity();
    case SteClip::kUnscaled:
      return static_cast<float>(config_.ste_clip_at);
    case SteClip::kAmpCompat:
      return static_cast<float>(config_.ste_clip_at / config_.amp_scale);
  }
  throw Error("attention.sbm.ste_clip: no such clip");
}

void SbmAttention::embed(Context& ctx, ConstRealView x, View<const uint8_t> mask,
                         Side& side) const {
  const RealView hidden = ctx.saved.alloc(ctx.precision(), x.shape);
  side.embedded = ctx.saved.alloc(ctx.precision(), x.shape);
  side.memberships =
      ctx.saved.alloc(ctx.precision(), {x.shape[0], x.shape[1], x.shape[2], config_.clusters});
  phi_hidden_.forward(ctx, x, hidden, side.hidden);
  kernels::activation(ctx.stream,
                      {.y = hidden, .x = hidden, .kind = kernels::ActivationKind::kRelu});
  phi_out_.forward(ctx, hidden, side.embedded, side.out);
  kernels::matmul(ctx.stream, {.c = as_matrices(side.memberships),
                               .a = as_matrices(side.embedded),
                               .b = store_.value(clusters_),
                               .transpose_b = true,
                               .scratch = &ctx.scratch});
  kernels::memberships(ctx.stream,
                       {.y = side.memberships, .logits = side.memberships, .mask = mask});
}

void SbmAttention::draw_graph(Context& ctx, const AttentionInputs& in, View<double> expected,
                              Saved& saved) const {
  ctx.observer.begin(Phase::kSampling, ctx.stream);
  Arena::Scope scope(ctx.scratch);
  const RealView mu = ctx.scratch.alloc(ctx.precision(), saved.query.memberships.shape);
  kernels::matmul(ctx.stream, {.c = as_matrices(mu),
                               .a = as_matrices(saved.query.memberships),
                               .b = saved.blocks,
                               .scratch = &ctx.scratch});
  kernels::expected_edges(ctx.stream, {.expected = expected,
                                       .y_sum = saved.y_sum,
                                       .z_sum = saved.z_sum,
                                       .y = saved.query.memberships,
                                       .z = saved.key.memberships,
                                       .s = saved.blocks,
                                       .scratch = &ctx.scratch});
  naming_settings([&] {
    kernels::sample_edges(ctx.stream, {.edges = saved.edges,
                                       .mu = mu,
                                       .z = saved.key.memberships,
                                       .expected = expected,
                                       .query_mask = graph_mask(in),
                                       .key_mask = graph_mask(in),
                                       .samples = in.samples,
                                       .law = config_.law,
                                       .sampler = config_.sampler,
                                       .delta = exploration(ctx),
                                       .window_radius = config_.window_radius(),
                                       .rng = ctx.rng,
                                       .layer = ctx.layer,
                                       .scratch = &ctx.scratch});
  });
  ctx.observer.end(Phase::kSampling, ctx.stream);
}

void SbmAttention::report(Context& ctx, const AttentionInputs& in, View<const double> expected,
                          const Saved& saved) const {
  const auto counts = [&](FactId id) { return ctx.facts.at<int64_t>(id, ctx.layer); };
  const bool by_expectation = config_.regularizer == SbmRegularizer::kExpected;
  kernels::edge_statistics(ctx.stream, {.edges = counts(facts_.edges),
                                        .pairs = counts(facts_.pairs),
                                        .empty_rows = counts(facts_.empty_rows),
                                        .rows = counts(facts_.rows),
                                        .graph = saved.edges,
                                        .query_mask = graph_mask(in),
                                        .key_mask = graph_mask(in)});
  kernels::sparsity_loss(ctx.stream,
                         {.loss = ctx.facts.at<double>(facts_.auxiliary_loss, ctx.layer),
                          .expected = by_expectation ? expected : View<const double>{},
                          .weight = ctx.training ? edge_weight(in) : 0.0,
                          .graph = saved.edges});
}

void SbmAttention::do_forward(Context& ctx, const AttentionInputs& in, RealView out,
                              Attention::Saved& base) const {
  Saved& saved = static_cast<Saved&>(base);
  const int64_t heads = shape_.num_heads;
  const int64_t clusters = config_.clusters;
  const int64_t problems = in.q.shape[0] * heads;
  Arena::Scope scope(ctx.scratch);
  const View<double> expected = ctx.scratch.alloc<double>({problems});

  embed(ctx, in.content_q, graph_mask(in), saved.query);
  embed(ctx, in.content_k, graph_mask(in), saved.key);
  saved.blocks = ctx.saved.alloc<float>({heads, clusters, clusters});
  kernels::block_matrix(ctx.stream,
                        {.s = saved.blocks,
                         .effective_cells = ctx.facts.at<float>(facts_.effective_cells, ctx.layer),
                         .clusters = store_.value(clusters_),
                         .scratch = &ctx.scratch});

  saved.y_sum = ctx.saved.alloc<double>({problems, clusters});
  saved.z_sum = ctx.saved.alloc<double>({problems, clusters});
  saved.edges = naming_settings([&] {
    kernels::EdgeCapacity capacity = kernels::math::sampler_capacity(
        config_.law, config_.sampler, config_.tile_density, config_.max_density);
    capacity.window_radius = std::max<int64_t>(0, config_.window_radius());
    return kernels::alloc_edges(ctx.saved, problems, in.q.shape[2], in.k.shape[2], capacity);
  });
  if (!saved.edges.overflow.empty())
    saved.edges.overflow = ctx.facts.at<int32_t>(facts_.overflow, ctx.layer);
  draw_graph(ctx, in, expected, saved);
  report(ctx, in, expected, saved);

  saved.lse = ctx.saved.alloc<float>({in.q.shape[0], heads, in.q.shape[2]});
  saved.kept =
      drops(ctx, dropout_rate_) ? kernels::alloc_kept(ctx.saved, saved.edges) : View<uint32_t>{};
  kernels::attend_edges(ctx.stream, {.o = out,
                                     .lse = saved.lse,
                                     .q = in.q,
                                     .k = in.k,
                                     .v = in.v,
                                     .edges = saved.edges,
                                     .key_mask = in.mask,
                                     .scale = scale_,
                                     .dropout = dropout_of(ctx, in, dropout_rate_, saved.kept),
                                     .scratch = &ctx.scratch,
                                     .implementation = implementation_});
}

void SbmAttention::tell_graphs(Context& ctx, const AttentionInputs& in,
                               const Attention::Saved& base) const {
  const Saved& saved = static_cast<const Saved&>(base);
  const Stream& stream = ctx.stream;
  tell_rows(ctx, in, [&](int64_t row, const std::vector<int64_t>& tokens) {
    auto graph =
        std::make_unique<SbmGraph>(config_.law, exploration(ctx), config_.window_radius(), tokens);
    graph->edges = download_heads(stream, saved.edges, row, shape_.num_heads, tokens);
    graph->groups = config_.clusters;
    graph->query_memberships = download_features(stream, saved.query.memberships, row, tokens);
    graph->key_memberships = download_features(stream, saved.key.memberships, row, tokens);
    graph->blocks.resize(static_cast<size_t>(saved.blocks.numel()));
    download(stream, std::span<float>(graph->blocks), saved.blocks);
    return graph;
  });
}

/// From memberships back through the sigmoid, the clusters and phi; adds to dx.
void SbmAttention::embed_backward(Context& ctx, const Side& side, View<float> dmemberships,
                                  RealView dx) const {
  Arena::Scope scope(ctx.scratch);
  const RealView dembedded = ctx.scratch.alloc(ctx.precision(), dx.shape);
  const RealView dhidden = ctx.scratch.alloc(ctx.precision(), dx.shape);
  const RealView rounded = ctx.precision() == Precision::kFp32
                               ? RealView(dmemberships)
                               : ctx.scratch.alloc(ctx.precision(), dmemberships.shape);
  kernels::activation_backward(
      ctx.stream, {.dx = rounded, .dy = dmemberships, .saved = side.memberships, .kind = kSigmoid});
  const RealView dlogits = as_matrices(rounded);
  kernels::matmul(ctx.stream, {.c = store_.grad(clusters_),
                               .a = dlogits,
                               .b = as_matrices(side.embedded),
                               .transpose_a = true,
                               .beta = 1.0f,
                               .scratch = &ctx.scratch});
  kernels::matmul(ctx.stream, {.c = as_matrices(dembedded),
                               .a = dlogits,
                               .b = store_.value(clusters_),
                               .scratch = &ctx.scratch});
  phi_out_.backward(ctx, side.out, dembedded, dhidden);
  kernels::activation_backward(
      ctx.stream,
      {.dx = dhidden, .dy = dhidden, .saved = side.out.x, .kind = kernels::ActivationKind::kRelu});
  const RealView branch = dembedded;  // spent: its memory serves again
  phi_hidden_.backward(ctx, side.hidden, dhidden, branch);
  kernels::add(ctx.stream, {.y = dx, .a = dx, .b = branch});
}

void SbmAttention::membership_backward(Context& ctx, const AttentionInputs& in, const Saved& saved,
                                       RealView row_grad, RealView column_grad,
                                       const AttentionGrads& grads) const {
  Arena::Scope scope(ctx.scratch);
  const View<float> dblocks = ctx.scratch.alloc<float>(saved.blocks.shape);
  // fp32: the regulariser adds a small constant, which rounding would take away again.
  const View<float> dy = ctx.scratch.alloc<float>(row_grad.shape);
  kernels::matmul(ctx.stream, {.c = dblocks,
                               .a = as_matrices(saved.query.memberships),
                               .b = as_matrices(row_grad),
                               .transpose_a = true,
                               .scratch = &ctx.scratch});
  kernels::matmul(ctx.stream, {.c = as_matrices(dy),
                               .a = as_matrices(row_grad),
                               .b = saved.blocks,
                               .transpose_b = true,
                               .scratch = &ctx.scratch});
  const View<float> dz = floats_like(ctx, row_grad);
  kernels::matmul(ctx.stream, {.c = as_matrices(dz),
                               .a = as_matrices(column_grad),
                               .b = saved.blocks,
                               .scratch = &ctx.scratch});
  if (config_.regularizer == SbmRegularizer::kExpected && config_.sparsity_weight > 0.0) {
    kernels::expected_edges_backward(ctx.stream, {.dy = dy,
                                                  .dz = dz,
                                                  .ds = dblocks,
                                                  .y_sum = saved.y_sum,
                                                  .z_sum = saved.z_sum,
                                                  .s = saved.blocks,
                                                  .query_mask = graph_mask(in),
                                                  .key_mask = graph_mask(in),
                                                  .weight = static_cast<float>(edge_weight(in)),
                                                  .scratch = &ctx.scratch});
  }
  kernels::block_matrix_backward(ctx.stream, {.dclusters = store_.grad(clusters_),
                                              .ds = dblocks,
                                              .s = saved.blocks,
                                              .clusters = store_.value(clusters_),
                                              .scratch = &ctx.scratch});
  embed_backward(ctx, saved.query, dy, grads.dcontent_q);
  embed_backward(ctx, saved.key, dz, grads.dcontent_k);
}

void SbmAttention::do_backward(Context& ctx, const AttentionInputs& in, ConstRealView out,
                               ConstRealView dout, const Attention::Saved& base,
                               const AttentionGrads& grads) const {
  const Saved& saved = static_cast<const Saved&>(base);
  const bool ste_regularizer = config_.regularizer == SbmRegularizer::kSte;
  Arena::Scope scope(ctx.scratch);
  const RealView row_grad = ctx.scratch.alloc(ctx.precision(), saved.query.memberships.shape);
  const RealView column_grad = ctx.scratch.alloc(ctx.precision(), saved.key.memberships.shape);
  kernels::attend_edges_backward(
      ctx.stream,
      {.dq = grads.dq,
       .dk = grads.dk,
       .dv = grads.dv,
       .q = in.q,
       .k = in.k,
       .v = in.v,
       .o = out,
       .dout = dout,
       .lse = saved.lse,
       .edges = saved.edges,
       .key_mask = in.mask,
       .scale = scale_,
       .dropout = dropout_of(ctx, in, dropout_rate_, saved.kept),
       .ste = {.row_grad = row_grad,
               .column_grad = column_grad,
               .y = saved.query.memberships,
               .z = saved.key.memberships,
               .rule = config_.ste,
               .regularizer = ste_regularizer ? static_cast<float>(edge_weight(in)) : 0.0f,
               .clip = ste_clip(),
               .window_radius = config_.window_radius()},
       .scratch = &ctx.scratch,
       .implementation = implementation_});
  membership_backward(ctx, in, saved, row_grad, column_grad, grads);
}

}  // namespace stipple::model
