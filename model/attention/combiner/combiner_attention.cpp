// SPDX-License-Identifier: Apache-2.0
#include "model/attention/combiner/combiner_attention.h"

#include <algorithm>
#include <cmath>

#include "core/copy.h"
#include "core/error.h"
#include "kernels/activation.h"
#include "model/attention/combiner/fixed_cache.h"

namespace stipple::model {
namespace {

using kernels::PartitionKind;
using kernels::RegionKey;
using kernels::RegionPool;

PartitionKind kind_of(CombinerVariant variant) {
  switch (variant) {
    case CombinerVariant::kFixed:
      return PartitionKind::kFixed;
    case CombinerVariant::kLogsparse:
      return PartitionKind::kLogsparse;
    case CombinerVariant::kVertical:
      return PartitionKind::kVertical;
    case CombinerVariant::kHorizontal:
      return PartitionKind::kHorizontal;
    case CombinerVariant::kAxial:
      return PartitionKind::kRowMajor;
    case CombinerVariant::kMixture:
      return PartitionKind::kMixture;
  }
  throw Error("attention.combiner.variant: no such variant");
}

bool has_grid(const CombinerConfig& c) {
  return c.variant != CombinerVariant::kFixed && c.variant != CombinerVariant::kLogsparse;
}

/// Where a token asks for a region, nothing is pooled.
CombinerPool pooling_of(const CombinerConfig& c) {
  return c.variant == CombinerVariant::kAxial ? CombinerPool::kMax : c.pool;
}

RegionPool pool_of(const CombinerConfig& c) {
  switch (c.pool) {
    case CombinerPool::kMax:
    case CombinerPool::kReluMax:
    case CombinerPool::kDeepsetMax:
      return RegionPool::kMax;
    case CombinerPool::kMean:
    case CombinerPool::kReluMean:
    case CombinerPool::kDeepsetMean:
      return RegionPool::kMean;
    case CombinerPool::kSum:
    case CombinerPool::kReluSum:
    case CombinerPool::kDeepsetSum:
      return RegionPool::kSum;
  }
  throw Error("attention.combiner.pool: no such pool");
}

RegionKey key_of(const CombinerConfig& c) {
  const bool is_weighted =
      c.row_key == CombinerRowKey::kWeighted || c.row_key == CombinerRowKey::kWeightedProj;
  return c.variant == CombinerVariant::kAxial && is_weighted ? RegionKey::kWeighted
                                                             : RegionKey::kPooled;
}

bool projects(const CombinerConfig& c) {
  return c.variant == CombinerVariant::kAxial &&
         (c.row_key == CombinerRowKey::kProj || c.row_key == CombinerRowKey::kWeightedProj);
}

int64_t columns_of(const CombinerConfig& c, int64_t max_length) {
  const int64_t cells = std::max<int64_t>(max_length - c.global_tokens, 1);
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  if (c.columns == 0 && c.rows == 0)
    return static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(cells))));
  if (c.columns == 0) return ceil_div(cells, c.rows);
  STIPPLE_CHECK_AS(ConfigError, !has_grid(c) || c.rows == 0 || c.rows >= ceil_div(cells, c.columns),
                   "attention.combiner.rows: a grid of ", c.rows, " rows and ", c.columns,
                   " columns has no room for ", cells,
                   " tokens of a sequence; use rows=", ceil_div(cells, c.columns),
                   ", or 0 for as many as are needed");
  return c.columns;
}

bool averages(const CombinerConfig& c) {
  return c.variant == CombinerVariant::kMixture && c.mix == CombinerMix::kAverage;
}

/// out = (a + b) / 2: parts of equal weight.
void average(Context& ctx, ConstRealView a, ConstRealView b, RealView out) {
  const Arena::Scope scope(ctx.scratch);
  const View<float> lse = ctx.scratch.alloc<float>({out.shape[0], out.shape[1], out.shape[2]});
  fill_zero_bytes(ctx.stream, lse.data, lse.bytes());
  const kernels::AttendPart parts[] = {{a, lse}, {b, lse}};
  kernels::merge_parts(ctx.stream, {.o = out, .lse = lse, .parts = parts});
}

kernels::AttentionDropout rate_of(const Context& ctx, const AttentionInputs& in, double rate) {
  return dropout_of(ctx, in, static_cast<float>(rate), {});
}

}  // namespace

