// SPDX-License-Identifier: Apache-2.0
// What caches of attentions have in common: arrays with a row for each token that is kept.
#pragma once

#include "model/attention/attention.h"

namespace stipple::model {

/// token [1, H, 1, D] becomes row `place` of rows [1, H, M, D]. Nothing where the stream only plans.
void keep_token(const Stream&, RealView rows, ConstRealView token, int64_t place);

/// Keys and values of all tokens so far, for an attention that sees every one of them.
struct KeptTokens final : AttentionCache {
  RealView k, v;       // [1, H, longest, D]  zeros where nothing is kept yet
  View<uint8_t> mask;  // [1, longest]  tokens that were given

  KeptTokens(Arena&, const Stream&, int64_t heads, int64_t longest, int64_t head_dim);
  /// The token of this pass.
  void add(Context&, const AttentionInputs&);
};

}  // namespace stipple::model
