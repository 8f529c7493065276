// SPDX-License-Identifier: Apache-2.0
// A sequence that a causal model is given token by token: each pass sees one token, and what
// attentions have kept of those before it. model/decoder.h runs it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace stipple::model {

/// What an attention keeps of the tokens so far (Attention::make_cache).
struct AttentionCache {
  virtual ~AttentionCache() = default;
};

struct Decoding {
  int64_t position = 0;                                      ///< of the token of this pass
  std::vector<std::unique_ptr<AttentionCache>> caches = {};  ///< by layer
};

}  // namespace stipple::model
