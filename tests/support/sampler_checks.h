// SPDX-License-Identifier: Apache-2.0
// Statistical checks of graph samplers: what the real samplers must pass and every deliberately
// wrong one must fail. All seeds are fixed; thresholds make a false alarm of a whole suite less
// likely than 1e-6.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/stream.h"
#include "kernels/sbm.h"

namespace stipple::test {

using kernels::MaskLaw;
using kernels::SamplerKind;

inline constexpr double kLargestScore = 5.5;   ///< of one z-score among thousands
inline constexpr double kLargestSpread = 5.0;  ///< of a sum of squares, in its standard deviations

/// One distribution of graphs. Probabilities are mu_i . z_j.
struct SbmCase {
  int64_t batch = 1;
  int64_t heads = 1;
  int64_t n = 0;
  int64_t m = 0;
  int64_t k = 0;
  std::vector<float> mu{};            // [B, H, N, K]
  std::vector<float> z{};             // [B, H, M, K]
  std::vector<uint8_t> query_mask{};  // [B, N] or empty
  std::vector<uint8_t> key_mask{};    // [B, M] or empty
  MaskLaw law = MaskLaw::kBernoulli;
  float delta = 0.0f;
  int64_t window_radius = -1;

  int64_t problems() const { return batch * heads; }
  bool is_real(int64_t p, int64_t i, int64_t j) const {
    const int64_t b = p / heads;
    return (query_mask.empty() || query_mask[static_cast<size_t>(b * n + i)] != 0) &&
           (key_mask.empty() || key_mask[static_cast<size_t>(b * m + j)] != 0);
  }
  /// mu_i . z_j, without exploration; 0 for padding.
  double dot(int64_t p, int64_t i, int64_t j) const {
    if (!is_real(p, i, j)) return 0.0;
    double sum = 0.0;
    for (int64_t v = 0; v < k; ++v) {
      sum += static_cast<double>(mu[static_cast<size_t>((p * n + i) * k + v)]) *
             static_cast<double>(z[static_cast<size_t>((p * m + j) * k + v)]);
    }
    return sum;
  }
};

/// Mean, variance and fourth cumulant of one entry.
struct CellLaw {
  double mean = 0;
  double variance = 0;
  double fourth = 0;
};
inline CellLaw cell_law(const SbmCase& c, int64_t p, int64_t i, int64_t j) {
  const double rate = c.is_real(p, i, j) ? c.dot(p, i, j) + static_cast<double>(c.delta) : 0.0;
  if (c.law == MaskLaw::kPoissonMulti) return {rate, rate, rate};
  double q = c.law == MaskLaw::kBernoulli ? std::min(1.0, rate) : -std::expm1(-rate);
  // What rounding in float leaves of certainty and of impossibility.
  if (q > 1.0 - 1e-7) q = 1.0;
  const double v = q * (1.0 - q);
  return {q, v, v * (1.0 - 6.0 * v)};
}

/// Which graph is drawn, apart from its distribution.
struct DrawName {
  uint64_t step = 0;
  int layer = 0;
  int first_head = 0;
  uint32_t first_sample = 0;
};

/// Fills counts [B, H, N, M] with edge multiplicities.
using GraphSampler =
    std::function<void(const SbmCase&, const DrawName&, std::vector<uint8_t>& counts)>;

/// kernels::sample_edges behind the interface of the checks.
class EdgeSampler {
 public:
  explicit EdgeSampler(SamplerKind sampler, int threads = 1)
      : sampler_(sampler),
        stream_(std::make_shared<Stream>(kCpuDevice, Stream::Options{.threads = threads})),
        memory_(std::make_shared<Arena>("graphs", kCpuDevice, kBytes)),
        scratch_(std::make_shared<Arena>("scratch", kCpuDevice, kBytes)) {}

  /// The graphs, valid until the next call.
  kernels::EdgeSet sample(const SbmCase& c, const DrawName& name) const {
    memory_->rewind(0);
    const kernels::EdgeSet edges =
        kernels::alloc_edges(*memory_, c.problems(), c.n, c.m,
                             {.tile_density = sampler_ == SamplerKind::kRows ? 1.0 : 0.0,
                              .multiplicity = c.law == MaskLaw::kPoissonMulti});
    return sample_into(edges, c, name);
  }

