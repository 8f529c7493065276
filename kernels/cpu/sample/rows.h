// SPDX-License-Identifier: Apache-2.0
// The row sampler: draws the edges of one query at a time in time proportional to their number,
// after O(M K) of preparation per problem. The method is fastRG's (Rohe et al., JMLR 19(77), 2018)
// split into independent rows: docs/attention/sbm.md.
#pragma once

#include <cstdint>

#include "kernels/cpu/sample/key_tables.h"

namespace stipple::kernels::cpu {

/// A set of keys that is emptied in ascending order in time proportional to its size, whatever the
/// number of keys: 64-way summaries tell which words are in use.
class KeySet {
 public:
  static int64_t num_words(int64_t num_keys) {
    return level_words(num_keys, 0) + level_words(num_keys, 1) + level_words(num_keys, 2);
  }

  /// `words` holds num_words(num_keys) words, cleared here.
  KeySet(uint64_t* words, int64_t num_keys);

  void insert(uint32_t key) {
    keys_[key >> 6] |= uint64_t{1} << (key & 63);
    summary_[key >> 12] |= uint64_t{1} << (key >> 6 & 63);
    top_[key >> 18] |= uint64_t{1} << (key >> 12 & 63);
  }

  /// Writes the keys in ascending order and empties the set; returns how many there were. Adds the
  /// words looked at.
  int64_t take(uint32_t* keys, int64_t& words_seen);

 private:
  static int64_t level_words(int64_t num_keys, int level) {
    return ((num_keys - 1) >> (6 * (level + 1))) + 1;
  }

  uint64_t* keys_;
  uint64_t* summary_;
  uint64_t* top_;
  int64_t top_words_;
};

/// Steps of the inner loops, for tests of the cost: none of them grows with N M.
struct RowSamplerWork {
  int64_t draws = 0;        ///< random keys selected
  int64_t candidates = 0;   ///< distinct keys before thinning
  int64_t words = 0;        ///< of the set of drawn keys that were looked at
  int64_t preparation = 0;  ///< entries of the key tables
};

class RowSampler {
 public:
  RowSampler(const SampleProblem& problem, const SampleScratch& scratch, int worker);

  /// Draws row i; returns its degree. keys() is valid until the next call.
  int64_t sample(int64_t i);
  const uint32_t* keys() const { return candidates_; }
  /// How often key j was drawn for the row just sampled (law poisson_multi), then forgotten.
  uint16_t take_count(uint32_t key);
  const RowSamplerWork& work() const { return work_; }

 private:
  void prefetch_row(int64_t i) const;
  uint64_t sum_rates(const float* mu);
  int64_t draw(int64_t i, uint64_t rate);
  int64_t thin(int64_t i, double oversampling, int64_t count);
  int64_t sample_bernoulli(int64_t i);
  /// What was drawn beside the real keys of the window.
  int64_t insert_window(Range window, int64_t count);

  const SampleProblem& problem_;
  const SampleKernels& kernels_;
  PreparedKeys prepared_;
  SumTree rate_tree_;
  uint64_t* rates_;
  uint16_t* counts_;
  uint32_t* candidates_;
  KeySet drawn_;
  uint64_t exploration_ = 0;
  RowSamplerWork work_;
};

}  // namespace stipple::kernels::cpu
