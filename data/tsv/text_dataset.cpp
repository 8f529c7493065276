// SPDX-License-Identifier: Apache-2.0
#include "data/tsv/text_dataset.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "data/wordpiece/sequence.h"

namespace stipple::data::tsv {

TextDataset::TextDataset(std::span<const Text> texts, const wordpiece::WordPiece& tokenizer,
                         const TextDatasetOptions& options, std::vector<std::string> remarks)
    : is_value_(options.is_value) {
  intake_.remarks = std::move(remarks);
  std::vector<int32_t> first, second;
  for (const Text& text : texts) {
    first.clear();
    second.clear();
    tokenizer.encode(text.first, first);
    std::optional<std::span<const int32_t>> other;
    if (options.is_pair) {
      tokenizer.encode(text.second, second);
      other = second;
    }
    const wordpiece::Sequence sequence =
        wordpiece::sequence_of(tokenizer.vocabulary().special(), first, other, options.max_length);
    const auto length = static_cast<int64_t>(sequence.ids.size());
    intake_.keep(length + sequence.cut_tokens, length);
    ids_.insert(ids_.end(), sequence.ids.begin(), sequence.ids.end());
    begins_.push_back(static_cast<int64_t>(ids_.size()));
    firsts_.push_back(static_cast<int32_t>(std::ranges::count(sequence.segments, 0)));
    labels_.push_back(text.label);
  }
}

int64_t TextDataset::length(Draw draw, int64_t) const {
  const auto i = static_cast<size_t>(draw.example);
  return begins_[i + 1] - begins_[i];
}

int64_t TextDataset::num_labels(Draw draw) const {
  return std::isnan(labels_[static_cast<size_t>(draw.example)]) ? 0 : 1;
}

void TextDataset::get(Draw draw, int64_t, const ExampleSpans& to) const {
  STIPPLE_CHECK(draw.example >= 0 && draw.example < size(), "no text ", draw.example, " of ",
                size());
  const auto i = static_cast<size_t>(draw.example);
  const auto n = static_cast<size_t>(length(draw, 0));
  STIPPLE_CHECK(to.ids.size() >= n, "no room for text ", draw.example);
  std::copy_n(ids_.begin() + begins_[i], n, to.ids.begin());
  if (!to.segments.empty()) {
    const auto first = static_cast<size_t>(firsts_[i]);
    std::ranges::fill(to.segments.first(first), 0);
    std::ranges::fill(to.segments.subspan(first, n - first), 1);
  }
  if (is_value_) {
    to.values[0] = labels_[i];
  } else if (!std::isnan(labels_[i])) {
    to.labels[0] = static_cast<int32_t>(labels_[i]);
  }
}

uint64_t TextDataset::fingerprint() const {
  const auto more = [](const auto& array, uint64_t hash) {
    return XXH3_64bits_withSeed(array.data(), array.size() * sizeof(array[0]), hash);
  };
  return more(labels_, more(firsts_, more(begins_, more(ids_, 0))));
}

}  // namespace stipple::data::tsv
