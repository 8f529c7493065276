// SPDX-License-Identifier: Apache-2.0
#include "data/mlm/masking.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>

namespace stipple::data {
namespace {

constexpr int32_t kMask = 4;
constexpr int64_t kVocabulary = 1000;
constexpr int32_t kFirstWord = 5;     // ids before it are special
constexpr int32_t kFirstPiece = 700;  // ids from it on go on a word

const MaskedVocabulary kVocab = {.vocab_size = kVocabulary,
                                 .mask = kMask,
                                 .is_special = [](int32_t id) { return id < kFirstWord; },
                                 .continues = [](int32_t id) { return id >= kFirstPiece; }};

struct Masked {
  std::vector<int32_t> before, ids, labels;
  std::vector<size_t> positions() const {
    std::vector<size_t> found;
    for (size_t i = 0; i < labels.size(); ++i)
      if (labels[i] >= 0) found.push_back(i);
    return found;
  }
};

/// [CLS], words of one token each, [SEP].
std::vector<int32_t> sentence(int64_t tokens) {
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  std::iota(ids.begin(), ids.end(), kFirstWord);
  ids.front() = 2;
  ids.back() = 3;
  return ids;
}

/// Words of 1, 2, 3, 1, 2, 3, ... pieces.
std::vector<int32_t> sentence_of_pieces(int64_t tokens) {
  std::vector<int32_t> ids = sentence(tokens);
  for (size_t i = 1, word = 0; i + 1 < ids.size(); ++word)
    for (size_t piece = 0; piece <= word % 3 && i + 1 < ids.size(); ++piece, ++i)
      ids[i] = (piece == 0 ? kFirstWord : kFirstPiece) + static_cast<int32_t>(i % 100);
  return ids;
}

Masked masked(const MaskingConfig& config, const std::vector<int32_t>& ids, uint64_t epoch = 0,
              uint64_t sample = 0, uint64_t seed = 1) {
  Masked m{ids, ids, std::vector<int32_t>(ids.size())};
  const Masking masking(config, kVocab, seed);
  masking.apply(epoch, sample, m.ids, m.labels);
  EXPECT_EQ(masking.count(epoch, sample, ids), static_cast<int64_t>(m.positions().size()));
  return m;
}

const MaskingRule kRules[] = {MaskingRule::kIndependent, MaskingRule::kCount, MaskingRule::kWords,
                              MaskingRule::kNgrams};

TEST(Masking, AsksForNoSpecialTokenAndChangesNothingElse) {
  for (const MaskingRule rule : kRules) {
    for (uint64_t sample = 0; sample < 50; ++sample) {
      const Masked m = masked({.rule = rule, .rate = 0.5}, sentence_of_pieces(40), 0, sample);
      for (size_t i = 0; i < m.ids.size(); ++i) {
        if (m.labels[i] < 0) {
          EXPECT_EQ(m.ids[i], m.before[i]);
        } else {
          EXPECT_EQ(m.labels[i], m.before[i]);
          EXPECT_GE(m.before[i], kFirstWord);
        }
      }
    }
  }
}

TEST(Masking, CountsAsBertDoes) {
  const auto count = [](int64_t tokens, double rate, int64_t most = 0) {
    const MaskingConfig config{.rule = MaskingRule::kCount, .rate = rate, .max_predictions = most};
    return masked(config, sentence(tokens)).positions().size();
  };
  EXPECT_EQ(count(30, 0.15), 4u);    // 4.5, to the even number
  EXPECT_EQ(count(50, 0.15), 8u);    // 7.5
  EXPECT_EQ(count(128, 0.15), 19u);  // 19.2
  EXPECT_EQ(count(5, 0.15), 1u);     // at least one
  EXPECT_EQ(count(128, 0.15, 7), 7u);
  EXPECT_EQ(count(4, 0.9), 2u);  // no more than there are
}

/// Over a million draws, within four standard deviations.
TEST(Masking, ShowsTheMaskATokenOrTheTokenItselfInEightOneAndOneOfTen) {
  int64_t tokens = 0, asked = 0, masks = 0, kept = 0, special = 0;
  for (uint64_t sample = 0; tokens < 7'000'000; ++sample) {
    const Masked m = masked({}, sentence(500), 3, sample);
    tokens += 498;
    for (const size_t i : m.positions()) {
      ++asked;
      masks += m.ids[i] == kMask;
      kept += m.ids[i] == m.before[i];
      special += m.ids[i] < kFirstWord && m.ids[i] != kMask;
    }
  }
  const auto within = [](int64_t count, int64_t of, double p) {
    const double expected = p * static_cast<double>(of);
    EXPECT_NEAR(static_cast<double>(count), expected, 4 * std::sqrt(expected * (1 - p)));
  };
  EXPECT_GT(asked, 1'000'000);
  within(asked, tokens, 0.15);
  within(masks, asked, 0.8 + 0.1 / kVocabulary);
  within(kept, asked, 0.1 + 0.1 / kVocabulary);
  within(special, asked, 0.1 * (kFirstWord - 1) / kVocabulary);  // of the whole vocabulary
}

TEST(Masking, TakesWholeWords) {
  for (const MaskingRule rule : {MaskingRule::kWords, MaskingRule::kNgrams}) {
    for (uint64_t sample = 0; sample < 200; ++sample) {
      const Masked m = masked({.rule = rule, .rate = 0.3}, sentence_of_pieces(64), 0, sample);
      for (size_t i = 2; i + 1 < m.ids.size(); ++i) {
        if (m.before[i] < kFirstPiece) continue;
        EXPECT_EQ(m.labels[i] >= 0, m.labels[i - 1] >= 0) << i;
      }
      EXPECT_LE(m.positions().size(), 19u);  // 0.3 of 64
      EXPECT_GE(m.positions().size(), 17u);  // but for words that do not fit
    }
  }
}

/// In long sentences of which little is asked, runs hardly ever touch.
TEST(Masking, TakesRunsOfOneToThreeWords) {
  std::map<size_t, int64_t> runs;
  int64_t total = 0;
  for (uint64_t sample = 0; sample < 4000; ++sample) {
    const Masked m =
        masked({.rule = MaskingRule::kNgrams, .rate = 0.02}, sentence(1000), 0, sample);
    size_t run = 0;
    for (const int32_t label : m.labels) {
      if (label >= 0) {
        ++run;
      } else if (run > 0) {
        ++runs[run];
        ++total;
        run = 0;
      }
    }
  }
  EXPECT_NEAR(static_cast<double>(runs[1]) / static_cast<double>(total), 6.0 / 11, 0.03);
  EXPECT_NEAR(static_cast<double>(runs[2]) / static_cast<double>(total), 3.0 / 11, 0.03);
  EXPECT_NEAR(static_cast<double>(runs[3]) / static_cast<double>(total), 2.0 / 11, 0.03);
}

TEST(Masking, IsDrawnAnewForEachSeedEpochAndSampleAndOtherwiseTheSame) {
  for (const MaskingRule rule : kRules) {
    std::set<std::vector<int32_t>> different;
    for (uint64_t seed = 0; seed < 2; ++seed)
      for (uint64_t epoch = 0; epoch < 3; ++epoch)
        for (uint64_t sample = 0; sample < 3; ++sample) {
          const auto labels = masked({.rule = rule}, sentence(200), epoch, sample, seed).labels;
          EXPECT_EQ(labels, masked({.rule = rule}, sentence(200), epoch, sample, seed).labels);
          different.insert(labels);
        }
    EXPECT_EQ(different.size(), 18u);
  }
}

TEST(Masking, RepeatsItsCopies) {
  const MaskingConfig config{.copies = 2};
  const auto labels = [&](uint64_t epoch) { return masked(config, sentence(200), epoch).labels; };
  EXPECT_EQ(labels(0), labels(2));
  EXPECT_EQ(labels(1), labels(5));
  EXPECT_NE(labels(0), labels(1));
}

}  // namespace
}  // namespace stipple::data