  kernels::EdgeSet sample_into(const kernels::EdgeSet& edges, const SbmCase& c,
                               const DrawName& name) const {
    std::vector<double> expected(static_cast<size_t>(c.problems()));
    for (int64_t p = 0; p < c.problems() && sampler_ == SamplerKind::kAuto; ++p) {
      for (int64_t i = 0; i < c.n; ++i) {
        for (int64_t j = 0; j < c.m; ++j) expected[static_cast<size_t>(p)] += c.dot(p, i, j);
      }
    }
    std::vector<uint32_t> samples(static_cast<size_t>(c.batch));
    for (size_t b = 0; b < samples.size(); ++b) {
      samples[b] = name.first_sample + static_cast<uint32_t>(b);
    }
    kernels::SampleEdges args{.edges = edges,
                              .mu = {c.mu.data(), {c.batch, c.heads, c.n, c.k}},
                              .z = {c.z.data(), {c.batch, c.heads, c.m, c.k}},
                              .expected = {expected.data(), {c.problems()}},
                              .samples = {samples.data(), {c.batch}},
                              .law = c.law,
                              .sampler = sampler_,
                              .delta = c.delta,
                              .window_radius = c.window_radius,
                              .rng = {.seed = 20221115, .step = name.step},
                              .layer = name.layer,
                              .first_head = name.first_head,
                              .scratch = scratch_.get()};
    if (!c.query_mask.empty()) args.query_mask = {c.query_mask.data(), {c.batch, c.n}};
    if (!c.key_mask.empty()) args.key_mask = {c.key_mask.data(), {c.batch, c.m}};
    kernels::sample_edges(*stream_, args);
    return edges;
  }

  void operator()(const SbmCase& c, const DrawName& name, std::vector<uint8_t>& counts) const {
    const kernels::EdgeSet edges = sample(c, name);
    counts.resize(static_cast<size_t>(c.problems() * c.n * c.m));
    for (int64_t p = 0; p < c.problems(); ++p) {
      kernels::get_edges(edges, p, {counts.data() + p * c.n * c.m, {c.n, c.m}});
    }
  }

  bool is_tiles() const { return sampler_ == SamplerKind::kTiles; }
  Arena& memory() const { return *memory_; }
  Arena& scratch() const { return *scratch_; }

 private:
  static constexpr size_t kBytes = size_t{1} << 24;
  SamplerKind sampler_;
  std::shared_ptr<Stream> stream_;
  std::shared_ptr<Arena> memory_;
  std::shared_ptr<Arena> scratch_;
};

/// Empty: passed. Otherwise the first claim that failed.
using Verdict = std::string;

/// Sums of squares of independent standard scores, and the worst of them.
class Scores {
 public:
  void add(double score) {
    squares_ += score * score;
    worst_ = std::max(worst_, std::abs(score));
    ++count_;
  }
  Verdict verdict(const std::string& what) const {
    if (!(worst_ < kLargestScore)) return what + ": a score of " + std::to_string(worst_);
    const double n = static_cast<double>(count_);
    const double spread = n == 0 ? 0 : (squares_ / n - 1.0) / std::sqrt(2.0 / n);
    if (!(std::abs(spread) < kLargestSpread)) {
      return what + ": chi^2/dof " + std::to_string(squares_ / n) + " of " + std::to_string(count_);
    }
    return {};
  }
  /// Scores that depend on each other have no chi^2; their worst still counts.
  Verdict worst_verdict(const std::string& what) const {
    return worst_ < kLargestScore ? Verdict{} : what + ": a score of " + std::to_string(worst_);
  }

