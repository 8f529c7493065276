// SPDX-License-Identifier: Apache-2.0
#include "data/mlm/pairs.h"

#include <xxhash.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "core/error.h"
#include "data/random_stream.h"

namespace stipple::data::mlm {
namespace {

/// Streams of random words (data/random_stream.h), apart from those of splits and of masks.
constexpr int kCutStream = 4094, kPairStream = 4093;
/// As many times another document is looked for, as in google-research/bert.
constexpr int kSearches = 10;

/// Sentences of a document that make one pair: [begin, split) and [split, end).
struct Chunk {
  int64_t begin = 0, split = 0, end = 0;
  int64_t target = 0;     ///< tokens that the pair is to have
  bool is_other = false;  ///< the second text is of another document, or the two are exchanged
};

bool happens(RandomStream& random, double probability) {
  return static_cast<double>(random.next()) * 0x1p-32 < probability;
}

/// In [low, high].
int64_t between(RandomStream& random, int64_t low, int64_t high) {
  return low + random.below(static_cast<uint32_t>(high - low + 1));
}

Range covered(const std::vector<Range>& sentences, int64_t begin, int64_t end) {
  return {sentences[static_cast<size_t>(begin)].begin, sentences[static_cast<size_t>(end) - 1].end};
}

/// Takes tokens of the longer one, of the second one where both are equally long.
void truncate(Range& first, Range& second, int64_t longest, RandomStream& random) {
  while (first.size() + second.size() > longest) {
    Range& longer = first.size() > second.size() ? first : second;
    if (happens(random, 0.5)) {
      ++longer.begin;
    } else {
      --longer.end;
    }
  }
}

class Pairs final : public Instances {
 public:
  Pairs(const Part& part, const PairsConfig& config, int64_t longest, uint64_t seed)
      : part_(part), config_(config), longest_(longest), seed_(seed) {
    for (int64_t d = 0; d < part.num_documents(); ++d)
      if (!part.sentences(d).empty()) documents_.push_back(d);
    firsts_.reserve(static_cast<size_t>(config.duplicates) * documents_.size() + 1);
    for (int64_t cut = 0; cut < num_cuts(); ++cut) {
      int64_t chunks = 0;
      for_each_chunk(cut, sentences_of(cut), [&](const Chunk&) { return ++chunks > 0; });
      firsts_.push_back(firsts_.back() + chunks);
    }
    STIPPLE_CHECK_AS(DataError, size() > 0,
                     "data.mlm.pairs.kind: no document has two sentences, of which pairs are made");
  }

  int64_t size() const override { return firsts_.back(); }

  Instance operator[](int64_t i) const override {
    const int64_t cut = std::ranges::upper_bound(firsts_, i) - firsts_.begin() - 1;
    const std::vector<Range> sentences = sentences_of(cut);
    int64_t chunks_before = i - firsts_[static_cast<size_t>(cut)];
    Chunk chunk;
    for_each_chunk(cut, sentences, [&](const Chunk& c) {
      chunk = c;
      return chunks_before-- > 0;
    });
    return pair_of(chunk, sentences, cut, i);
  }

  uint64_t fingerprint(uint64_t of_tokens) const override {
    const uint64_t facts[] = {of_tokens, seed_, static_cast<uint64_t>(config_.kind),
                              static_cast<uint64_t>(longest_)};
    return XXH3_64bits_withSeed(firsts_.data(), firsts_.size() * sizeof firsts_[0],
                                XXH3_64bits(facts, sizeof facts));
  }

 private:
  /// Every document, cut `duplicates` times.
  int64_t num_cuts() const { return config_.duplicates * static_cast<int64_t>(documents_.size()); }
  int64_t document_of(int64_t cut) const { return cut % static_cast<int64_t>(documents_.size()); }
  std::vector<Range> sentences_of(int64_t cut) const {
    return part_.sentences(documents_[static_cast<size_t>(document_of(cut))]);
  }

