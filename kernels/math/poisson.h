// SPDX-License-Identifier: Apache-2.0
// Poisson counts without libm, so that every backend draws the same numbers from the same bits: a
// rate is a sum of digits times powers of eight, and a Poisson variable is the sum of one
// table-inverted variable per digit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/rng.h"

namespace stipple::kernels::math {

/// floor(a b / 2^64). With a uniform, an integer uniform in [0, b).
STIPPLE_HD [[gnu::always_inline]] inline uint64_t multiply_high(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
}

/// 64-bit uniforms of one row: words of Philox blocks 0, 1, ...
class UniformSequence {
 public:
  STIPPLE_HD UniformSequence(PhiloxKey key, uint32_t row, uint32_t sample, uint32_t stream)
      : key_(key), counter_(rng_counter(0, row, sample, stream)) {}

  STIPPLE_HD uint64_t at(uint32_t index) const {
    PhiloxCounter counter = counter_;
    counter[0] = index / 2;
    const PhiloxCounter words = philox4x32(counter, key_);
    const uint64_t first = uint64_t{words[0]} << 32 | words[1];
    const uint64_t second = uint64_t{words[2]} << 32 | words[3];
    return index % 2 == 0 ? first : second;
  }

 private:
  PhiloxKey key_;
  PhiloxCounter counter_;
};

/// Poisson variables as sums of terms, one for each part of a rate; pointers into the tables of the
/// device that draws. Rates are fixed-point numbers with 40 binary places.
///   N ~ Poisson(rate) = sum over the terms that are there of draw(rate, term, next uniform)
struct PoissonTerms {
  static constexpr int kRateBits = 40;
  static constexpr int kUnitBits = 34;  // the tables start at a rate of 2^-6
  static constexpr int kPlaces = 7;     // and end at 2^15
  static constexpr uint64_t kUnit = uint64_t{1} << kUnitBits;

  /// Cumulative probabilities of the counts from `lowest` on, thresholds [begin, end).
  struct Table {
    int64_t lowest = 0;
    int64_t begin = 0;
    int64_t end = 0;
  };
  const Table* tables = nullptr;  // digits 1 to 7 of every place, then 8^kPlaces
  const uint64_t* thresholds = nullptr;

  /// Term 0 is what lies below the tables, then come the places, then units of the last table.
  STIPPLE_HD static int64_t num_terms(uint64_t rate) {
    return 1 + kPlaces + static_cast<int64_t>(rate >> (kUnitBits + 3 * kPlaces));
  }
  STIPPLE_HD static bool has_term(uint64_t rate, int64_t term) {
    if (term == 0) return (rate & (kUnit - 1)) != 0;
    return term > kPlaces || digit(rate, term - 1) != 0;
  }
  STIPPLE_HD int64_t draw(uint64_t rate, int64_t term, uint64_t uniform) const {
    if (term == 0) return draw_small(rate & (kUnit - 1), uniform);
    if (term > kPlaces) return draw_table(kPlaces * 7, uniform);
    const int64_t place = term - 1;
    return draw_table(place * 7 + static_cast<int64_t>(digit(rate, place)) - 1, uniform);
  }

 private:
  STIPPLE_HD static uint64_t digit(uint64_t rate, int64_t place) {
    return rate >> (kUnitBits + 3 * place) & 7;
  }

  STIPPLE_HD int64_t draw_table(int64_t index, uint64_t uniform) const {
    const Table& table = tables[index];
    const uint64_t* begin = thresholds + table.begin;
    return table.lowest + (std::upper_bound(begin, thresholds + table.end, uniform) - begin);
  }

  // Below the first table: inversion with the series of e^-x in 64-bit fixed point.
  STIPPLE_HD static int64_t draw_small(uint64_t rate, uint64_t uniform) {
    const uint64_t x = rate << (64 - kRateBits);
    uint64_t vanishing = -x;
    uint64_t term = x;
    for (uint64_t k = 2; term > 0; ++k) {
      term = multiply_high(term, x) / k;
      vanishing = k % 2 == 0 ? vanishing + term : vanishing - term;
    }
    uint64_t probability = vanishing;
    int64_t n = 0;
    while (uniform >= probability && probability > 0) {
      uniform -= probability;
      ++n;
      probability = multiply_high(probability, x) / static_cast<uint64_t>(n);
    }
    return n;
  }
};

/// Cumulative probabilities of Poisson(d 8^s), built once, in host memory.
class PoissonTables {
 public:
  static const PoissonTables& shared() {
    static const PoissonTables tables;
    return tables;
  }

