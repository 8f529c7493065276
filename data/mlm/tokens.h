// SPDX-License-Identifier: Apache-2.0
// What masked language models are shown, before it is cut: tokens of a corpus without special ones, in
// memory or in a shard (data/shards/shard.h), and the part of them that a split has.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/range.h"
#include "data/shards/index_file.h"
#include "data/shards/shard.h"

namespace stipple::data::mlm {

/// Sequences of tokens, one behind the other, and which of them begin documents.
class Tokens {
 public:
  virtual ~Tokens() = default;
  virtual const shards::Index& index() const = 0;
  /// Tokens [begin, begin + to.size()). Any thread, O(tokens).
  virtual void copy(int64_t begin, std::span<int32_t> to) const = 0;
  virtual uint64_t fingerprint() const = 0;
};

/// 4 bytes a token.
std::shared_ptr<const Tokens> tokens_in_memory(std::vector<int32_t> ids, shards::Index);
/// Read where they lie. What is read is looked at, too: DataError for an id beyond the vocabulary.
std::shared_ptr<const Tokens> tokens_of_shard(std::shared_ptr<const shards::Shard>,
                                              int64_t vocabulary_size);

/// Tokens [begin, end) of all: documents that lie in it, of the first and the last one what does.
class Part {
 public:
  Part(std::shared_ptr<const Tokens>, Range);

  const Tokens& tokens() const { return *tokens_; }
  const Range& range() const { return range_; }
  int64_t num_documents() const { return documents_.size(); }
  /// Its tokens; there may be none.
  Range document(int64_t i) const;
  /// Those with tokens, in order.
  std::vector<Range> sentences(int64_t document) const;
  /// Whether some document is cut into sequences.
  bool has_sentences() const;

 private:
  Range clipped(int64_t begin, int64_t end) const;

  std::shared_ptr<const Tokens> tokens_;
  Range range_, documents_;
};

}  // namespace stipple::data::mlm