CombinerAttention::SeenFacts CombinerAttention::declare(FactTable& facts, int64_t heads) {
  const SeenFacts ids{.direct_weight = facts.declare_per_layer<double>("direct_weight", heads),
                      .region_entropy = facts.declare_per_layer<double>("region_entropy", heads),
                      .queries = facts.declare_per_layer<int64_t>("queries", heads),
                      .with_regions = facts.declare_per_layer<int64_t>("with_regions", heads)};
  facts.show({.name = "direct_weight",
              .title = "Direct weight",
              .unit = "share of attention on tokens that are seen directly",
              .is_share = true,
              .over = ids.direct_weight,
              .under = ids.queries});
  facts.show({.name = "region_entropy",
              .title = "Entropy of regions",
              .unit = "nats of a query's weights among its regions",
              .over = ids.region_entropy,
              .under = ids.with_regions});
  return ids;
}

CombinerAttention::CombinerAttention(const AttentionConfig& config, ParameterStore& store,
                                     FactTable& facts, const AttentionShape& shape)
    : store_(store),
      config_(config.combiner.resolved()),
      heads_(shape.num_heads),
      head_dim_(shape.head_dim),
      is_causal_(shape.is_causal),
      columns_(columns_of(config_, shape.max_length)),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)))),
      direct_dropout_(config_.dropout.direct < 0 ? config.dropout : config_.dropout.direct),
      facts_(declare(facts, shape.num_heads)),
      query_pool_(store, shape.name + ".pool_query", pooling_of(config_), shape.head_dim),
      key_pool_(store, shape.name + ".pool_key", pooling_of(config_), shape.head_dim) {
  if (projects(config_))
    row_key_.emplace(store, shape.name + ".row_key", shape.num_heads * shape.head_dim);
  if (config_.mass_bias == CombinerMassBias::kLearned)
    mass_ = store.declare(shape.name + ".mass", {shape.num_heads}, Init::constant(0), Decay::kNo);
}

AttentionTraits CombinerAttention::traits(const AttentionConfig&) {
  return {.can_be_causal = true};
}

void CombinerAttention::validate(const AttentionConfig& config) {
  const double direct = config.combiner.dropout.direct;
  STIPPLE_CHECK_AS(ConfigError, direct >= 0 || direct == -1,
                   "attention.combiner.dropout.direct: ", direct,
                   " is no probability; use 0 to 0.99, or -1 for attention.dropout");
}

std::unique_ptr<Attention::Saved> CombinerAttention::make_saved() const {
  return std::make_unique<Saved>();
}

kernels::Partition CombinerAttention::partition(int layer, int64_t length, size_t member) const {
  const bool is_shifted = config_.shift_odd_layers && layer % 2 == 1;
  PartitionKind kind = kind_of(config_.variant);
  if (averages(config_)) kind = member == 0 ? PartitionKind::kVertical : PartitionKind::kHorizontal;
  return {.kind = kind,
          .is_causal = is_causal_,
          .overlaps_own = config_.overlap_own,
          .length = length,
          .globals = std::min(config_.global_tokens, length),
          .block = config_.block,
          .shift = is_shifted ? config_.block / 2 : 0,
          .columns = columns_};
}

kernels::RegionMass CombinerAttention::mass() const {
  if (config_.mass_bias == CombinerMassBias::kNone) return {};
  if (config_.mass_bias == CombinerMassBias::kLogSize) return {.factor = 1.0f};
  return {.factor = 1.0f, .head_factor = store_.value(mass_)};
}

kernels::CombineFacts CombinerAttention::facts_of(Context& ctx) const {
  return {.direct_weight = ctx.facts.at<double>(facts_.direct_weight, ctx.layer),
          .region_entropy = ctx.facts.at<double>(facts_.region_entropy, ctx.layer),
          .queries = ctx.facts.at<int64_t>(facts_.queries, ctx.layer),
          .with_regions = ctx.facts.at<int64_t>(facts_.with_regions, ctx.layer)};
}

// --- forward -------------------------------------------------------------------------------------

