// SPDX-License-Identifier: Apache-2.0
// Encoder: blocks of { x += attention(LN(x)); x += feedforward(LN(x)) } and a last LN (pre), or of
// { x = LN(x + attention(x)); x = LN(x + feedforward(x)) } (post), then zeros on padding. A pre block
// saves, per token, 7 width + 2 feedforward activations of the precision in force, 2 width + 4
// floats, and what its attention saves: the residual stream x stays fp32. A post block saves 2 width
// floats more, and 2 width activations less where they are fp32. Rotary positions add 2 width where
// the attention reads_content().
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/attention/attention.h"
#include "model/context.h"
#include "model/input.h"
#include "model/layers/dropout.h"
#include "model/layers/feedforward.h"
#include "model/layers/layernorm.h"
#include "model/layers/linear.h"
#include "model/layers/rotary.h"
#include "model/norm.h"
#include "model/parameter_store.h"

namespace stipple::model {

struct EncoderConfig {
  int64_t layers = 1;
  int64_t width = 1;
  int64_t heads = 1;
  int64_t feedforward = 1;
  int64_t max_length = 1;
  double dropout = 0;
  bool is_causal = false;  ///< a token's vector depends on that token and earlier ones only
  bool is_packed = false;  ///< a token's vector depends on the piece of its row that it is of only
  bool rotary = false;  ///< queries and keys are rotated by their positions; width / heads is even
  NormPlace norm = NormPlace::kPre;
  double norm_eps = 1e-5;
};

class EncoderBlock {
 public:
  struct Saved {
    LayerNorm::Saved attention_norm, feedforward_norm;
    Linear::Saved query, key, value, out;
    RealView q, k, v, o;            // [B, H, N, D]
    RealView content_q, content_k;  // before the rotation; see AttentionInputs
    RotaryTable rotary;             ///< set by the encoder, for all of its blocks
    View<const int32_t> groups;     // [B H, N]  as rotary; empty: rows are not packed
    std::unique_ptr<Attention::Saved> attention;
    FeedForward::Saved feedforward;
  };

  EncoderBlock(ParameterStore& store, const EncoderConfig&, const AttentionFactory&, int layer);

  Saved make_saved() const;
  void begin_step(const Stream& stream, const RngKey& rng) const {
    attention_->begin_step(stream, rng);
  }
  /// x, y [B, N, width]; x must stay untouched until backward.
  void forward(Context&, const Input&, View<const float> x, View<float> y, Saved&) const;
  std::unique_ptr<AttentionCache> make_cache(Arena& arena, const Stream& stream,
                                             int64_t longest) const {
    return attention_->make_cache(arena, stream, longest);
  }
  /// In place: the gradient of y becomes the gradient of x. Reports both halves of the block.
  void backward(Context&, const Input&, const Saved&, View<float> dx) const;
  /// In place of backward, where nothing of the block and nothing below it learns.
  void skip_backward(Context&) const;

 private:
  AttentionInputs attention_inputs(const Input&, const Saved&) const;
  AttentionGrads attention_grads(Context&, const Saved&, RealView dx) const;
  RealView project_to_heads(Context&, const Linear&, ConstRealView x, Linear::Saved&) const;
  RealView rotated(Context&, const RotaryTable&, RealView content) const;
  void rotate_backward(Context&, const RotaryTable&, RealView dx, RealView dcontent) const;
  ConstRealView branch_input(Context&, const LayerNorm&, View<const float> x,
                             LayerNorm::Saved&) const;
  void attend(Context&, const Input&, ConstRealView x, View<float> y, Saved&) const;
  void attend_backward(Context&, const Input&, const Saved&, View<const float> dy,
                       RealView dx) const;
  void project_backward(Context&, const Saved&, const AttentionGrads&, RealView dx) const;

  const ParameterStore& store_;
  std::string forward_name_, backward_name_;  ///< for profilers
  int64_t heads_;
  NormPlace norm_;
  LayerNorm attention_norm_;
  Linear query_, key_, value_;
  std::unique_ptr<Attention> attention_;
  Linear out_;
  Dropout attention_dropout_;
  LayerNorm feedforward_norm_;
  FeedForward feedforward_;
};

class Encoder {
 public:
  struct Saved {
    std::vector<EncoderBlock::Saved> blocks;
    LayerNorm::Saved norm;  // of NormPlace::kPre
  };

  /// Calls the factory once a layer, where the parameters of its attention are to stand.
  Encoder(ParameterStore& store, const EncoderConfig&, const AttentionFactory&);

  Saved make_saved() const;
  /// Attention::begin_step of every layer.
  void begin_step(const Stream&, const RngKey&) const;
  /// x, y [B, N, width]; x must stay untouched until backward.
  void forward(Context&, const Input&, View<const float> x, View<float> y, Saved&) const;
  /// By layer, for Decoding; empty: the attention has none.
  std::vector<std::unique_ptr<AttentionCache>> make_caches(Arena&, const Stream&,
                                                           int64_t longest) const;
  /// In place: the gradient of y becomes the gradient of x. The lowest `frozen_blocks` are left out;
  /// with any, dx ends as the gradient of the input of the block above them.
  void backward(Context&, const Input&, const Saved&, View<float> dx,
                int64_t frozen_blocks = 0) const;

 private:
  View<const int32_t> groups_of(Context&, View<const int32_t> pieces) const;

  const ParameterStore& store_;
  int64_t heads_;
  int64_t head_dim_;
  bool rotary_;
  std::vector<EncoderBlock> blocks_;
  std::optional<LayerNorm> norm_;  ///< of NormPlace::kPre
};

}  // namespace stipple::model
