// SPDX-License-Identifier: Apache-2.0
// The tile sampler as a filtered predicate: a product of bytes decides all pairs whose uniform is
// farther from the probability than a certified bound, which leaves out less than a percent; those
// few are decided in fp32, and in the canonical order where even that is too close. The bits are
// those of tile_vector.h. The bound is derived in docs/attention/sbm.md, "Tiles by bytes".
#pragma once

#include "kernels/cpu/sample/dot_vector.h"
#include "kernels/cpu/sample/quantise_vector.h"
#include "kernels/cpu/sample/tile_vector.h"
#include "kernels/math/poisson.h"

// Only what multiplies bytes is compiled for VNNI: the rest is shared with CPUs that have none.
#if defined(__AVX512F__)
#define STIPPLE_VNNI_TARGET __attribute__((target("avx512vnni")))
#else
#define STIPPLE_VNNI_TARGET __attribute__((target("avxvnni")))
#endif

namespace stipple::kernels::cpu::STIPPLE_SIMD {

// --- queries and keys in bytes -------------------------------------------------------------------

/// Rows of TileScratch::query_facts: a number for every real query of the call.
enum QueryFact {
  kMean,         // of mu
  kStep,         // of its grid
  kCodeMean,     // step times the mean code
  kRounding,     // these as in ByteFacts
  kRoundingMax,  //
  kDeviation,    //
  kAbove,        //
  kNorm,         //
  kReach,        // against the panel at hand: no probability, rounding or not, is larger
  kBound,        // against the panel at hand: of the probabilities' errors
};
static_assert(kBound + 1 == TileScratch::kQueryFacts);

inline float* query_facts(const TileScratch& scratch, QueryFact fact) {
  return scratch.query_facts + fact * kMaxTileRows;
}

/// The codes of query q, minus 128.
inline int8_t* query_codes(const SampleProblem& problem, const TileScratch& scratch, int64_t q) {
  return scratch.query_codes + q * TileScratch::padded_clusters(problem.num_clusters);
}

inline void quantise_queries(const SampleProblem& problem, const TileQueries& queries,
                             int64_t first_row, const TileScratch& scratch) {
  const auto num_clusters = static_cast<float>(problem.num_clusters);
  for (int64_t q = 0; q < queries.count; ++q) {
    const float* mu = problem.mu + (first_row + queries.at[q]) * problem.num_clusters;
    ByteRange range;
    range.add(mu, problem.num_clusters);
    const ByteGrid grid = range.grid();
    auto* codes = reinterpret_cast<uint8_t*>(query_codes(problem, scratch, q));
    float sum = 0.0f;
    const ByteFacts facts = quantise(mu, problem.num_clusters, grid, 0x80, codes, sum);
    const ByteNorms norms(facts, grid, problem.num_clusters);
    query_facts(scratch, kMean)[q] = sum / num_clusters;
    query_facts(scratch, kStep)[q] = grid.step;
    query_facts(scratch, kCodeMean)[q] =
        grid.step * ((facts.code_sum - 128.0f * num_clusters) / num_clusters);
    query_facts(scratch, kRounding)[q] = norms.rounding;
    query_facts(scratch, kRoundingMax)[q] = norms.rounding_max;
    query_facts(scratch, kDeviation)[q] = norms.deviation;
    query_facts(scratch, kAbove)[q] = norms.above;
    query_facts(scratch, kNorm)[q] = norms.norm;
  }
}

/// The keys of a panel on one grid; vectors are in the order of the panel's slots.
struct KeyPanel {
  alignas(64) float sums[kMaxPanel];   // of z
  alignas(64) float above[kMaxPanel];  // step times the sum of codes
  float step = 0.0f;
  Mask real[kVectors];
};

// codes[k / 4, slot] = the four codes from k on, as one word. Norms are the largest of real keys.
inline ByteNorms quantise_keys(const SampleProblem& problem, int64_t first, uint64_t real,
                               KeyPanel& panel, uint8_t* codes) {
  const int64_t k = problem.num_clusters;
  ByteRange range;
  for (uint64_t rest = real; rest != 0; rest &= rest - 1) {
    range.add(problem.z + (first + __builtin_ctzll(rest)) * k, k);
  }
  const ByteGrid grid = range.grid();
  panel.step = grid.step;
  for (int v = 0; v < kVectors; ++v) {
    panel.real[v] = mask_from_bits(static_cast<uint32_t>(_pext_u64(real, kEveryFourth << v)));
  }
  ByteFacts most;
  for (int64_t column = 0; column < kSamplePanel; ++column) {
    alignas(64) uint8_t row[TileScratch::padded_clusters(kMostQuantised)];
    ByteFacts facts;
    float sum = 0.0f;
    if ((real >> column & 1) != 0) {
      facts = quantise(problem.z + (first + column) * k, k, grid, 0, row, sum);
      most.raise(facts);
    } else {
      memset(row, 0, static_cast<size_t>(TileScratch::padded_clusters(k)));
    }
    const int64_t slot = panel_slot(column);
    panel.sums[slot] = sum;
    panel.above[slot] = grid.step * facts.code_sum;
    for (int64_t at = 0; at < k; at += 4) memcpy(codes + at * kSamplePanel + slot * 4, row + at, 4);
  }
  return {most, grid, k};
}

// --- bounds --------------------------------------------------------------------------------------

/// What poisson laws add to the difference of two probabilities: 1e-6 for either of two canonical
/// functions, 2e-5 for rough_positive_probability.
inline constexpr float kLawError = 2.1e-6f;
inline constexpr float kRoughLawError = 2.1e-5f;
inline constexpr float kLargestRoughRate = 2.0f;
/// Makes up for the rounding of the bound itself.
inline constexpr float kInflation = 1.001f;

/// How far rounding errors reach in sums of n terms: covers sequential sums, those by lanes, and
/// both of a product's factors. Times |x| |y| it bounds the difference of any two ways to add up
/// x . y in fp32.
inline float sum_error(int64_t n) { return (1.25f * static_cast<float>(n) + 80.0f) * 0x1p-24f; }

// Of all queries against the panel.
inline void bound_errors(const SampleProblem& problem, int64_t num_queries, const ByteNorms& keys,
                         const TileScratch& scratch) {
  const Floats sums = splat(sum_error(problem.num_clusters) + 0x1p-20f);
  const Floats law = splat(problem.law == MaskLaw::kBernoulli ? 0.0f : kRoughLawError);
  const Floats scale = splat(kInflation * scratch.bound_scale);
  for (int64_t q = 0; q < num_queries; q += kWidth) {
    const auto fact = [&](QueryFact which) { return load(query_facts(scratch, which) + q); };
    const Floats rounding = fact(kRounding);
    Floats bound = min(rounding * splat(keys.deviation), fact(kRoundingMax) * splat(keys.above));
    bound = bound +
            min(fact(kDeviation) * splat(keys.rounding), fact(kAbove) * splat(keys.rounding_max));
    bound = fma(rounding, splat(keys.rounding), bound);
    const Floats reach = fma(fact(kNorm), splat(keys.norm), splat(problem.delta));
    bound = fma(sums, reach, bound);
    // Rounding of the estimate's own operations; fact(kStep) * 256 is mu's range and a little more.
    const Floats range = fact(kStep) * splat(256.0f);
    bound = fma(splat(0x1p-20f), fma(range, splat(keys.above), splat(1.0f)), bound + law);
    store(query_facts(scratch, kReach) + q, reach);
    store(query_facts(scratch, kBound) + q, bound * scale);
  }
}

// --- pairs that bytes leave open -----------------------------------------------------------------

template <bool kCollapse>
float law_of(float p) {
  return kCollapse ? math::positive_probability(fmaxf(p, 0.0f)) : p;
}

template <bool kCollapse>
bool is_kept_canonically(const SampleProblem& problem, const float* mu, const float* z,
                         uint32_t word) {
  float p = problem.delta;
  for (int64_t k = 0; k < problem.num_clusters; ++k) p = fmaf(mu[k], z[k], p);
  return word < math::keep_threshold(law_of<kCollapse>(p));
}

/// Pairs whose uniform is too close to the probability for bytes to tell.
class OpenPairs {
 public:
  bool is_full() const { return count_ > kRoom; }