void CombinerAttention::forward_member(Context& ctx, const AttentionInputs& in,
                                       const kernels::Partition& cut, Member& member) const {
  const Shape& shape = in.q.shape;
  member.lse = ctx.saved.alloc<float>({shape[0], shape[1], shape[2]});
  member.summaries = kernels::alloc_summaries(ctx.saved, ctx.precision(), shape[0], shape[1],
                                              shape[3], cut, pool_of(config_), key_of(config_));
  const Arena::Scope scope(ctx.scratch);
  kernels::summarize_regions(ctx.stream, {.out = member.summaries,
                                          .q = query_pool_.forward(ctx, in.content_q),
                                          .k = in.content_k,
                                          .v = in.v,
                                          .pooled_k = key_pool_.forward(ctx, in.content_k),
                                          .mask = in.mask,
                                          .partition = cut,
                                          .pool = pool_of(config_),
                                          .key = key_of(config_),
                                          .scale = scale_,
                                          .dropout = rate_of(ctx, in, config_.dropout.local),
                                          .scratch = &ctx.scratch});
  member.key = member.summaries.key;
  if (row_key_ && cut.num_regions() > 0) {
    member.key = ctx.saved.alloc(ctx.precision(), member.key.shape);
    const bool of_keys = key_of(config_) == RegionKey::kWeighted;
    row_key_->forward(ctx, in.x, of_keys ? member.summaries.key : member.summaries.value, cut,
                      member.summaries, member.key, member.row_key);
  }
  kernels::combine(ctx.stream, {.o = member.o,
                                .lse = member.lse,
                                .q = in.q,
                                .k = in.k,
                                .v = in.v,
                                .region_q = in.content_q,
                                .region_key = member.key,
                                .region_value = member.summaries.value,
                                .region_tokens = member.summaries.tokens,
                                .mask = in.mask,
                                .partition = cut,
                                .mass = mass(),
                                .scale = scale_,
                                .dropout = rate_of(ctx, in, direct_dropout_),
                                .region_dropout = rate_of(ctx, in, config_.dropout.region),
                                .facts = facts_of(ctx),
                                .scratch = &ctx.scratch});
}

void CombinerAttention::do_forward(Context& ctx, const AttentionInputs& in, RealView out,
                                   Attention::Saved& base) const {
  auto& members = static_cast<Saved&>(base).members;
  if (!averages(config_)) {
    members[0].o = out;
    return forward_member(ctx, in, partition(ctx.layer, in.q.shape[2], 0), members[0]);
  }
  for (size_t m = 0; m < members.size(); ++m) {
    members[m].o = ctx.saved.alloc(ctx.precision(), out.shape);
    forward_member(ctx, in, partition(ctx.layer, in.q.shape[2], m), members[m]);
  }
  average(ctx, members[0].o, members[1].o, out);
}

// --- token by token ------------------------------------------------------------------------------

std::unique_ptr<AttentionCache> CombinerAttention::make_cache(Arena& arena, const Stream& stream,
                                                              int64_t longest) const {
  if (config_.variant != CombinerVariant::kFixed || !is_causal_) return nullptr;
  // An odd layer's blocks are the most.
  return std::make_unique<FixedCache>(arena, stream, partition(1, longest, 0), heads_, head_dim_);
}

void CombinerAttention::do_decode(Context& ctx, const AttentionInputs& in, RealView out,
                                  AttentionCache& base) const {
  FixedCache& cache = static_cast<FixedCache&>(base);
  cache.decode(ctx, in, out,
               {.partition = partition(ctx.layer, cache.longest(), 0),
                .query_pool = query_pool_,
                .key_pool = key_pool_,
                .pool = pool_of(config_),
                .mass = mass(),
                .scale = scale_});
}

// --- backward ------------------------------------------------------------------------------------

void CombinerAttention::summarize_backward(Context& ctx, const AttentionInputs& in,
                                           const kernels::Partition& cut, const Member& member,
                                           ConstRealView dkey, ConstRealView dvalue,
                                           const AttentionGrads& grads) const {
  const Arena::Scope scope(ctx.scratch);
  RealView dpooled_q = grads.dcontent_q, dpooled_k = grads.dcontent_k;
  if (!query_pool_.is_identity()) {
    for (RealView* gradient : {&dpooled_q, &dpooled_k}) {
      *gradient = ctx.scratch.alloc(ctx.precision(), in.q.shape);
      fill_zero_bytes(ctx.stream, gradient->data, gradient->bytes());
    }
  }
  kernels::summarize_regions_backward(ctx.stream,
                                      {.dq = dpooled_q,
                                       .dk = grads.dcontent_k,
                                       .dv = grads.dv,
                                       .dpooled_k = dpooled_k,
                                       .dkey = dkey,
                                       .dvalue = dvalue,
                                       .saved = member.summaries,
                                       .k = in.content_k,
                                       .v = in.v,
                                       .mask = in.mask,
                                       .partition = cut,
                                       .pool = pool_of(config_),
                                       .key = key_of(config_),
                                       .scale = scale_,
                                       .dropout = rate_of(ctx, in, config_.dropout.local),
                                       .scratch = &ctx.scratch});
  if (query_pool_.is_identity()) return;
  query_pool_.backward(ctx, in.content_q, dpooled_q, grads.dcontent_q);
  key_pool_.backward(ctx, in.content_k, dpooled_k, grads.dcontent_k);
}

