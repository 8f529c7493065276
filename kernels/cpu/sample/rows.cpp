// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/sample/rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/math/poisson.h"
#include "kernels/math/thinning.h"

namespace stipple::kernels::cpu {
namespace {

constexpr int64_t kDrawBatch = 256;

}  // namespace

const SampleKernels& sample_kernels() {
  switch (stipple::cpu::isa()) {
    case stipple::cpu::Isa::kAvx512:
      return stipple::cpu::has_vnni() ? kSampleAvx512Vnni : kSampleAvx512;
    case stipple::cpu::Isa::kAvx2:
      return stipple::cpu::has_vnni() ? kSampleAvx2Vnni : kSampleAvx2;
    case stipple::cpu::Isa::kScalar:
      break;
  }
  return kSampleScalar;
}

KeySet::KeySet(uint64_t* words, int64_t num_keys)
    : keys_(words),
      summary_(keys_ + level_words(num_keys, 0)),
      top_(summary_ + level_words(num_keys, 1)),
      top_words_(level_words(num_keys, 2)) {
  std::fill(words, words + num_words(num_keys), uint64_t{0});
}

int64_t KeySet::take(uint32_t* keys, int64_t& words_seen) {
  int64_t words = 0;
  const auto for_each_bit = [&words](uint64_t& word, int64_t base, const auto& body) {
    ++words;
    for (; word != 0; word &= word - 1) body(base * 64 + __builtin_ctzll(word));
  };
  uint32_t* out = keys;
  for (int64_t t = 0; t < top_words_; ++t) {
    for_each_bit(top_[t], t, [&](int64_t s) {
      for_each_bit(summary_[s], s, [&](int64_t w) {
        for_each_bit(keys_[w], w, [&](int64_t key) { *out++ = static_cast<uint32_t>(key); });
      });
    });
  }
  words_seen += words;
  return out - keys;
}

RowSampler::RowSampler(const SampleProblem& problem, const SampleScratch& scratch, int worker)
    : problem_(problem),
      kernels_(sample_kernels()),
      prepared_(prepare_keys(problem, kernels_, scratch, worker)),
      rate_tree_(problem.num_clusters + 1),
      rates_(scratch.rates.at(worker).data),
      counts_(problem.law == MaskLaw::kPoissonMulti ? scratch.counts.at(worker).data : nullptr),
      candidates_(scratch.candidates.at(worker).data),
      drawn_(scratch.drawn.at(worker).data, problem.num_keys) {
  if (counts_ != nullptr) std::fill(counts_, counts_ + problem.num_keys, uint16_t{0});
  exploration_ = math::exploration_rate(problem_.delta, prepared_.num_real_keys);
  work_.preparation = (problem_.num_clusters + 1) * problem_.num_keys;
}

int64_t RowSampler::sample(int64_t i) {
  prefetch_row(i + 1);
  int64_t degree = 0;
  if (problem_.is_real_query(i) && prepared_.num_real_keys > 0) {
    degree = problem_.law == MaskLaw::kBernoulli
                 ? sample_bernoulli(i)
                 : draw(i, sum_rates(problem_.mu + i * problem_.num_clusters));
  }
  return insert_window(problem_.window(i), degree);
}

// Rows come from far away one after the other, but the draws in between make the processor lose
// track.
void RowSampler::prefetch_row(int64_t i) const {
  if (i >= problem_.num_queries) return;
  constexpr int64_t kFloatsPerLine = 16;
  const float* mu = problem_.mu + i * problem_.num_clusters;
  for (int64_t v = 0; v < problem_.num_clusters; v += kFloatsPerLine) __builtin_prefetch(mu + v);
}

int64_t RowSampler::sample_bernoulli(int64_t i) {
  const float* mu = problem_.mu + i * problem_.num_clusters;
  // Bounds every p of the row, rounding included: the sum is the same sequence of monotone
  // operations.
  const float largest = kernels_.dot(mu, prepared_.zmax, problem_.num_clusters) + problem_.delta;
  if (!(largest > 0.0f)) return 0;
  if (largest > math::kLargestThinnedProbability) {
    std::copy_n(prepared_.real_keys, prepared_.num_real_keys, candidates_);
    return thin(i, 0.0, prepared_.num_real_keys);
  }
  const math::FixedOversampling oversampling(largest);
  return thin(i, oversampling.factor(), draw(i, oversampling.scale(sum_rates(mu))));
}

uint64_t RowSampler::sum_rates(const float* mu) {
  uint64_t sum = 0;
  for (int64_t v = 0; v < problem_.num_clusters; ++v) {
    sum += math::fixed_rate(static_cast<double>(mu[v]) * prepared_.zeta[v]);
    rates_[v] = sum;
  }
  sum += exploration_;
  rates_[problem_.num_clusters] = sum;
  rate_tree_.build(rates_);
  return sum;
}

int64_t RowSampler::draw(int64_t i, uint64_t rate) {
  const auto row = static_cast<uint32_t>(i);
  const math::UniformSequence uniforms(problem_.key, row, problem_.sample,
                                       problem_.stream(Purpose::kEdgeCount));
  const int64_t draws = math::PoissonTables::shared().draw(rate, uniforms);
  RowDraws inputs{&prepared_.tables, rate_tree_, rates_, problem_.key,
                  rng_counter(0, row, problem_.sample, problem_.stream(Purpose::kEdgeDraw))};
  uint32_t keys[kDrawBatch];
  for (int64_t first = 0; first < draws; first += kDrawBatch) {
    const int64_t count = std::min(kDrawBatch, draws - first);
    inputs.counter[0] = static_cast<uint32_t>(first);
    kernels_.draw_keys(inputs, count, keys);
    for (int64_t e = 0; e < count; ++e) drawn_.insert(keys[e]);
    if (counts_ == nullptr) continue;
    for (int64_t e = 0; e < count; ++e) {
      uint16_t& times = counts_[keys[e]];
      if (times < std::numeric_limits<uint16_t>::max()) ++times;
    }
  }
  const int64_t distinct = drawn_.take(candidates_, work_.words);
  work_.draws += draws;
  work_.candidates += distinct;
  return distinct;
}

int64_t RowSampler::thin(int64_t i, double oversampling, int64_t count) {
  const RowThinning inputs{.mu = problem_.mu + i * problem_.num_clusters,
                           .z = problem_.z,
                           .num_clusters = problem_.num_clusters,
                           .delta = problem_.delta,
                           .oversampling = oversampling,
                           .certain = math::certain_word(oversampling),
                           .key = problem_.key,
                           .counter = rng_counter(0, static_cast<uint32_t>(i), problem_.sample,
                                                  problem_.stream(Purpose::kEdgeThin))};
  return kernels_.thin(inputs, candidates_, count);
}

int64_t RowSampler::insert_window(Range window, int64_t count) {
  if (window.size() == 0) return count;
  uint32_t* const end = candidates_ + count;
  uint32_t* const first = std::lower_bound(candidates_, end, static_cast<uint32_t>(window.begin));
  uint32_t* const last = std::lower_bound(first, end, static_cast<uint32_t>(window.end));
  int64_t real = 0;
  for (int64_t j = window.begin; j < window.end; ++j) real += problem_.is_real_key(j) ? 1 : 0;
  std::copy_backward(last, end, end + (real - (last - first)));
  uint32_t* at = first;
  for (int64_t j = window.begin; j < window.end; ++j) {
    if (!problem_.is_real_key(j)) continue;
    *at++ = static_cast<uint32_t>(j);
    if (counts_ != nullptr) counts_[j] = std::max<uint16_t>(counts_[j], 1);
  }
  return count + real - (last - first);
}

uint16_t RowSampler::take_count(uint32_t key) {
  const uint16_t count = counts_[key];
  counts_[key] = 0;
  return count;
}

}  // namespace stipple::kernels::cpu
