// SPDX-License-Identifier: Apache-2.0
// Asks a language model for the next token, again and again. Where its attention keeps a cache, each
// token costs one pass over one token; where it does not, one over all tokens so far. The same
// numbers as those of Model::forward, up to the rounding of other orders of sums. Not for training.
//
//   Decoder decoder(model, facts, stream, {.longest = 1024, .vocabulary = 257});
//   for (int32_t token : prompt) logits = decoder.next(token);
#pragma once

#include <span>
#include <vector>

#include "core/arena.h"
#include "model/model.h"

namespace stipple::model {

struct DecoderOptions {
  int64_t longest = 1;     ///< tokens of a sequence; at most the model's max_length
  int64_t vocabulary = 1;  ///< logits of a token
};

/// What a decoder takes.
struct DecoderBytes {
  size_t kept = 0;  ///< from token to token
  size_t saved = 0, scratch = 0;
};

class Decoder {
 public:
  /// On a device that need not be there.
  static DecoderBytes plan(const Model&, const FactTable&, DeviceType, const Stream::Options&,
                           const DecoderOptions&);
  /// Takes all memory. `model` is a language model that lives on the stream's device; it, its
  /// `facts` and the stream stay.
  Decoder(const Model& model, const FactTable& facts, const Stream&, const DecoderOptions&);

  bool has_cache() const { return !decoding_.caches.empty(); }
  int64_t length() const { return length_; }  ///< tokens given since restart()
  bool is_full() const { return length_ == options_.longest; }
  void restart() { length_ = 0; }

  /// Logits [V] of what follows the tokens given so far and this one; good until the next call. Not
  /// when is_full().
  std::span<const float> next(int32_t token);

 private:
  /// Arrays of a pass: over one token where there is a cache, else over all.
  struct Tokens {
    View<int32_t> ids;       // [1, longest]
    View<uint8_t> mask;      // [1, longest]
    View<uint32_t> samples;  // [1]
    View<float> logits;      // [1, V]
  };
  Decoder(const Model&, const FactTable&, const Stream&, const DecoderOptions&,
          const DecoderBytes&);
  static Tokens alloc_tokens(Arena&, const DecoderOptions&);
  static Input input_of(const Tokens&, int64_t tokens);

  const Model& model_;
  const FactTable& facts_;
  const Stream& stream_;
  DecoderOptions options_;
  std::unique_ptr<Model::Saved, void (*)(Model::Saved*)> saved_of_model_;
  Arena kept_, saved_, scratch_;  ///< kept: from pass to pass
  Buffer told_;                   ///< facts, which nobody reads
  Tokens tokens_;
  Decoding decoding_;
  Observer nobody_;
  int64_t length_ = 0;
  std::vector<float> logits_;
};

}  // namespace stipple::model