  /// Of query q, those in the masks.
  void add(int64_t q, const Mask (&open)[kVectors], const PhiloxWords& words) {
    const Words first = splat_words(static_cast<uint32_t>(q * kMaxPanel)) + (iota() << 2);
    for (int v = 0; v < kVectors; ++v) {
      compress_store(words_ + count_, words.w[v], open[v]);
      count_ +=
          compress_store(pairs_ + count_, first + splat_words(static_cast<uint32_t>(v)), open[v]);
    }
  }

  /// In fp32, and in the canonical order where even that is too close. Sets the bits of those kept.
  template <bool kCollapse>
  void decide(const PanelTask& task, const TileScratch& scratch) {
    const SampleProblem& problem = task.problem;
    const int64_t words = (problem.num_keys + 31) / 32;
    const double scale = static_cast<double>(kInflation * scratch.bound_scale);
    const double sums = scale * static_cast<double>(sum_error(problem.num_clusters) + 0x1p-24f);
    const double law = scale * (kCollapse ? static_cast<double>(kLawError) : 0x1p-40);
    for (int64_t e = 0; e < count_; ++e) {
      const int64_t q = pairs_[e] / kMaxPanel;
      const int64_t column = pairs_[e] % kMaxPanel;
      const uint32_t word = words_[e] >> 1;
      const int32_t row = task.queries.at[q];
      const float* mu = problem.mu + (task.first_row + row) * problem.num_clusters;
      const float* z = problem.z + (task.first_key + column) * problem.num_clusters;
      const float p = law_of<kCollapse>(lane_dot(mu, z, problem.num_clusters) + problem.delta);
      // Kept where word + 1 <= 2^31 p.
      const double margin = static_cast<double>(p) - (static_cast<double>(word) + 1.0) * 0x1p-31;
      bool keeps = margin >= 0.0;
      if (!(fabs(margin) > sums * static_cast<double>(query_facts(scratch, kReach)[q]) + law)) {
        keeps = is_kept_canonically<kCollapse>(problem, mu, z, word);
        if (scratch.work != nullptr) ++scratch.work->canonical;
      }
      task.bits[row * words + (task.first_key + column) / 32] |= uint32_t{keeps} << column % 32;
    }
    if (scratch.work != nullptr) scratch.work->open += count_;
    count_ = 0;
  }

