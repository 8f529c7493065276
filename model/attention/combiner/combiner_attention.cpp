// SPDX-License-Identifier: Apache-2.0
#include "model/attention/combiner/combiner_attention.h"

#include <algorithm>
#include <cmath>

#include "core/copy.h"
#include "core/error.h"
#include "kernels/activation.h"

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

bool rectifies(const CombinerConfig& c) {
  return c.pool >= CombinerPool::kReluMax && c.variant != CombinerVariant::kAxial;
}

RegionPool pool_of(const CombinerConfig& c) {
  switch (c.pool) {
    case CombinerPool::kMax:
    case CombinerPool::kReluMax:
      return RegionPool::kMax;
    case CombinerPool::kMean:
    case CombinerPool::kReluMean:
      return RegionPool::kMean;
    case CombinerPool::kSum:
    case CombinerPool::kReluSum:
      return RegionPool::kSum;
  }
  throw Error("attention.combiner.pool: no such pool");
}

RegionKey key_of(const CombinerConfig& c) {
  const bool is_weighted =
      c.variant == CombinerVariant::kAxial && c.row_key == CombinerRowKey::kWeighted;
  return is_weighted ? RegionKey::kWeighted : RegionKey::kPooled;
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

kernels::AttentionDropout rate_of(const Context& ctx, const AttentionInputs& in, double rate) {
  return dropout_of(ctx, in, static_cast<float>(rate), {});
}

}  // namespace

CombinerAttention::CombinerAttention(const AttentionConfig& config, ParameterStore& store,
                                     FactTable&, const AttentionShape& shape)
    : store_(store),
      config_(config.combiner),
      is_causal_(shape.is_causal),
      columns_(columns_of(config_, shape.max_length)),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)))),
      direct_dropout_(static_cast<float>(config_.dropout.direct < 0 ? config.dropout
                                                                    : config_.dropout.direct)) {
  if (config_.mass_bias == CombinerMassBias::kLearned)
    mass_ = store.declare(shape.name + ".mass", {shape.num_heads}, Init::constant(0), Decay::kNo);
}

AttentionTraits CombinerAttention::traits(const AttentionConfig&) {
  return {.can_be_causal = true, .runs_on_cuda = false};
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

kernels::Partition CombinerAttention::partition(const Context& ctx, int64_t length) const {
  const bool is_shifted = config_.shift_odd_layers && ctx.layer % 2 == 1;
  return {.kind = kind_of(config_.variant),
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

/// What regions pool of x.
ConstRealView CombinerAttention::pooled(Context& ctx, ConstRealView x) const {
  if (!rectifies(config_)) return x;
  const RealView y = ctx.scratch.alloc(ctx.precision(), x.shape);
  kernels::activation(ctx.stream, {.y = y, .x = x, .kind = kernels::ActivationKind::kRelu});
  return y;
}

/// Takes the gradient by pooled(x) on to x.
void CombinerAttention::add_pooled_gradient(Context& ctx, ConstRealView x, RealView dpooled,
                                            RealView dx) const {
  const Arena::Scope scope(ctx.scratch);
  kernels::activation_backward(ctx.stream, {.dx = dpooled,
                                            .dy = dpooled,
                                            .saved = pooled(ctx, x),
                                            .kind = kernels::ActivationKind::kRelu});
  kernels::add(ctx.stream, {.y = dx, .a = dx, .b = dpooled});
}

void CombinerAttention::do_forward(Context& ctx, const AttentionInputs& in, RealView out,
                                   Attention::Saved& base) const {
  Saved& saved = static_cast<Saved&>(base);
  const Shape& shape = in.q.shape;
  const kernels::Partition cut = partition(ctx, shape[2]);
  saved.lse = ctx.saved.alloc<float>({shape[0], shape[1], shape[2]});
  saved.summaries = kernels::alloc_summaries(ctx.saved, ctx.precision(), shape[0], shape[1],
                                             shape[3], cut, pool_of(config_), key_of(config_));
  const Arena::Scope scope(ctx.scratch);
  kernels::summarize_regions(ctx.stream, {.out = saved.summaries,
                                          .q = pooled(ctx, in.content_q),
                                          .k = in.content_k,
                                          .v = in.v,
                                          .pooled_k = pooled(ctx, in.content_k),
                                          .mask = in.mask,
                                          .partition = cut,
                                          .pool = pool_of(config_),
                                          .key = key_of(config_),
                                          .scale = scale_,
                                          .dropout = rate_of(ctx, in, config_.dropout.local),
                                          .scratch = &ctx.scratch});
  kernels::combine(ctx.stream, {.o = out,
                                .lse = saved.lse,
                                .q = in.q,
                                .k = in.k,
                                .v = in.v,
                                .region_q = in.content_q,
                                .region_key = saved.summaries.key,
                                .region_value = saved.summaries.value,
                                .region_tokens = saved.summaries.tokens,
                                .mask = in.mask,
                                .partition = cut,
                                .mass = mass(),
                                .scale = scale_,
                                .dropout = dropout_of(ctx, in, direct_dropout_, {}),
                                .region_dropout = rate_of(ctx, in, config_.dropout.region),
                                .scratch = &ctx.scratch});
}

void CombinerAttention::summarize_backward(Context& ctx, const AttentionInputs& in,
                                           const Saved& saved, ConstRealView dkey,
                                           ConstRealView dvalue,
                                           const AttentionGrads& grads) const {
  const Arena::Scope scope(ctx.scratch);
  RealView dpooled_q = grads.dcontent_q, dpooled_k = grads.dcontent_k;
  if (rectifies(config_)) {
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
                                       .saved = saved.summaries,
                                       .k = in.content_k,
                                       .v = in.v,
                                       .mask = in.mask,
                                       .partition = partition(ctx, in.q.shape[2]),
                                       .pool = pool_of(config_),
                                       .key = key_of(config_),
                                       .scale = scale_,
                                       .dropout = rate_of(ctx, in, config_.dropout.local),
                                       .scratch = &ctx.scratch});
  if (!rectifies(config_)) return;
  add_pooled_gradient(ctx, in.content_q, dpooled_q, grads.dcontent_q);
  add_pooled_gradient(ctx, in.content_k, dpooled_k, grads.dcontent_k);
}

void CombinerAttention::do_backward(Context& ctx, const AttentionInputs& in, ConstRealView out,
                                    ConstRealView dout, const Attention::Saved& base,
                                    const AttentionGrads& grads) const {
  const Saved& saved = static_cast<const Saved&>(base);
  const Arena::Scope scope(ctx.scratch);
  const RealView dkey = ctx.scratch.alloc(ctx.precision(), saved.summaries.key.shape);
  const RealView dvalue = ctx.scratch.alloc(ctx.precision(), saved.summaries.value.shape);
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
                             .region_key = saved.summaries.key,
                             .region_value = saved.summaries.value,
                             .region_tokens = saved.summaries.tokens,
                             .o = out,
                             .dout = dout,
                             .lse = saved.lse,
                             .mask = in.mask,
                             .partition = partition(ctx, in.q.shape[2]),
                             .mass = mass(),
                             .scale = scale_,
                             .dropout = dropout_of(ctx, in, direct_dropout_, {}),
                             .region_dropout = rate_of(ctx, in, config_.dropout.region),
                             .scratch = &ctx.scratch});
  summarize_backward(ctx, in, saved, dkey, dvalue, grads);
}

}  // namespace stipple::model
