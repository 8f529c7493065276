// SPDX-License-Identifier: Apache-2.0
// From token vectors to loss. A classifier width -> hidden -> ReLU -> classes, either of what is
// pooled of an example, or of every token by itself (labels [R, N]). Where examples have several
// sequences, their pooled vectors stand side by side: width is that of all of them. Saves hidden +
// classes floats for each that is classified, and width of what is pooled.
#pragma once

#include <string>

#include "kernels/pooling.h"
#include "model/context.h"
#include "model/input.h"
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
};

class ClassifierHead {
 public:
  struct Saved {
    Linear::Saved hidden, out;
    View<float> activated;  // [labels, hidden]
    View<float> dlogits;    // [labels, classes]  logits outside training
  };

  ClassifierHead(ParameterStore& store, FactTable&, const std::string& name, const HeadConfig&);

  /// x [R, N, width], zero on padding. Tells the loss and how many labels it got right; in training
  /// also makes the gradient of the logits. prediction [B] or [R, N] written; empty: not wanted.
  void forward(Context&, const Input&, View<const float> x, View<int32_t> prediction, Saved&) const;
  /// dx [R, N, width] written.
  void backward(Context&, const Input&, const Saved&, View<float> dx) const;

 private:
  bool is_pooled() const { return config_.fields.label != LabelKind::kTokenClass; }

  const ParameterStore& store_;
  HeadConfig config_;
  FactId loss_sum_, correct_, count_;
  Linear hidden_;
  Linear out_;
};

}  // namespace stipple::model
