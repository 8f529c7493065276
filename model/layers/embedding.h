// SPDX-License-Identifier: Apache-2.0
// Token vectors plus what is added for their absolute positions (learned vectors, fixed sines, or
// nothing where positions are rotary), then dropout. Saves a view of the ids, no memory of its own.
#pragma once

#include <optional>
#include <string>

#include "model/context.h"
#include "model/layers/dropout.h"
#include "model/parameter_store.h"
#include "model/positions.h"

namespace stipple::model {

class Embedding {
 public:
  struct Saved {
    View<const int32_t> ids;       // [B, N]
    View<const uint32_t> samples;  // [B]
  };

  /// Declares `name`.tokens [vocab_size, width] and, if positions are learned, `name`.positions
  /// [max_length, width], N(0, 0.02²). Beside sines, which are of size 1, tokens start as N(0, 1),
  /// as in their source (arXiv 1706.03762, 3.4): else they would drown.
  Embedding(ParameterStore& store, const std::string& name, int64_t vocab_size, int64_t max_length,
            int64_t width, Positions positions, double dropout);

  /// y [B, N, width].
  void forward(Context&, View<const int32_t> ids, View<const uint32_t> samples, View<float> y,
               Saved&) const;
  /// Overwrites dy: it is passed through dropout in place.
  void backward(Context&, const Saved&, View<float> dy) const;

  ParamId first() const { return tokens_; }
  ParamId last() const { return positions_.value_or(tokens_); }

 private:
  const ParameterStore& store_;
  Positions kind_;
  Dropout dropout_;
  ParamId tokens_;
  std::optional<ParamId> positions_;
};

}  // namespace stipple::model
