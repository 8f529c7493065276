// SPDX-License-Identifier: Apache-2.0
#include "data/mlm/instances.h"

#include <algorithm>
#include <vector>

namespace stipple::data::mlm {
namespace {

int64_t pieces_of(const Range& tokens, int64_t longest) {
  return (tokens.size() + longest - 1) / longest;
}

Instance piece_of(const Range& tokens, int64_t longest, int64_t i) {
  const int64_t begin = tokens.begin + i * longest;
  return {{begin, std::min(begin + longest, tokens.end)}};
}

class Blocks final : public Instances {
 public:
  Blocks(const Part& part, int64_t longest) : range_(part.range()), longest_(longest) {}
  int64_t size() const override { return pieces_of(range_, longest_); }
  Instance operator[](int64_t i) const override { return piece_of(range_, longest_, i); }

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