 private:
  double squares_ = 0;
  double worst_ = 0;
  int64_t count_ = 0;
};

/// A random variable watched over many draws, with known cumulants.
struct Watched {
  CellLaw law;
  double sum = 0;
  double squares = 0;  // of the deviation from the mean
  void add(double x) {
    sum += x - law.mean;
    squares += (x - law.mean) * (x - law.mean);
  }
  double mean_score(double draws) const {
    if (law.variance <= 0) return sum == 0 && squares == 0 ? 0.0 : 1e9;
    return sum / std::sqrt(draws * law.variance);
  }
  double variance_score(double draws) const {
    if (law.variance <= 0) return mean_score(draws);
    const double v = law.variance;
    return (squares - draws * v) / std::sqrt(draws * (2.0 * v * v + law.fourth));
  }
};

/// What many draws of one problem say about its entries, its degrees, its size and the independence
/// of its entries.
class Tally {
 public:
  explicit Tally(const SbmCase& c)
      : n_(c.n),
        m_(c.m),
        cells_(static_cast<size_t>(c.n * c.m)),
        rows_(static_cast<size_t>(c.n)),
        columns_(static_cast<size_t>(c.m)) {
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t j = 0; j < m_; ++j) {
        const CellLaw law = cell_law(c, 0, i, j);
        cells_[at(i, j)].law = law;
        for (Watched* sum :
             {&rows_[static_cast<size_t>(i)], &columns_[static_cast<size_t>(j)], &total_}) {
          sum->law.mean += law.mean;
          sum->law.variance += law.variance;
          sum->law.fourth += law.fourth;
        }
      }
    }
    choose_pairs();
  }

  void add(const std::vector<uint8_t>& counts) {
    ++draws_;
    std::vector<double> columns(columns_.size());
    double total = 0;
    for (int64_t i = 0; i < n_; ++i) {
      double degree = 0;
      for (int64_t j = 0; j < m_; ++j) {
        const double x = counts[at(i, j)];
        cells_[at(i, j)].add(x);
        degree += x;
        columns[static_cast<size_t>(j)] += x;
      }
      rows_[static_cast<size_t>(i)].add(degree);
      total += degree;
    }
    for (size_t j = 0; j < columns.size(); ++j) columns_[j].add(columns[j]);
    total_.add(total);
    for (Pair& pair : pairs_) {
      pair.product +=
          (counts[pair.a] - cells_[pair.a].law.mean) * (counts[pair.b] - cells_[pair.b].law.mean);
    }
  }

  Verdict verdict() const {
    for (const Verdict& v : {marginals(), size(), degrees(), independence()}) {
      if (!v.empty()) return v;
    }
    return {};
  }

  Verdict marginals() const {
    Scores scores;
    for (const Watched& cell : cells_) {
      if (cell.law.variance > 0 || cell.squares != 0) scores.add(cell.mean_score(draws_));
    }
    return scores.verdict("marginals");
  }
  Verdict size() const {
    Scores scores;
    scores.add(total_.mean_score(draws_));
    scores.add(total_.variance_score(draws_));
    return scores.worst_verdict("number of edges");
  }
  Verdict degrees() const {
    Scores scores;
    for (const auto* side : {&rows_, &columns_}) {
      for (const Watched& degree : *side) {
        scores.add(degree.mean_score(draws_));
        scores.add(degree.variance_score(draws_));
      }
    }
    return scores.worst_verdict("degrees");
  }
  Verdict independence() const {
    Scores scores;
    for (const Pair& pair : pairs_) {
      const double variance = cells_[pair.a].law.variance * cells_[pair.b].law.variance;
      scores.add(pair.product / std::sqrt(draws_ * variance));
    }
    return scores.verdict("independence of entries");
  }
  const std::vector<Watched>& cells() const { return cells_; }
  double draws() const { return draws_; }

 private:
  struct Pair {
    size_t a, b;
    double product = 0;
  };

  size_t at(int64_t i, int64_t j) const { return static_cast<size_t>(i * m_ + j); }

  // Same row, same column, anywhere. Entries that hardly vary say nothing here.
  void choose_pairs() {
    std::mt19937 generator(7);
    const auto pick = [&](int64_t n) {
      return static_cast<int64_t>(generator() % static_cast<uint32_t>(n));
    };
    for (int attempt = 0; attempt < 1200; ++attempt) {
      const int64_t i = pick(n_);
      const int64_t j = pick(m_);
      const int kind = attempt % 3;
      const size_t a = at(i, j);
      const size_t b = at(kind == 0 ? i : pick(n_), kind == 1 ? j : pick(m_));
      constexpr double kLeast = 0.01;
      if (a != b && cells_[a].law.variance > kLeast && cells_[b].law.variance > kLeast) {
        pairs_.push_back({a, b});
      }
    }
  }

  int64_t n_, m_;
  double draws_ = 0;
  std::vector<Watched> cells_, rows_, columns_;
  Watched total_;
  std::vector<Pair> pairs_;
};

