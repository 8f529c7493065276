// SPDX-License-Identifier: Apache-2.0
#include "data/mlm/masking.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"

namespace stipple::data {
namespace {

constexpr int32_t kNothingAsked = -1;
constexpr int kLongestNgram = 3;

}  // namespace

/// The random words of one showing of a sequence: four of each position.
class Masking::Draws {
 public:
  Draws(uint64_t seed, uint64_t epoch, uint64_t sample)
      : key_(RngKey{seed, epoch}.philox()),
        low_(static_cast<uint32_t>(sample)),
        high_(static_cast<uint32_t>(sample >> 32)) {}

  /// What chooses a position, or orders it among others.
  uint32_t choice(int64_t position) const { return at(position)[0]; }
  double share(int64_t position) const { return static_cast<double>(at(position)[1]) * 0x1p-32; }
  /// What stands there instead of `id`.
  int32_t replacement(int64_t position, int32_t id, const MaskedVocabulary& vocabulary) const {
    const PhiloxCounter words = at(position);
    const double share = static_cast<double>(words[2]) * 0x1p-32;
    if (share < 0.8) return vocabulary.mask;
    if (share < 0.9) return id;
    return static_cast<int32_t>(uint64_t{words[3]} * static_cast<uint64_t>(vocabulary.vocab_size) >>
                                32);
  }

 private:
  PhiloxCounter at(int64_t position) const {
    return philox4x32({static_cast<uint32_t>(position), low_, high_,
                       stream_word(kMaskingStream, 0, Purpose::kData)},
                      key_);
  }
  /// Apart from the streams of examples that are made (data/random_stream.h): splits.
  static constexpr int kMaskingStream = 4095;

  PhiloxKey key_;
  uint32_t low_, high_;
};

void MaskingConfig::describe(ConfigVisitor& v) {
  v.choice("rule", rule, {"independent", "count", "words", "ngrams"},
           {.doc = "Which tokens are asked for: independent, each by itself with probability rate; "
                   "count, exactly that share of a sequence (BERT); words, whole words up to that "
                   "share; ngrams, runs of one to three words up to it."});
  v.field("rate", rate,
          {.doc = "Share of the tokens that are asked for: 0.15 of BERT, 0.3 of MosaicBERT.",
           .min = 0.001,
           .max = 0.9});
  v.field("max_predictions", max_predictions,
          {.doc = "At most so many of a sequence, but by independent; 0: no limit.",
           .min = 0,
           .max = 65536});
  v.field("copies", copies,
          {.doc = "How many maskings a sequence has, taken in turn by the epoch (BERT: 10, made "
                  "beforehand); 0: another one in each epoch.",
           .min = 0,
           .max = 1e6});
}

Masking::Masking(const MaskingConfig& config, MaskedVocabulary vocabulary, uint64_t seed)
    : config_(config), vocabulary_(std::move(vocabulary)), seed_(seed) {}

Masking::Draws Masking::draws(uint64_t epoch, uint64_t sample) const {
  if (config_.copies > 0) epoch %= static_cast<uint64_t>(config_.copies);
  return {seed_, epoch, sample};
}

/// Of all tokens, special ones among them; a half is rounded to the even number, as Python does.
int64_t Masking::most(std::span<const int32_t> ids) const {
  const auto share =
      static_cast<int64_t>(std::nearbyint(config_.rate * static_cast<double>(ids.size())));
  const int64_t at_least_one = std::max<int64_t>(1, share);
  return config_.max_predictions == 0 ? at_least_one
                                      : std::min(at_least_one, config_.max_predictions);
}

/// Tokens of text, each with those that go on its word.
std::vector<Range> Masking::words(std::span<const int32_t> ids) const {
  std::vector<Range> words;
  for (int64_t i = 0; i < static_cast<int64_t>(ids.size()); ++i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    if (vocabulary_.is_special(id)) continue;
    const bool goes_on = !words.empty() && words.back().end == i && vocabulary_.continues(id);
    if (goes_on) {
      ++words.back().end;
    } else {
      words.push_back({i, i + 1});
    }
  }
  return words;
}

std::vector<int32_t> Masking::some_tokens(const Draws& draws, std::span<const int32_t> ids) const {
  const bool is_independent = config_.rule == MaskingRule::kIndependent;
  const auto limit = static_cast<uint64_t>(std::ldexp(config_.rate, 32));
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (vocabulary_.is_special(ids[i])) continue;
    if (is_independent && draws.choice(static_cast<int64_t>(i)) >= limit) continue;
    tokens.push_back(static_cast<int32_t>(i));
  }
  if (is_independent) return tokens;
  std::ranges::sort(tokens, {}, [&](int32_t i) { return std::pair(draws.choice(i), i); });
  tokens.resize(std::min(tokens.size(), static_cast<size_t>(most(ids))));
  return tokens;
}

/// In the order of a shuffle. Words alone are left out where they do not fit; a run of several is
/// shortened.
std::vector<int32_t> Masking::some_words(const Draws& draws, std::span<const int32_t> ids) const {
  const std::vector<Range> all = words(ids);
  std::vector<size_t> order(all.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t w) { return std::pair(draws.choice(all[w].begin), w); });
  const bool has_runs = config_.rule == MaskingRule::kNgrams;
  const int64_t room = most(ids);
  std::vector<bool> is_taken(all.size(), false);
  std::vector<int32_t> tokens;
  for (const size_t first : order) {
    size_t run = 1;
    if (has_runs) {
      // Probabilities 6, 3 and 2 in 11.
      const double share = draws.share(all[first].begin) * 11.0;
      run = share < 6 ? 1 : share < 9 ? 2 : kLongestNgram;
    }
    for (size_t w = first; w < std::min(first + run, all.size()); ++w) {
      const bool fits = static_cast<int64_t>(tokens.size()) + all[w].size() <= room;
      if (is_taken[w] || !fits) break;
      is_taken[w] = true;
      for (int64_t i = all[w].begin; i < all[w].end; ++i) tokens.push_back(static_cast<int32_t>(i));
    }
  }
  return tokens;
}

std::vector<int32_t> Masking::chosen(const Draws& draws, std::span<const int32_t> ids) const {
  const bool by_words = config_.rule == MaskingRule::kWords || config_.rule == MaskingRule::kNgrams;
  return by_words ? some_words(draws, ids) : some_tokens(draws, ids);
}

void Masking::apply(uint64_t epoch, uint64_t sample, std::span<int32_t> ids,
                    std::span<int32_t> labels) const {
  STIPPLE_CHECK(labels.size() == ids.size(), "masking: ", labels.size(), " labels of ", ids.size(),
                " tokens");
  const Draws drawn = draws(epoch, sample);
  std::ranges::fill(labels, kNothingAsked);
  for (const int32_t position : chosen(drawn, ids)) {
    const auto i = static_cast<size_t>(position);
    labels[i] = ids[i];
    ids[i] = drawn.replacement(position, ids[i], vocabulary_);
  }
}

int64_t Masking::count(uint64_t epoch, uint64_t sample, std::span<const int32_t> ids) const {
  return static_cast<int64_t>(chosen(draws(epoch, sample), ids).size());
}

}  // namespace stipple::data
