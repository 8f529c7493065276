// SPDX-License-Identifier: Apache-2.0
#include "data/mlm/instances.h"

#include <xxhash.h>

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace stipple::data::mlm {
namespace {

int64_t pieces_of(const Range& tokens, int64_t longest) {
  return (tokens.size() + longest - 1) / longest;
}

Instance piece_of(const Range& tokens, int64_t longest, int64_t i) {
  const int64_t begin = tokens.begin + i * longest;
  return {.text = {begin, std::min(begin + longest, tokens.end)}};
}

/// Of their ranges, in order.
uint64_t hash_of_texts(const Instances& instances, uint64_t seed) {
  constexpr size_t kAtOnce = 4096;
  std::vector<Range> ranges;
  XXH3_state_t* const state = XXH3_createState();
  STIPPLE_CHECK(state != nullptr, "mlm: no memory for a hash");
  XXH3_64bits_reset_withSeed(state, seed);
  for (int64_t i = 0; i < instances.size(); ++i) {
    ranges.push_back(instances[i].text);
    if (ranges.size() < kAtOnce && i + 1 < instances.size()) continue;
    XXH3_64bits_update(state, ranges.data(), ranges.size() * sizeof(Range));
    ranges.clear();
  }
  const uint64_t hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return hash;
}

class Blocks final : public Instances {
 public:
  Blocks(const Part& part, int64_t longest) : range_(part.range()), longest_(longest) {}
  int64_t size() const override { return pieces_of(range_, longest_); }
  Instance operator[](int64_t i) const override { return piece_of(range_, longest_, i); }
  uint64_t fingerprint(uint64_t of_tokens) const override {
    return hash_of_texts(*this, of_tokens);
  }

 private:
  Range range_;
  int64_t longest_;
};

class DocumentPieces final : public Instances {
 public:
  DocumentPieces(const Part& part, int64_t longest) : part_(part), longest_(longest) {
    firsts_.reserve(static_cast<size_t>(part.num_documents()) + 1);
    for (int64_t d = 0; d < part.num_documents(); ++d)
      firsts_.push_back(firsts_.back() + pieces_of(part.document(d), longest));
  }
  int64_t size() const override { return firsts_.back(); }
  /// O(log documents)
  Instance operator[](int64_t i) const override {
    const int64_t document = std::ranges::upper_bound(firsts_, i) - firsts_.begin() - 1;
    return piece_of(part_.document(document), longest_, i - firsts_[static_cast<size_t>(document)]);
  }
  uint64_t fingerprint(uint64_t of_tokens) const override {
    return hash_of_texts(*this, of_tokens);
  }

 private:
  Part part_;
  int64_t longest_;
  std::vector<int64_t> firsts_ = {0};  ///< piece of each document, and how many there are
};

}  // namespace

std::unique_ptr<const Instances> cut_blocks(const Part& part, int64_t longest) {
  return std::make_unique<Blocks>(part, longest);
}

std::unique_ptr<const Instances> cut_documents(const Part& part, int64_t longest) {
  return std::make_unique<DocumentPieces>(part, longest);
}

}  // namespace stipple::data::mlm
