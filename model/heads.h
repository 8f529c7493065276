// SPDX-License-Identifier: Apache-2.0
// From token vectors to loss: width -> hidden -> ReLU -> outputs, either of what is pooled of an
// example, or of every token by itself (labels [R, N]). With a pooler, as BERT: hidden is width, with
// tanh in place of ReLU, then dropout; only of what is pooled. Where examples have several sequences, their
// pooled vectors stand side by side: width is that of all of them. Outputs are classes with cross
// entropy, or a number with squared error. Saves hidden + outputs floats for each label, and width
// of what is pooled.
#pragma once

#include <optional>
#include <string>

#include "kernels/activation.h"
#include "kernels/pooling.h"
#include "model/context.h"
#include "model/input.h"
#include "model/layers/dropout.h"
#include "model/layers/linear.h"
#include "model/parameter_store.h"

namespace stipple::model {

struct HeadConfig {
  int64_t width = 1;
  int64_t hidden = 1;
  int64_t num_classes = 1;
  LeafFields fields{};
  kernels::MeanOver mean_over = kernels::MeanOver::kPadded;
  int64_t max_length = 1;  ///< divisor of MeanOver::kPadded, whatever the length of the leaf
  bool has_pooler = false;
  double dropout = 0;            ///< of what the pooler gives
  std::string out_name = {};     ///< of the last layer's parameters; empty: NAME.out
  std::string fact_prefix = {};  ///< of the loss and of what is counted
};

class Head {
 public:
  struct Saved {
    Linear::Saved hidden, out;
    View<float> activated;  // [labels, hidden]
    View<float> dout;       // [labels, outputs]  outputs outside training
  };

  Head(ParameterStore& store, FactTable&, const std::string& name, const HeadConfig&);

  /// x [R, N, width], zero on padding. Tells the loss and how many classes it got right; in training
  /// also makes the gradient of the outputs. prediction [B] or [R, N] written; empty: not wanted,
  /// and where labels are numbers, impossible.
  void forward(Context&, const Input&, View<const float> x, View<int32_t> prediction, Saved&) const;
  /// pooled [B, hidden], written: what the last layer is given, in evaluation, of x as above.
  void pooled(Context&, const Input&, View<const float> x, View<float> pooled) const;
  /// dx [R, N, width] written.
  void backward(Context&, const Input&, const Saved&, View<float> dx) const;

 private:
  bool is_pooled() const { return !is_per_token(config_.fields.label); }
  bool is_value() const { return config_.fields.label == LabelKind::kValue; }
  View<const float> features(Context&, const Input&, View<const float> x) const;
  int64_t num_outputs() const { return is_value() ? 1 : config_.num_classes; }
  kernels::ActivationKind activation() const;
  Shape as_rows(int64_t labels) const;
  View<float> dropped(Context&, const Input&, View<float> activated) const;
  void classify(Context&, const Input&, View<float> out, View<int32_t> prediction) const;
  void measure(Context&, const Input&, View<float> out) const;

  const ParameterStore& store_;
  HeadConfig config_;
  FactId loss_sum_, count_;
  std::optional<FactId> correct_;
  Linear hidden_;
  Linear out_;
  Dropout dropout_;
};

}  // namespace stipple::model
