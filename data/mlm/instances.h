// SPDX-License-Identifier: Apache-2.0
// How a corpus is cut into what a model is shown at once.
#pragma once

#include <cstdint>
#include <memory>

#include "core/range.h"
#include "data/mlm/tokens.h"

namespace stipple::data::mlm {

/// [CLS] and [SEP]; and with the [SEP] of a second text.
inline constexpr int64_t kAroundText = 2, kAroundPair = 3;

/// Tokens that stand between [CLS] and [SEP], and those of a second text, if it has one.
struct Instance {
  Range text;
  Range second = {};
  int32_t relation = -1;  ///< of a pair: what is to be told of it; -1: no pair
  bool is_pair() const { return relation >= 0; }
  int64_t length() const {
    return text.size() + second.size() + (is_pair() ? kAroundPair : kAroundText);
  }
  bool operator==(const Instance&) const = default;
};

/// Random access, any thread.
class Instances {
 public:
  virtual ~Instances() = default;
  virtual int64_t size() const = 0;
  virtual Instance operator[](int64_t i) const = 0;
  /// Equal for equal instances of tokens with that hash.
  virtual uint64_t fingerprint(uint64_t of_tokens) const = 0;
};

/// The part from its begin to its end, `longest` tokens each, whatever documents are. O(1) memory.
std::unique_ptr<const Instances> cut_blocks(const Part&, int64_t longest);
/// Every document by itself: none of an empty one. 8 bytes a document.
std::unique_ptr<const Instances> cut_documents(const Part&, int64_t longest);

}  // namespace stipple::data::mlm
