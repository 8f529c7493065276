// SPDX-License-Identifier: Apache-2.0
#include "model/encoder.h"

#include "core/copy.h"
#include "core/profiler_range.h"
#include "kernels/activation.h"
#include "kernels/convert.h"
#include "kernels/heads.h"
#include "model/attention/graph.h"

namespace stipple::model {
namespace {

std::string block_name(int layer) { return "encoder." + std::to_string(layer); }

AttentionShape attention_shape(const EncoderConfig& config, int layer) {
  return {.num_layers = config.layers,
          .num_heads = config.heads,
          .head_dim = config.width / config.heads,
          .max_length = config.max_length,
          .is_causal = config.is_causal,
          .is_packed = config.is_packed,
          .name = block_name(layer) + ".attention"};
}

}  // namespace

EncoderBlock::EncoderBlock(ParameterStore& store, const EncoderConfig& config,
                           const AttentionFactory& make_attention, int layer)
    : store_(store),
      forward_name_(block_name(layer) + " forward"),
      backward_name_(block_name(layer) + " backward"),
      heads_(config.heads),
      norm_(config.norm),
      attention_norm_(store, block_name(layer) + ".attention_norm", config.width, config.norm_eps),
      query_(store, block_name(layer) + ".query", config.width, config.width),
      key_(store, block_name(layer) + ".key", config.width, config.width),
      value_(store, block_name(layer) + ".value", config.width, config.width),
      attention_(make_attention(attention_shape(config, layer))),
      out_(store, block_name(layer) + ".out", config.width, config.width),
      attention_dropout_{static_cast<float>(config.dropout), DropoutSite::kAttentionOut},
      feedforward_norm_(store, block_name(layer) + ".feedforward_norm", config.width,
                        config.norm_eps),
      feedforward_(store, block_name(layer) + ".feedforward", config.width, config.feedforward,
                   config.dropout) {}

EncoderBlock::Saved EncoderBlock::make_saved() const {
  Saved saved;
  saved.attention = attention_->make_saved();
  return saved;
}

AttentionInputs EncoderBlock::attention_inputs(const Input& input, const Saved& saved) const {
  return {.q = saved.q,
          .k = saved.k,
          .v = saved.v,
          .content_q = saved.content_q,
          .content_k = saved.content_k,
          .x = attention_->reads_input() ? saved.query.x : ConstRealView{},
          .mask = input.mask,
          .groups = saved.groups,
          .samples = input.samples,
          .batch_share = input.batch_share};
}

RealView EncoderBlock::project_to_heads(Context& ctx, const Linear& linear, ConstRealView x,
                                        Linear::Saved& saved) const {
  const RealView split =
      ctx.saved.alloc(ctx.precision(), {x.shape[0], heads_, x.shape[1], x.shape[2] / heads_});
  Arena::Scope scope(ctx.scratch);
  const RealView merged = ctx.scratch.alloc(ctx.precision(), x.shape);
  linear.forward(ctx, x, merged, saved);
  kernels::split_heads(ctx.stream, {.y = split, .x = merged});
  return split;
}

/// In place where nobody reads what tokens are without their places.
RealView EncoderBlock::rotated(Context& ctx, const RotaryTable& rotary, RealView content) const {
  if (rotary.empty()) return content;
  const RealView y =
      attention_->reads_content() ? ctx.saved.alloc(content.precision, content.shape) : content;
  rotary.apply(ctx, content, y);
  return y;
}

/// dx by the rotated array becomes the whole gradient by the array that was rotated.
void EncoderBlock::rotate_backward(Context& ctx, const RotaryTable& rotary, RealView dx,
                                   RealView dcontent) const {
  if (rotary.empty()) return;
  rotary.gradient(ctx, dx);
  if (attention_->reads_content()) kernels::add(ctx.stream, {.y = dx, .a = dx, .b = dcontent});
}

/// What a branch reads of the residual stream, as activations are stored.
ConstRealView EncoderBlock::branch_input(Context& ctx, const LayerNorm& norm, View<const float> x,
                                         LayerNorm::Saved& saved) const {
  if (norm_ == NormPlace::kPost && ctx.precision() == Precision::kFp32) return x;
  const RealView y = ctx.saved.alloc(ctx.precision(), x.shape);
  if (norm_ == NormPlace::kPost) {
    kernels::convert(ctx.stream, {.y = y, .x = x});
  } else {
    norm.forward(ctx, x, y, saved);
  }
  return y;
}

void EncoderBlock::attend(Context& ctx, const Input& input, ConstRealView x, View<float> y,
                          Saved& saved) const {
  saved.content_q = project_to_heads(ctx, query_, x, saved.query);
  saved.content_k = project_to_heads(ctx, key_, x, saved.key);
  saved.q = rotated(ctx, saved.rotary, saved.content_q);
  saved.k = rotated(ctx, saved.rotary, saved.content_k);
  saved.v = project_to_heads(ctx, value_, x, saved.value);
  saved.o = ctx.saved.alloc(ctx.precision(), saved.q.shape);
  attention_->forward(ctx, attention_inputs(input, saved), saved.o, *saved.attention);
  if (ctx.graphs != nullptr) {
    ctx.graphs->hear(ctx, attention_inputs(input, saved));
    attention_->tell_graphs(ctx, attention_inputs(input, saved), *saved.attention);
  }

  const RealView merged = ctx.saved.alloc(ctx.precision(), x.shape);
  kernels::merge_heads(ctx.stream, {.y = merged, .x = saved.o});
  out_.forward(ctx, merged, y, saved.out);
  attention_dropout_.apply(ctx, input.samples, y);
}

void EncoderBlock::forward(Context& ctx, const Input& input, View<const float> x, View<float> y,
                           Saved& saved) const {
  const ProfilerRange range(forward_name_.c_str());
  const bool is_post = norm_ == NormPlace::kPost;
  const View<float> attended = ctx.saved.alloc<float>(x.shape);
  attend(ctx, input, branch_input(ctx, attention_norm_, x, saved.attention_norm), attended, saved);
  kernels::add(ctx.stream, {.y = attended, .a = attended, .b = x});
  const View<float> middle = is_post ? ctx.saved.alloc<float>(x.shape) : attended;
  if (is_post) attention_norm_.forward(ctx, attended, middle, saved.attention_norm);

  const View<float> fed = is_post ? ctx.saved.alloc<float>(x.shape) : y;
  feedforward_.forward(ctx, branch_input(ctx, feedforward_norm_, middle, saved.feedforward_norm),
                       input.samples, fed, saved.feedforward);
  kernels::add(ctx.stream, {.y = fed, .a = fed, .b = middle});
  if (is_post) feedforward_norm_.forward(ctx, fed, y, saved.feedforward_norm);
}

/// Writes dx, or adds to it where the attention has begun it.
void EncoderBlock::project_backward(Context& ctx, const Saved& saved, const AttentionGrads& grads,
                                    RealView dx) const {
  Arena::Scope scope(ctx.scratch);
  const RealView merged = ctx.scratch.alloc(ctx.precision(), dx.shape);
  const RealView branch = ctx.scratch.alloc(ctx.precision(), dx.shape);
  kernels::merge_heads(ctx.stream, {.y = merged, .x = grads.dv});
  const bool is_begun = !grads.dx.empty();
  value_.backward(ctx, saved.value, merged, is_begun ? branch : dx);
  if (is_begun) kernels::add(ctx.stream, {.y = dx, .a = dx, .b = branch});
  kernels::merge_heads(ctx.stream, {.y = merged, .x = grads.dk});
  key_.backward(ctx, saved.key, merged, branch);
  kernels::add(ctx.stream, {.y = dx, .a = dx, .b = branch});
  kernels::merge_heads(ctx.stream, {.y = merged, .x = grads.dq});
  query_.backward(ctx, saved.query, merged, branch);
  kernels::add(ctx.stream, {.y = dx, .a = dx, .b = branch});
}

AttentionGrads EncoderBlock::attention_grads(Context& ctx, const Saved& saved, RealView dx) const {
  const auto like = [&](RealView x) { return ctx.scratch.alloc(ctx.precision(), x.shape); };
  const auto zero = [&](RealView x) { fill_zero_bytes(ctx.stream, x.data, x.bytes()); };
  const RealView dq = like(saved.q), dk = like(saved.k), dv = like(saved.v);
  AttentionGrads grads{.dq = dq, .dk = dk, .dv = dv, .dcontent_q = dq, .dcontent_k = dk};
  if (!saved.rotary.empty() && attention_->reads_content()) {
    zero(grads.dcontent_q = like(saved.q));
    zero(grads.dcontent_k = like(saved.k));
  }
  if (attention_->reads_input()) zero(grads.dx = dx);
  return grads;
}

void EncoderBlock::attend_backward(Context& ctx, const Input& input, const Saved& saved,
                                   View<const float> dy, RealView dx) const {
  Arena::Scope scope(ctx.scratch);
  const AttentionGrads grads = attention_grads(ctx, saved, dx);
  const RealView dattended = ctx.scratch.alloc(ctx.precision(), saved.o.shape);
  {
    Arena::Scope inner(ctx.scratch);
    const RealView dmerged = ctx.scratch.alloc(ctx.precision(), dy.shape);
    const ConstRealView dout = attention_dropout_.gradient(ctx, input.samples, dy);
    out_.backward(ctx, saved.out, dout, dmerged);
    kernels::split_heads(ctx.stream, {.y = dattended, .x = dmerged});
  }
  attention_->backward(ctx, attention_inputs(input, saved), saved.o, dattended, *saved.attention,
                       grads);
  rotate_backward(ctx, saved.rotary, grads.dq, grads.dcontent_q);
  rotate_backward(ctx, saved.rotary, grads.dk, grads.dcontent_k);
  project_backward(ctx, saved, grads, dx);
}

void EncoderBlock::backward(Context& ctx, const Input& input, const Saved& saved,
                            View<float> dx) const {
  const ProfilerRange range(backward_name_.c_str());
  Arena::Scope scope(ctx.scratch);
  const RealView branch = ctx.scratch.alloc(ctx.precision(), dx.shape);
  const bool is_post = norm_ == NormPlace::kPost;
  if (is_post) feedforward_norm_.backward(ctx, saved.feedforward_norm, dx, dx);
  feedforward_.backward(ctx, saved.feedforward, dx, branch);
  if (!is_post) feedforward_norm_.backward(ctx, saved.feedforward_norm, branch, branch);
  kernels::add(ctx.stream, {.y = dx, .a = dx, .b = branch});
  ctx.observer.grads_ready(store_.range(feedforward_norm_.first(), feedforward_.last()));

  if (is_post) attention_norm_.backward(ctx, saved.attention_norm, dx, dx);
  attend_backward(ctx, input, saved, dx, branch);
  if (!is_post) attention_norm_.backward(ctx, saved.attention_norm, branch, branch);
  kernels::add(ctx.stream, {.y = dx, .a = dx, .b = branch});
  ctx.observer.grads_ready(store_.range(attention_norm_.first(), out_.last()));
}

void EncoderBlock::skip_backward(Context& ctx) const {
  ctx.observer.grads_ready(store_.range(attention_norm_.first(), feedforward_.last()));
}

namespace {

std::vector<EncoderBlock> make_blocks(ParameterStore& store, const EncoderConfig& config,
                                      const AttentionFactory& make_attention) {
  std::vector<EncoderBlock> blocks;
  blocks.reserve(static_cast<size_t>(config.layers));
  for (int layer = 0; layer < config.layers; ++layer) {
    blocks.emplace_back(store, config, make_attention, layer);
  }
  return blocks;
}

}  // namespace

Encoder::Encoder(ParameterStore& store, const EncoderConfig& config,
                 const AttentionFactory& make_attention)
    : store_(store),
      heads_(config.heads),
      head_dim_(config.width / config.heads),
      rotary_(config.rotary),
      blocks_(make_blocks(store, config, make_attention)) {
  if (config.norm == NormPlace::kPre)
    norm_.emplace(store, "encoder.norm", config.width, config.norm_eps);
}

Encoder::Saved Encoder::make_saved() const {
  Saved saved;
  for (const EncoderBlock& block : blocks_) saved.blocks.push_back(block.make_saved());
  return saved;
}

void Encoder::begin_step(const Stream& stream, const RngKey& rng) const {
  for (const EncoderBlock& block : blocks_) block.begin_step(stream, rng);
}

/// The pieces of a row, for each head.
View<const int32_t> Encoder::groups_of(Context& ctx, View<const int32_t> pieces) const {
  if (pieces.empty()) return {};
  const int64_t rows = pieces.shape[0], tokens = pieces.shape[1];
  const View<int32_t> groups = ctx.saved.alloc<int32_t>({rows * heads_, tokens});
  const size_t bytes = static_cast<size_t>(tokens) * sizeof(int32_t);
  for (int64_t p = 0; p < rows * heads_; ++p)
    copy_bytes(ctx.stream, groups.at(p).data, pieces.at(p / heads_).data, bytes);
  return groups;
}

void Encoder::forward(Context& ctx, const Input& input, View<const float> x, View<float> y,
                      Saved& saved) const {
  const RotaryTable rotary =
      rotary_ ? RotaryTable::make(ctx, x.shape[1], head_dim_) : RotaryTable{};
  const View<const int32_t> groups = groups_of(ctx, input.pieces);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const bool is_end = !norm_ && i + 1 == blocks_.size();
    const View<float> next = is_end ? y : ctx.saved.alloc<float>(x.shape);
    saved.blocks[i].rotary = rotary;
    saved.blocks[i].groups = groups;
    ctx.layer = static_cast<int>(i);
    blocks_[i].forward(ctx, input, x, next, saved.blocks[i]);
    x = next;
  }
  ctx.layer = 0;
  if (norm_) norm_->forward(ctx, x, y, saved.norm);
  kernels::mask_rows(ctx.stream, {.x = y, .mask = input.mask});
}

std::vector<std::unique_ptr<AttentionCache>> Encoder::make_caches(Arena& arena,
                                                                  const Stream& stream,
                                                                  int64_t longest) const {
  std::vector<std::unique_ptr<AttentionCache>> caches;
  for (const EncoderBlock& block : blocks_) {
    caches.push_back(block.make_cache(arena, stream, longest));
    if (caches.back() == nullptr) return {};
  }
  return caches;
}

void Encoder::backward(Context& ctx, const Input& input, const Saved& saved, View<float> dx,
                       int64_t frozen_blocks) const {
  kernels::mask_rows(ctx.stream, {.x = dx, .mask = input.mask});
  if (norm_) {
    norm_->backward(ctx, saved.norm, dx, dx);
    ctx.observer.grads_ready(store_.range(norm_->first(), norm_->last()));
  }
  for (size_t i = blocks_.size(); i-- > 0;) {
    ctx.layer = static_cast<int>(i);
    if (static_cast<int64_t>(i) < frozen_blocks) {
      blocks_[i].skip_backward(ctx);
    } else {
      blocks_[i].backward(ctx, input, saved.blocks[i], dx);
    }
  }
  ctx.layer = 0;
}

}  // namespace stipple::model
