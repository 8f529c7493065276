// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/sample_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/vectorize.h"
#include "kernels/math/poisson.h"
#include "kernels/math/thinning.h"

namespace stipple::kernels::cpu {
namespace {

constexpr int64_t kDrawBatch = 256;

struct KeyTableInputs {
  const SampleProblem* problem;
  const float* scale;  // [K]
  KeyTables* tables;
};

// Columns of one block of keys, 16 clusters at a time: running sums down the keys, then transposed
// to lie along them.
STIPPLE_VECTOR_BODY void fill_block(const KeyTableInputs& in, int64_t block,
                                    int64_t first_cluster) {
  const SampleProblem& problem = *in.problem;
  const KeyTables& tables = *in.tables;
  const int64_t num_clusters = problem.num_clusters;
  constexpr int64_t kColumns = 16;
  const int64_t columns = std::min(kColumns, num_clusters - first_cluster);
  int32_t running[kColumns] = {};
  int32_t sums[kKeyBlock][kColumns];
  for (int64_t t = 0; t < kKeyBlock; ++t) {
    const int64_t j = block * kKeyBlock + t;
    if (j < problem.num_keys && problem.is_real_key(j)) {
      const float* z = problem.z + j * num_clusters + first_cluster;
      for (int64_t column = 0; column < columns; ++column) {
        running[column] += math::fixed_weight(z[column], in.scale[first_cluster + column]);
      }
    }
    for (int64_t column = 0; column < kColumns; ++column) sums[t][column] = running[column];
  }
  for (int64_t column = 0; column < columns; ++column) {
    const int64_t cluster = first_cluster + column;
    int32_t* within = tables.within + (block * tables.num_clusters + cluster) * kKeyBlock;
    for (int64_t t = 0; t < kKeyBlock; ++t) within[t] = sums[t][column];
    uint64_t* blocks = tables.blocks + cluster * tables.tree.size + block;
    *blocks = (block == 0 ? 0 : blocks[-1]) + static_cast<uint64_t>(running[column]);
  }
}

STIPPLE_VECTOR_BODY void fill_key_tables(const KeyTableInputs* in) {
  for (int64_t block = 0; block < in->tables->num_blocks; ++block) {
    for (int64_t cluster = 0; cluster < in->problem->num_clusters; cluster += 16) {
      fill_block(*in, block, cluster);
    }
  }
}

STIPPLE_VECTOR_BODY void max_columns(const SampleProblem* problem, float* zmax) {
  std::fill(zmax, zmax + problem->num_clusters, 0.0f);
  for (int64_t j = 0; j < problem->num_keys; ++j) {
    if (!problem->is_real_key(j)) continue;
    const float* z = problem->z + j * problem->num_clusters;
    for (int64_t v = 0; v < problem->num_clusters; ++v) zmax[v] = z[v] > zmax[v] ? z[v] : zmax[v];
  }
}

}  // namespace

const SampleKernels& sample_kernels() {
  switch (stipple::cpu::isa()) {
    case stipple::cpu::Isa::kAvx512:
      return kSampleAvx512;
    case stipple::cpu::Isa::kAvx2:
      return kSampleAvx2;
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
      zeta_(scratch.zeta.at(worker).data),
      zmax_(scratch.zmax.at(worker).data),
      rate_tree_(problem.num_clusters + 1),
      rates_(scratch.rates.at(worker).data),
      counts_(problem.law == MaskLaw::kPoissonMulti ? scratch.counts.at(worker).data : nullptr),
      candidates_(scratch.candidates.at(worker).data),
      drawn_(scratch.drawn.at(worker).data, problem.num_keys) {
  if (counts_ != nullptr) std::fill(counts_, counts_ + problem.num_keys, uint16_t{0});
  prepare_keys(scratch, worker);
}

void RowSampler::prepare_keys(const SampleScratch& scratch, int worker) {
  uint32_t* real_keys = scratch.real_keys.at(worker).data;
  int64_t num_real_keys = 0;
  for (int64_t j = 0; j < problem_.num_keys; ++j) {
    real_keys[num_real_keys] = static_cast<uint32_t>(j);
    num_real_keys += problem_.is_real_key(j) ? 1 : 0;
  }
  tables_ = {.num_clusters = problem_.num_clusters,
             .num_blocks = num_key_blocks(problem_.num_keys),
             .tree = SumTree(num_key_blocks(problem_.num_keys)),
             .within = scratch.within.at(worker).data,
             .blocks = scratch.blocks.at(worker).data,
             .real_keys = real_keys,
             .num_real_keys = num_real_keys};
  vectorized<max_columns>(&problem_, zmax_);
  float* scale = scratch.scale.at(worker).data;
  for (int64_t v = 0; v < problem_.num_clusters; ++v) {
    scale[v] = math::weight_scale(zmax_[v]);
  }
  const KeyTableInputs inputs{&problem_, scale, &tables_};
  vectorized<fill_key_tables>(&inputs);
  for (int64_t v = 0; v < problem_.num_clusters; ++v) {
    tables_.tree.build(tables_.blocks + v * tables_.tree.size);
    zeta_[v] = math::cluster_rate(tables_.total(v), zmax_[v]);
  }
  exploration_ = math::exploration_rate(problem_.delta, num_real_keys);
  work_.preparation = problem_.num_clusters * (tables_.num_blocks * kKeyBlock + tables_.tree.size);
}

int64_t RowSampler::sample(int64_t i) {
  prefetch_row(i + 1);
  int64_t degree = 0;
  if (problem_.is_real_query(i) && tables_.num_real_keys > 0) {
    degree = problem_.law == MaskLaw::kBernoulli
                 ? sample_bernoulli(i)
                 : draw(i, sum_rates(problem_.mu + i * problem_.num_clusters));
  }
  return problem_.has_self_loop(i) ? insert_self_loop(i, degree) : degree;
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
  const float largest = kernels_.dot(mu, zmax_, problem_.num_clusters) + problem_.delta;
  if (!(largest > 0.0f)) return 0;
  if (largest > math::kLargestThinnedProbability) {
    std::copy_n(tables_.real_keys, tables_.num_real_keys, candidates_);
    return thin(i, 0.0, tables_.num_real_keys);
  }
  const math::FixedOversampling oversampling(largest);
  return thin(i, oversampling.factor(), draw(i, oversampling.scale(sum_rates(mu))));
}

uint64_t RowSampler::sum_rates(const float* mu) {
  uint64_t sum = 0;
  for (int64_t v = 0; v < problem_.num_clusters; ++v) {
    sum += math::fixed_rate(static_cast<double>(mu[v]) * zeta_[v]);
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
  RowDraws inputs{&tables_, rate_tree_, rates_, problem_.key,
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

int64_t RowSampler::insert_self_loop(int64_t i, int64_t count) {
  const auto key = static_cast<uint32_t>(i);
  uint32_t* end = candidates_ + count;
  uint32_t* at = std::lower_bound(candidates_, end, key);
  if (at != end && *at == key) return count;
  std::copy_backward(at, end, end + 1);
  *at = key;
  if (counts_ != nullptr) counts_[i] = 1;
  return count + 1;
}

uint16_t RowSampler::take_count(uint32_t key) {
  const uint16_t count = counts_[key];
  counts_[key] = 0;
  return count;
}

}  // namespace stipple::kernels::cpu
