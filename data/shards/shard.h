// SPDX-License-Identifier: Apache-2.0
// Tokens of a corpus as files: read where they lie, in any order, by any number of threads.
//
//   const Shard shard("corpus/wiki");
//   shard.require_vocabulary(vocabulary);
//   shard.copy(begin, ids);
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/range.h"
#include "data/mapped_file.h"
#include "data/shards/index_file.h"
#include "data/shards/meta_file.h"

namespace stipple::data::shards {

std::string bin_of(const std::string& prefix);
std::string idx_of(const std::string& prefix);
std::string meta_of(const std::string& prefix);
/// What Shard(name) reads.
std::vector<std::string> files_of_shard(const std::string& name);

class Shard {
 public:
  /// `name`: a prefix with PREFIX.bin and PREFIX.idx (Megatron-LM's) and, if there is one,
  /// PREFIX.meta.json; or a file NAME.bin of llm.c, which its header tells, or of nanoGPT, which has
  /// none: 16-bit tokens without documents, one sequence. DataError for what is neither, is cut
  /// short or damaged, or has no tokens. Tokens are not read.
  explicit Shard(const std::string& name);

  const std::string& name() const { return name_; }
  int64_t num_tokens() const { return index_.num_tokens(); }
  int64_t num_sequences() const { return index_.num_sequences(); }
  int64_t num_documents() const { return index_.num_documents(); }
  /// Tokens of a sequence and of a document, in the order of the file.
  Range sequence(int64_t i) const;
  Range document(int64_t i) const;
  const Index& index() const { return index_; }
  const std::optional<Meta>& meta() const { return meta_; }

  /// Tokens [begin, begin + to.size()). O(tokens)
  void copy(int64_t begin, std::span<int32_t> to) const;

  /// DataError if the tokens were made by another vocabulary. A shard without meta.json cannot
  /// tell: then it reads all tokens for one that the vocabulary does not have.
  void require_vocabulary(const wordpiece::Vocabulary&) const;
  /// Equal for equal corpora. Of counts, types and hashes that are known, O(1); without meta.json of
  /// every token.
  uint64_t fingerprint() const;

  /// Reads everything: DataError names the first block that is not what was written, or the first
  /// token that the vocabulary cannot have. How many blocks were compared; 0 without meta.json.
  int64_t verify() const;

 private:
  /// The first token below 0 or not below `size`; -1 where there is none.
  int64_t first_beyond(int64_t size) const;

  std::string name_;
  std::unique_ptr<MappedFile> bin_;
  size_t header_bytes_ = 0;  ///< of the .bin
  Index index_;
  std::optional<Meta> meta_;
};

}  // namespace stipple::data::shards