 private:
  static constexpr int64_t kRoom = 1024;
  static constexpr int64_t kSize = kRoom + kTileRows * kSamplePanel + 2 * kWidth;
  int64_t count_ = 0;
  alignas(64) uint32_t pairs_[kSize];
  alignas(64) uint32_t words_[kSize];
};

// --- tiles ---------------------------------------------------------------------------------------

/// 1 - e^-rate for rates up to kLargestRoughRate, absolute error below 2e-5.
inline Floats rough_positive_probability(Floats rate) {
  Floats q = splat(math::kRoughPositive[4]);
  for (int power = 3; power >= 0; --power) q = fma(q, rate, splat(math::kRoughPositive[power]));
  return q * rate;
}

STIPPLE_VNNI_TARGET inline Words add_products(Words sum, Words unsigned_bytes, Words signed_bytes) {
#if defined(__AVX512F__)
  return {_mm512_dpbusd_epi32(sum.v, unsigned_bytes.v, signed_bytes.v)};
#else
  return {_mm256_dpbusd_avx_epi32(sum.v, unsigned_bytes.v, signed_bytes.v)};
#endif
}

/// sum_k query code times key code of a tile's pairs, exact.
struct ByteSums {
  alignas(64) uint32_t at[kTileRows][kVectors * kWidth];
};

STIPPLE_VNNI_TARGET inline void multiply_bytes(const int8_t* const (&queries)[kTileRows],
                                               const uint8_t* keys, int64_t num_clusters,
                                               ByteSums& result) {
  Words sums[kTileRows][kVectors];
#pragma GCC unroll 6
  for (auto& row : sums) {
#pragma GCC unroll 4
    for (Words& sum : row) sum = splat_words(0);
  }
  for (int64_t k = 0; k < num_clusters; k += 4) {
    Words key[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      key[v] = load(reinterpret_cast<const uint32_t*>(keys + k * kSamplePanel) + v * kWidth);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kTileRows; ++r) {
      uint32_t codes;
      memcpy(&codes, queries[r] + k, sizeof codes);
      const Words query = splat_words(codes);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = add_products(sums[r][v], key[v], query);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(result.at[r] + v * kWidth, sums[r][v]);
  }
}

/// One query's probabilities.
struct ByteEstimate {
  Floats start, mean, code_mean, scale;

  ByteEstimate(const SampleProblem& problem, const KeyPanel& panel, const TileScratch& scratch,
               int64_t q)
      : start(splat(problem.delta)),
        mean(splat(query_facts(scratch, kMean)[q])),
        code_mean(splat(-query_facts(scratch, kCodeMean)[q])),
        scale(splat(query_facts(scratch, kStep)[q] * panel.step)) {}

  Floats at(const KeyPanel& panel, int v, Words sum) const {
    const Floats p = fma(mean, load(panel.sums + v * kWidth), start);
    return fma(scale, to_floats(sum), fma(code_mean, load(panel.above + v * kWidth), p));
  }
};

template <bool kCollapse>
[[gnu::always_inline]] inline uint64_t filter_row(const PanelTask& task, const KeyPanel& panel,
                                                  const TileScratch& scratch, int64_t q,
                                                  const uint32_t* sums, const PhiloxWords& words,
                                                  OpenPairs& open_pairs) {
  const float error = query_facts(scratch, kBound)[q];
  const bool is_small = query_facts(scratch, kReach)[q] + error <= kLargestRoughRate;
  const ByteEstimate estimate(task.problem, panel, scratch, q);
  const Floats above = splat(error * kUniformScale), below = splat(error * -kUniformScale);
  Mask kept[kVectors], open[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    Floats p = estimate.at(panel, v, load(sums + v * kWidth));
    if constexpr (kCollapse) {
      p = max(p, splat(0.0f));
      p = is_small ? rough_positive_probability(p) : positive_probability(p);
    }
    const Floats excess = fma(p, splat(-kUniformScale), uniform_floats(words.w[v]));
    kept[v] = less(excess, below);
    open[v] = !(kept[v] | less(above, excess)) & panel.real[v];
  }
  if (mask_bits(open[0] | open[1] | open[2] | open[3]) != 0) open_pairs.add(q, open, words);
  return panel_bits(kept);
}

template <bool kCollapse>
STIPPLE_VNNI_TARGET void filter_tile(const PanelTask& task, const KeyPanel& panel,
                                     const TileScratch& scratch, int64_t begin,
                                     OpenPairs& open_pairs) {
  const int8_t* codes[kTileRows];
  for (int64_t r = 0; r < kTileRows; ++r) {
    const int64_t q = begin + r < task.queries.count ? begin + r : task.queries.count - 1;
    codes[r] = query_codes(task.problem, scratch, q);
  }
  ByteSums sums;
  multiply_bytes(codes, scratch.key_codes, task.problem.num_clusters, sums);
  for (int r = 0; r < kTileRows && begin + r < task.queries.count; r += kUniformRows) {
    PhiloxWords words[kUniformRows];
    task.draw(begin + r, words);
    for (int s = 0; s < kUniformRows && begin + r + s < task.queries.count; ++s) {
      const int64_t q = begin + r + s;
      task.store(task.queries.at[q], filter_row<kCollapse>(task, panel, scratch, q, sums.at[r + s],
                                                           words[s], open_pairs));
    }
  }
}

/// Products of bytes pay from here on.
inline constexpr int64_t kFewestClusters = 24;

/// The widest bound b of a tile for which bytes pay: a share of 2 b of the pairs stays open, and an
/// open pair costs as much as bytes save on some 40 pairs at K = 128 (Sapphire Rapids).
inline float widest_bound(const SampleProblem& problem, const TileScratch& scratch) {
  if (scratch.is_always_bytes) return 4.0f;
  const float gain = 2.5e-4f * static_cast<float>(problem.num_clusters - kFewestClusters);
  return gain < 0.04f ? gain : 0.04f;
}

/// Whether a bound is wider than that, or not known.
inline bool is_too_wide(const TileQueries& queries, const TileScratch& scratch, int64_t begin,
                        float widest) {
  bool result = false;
  for (int64_t q = begin; q < begin + kTileRows && q < queries.count; ++q) {
    result |= !(query_facts(scratch, kBound)[q] <= widest);
  }
  return result;
}

template <bool kCollapse>
void filter_tiles(const SampleProblem& problem, Range rows, const TileScratch& scratch,
                  uint32_t* bits) {
  const TileQueries queries = real_queries(problem, rows);
  quantise_queries(problem, queries, rows.begin, scratch);
  const float widest = widest_bound(problem, scratch);
  OpenPairs open;
  for_each_panel(problem, queries, rows, bits, [&](const PanelTask& task) {
    KeyPanel panel;
    const ByteNorms norms =
        quantise_keys(problem, task.first_key, task.real, panel, scratch.key_codes);
    bound_errors(problem, queries.count, norms, scratch);
    bool is_packed = false;
    for (int64_t begin = 0; begin < queries.count; begin += kTileRows) {
      if (!is_too_wide(queries, scratch, begin, widest)) {
        filter_tile<kCollapse>(task, panel, scratch, begin, open);
        if (open.is_full()) open.decide<kCollapse>(task, scratch);
        continue;
      }
      if (!is_packed) pack_panel(problem, task.first_key, scratch.panel);
      is_packed = true;
      if (scratch.work != nullptr) scratch.work->wide_pairs += kTileRows * kSamplePanel;
      sample_tile<kCollapse>(task, begin, scratch.panel);
    }
    open.decide<kCollapse>(task, scratch);
  });
}

/// tile_rows with the same bits on CPUs with VNNI.
inline void filtered_tile_rows(const SampleProblem& problem, Range rows, const TileScratch& scratch,
                               uint32_t* bits) {
  const bool pays = problem.num_clusters >= kFewestClusters || scratch.is_always_bytes;
  if (!pays || problem.num_clusters > kMostQuantised) {
    tile_rows(problem, rows, scratch, bits);
  } else if (problem.law == MaskLaw::kBernoulli) {
    filter_tiles<false>(problem, rows, scratch, bits);
  } else {
    filter_tiles<true>(problem, rows, scratch, bits);
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
