// SPDX-License-Identifier: Apache-2.0
#include "data/mlm/tokens.h"

#include <xxhash.h>

#include <algorithm>

#include "core/error.h"

namespace stipple::data::mlm {
namespace {

class TokensInMemory final : public Tokens {
 public:
  TokensInMemory(std::vector<int32_t> ids, shards::Index index)
      : ids_(std::move(ids)), index_(std::move(index)) {
    STIPPLE_CHECK(index_.num_tokens() == static_cast<int64_t>(ids_.size()), "mlm: ", ids_.size(),
                  " tokens, but an index of ", index_.num_tokens());
  }
  const shards::Index& index() const override { return index_; }
  void copy(int64_t begin, std::span<int32_t> to) const override {
    std::copy_n(ids_.begin() + begin, to.size(), to.begin());
  }
  uint64_t fingerprint() const override {
    return XXH3_64bits(ids_.data(), ids_.size() * sizeof ids_[0]);
  }

 private:
  std::vector<int32_t> ids_;
  shards::Index index_;
};

class TokensOfShard final : public Tokens {
 public:
  TokensOfShard(std::shared_ptr<const shards::Shard> shard, int64_t vocabulary_size)
      : shard_(std::move(shard)), vocabulary_size_(vocabulary_size) {}
  const shards::Index& index() const override { return shard_->index(); }
  void copy(int64_t begin, std::span<int32_t> to) const override {
    shard_->copy(begin, to);
    const auto beyond =
        std::ranges::find_if(to, [this](int32_t id) { return id < 0 || id >= vocabulary_size_; });
    STIPPLE_CHECK_AS(DataError, beyond == to.end(), shard_->name(), ": token ",
                     begin + (beyond - to.begin()), " is ", beyond == to.end() ? 0 : *beyond,
                     ", and the vocabulary has ", vocabulary_size_,
                     ": the file was damaged since it was made; `stipple data verify` says where");
  }
  uint64_t fingerprint() const override { return shard_->fingerprint(); }

 private:
  std::shared_ptr<const shards::Shard> shard_;
  int64_t vocabulary_size_;
};

}  // namespace

std::shared_ptr<const Tokens> tokens_in_memory(std::vector<int32_t> ids, shards::Index index) {
  return std::make_shared<TokensInMemory>(std::move(ids), std::move(index));
}

std::shared_ptr<const Tokens> tokens_of_shard(std::shared_ptr<const shards::Shard> shard,
                                              int64_t vocabulary_size) {
  return std::make_shared<TokensOfShard>(std::move(shard), vocabulary_size);
}

Part::Part(std::shared_ptr<const Tokens> tokens, Range range)
    : tokens_(std::move(tokens)), range_(range) {
  const shards::Index& index = tokens_->index();
  const auto begin_of = [&](int64_t sequence) {
    return index.begins[static_cast<size_t>(sequence)];
  };
  const auto ends_before = std::ranges::partition_point(
      index.documents, [&](int64_t sequence) { return begin_of(sequence) <= range.begin; });
  const auto begins_before = std::ranges::partition_point(
      index.documents, [&](int64_t sequence) { return begin_of(sequence) < range.end; });
  const int64_t first = std::max<int64_t>(0, ends_before - index.documents.begin() - 1);
  const int64_t end = begins_before - index.documents.begin();
  documents_ = {first, std::max(first, std::min(end, index.num_documents()))};
}

Range Part::clipped(int64_t begin, int64_t end) const {
  const int64_t first = std::max(begin, range_.begin);
  return {first, std::max(first, std::min(end, range_.end))};
}

Range Part::document(int64_t i) const {
  const shards::Index& index = tokens_->index();
  const auto at = static_cast<size_t>(documents_.begin + i);
  return clipped(index.begins[static_cast<size_t>(index.documents[at])],
                 index.begins[static_cast<size_t>(index.documents[at + 1])]);
}

std::vector<Range> Part::sentences(int64_t document) const {
  const shards::Index& index = tokens_->index();
  const auto at = static_cast<size_t>(documents_.begin + document);
  std::vector<Range> sentences;
  for (int64_t s = index.documents[at]; s < index.documents[at + 1]; ++s) {
    const auto i = static_cast<size_t>(s);
    const Range sentence = clipped(index.begins[i], index.begins[i + 1]);
    if (sentence.size() > 0) sentences.push_back(sentence);
  }
  return sentences;
}

bool Part::has_sentences() const {
  return tokens_->index().num_sequences() > tokens_->index().num_documents();
}

}  // namespace stipple::data::mlm