inline Tally tally(const GraphSampler& sampler, const SbmCase& c, int draws) {
  Tally result(c);
  std::vector<uint8_t> counts;
  for (int r = 0; r < draws; ++r) {
    sampler(c, {.step = static_cast<uint64_t>(r)}, counts);
    result.add(counts);
  }
  return result;
}

/// T1 to T4: entries, number of edges, degrees, independence.
inline Verdict check_law(const GraphSampler& sampler, const SbmCase& c, int draws) {
  return tally(sampler, c, draws).verdict();
}

/// T11: two samplers, one law.
inline Verdict check_same_law(const GraphSampler& a, const GraphSampler& b, const SbmCase& c,
                              int draws) {
  const Tally ta = tally(a, c, draws);
  const Tally tb = tally(b, c, draws);
  Scores scores;
  for (size_t e = 0; e < ta.cells().size(); ++e) {
    const double variance = 2.0 * ta.draws() * ta.cells()[e].law.variance;
    if (variance > 0) scores.add((ta.cells()[e].sum - tb.cells()[e].sum) / std::sqrt(variance));
  }
  return scores.verdict("two samplers");
}

/// T4: problem 0 under one name is independent of problem `other` under another, entry by entry.
inline Verdict check_independent(const GraphSampler& sampler, const SbmCase& c, int64_t other,
                                 const std::function<void(DrawName&)>& rename, int draws) {
  const auto pairs = static_cast<size_t>(c.n * c.m);
  std::vector<CellLaw> first_law, second_law;
  for (int64_t e = 0; e < c.n * c.m; ++e) {
    first_law.push_back(cell_law(c, 0, e / c.m, e % c.m));
    second_law.push_back(cell_law(c, other, e / c.m, e % c.m));
  }
  std::vector<double> products(pairs);
  std::vector<uint8_t> first, second;
  for (int r = 0; r < draws; ++r) {
    DrawName name{.step = 2 * static_cast<uint64_t>(r)};
    sampler(c, name, first);
    rename(name);
    sampler(c, name, second);
    const uint8_t* others = second.data() + other * c.n * c.m;
    for (size_t e = 0; e < pairs; ++e) {
      products[e] += (first[e] - first_law[e].mean) * (others[e] - second_law[e].mean);
    }
  }
  Scores scores;
  for (size_t e = 0; e < pairs; ++e) {
    const double variance = first_law[e].variance * second_law[e].variance;
    if (variance > 0) scores.add(products[e] / std::sqrt(draws * variance));
  }
  return scores.verdict("independence of streams");
}

/// Share of draws that fall on keys [0, split), for keys drawn with weights proportional to
/// `weights`.
using KeySampler =
    std::function<std::vector<int64_t>(const std::vector<float>& weights, int64_t draws)>;
inline Verdict check_key_share(const KeySampler& sampler, const std::vector<float>& weights,
                               size_t split, int64_t draws) {
  double before = 0;
  double all = 0;
  for (size_t j = 0; j < weights.size(); ++j) {
    all += static_cast<double>(weights[j]);
    if (j < split) before += static_cast<double>(weights[j]);
  }
  const double share = before / all;
  const std::vector<int64_t> keys = sampler(weights, draws);
  const auto n = static_cast<double>(keys.size());
  double hits = 0;
  for (int64_t key : keys) hits += key < static_cast<int64_t>(split) ? 1 : 0;
  Scores scores;
  scores.add((hits - n * share) / std::sqrt(n * share * (1.0 - share)));
  return scores.worst_verdict("share of the first keys");
}

// --- cases ---------------------------------------------------------------------------------------

/// mu = Y S in double, then rounded.
inline SbmCase make_case(int64_t n, int64_t m, int64_t k,
                         const std::function<double(int64_t, int64_t)>& y,
                         const std::function<double(int64_t, int64_t)>& s,
                         const std::function<double(int64_t, int64_t)>& z) {
  SbmCase c{.n = n, .m = m, .k = k};
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t v = 0; v < k; ++v) {
      double sum = 0;
      for (int64_t u = 0; u < k; ++u) sum += y(i, u) * s(u, v);
      c.mu.push_back(static_cast<float>(sum));
    }
  }
  for (int64_t j = 0; j < m; ++j) {
    for (int64_t v = 0; v < k; ++v) c.z.push_back(static_cast<float>(z(j, v)));
  }
  return c;
}