/// The gradient by projected keys goes to what they were made of; dkey becomes the gradient by the
/// summaries' own keys.
void CombinerAttention::project_backward(Context& ctx, const kernels::Partition& cut,
                                         const Member& member, RealView dkey, RealView dvalue,
                                         const AttentionGrads& grads) const {
  const Arena::Scope scope(ctx.scratch);
  const RealView dprojected = ctx.scratch.alloc(ctx.precision(), dkey.shape);
  copy_bytes(ctx.stream, dprojected.data, dkey.data, dkey.bytes());
  fill_zero_bytes(ctx.stream, dkey.data, dkey.bytes());
  const bool of_keys = key_of(config_) == RegionKey::kWeighted;
  row_key_->backward(ctx, member.row_key, dprojected, cut, member.summaries,
                     of_keys ? dkey : dvalue, grads.dx);
}

void CombinerAttention::backward_member(Context& ctx, const AttentionInputs& in,
                                        const kernels::Partition& cut, ConstRealView dout,
                                        const Member& member, const AttentionGrads& grads) const {
  const Arena::Scope scope(ctx.scratch);
  const RealView dkey = ctx.scratch.alloc(ctx.precision(), member.summaries.key.shape);
  const RealView dvalue = ctx.scratch.alloc(ctx.precision(), member.summaries.value.shape);
  const bool learns_mass = config_.mass_bias == CombinerMassBias::kLearned;
  kernels::combine_backward(ctx.stream,
                            {.dq = grads.dq,
                             .dk = grads.dk,
                             .dv = grads.dv,
                             .dregion_q = grads.dcontent_q,
                             .dregion_key = dkey,
                             .dregion_value = dvalue,
                             .dhead_factor = learns_mass ? store_.grad(mass_) : View<float>{},
                             .q = in.q,
                             .k = in.k,
                             .v = in.v,
                             .region_q = in.content_q,
                             .region_key = member.key,
                             .region_value = member.summaries.value,
                             .region_tokens = member.summaries.tokens,
                             .o = member.o,
                             .dout = dout,
                             .lse = member.lse,
                             .mask = in.mask,
                             .partition = cut,
                             .mass = mass(),
                             .scale = scale_,
                             .dropout = rate_of(ctx, in, direct_dropout_),
                             .region_dropout = rate_of(ctx, in, config_.dropout.region),
                             .scratch = &ctx.scratch});
  if (row_key_ && cut.num_regions() > 0) project_backward(ctx, cut, member, dkey, dvalue, grads);
  summarize_backward(ctx, in, cut, member, dkey, dvalue, grads);
}

void CombinerAttention::do_backward(Context& ctx, const AttentionInputs& in, ConstRealView,
                                    ConstRealView dout, const Attention::Saved& base,
                                    const AttentionGrads& grads) const {
  const auto& members = static_cast<const Saved&>(base).members;
  const auto cut = [&](size_t m) { return partition(ctx.layer, in.q.shape[2], m); };
  if (!averages(config_)) return backward_member(ctx, in, cut(0), dout, members[0], grads);

  const Arena::Scope scope(ctx.scratch);
  const auto like = [&](ConstRealView x) { return ctx.scratch.alloc(ctx.precision(), x.shape); };
  const RealView half = like(dout), zeros = like(dout);
  fill_zero_bytes(ctx.stream, zeros.data, zeros.bytes());
  average(ctx, dout, zeros, half);
  // The second attention writes arrays of its own, and adds to those of content that are apart.
  AttentionGrads second{.dq = like(in.q), .dk = like(in.k), .dv = like(in.v)};
  const bool apart = grads.dcontent_q.data != grads.dq.data;
  second.dcontent_q = apart ? grads.dcontent_q : second.dq;
  second.dcontent_k = apart ? grads.dcontent_k : second.dk;
  backward_member(ctx, in, cut(0), half, members[0], grads);
  backward_member(ctx, in, cut(1), half, members[1], second);
  kernels::add(ctx.stream, {.y = grads.dq, .a = grads.dq, .b = second.dq});
  kernels::add(ctx.stream, {.y = grads.dk, .a = grads.dk, .b = second.dk});
  kernels::add(ctx.stream, {.y = grads.dv, .a = grads.dv, .b = second.dv});
}

}  // namespace stipple::model
