// SPDX-License-Identifier: Apache-2.0
// From token vectors to loss. A classifier width -> hidden -> ReLU -> classes, either of one pooled
// vector per sequence or of every token by itself (labels [B, N]). Saves hidden + classes floats
// per classified row, and width of a pooled one.
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
  bool per_token = false;
  kernels::MeanOver mean_over = kernels::MeanOver::kPadded;
  int64_t max_length = 1;  ///< divisor of MeanOver::kPadded, whatever the length of the leaf
};

class ClassifierHead {
 public:
  struct Saved {
    Linear::Saved hidden, out;
    View<float> activated;  // [rows, hidden]
    View<float> dlogits;    // [rows, classes]  logits outside training
  };

  ClassifierHead(ParameterStore& store, FactTable&, const std::string& name, const HeadConfig&);

  /// x [B, N, width], zero on padding. Tells the loss and the rows it got right; in training also
  /// makes the gradient of the logits. prediction [B] or [B, N] written; empty: not wanted.
  void forward(Context&, const Input&, View<const float> x, View<int32_t> prediction, Saved&) const;
  /// dx [B, N, width] written.
  void backward(Context&, const Input&, const Saved&, View<float> dx) const;

 private:
  const ParameterStore& store_;
  HeadConfig config_;
  FactId loss_sum_, correct_, count_;
  Linear hidden_;
  Linear out_;
};

}  // namespace stipple::model
