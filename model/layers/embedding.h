// SPDX-License-Identifier: Apache-2.0
// Token plus learned absolute position embeddings, then dropout. Saves a view of the ids, no memory
// of its own.
#pragma once

#include <string>

#include "model/context.h"
#include "model/layers/dropout.h"
#include "model/parameter_store.h"

namespace stipple::model {

class Embedding {
 public:
  struct Saved {
    View<const int32_t> ids;       // [B, N]
    View<const uint32_t> samples;  // [B]
  };

  /// Declares `name`.tokens [vocab_size, width] and `name`.positions [max_length, width], N(0,
  /// 0.02²).
  Embedding(ParameterStore& store, const std::string& name, int64_t vocab_size, int64_t max_length,
            int64_t width, double dropout);

  /// y [B, N, width].
  void forward(Context&, View<const int32_t> ids, View<const uint32_t> samples, View<float> y,
               Saved&) const;
  /// Overwrites dy: it is passed through dropout in place.
  void backward(Context&, const Saved&, View<float> dy) const;

  ParamId first() const { return tokens_; }
  ParamId last() const { return positions_; }

 private:
  const ParameterStore& store_;
  Dropout dropout_;
  ParamId tokens_;
  ParamId positions_;
};

}  // namespace stipple::model
