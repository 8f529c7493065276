// SPDX-License-Identifier: Apache-2.0
// From token vectors to the loss of a masked language model, as BERT has it (arXiv 1810.04805): of the
// tokens that have a label, and of no others,
//
//   logits = LN(gelu(W x + b)) tableᵀ + bias        [labels, V], a chunk of rows at a time
//
// table is that of the embedding (tied weights). Costs three products of [labels, width, V] in training,
// one otherwise, and saves 5 width floats per label and a table: where the host does not know how many
// tokens have one (Input::num_labels), those of all tokens.
#pragma once

#include <string>

#include "model/context.h"
#include "model/input.h"
#include "model/layers/layernorm.h"
#include "model/layers/linear.h"
#include "model/parameter_store.h"

namespace stipple::model {

struct MaskedHeadConfig {
  int64_t width = 1;
  ParamId table;  ///< [V, width], the embedding's; it reports the gradient as final
  double norm_eps = 1e-5;
};

class MaskedHead {
 public:
  struct Saved {
    View<const int32_t> rows;  // [M]  of x, flattened: those with a label; M is at least 1
    Linear::Saved dense;
    View<float> before_gelu;  // [M, width]
    LayerNorm::Saved norm;
    View<float> dnormed;  // [M, width]
    View<float> dtable;   // [V, width]
    View<float> dbias;    // [V]
  };

  /// Declares `name`.dense, `name`.norm and `name`.bias [V] = 0.
  MaskedHead(ParameterStore&, FactTable&, const std::string& name, const MaskedHeadConfig&);

  /// x [R, N, width]. Tells the loss and how many tokens it got right; in training makes the
  /// gradients.
  void forward(Context&, const Input&, View<const float> x, Saved&) const;
  /// logits [rows, V], written, of x [rows, width]: of any tokens, in evaluation.
  void logits(Context&, View<const float> x, View<float> logits) const;
  /// dx [R, N, width] written; adds to the gradient of the table, to which the embedding adds later.
  void backward(Context&, const Saved&, View<float> dx) const;

 private:
  View<float> transform(Context&, View<const float> x, Saved&) const;
  void project(Context&, View<const float> normed, View<float> logits) const;
  void lose(Context&, const Input&, View<const float> normed, Saved&) const;

  const ParameterStore& store_;
  MaskedHeadConfig config_;
  FactId loss_sum_, count_, correct_;
  Linear dense_;
  LayerNorm norm_;
  ParamId bias_;
};

}  // namespace stipple::model