  /// take(chunk) says whether to go on.
  template <class Take>
  void for_each_chunk(int64_t cut, const std::vector<Range>& sentences, Take take) const {
    const bool is_next = config_.kind == PairKind::kNext;
    RandomStream random(seed_, static_cast<uint64_t>(cut), kCutStream);
    const bool is_short = happens(random, config_.short_probability);
    Chunk chunk{.target = is_short ? between(random, 2, longest_) : longest_};
    const auto num_sentences = static_cast<int64_t>(sentences.size());
    int64_t tokens = 0;
    for (int64_t i = 0; i < num_sentences; ++i) {
      tokens += sentences[static_cast<size_t>(i)].size();
      const int64_t gathered = i + 1 - chunk.begin;
      const bool is_full = tokens >= chunk.target && (is_next || gathered >= 2);
      if (!is_full && i + 1 < num_sentences) continue;
      if (!is_next && gathered < 2) return;
      chunk.end = i + 1;
      chunk.split = chunk.begin + (gathered == 1 ? 1 : between(random, 1, gathered - 1));
      chunk.is_other = happens(random, 0.5) || gathered == 1;
      if (!take(chunk)) return;
      if (is_next && chunk.is_other) i = chunk.split - 1;
      chunk.begin = i + 1;
      tokens = 0;
    }
  }

  Instance pair_of(const Chunk& chunk, const std::vector<Range>& sentences, int64_t cut,
                   int64_t number) const {
    RandomStream random(seed_, static_cast<uint64_t>(number), kPairStream);
    Range first = covered(sentences, chunk.begin, chunk.split);
    const bool is_of_another = config_.kind == PairKind::kNext && chunk.is_other;
    Range second = is_of_another
                       ? text_of_another(document_of(cut), chunk.target - first.size(), random)
                       : covered(sentences, chunk.split, chunk.end);
    truncate(first, second, longest_, random);
    if (config_.kind == PairKind::kOrder && chunk.is_other) std::swap(first, second);
    return {.text = first, .second = second, .relation = chunk.is_other ? 1 : 0};
  }

  /// Whole sentences, until there are `tokens` or the document ends.
  Range text_of_another(int64_t document, int64_t tokens, RandomStream& random) const {
    int64_t other = document;
    for (int search = 0; search < kSearches && other == document; ++search)
      other = between(random, 0, static_cast<int64_t>(documents_.size()) - 1);
    const std::vector<Range> sentences = sentences_of(other);
    const int64_t begin = between(random, 0, static_cast<int64_t>(sentences.size()) - 1);
    int64_t end = begin + 1;
    while (end < static_cast<int64_t>(sentences.size()) &&
           covered(sentences, begin, end).size() < tokens)
      ++end;
    return covered(sentences, begin, end);
  }

  Part part_;
  PairsConfig config_;
  int64_t longest_;
  uint64_t seed_;
  std::vector<int64_t> documents_;     ///< of the part, those with tokens
  std::vector<int64_t> firsts_ = {0};  ///< instance of each cut, and how many there are
};

}  // namespace

std::unique_ptr<const Instances> cut_pairs(const Part& part, const PairsConfig& config,
                                           int64_t longest, uint64_t seed) {
  STIPPLE_CHECK_AS(ConfigError, longest >= 2,
                   "data.max_length: has no room for two texts between "
                   "[CLS] and two [SEP]; at least 5");
  return std::make_unique<Pairs>(part, config, longest, seed);
}

}  // namespace stipple::data::mlm

namespace stipple::data {

void PairsConfig::describe(ConfigVisitor& v) {
  v.choice(
      "kind", kind, {"none", "next", "order"},
      {.doc =
           "none: an example is one text. next: two, and a head on model.pooler tells whether "
           "the second follows the first (BERT's prediction of next sentences). order: two "
           "that follow each other, exchanged half of the time (ALBERT's order of sentences). "
           "Wants sentences: a line each of plain text, or `stipple data tokenize --sentences`."});
  v.field(
      "duplicates", duplicates,
      {.doc = "How many times a document is cut into pairs, each time at other places; an epoch "
              "shows all of them (BERT: 10).",
       .min = 1,
       .max = 1000});
  v.field("short_probability", short_probability,
          {.doc = "Share of documents that are cut into shorter pairs, of a length drawn for each "
                  "(BERT: 0.1).",
           .min = 0,
           .max = 1});
}

}  // namespace stipple::data
