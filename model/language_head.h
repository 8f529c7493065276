// SPDX-License-Identifier: Apache-2.0
// From token vectors to the loss of a language model: at every token, logits of the token that
// comes next, by the table of the embedding (tied weights: Press and Wolf, arXiv 1608.05859), and
// their cross entropy.
//
//   logits = logit_scale x tableᵀ        [R N, V], a chunk of rows at a time
//
// Logits exist for a chunk of rows only: forward makes their gradient while they are there, and
// multiplies on to the gradients of x and of the table, which it saves: width floats per token, and
// a table. Costs three products of [R N, width, V] in training, one otherwise. Chunks depend on V
// alone, so that sums have one order. Has no parameters of its own.
#pragma once

#include <string_view>

#include "model/context.h"
#include "model/input.h"
#include "model/parameter_store.h"

namespace stipple::model {

/// Facts of evaluations: losses and labels by eighths of a block, from its first tokens on.
inline constexpr std::string_view kPlaceLoss = "place_loss";      // double
inline constexpr std::string_view kPlaceLabels = "place_labels";  // int64_t

struct LanguageHeadConfig {
  ParamId table;             ///< [V, width], the embedding's; it reports the gradient as final
  float logit_scale = 1.0f;  ///< so that logits start small
  int64_t block = 1;         ///< evaluation tells losses by where tokens stand in blocks of so many
};

class LanguageHead {
 public:
  struct Saved {
    View<float> dx;      // [R, N, width]
    View<float> dtable;  // [V, width]
  };

  LanguageHead(const ParameterStore&, FactTable&, const LanguageHeadConfig&);

  /// x [R, N, width]; labels [R, N] are the tokens that come next. Tells the loss and how many
  /// tokens it got right, in evaluation also the loss by place; in training makes the gradients. prediction [R, N] written; empty:
  /// not wanted.
  void forward(Context&, const Input&, View<const float> x, View<int32_t> prediction, Saved&) const;
  /// logits [rows, V] of x [rows, width], written.
  void logits(Context&, View<const float> x, View<float> logits) const;
  /// dx [R, N, width] written; adds to the gradient of the table, to which the embedding adds later.
  void backward(Context&, const Saved&, View<float> dx) const;

 private:
  void tell_places(Context&, const Input&, Range chunk, View<const float> losses) const;

  const ParameterStore& store_;
  LanguageHeadConfig config_;
  FactId loss_sum_, count_, correct_;
  FactId place_loss_, place_labels_;
};

}  // namespace stipple::model
