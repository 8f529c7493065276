// SPDX-License-Identifier: Apache-2.0
// Token vectors plus what is added for their absolute positions (learned vectors, fixed sines, or
// nothing where positions are rotary) and their segments, a norm where asked for, then dropout. Saves
// views of the input; with a norm also width + 2 floats per token.
#pragma once

#include <optional>
#include <string>

#include "model/context.h"
#include "model/input.h"
#include "model/layers/dropout.h"
#include "model/layers/layernorm.h"
#include "model/parameter_store.h"
#include "model/positions.h"

namespace stipple::model {

struct EmbeddingConfig {
  int64_t vocab_size = 1;
  int64_t max_positions = 1;  ///< rows of the table of learned positions
  int64_t segments = 0;       ///< kinds of tokens; 0: none
  int64_t width = 1;
  Positions positions = Positions::kLearned;
  double dropout = 0;
  bool has_norm = false;
  double norm_eps = 1e-5;
};

class Embedding {
 public:
  struct Saved {
    View<const int32_t> ids;        // [B, N]
    View<const int32_t> segments;   // [B, N]; empty: all of kind 0
    View<const int32_t> positions;  // [B, N]; empty: those of the row
    View<const uint32_t> samples;   // [B]
    LayerNorm::Saved norm;
  };

  /// Declares `name`.tokens [vocab_size, width], if positions are learned, `name`.positions
  /// [max_positions, width], and if there are any, `name`.segments [segments, width], N(0, 0.02²).
  /// Beside sines, which are of size 1, all start as N(0, 1), as in their source (arXiv 1706.03762,
  /// 3.4): else they would drown. Last `name`.norm.
  Embedding(ParameterStore& store, const std::string& name, const EmbeddingConfig&);

  /// y [B, N, width]. Where the input has no segments, but the embedding has, all are of kind 0.
  void forward(Context&, const Input&, View<float> y, Saved&) const;
  /// Overwrites dy: it is passed through dropout in place.
  void backward(Context&, const Saved&, View<float> dy) const;

  /// Token vectors, [vocab_size, width], where a head shares them; and what makes products of them
  /// with normed vectors start small: 1 / sqrt(width) beside sines, as in their source, else 1.
  ParamId table() const { return tokens_; }
  float logit_scale() const;

  ParamId first() const { return tokens_; }
  ParamId last() const {
    return norm_ ? norm_->last() : segments_.value_or(positions_.value_or(tokens_));
  }

 private:
  View<const int32_t> kinds(Context&, const Shape& tokens, View<const int32_t> segments) const;
  View<const float> position_table(Context&, int64_t tokens) const;
  void look_up(Context&, const Input&, View<float> y) const;
  void look_up_packed(Context&, const Input&, View<const float> positions, View<float> y) const;

  const ParameterStore& store_;
  Positions kind_;
  int64_t width_;
  Dropout dropout_;
  ParamId tokens_;
  std::optional<ParamId> positions_;
  std::optional<ParamId> segments_;
  std::optional<LayerNorm> norm_;
};

}  // namespace stipple::model
