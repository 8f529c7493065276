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

/// Consecutive 64-bit uniforms of one row: words of Philox blocks 0, 1, ...
class UniformSequence {
 public:
  STIPPLE_HD UniformSequence(PhiloxKey key, uint32_t row, uint32_t sample, uint32_t stream)
      : key_(key), counter_(rng_counter(0, row, sample, stream)) {}

  STIPPLE_HD uint64_t next() {
    if (half_ == 0) {
      words_ = philox4x32(counter_, key_);
      ++counter_[0];
    }
    const size_t first = half_;
    half_ = half_ == 0 ? 2 : 0;
    return uint64_t{words_[first]} << 32 | words_[first + 1];
  }

 private:
  PhiloxKey key_;
  PhiloxCounter counter_;
  PhiloxCounter words_{};
  size_t half_ = 0;
};

/// Cumulative probabilities of Poisson(d 8^s), built once. Rates are fixed-point numbers with 40
/// binary places.
class PoissonTables {
 public:
  static constexpr int kRateBits = 40;

  static const PoissonTables& shared() {
    static const PoissonTables tables;
    return tables;
  }

  /// N ~ Poisson(rate / 2^40).
  int64_t draw(uint64_t rate, UniformSequence& uniforms) const {
    int64_t total = draw_small(rate & (kUnit - 1), uniforms);
    uint64_t units = rate >> kUnitBits;
    for (size_t place = 0; place < kPlaces; ++place, units >>= 3) {
      if (const uint64_t digit = units & 7) {
        total += draw_table(place * 7 + digit - 1, uniforms.next());
      }
    }
    for (; units > 0; --units) total += draw_table(kPlaces * 7, uniforms.next());
    return total;
  }

 private:
  static constexpr int kUnitBits = 34;  // the tables start at a rate of 2^-6
  static constexpr uint64_t kUnit = uint64_t{1} << kUnitBits;
  static constexpr size_t kPlaces = 7;  // and end at 2^15

  struct Table {
    int64_t lowest = 0;
    size_t begin = 0;
    size_t end = 0;
  };

  PoissonTables() {
    double place_rate = static_cast<double>(kUnit) / static_cast<double>(uint64_t{1} << kRateBits);
    for (size_t place = 0; place < kPlaces; ++place, place_rate *= 8) {
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
    Table table{lowest, thresholds_.size(), 0};
    double cumulative = 0;
    for (double w : weight) {
      cumulative += w;
      const double scaled = cumulative / sum * 0x1p64;
      if (scaled >= 0x1p64) break;
      thresholds_.push_back(static_cast<uint64_t>(scaled));
    }
    table.end = thresholds_.size();
    tables_.push_back(table);
  }

  int64_t draw_table(size_t index, uint64_t uniform) const {
    const Table& table = tables_[index];
    const auto begin = thresholds_.begin();
    const auto first = begin + static_cast<std::ptrdiff_t>(table.begin);
    const auto last = begin + static_cast<std::ptrdiff_t>(table.end);
    return table.lowest + (std::upper_bound(first, last, uniform) - first);
  }

  // Below the first table: inversion with the series of e^-x in 64-bit fixed point.
  static int64_t draw_small(uint64_t rate, UniformSequence& uniforms) {
    if (rate == 0) return 0;
    const uint64_t x = rate << (64 - kRateBits);
    uint64_t vanishing = -x;
    uint64_t term = x;
    for (uint64_t k = 2; term > 0; ++k) {
      term = multiply_high(term, x) / k;
      vanishing = k % 2 == 0 ? vanishing + term : vanishing - term;
    }
    uint64_t uniform = uniforms.next();
    uint64_t probability = vanishing;
    int64_t n = 0;
    while (uniform >= probability && probability > 0) {
      uniform -= probability;
      ++n;
      probability = multiply_high(probability, x) / static_cast<uint64_t>(n);
    }
    return n;
  }

  std::vector<uint64_t> thresholds_;
  std::vector<Table> tables_;
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

/// The value of N ~ Poisson(rate) given N >= 1, by inversion of `uniform` in [0, P(N >= 1)) counted
/// from the top: the smallest uniforms give the largest counts, so that the count is positive
/// exactly where the pair was kept.
inline int64_t positive_poisson(double rate, double uniform) {
  // e^-rate by series on rate / 32 and five squarings.
  rate = std::min(rate, 32.0);
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