  /// N ~ Poisson(rate / 2^40).
  int64_t draw(uint64_t rate, const UniformSequence& uniforms) const {
    const PoissonTerms terms{tables_.data(), thresholds_.data()};
    const int64_t count = PoissonTerms::num_terms(rate);
    int64_t total = 0;
    uint32_t next = 0;
    for (int64_t term = 0; term < count; ++term) {
      if (PoissonTerms::has_term(rate, term)) total += terms.draw(rate, term, uniforms.at(next++));
    }
    return total;
  }

  const std::vector<PoissonTerms::Table>& tables() const { return tables_; }
  const std::vector<uint64_t>& thresholds() const { return thresholds_; }

 private:
  PoissonTables() {
    double place_rate = static_cast<double>(PoissonTerms::kUnit) /
                        static_cast<double>(uint64_t{1} << PoissonTerms::kRateBits);
    for (int place = 0; place < PoissonTerms::kPlaces; ++place, place_rate *= 8) {
      for (int digit = 1; digit < 8; ++digit) add_table(digit * place_rate);
    }
    add_table(place_rate);
  }

  // Weights relative to the mode need neither exp nor lgamma. Beyond ten standard deviations lies
  // less than 2^-64.
  void add_table(double rate) {
    const double reach = 10 * std::sqrt(rate);
    const auto mode = static_cast<int64_t>(rate);
    const int64_t lowest = std::max<int64_t>(0, static_cast<int64_t>(rate - reach));
    const int64_t highest = static_cast<int64_t>(rate + reach) + 24;
    std::vector<double> weight(static_cast<size_t>(highest - lowest + 1));
    const auto at = [&](int64_t k) -> double& { return weight[static_cast<size_t>(k - lowest)]; };
    at(mode) = 1.0;
    for (int64_t k = mode; k < highest; ++k) at(k + 1) = at(k) * rate / static_cast<double>(k + 1);
    for (int64_t k = mode; k > lowest; --k) at(k - 1) = at(k) * static_cast<double>(k) / rate;
    double sum = 0;
    for (double w : weight) sum += w;
    PoissonTerms::Table table{lowest, static_cast<int64_t>(thresholds_.size()), 0};
    double cumulative = 0;
    for (double w : weight) {
      cumulative += w;
      const double scaled = cumulative / sum * 0x1p64;
      if (scaled >= 0x1p64) break;
      thresholds_.push_back(static_cast<uint64_t>(scaled));
    }
    table.end = static_cast<int64_t>(thresholds_.size());
    tables_.push_back(table);
  }

  std::vector<uint64_t> thresholds_;
  std::vector<PoissonTerms::Table> tables_;
};

/// 1 - e^-rate, the probability that Poisson(rate) is not 0, relative error below 1e-6. Exactly 1
/// from 32 on.
STIPPLE_HD [[gnu::always_inline]] inline float positive_probability(float rate) {
  // On t = rate / 32 by series, then five times 1 - (1 - q)^2 = q (2 - q), none of which cancels.
  const float t = std::fmin(rate, 32.0f) * 0.03125f;
  float q = -1.0f / 720;
  q = std::fma(q, t, 1.0f / 120);
  q = std::fma(q, t, -1.0f / 24);
  q = std::fma(q, t, 1.0f / 6);
  q = std::fma(q, t, -0.5f);
  q = std::fma(q, t, 1.0f) * t;
  for (int doubling = 0; doubling < 5; ++doubling) q = std::fma(-q, q, q + q);
  return q;
}

/// 1 - e^-rate within 2e-5 for rates in [0, 2]: rate times this polynomial of it, lowest power
/// first.
inline constexpr float kRoughPositive[] = {0.999552965f, -0.496659756f, 0.158437669f,
                                           -0.0325016491f, 0.00327316788f};

/// The value of N ~ Poisson(rate) given N >= 1, by inversion of `uniform` in [0, P(N >= 1)) counted
/// from the top: the smallest uniforms give the largest counts, so that the count is positive
/// exactly where the pair was kept.
STIPPLE_HD inline int64_t positive_poisson(double rate, double uniform) {
  rate = std::min(rate, 32.0);
  // P(N >= 2) <= rate^2 / 2: most pairs of small rates are done.
  if (uniform >= 0.5 * rate * rate + 1e-9) return 1;
  // e^-rate by series on rate / 32 and five squarings.
  const double t = rate / 32;
  double power = 1.0;
  for (int k = 14; k >= 1; --k) power = std::fma(-power * t, 1.0 / k, 1.0);
  for (int squaring = 0; squaring < 5; ++squaring) power *= power;
  double mass = power * rate;
  double tail = 1.0 - power - mass;
  int64_t n = 1;
  while (uniform < tail && mass > 0) {
    ++n;
    mass *= rate / static_cast<double>(n);
    tail -= mass;
  }
  return n;
}

}  // namespace stipple::kernels::math