/// A fixed number in (0, 1) for each pair.
inline double scatter(int64_t a, int64_t b, uint64_t seed) {
  const uint64_t x =
      splitmix64(splitmix64(seed * 1000003 + static_cast<uint64_t>(a)) ^ static_cast<uint64_t>(b));
  return (static_cast<double>(x >> 11) + 0.5) * 0x1p-53;
}

inline constexpr int64_t kCaseRows = 40;
inline constexpr int64_t kCaseColumns = 37;
inline constexpr int64_t kCaseClusters = 5;

struct NamedCase {
  std::string name;
  SbmCase value;
};

/// T1 and T5. Near-uniform S hides errors of pairing: the others are there to show them.
inline std::vector<NamedCase> structured_cases() {
  constexpr int64_t n = kCaseRows, m = kCaseColumns, k = kCaseClusters;
  const auto y = [](int64_t i, int64_t u) { return scatter(i, u, 1); };
  const auto z = [](int64_t j, int64_t v) { return scatter(j, v, 2); };
  const auto one_hot = [](int64_t i, int64_t u) { return i % k == u ? 1.0 : 0.0; };
  const auto uniform = [](int64_t, int64_t) { return 1.0 / (k * k); };
  const auto anti_diagonal = [](int64_t u, int64_t v) { return u + v == k - 1 ? 0.2 : 0.0; };
  const auto asymmetric = [](int64_t u, int64_t v) {
    return v > u ? 0.08 : 0.005 * static_cast<double>(u);
  };
  std::vector<NamedCase> cases;
  cases.push_back({"uniform", make_case(n, m, k, y, uniform, z)});
  cases.push_back({"anti-diagonal", make_case(n, m, k, y, anti_diagonal, z)});
  cases.push_back({"one-hot", make_case(
                                  n, m, k, one_hot,
                                  [](int64_t u, int64_t v) {
                                    return u + v == k - 1 ? 0.15 * static_cast<double>(u + 1) : 0.0;
                                  },
                                  one_hot)});
  cases.push_back({"asymmetric", make_case(n, m, k, y, asymmetric, z)});
  cases.push_back({"rank one", make_case(
                                   n, m, 1, [](int64_t i, int64_t) { return scatter(i, 0, 3); },
                                   [](int64_t, int64_t) { return 0.9; },
                                   [](int64_t j, int64_t) { return scatter(j, 0, 4); })});
  cases.push_back(
      {"empty rows and columns",
       make_case(
           n, m, k, [y](int64_t i, int64_t u) { return i % 4 == 1 ? 0.0 : y(i, u); }, asymmetric,
           [z](int64_t j, int64_t v) { return j % 3 == 0 || v == 2 ? 0.0 : z(j, v); })});
  // Probabilities up to 1, so that some rows cannot be oversampled.
  cases.push_back(
      {"nearly certain", make_case(
                             n, m, k, one_hot,
                             [](int64_t u, int64_t v) {
                               constexpr double kDiagonal[] = {1.0, 0.995, 0.97, 0.5, 0.01};
                               return u == v ? kDiagonal[u] : 0.0;
                             },
                             one_hot)});
  return cases;
}

inline const char* law_name(MaskLaw law) {
  switch (law) {
    case MaskLaw::kBernoulli:
      return "bernoulli";
    case MaskLaw::kPoissonCollapse:
      return "poisson_collapse";
    case MaskLaw::kPoissonMulti:
      return "poisson_multi";
  }
  return "?";
}
inline constexpr MaskLaw kAllLaws[] = {MaskLaw::kBernoulli, MaskLaw::kPoissonCollapse,
                                       MaskLaw::kPoissonMulti};
inline constexpr SamplerKind kBothSamplers[] = {SamplerKind::kTiles, SamplerKind::kRows};
inline const char* sampler_name(SamplerKind s) {
  return s == SamplerKind::kTiles ? "tiles" : "rows";
}

/// Calls body(the case with its law, a sampler) for every law and both samplers.
template <class Body>
void for_each_sampler(SbmCase c, const Body& body) {
  for (MaskLaw law : kAllLaws) {
    for (SamplerKind sampler : kBothSamplers) {
      SCOPED_TRACE(std::string(law_name(law)) + " by " + sampler_name(sampler));
      c.law = law;
      body(c, EdgeSampler(sampler));
    }
  }
}

}  // namespace stipple::test
