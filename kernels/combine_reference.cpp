// SPDX-License-Identifier: Apache-2.0
#include "kernels/combine_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace stipple::kernels::reference {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

using Tokens = std::vector<int64_t>;

/// Tokens [begin, end) of those that are cut, clipped to what exists.
Tokens cells_between(const Partition& p, int64_t begin, int64_t end) {
  Tokens tokens;
  for (int64_t i = std::max<int64_t>(begin, 0); i < std::min(end, p.cells()); ++i)
    tokens.push_back(p.globals + i);
  return tokens;
}

void see_blocks(const Partition& p, int64_t cell, Seen& seen) {
  const auto block_of = [&](int64_t x) { return (x + p.shift) / p.block; };
  const int64_t own = block_of(cell);
  for (int64_t b = 0; b <= block_of(p.cells() - 1); ++b) {
    const Tokens tokens = cells_between(p, b * p.block - p.shift, (b + 1) * p.block - p.shift);
    if (b == own) {
      for (int64_t j : tokens)
        if (!p.is_causal || j <= p.globals + cell) seen.direct.push_back(j);
    }
    const bool as_region = p.is_causal ? b < own : b != own || p.overlaps_own;
    if (as_region) seen.regions.push_back({tokens, -1, b});
  }
}

void see_spans(const Partition& p, int64_t cell, Seen& seen) {
  seen.direct.push_back(p.globals + cell);
  int64_t first = 0;  // number of the level's first region
  for (int64_t level = 0; (int64_t{1} << level) < p.cells(); ++level) {
    const int64_t size = int64_t{1} << level, own = cell >> level, sibling = own ^ 1;
    const Tokens tokens = cells_between(p, sibling * size, (sibling + 1) * size);
    const bool wanted = !tokens.empty() && (!p.is_causal || own % 2 == 1);
    if (wanted && level == 0) seen.direct.push_back(tokens[0]);
    if (wanted && level > 0) seen.regions.push_back({tokens, -1, first + sibling});
    if (level > 0) first += (p.cells() + size - 1) / size;
  }
}

/// Cells of the grid for which pred(row, column) holds.
template <class Pred>
Tokens cells_where(const Partition& p, const Pred& pred) {
  Tokens tokens;
  for (int64_t x = 0; x < p.cells(); ++x)
    if (pred(x / p.columns, x % p.columns)) tokens.push_back(p.globals + x);
  return tokens;
}

void see_grid(const Partition& p, int64_t cell, Seen& seen) {
  const int64_t m = p.columns, s = cell / m, c = cell % m, n = (p.cells() + m - 1) / m;
  const bool row_major = p.kind == PartitionKind::kRowMajor;
  seen.direct = cells_where(p, [&](int64_t t, int64_t x) {
    if (p.is_causal && t * m + x > cell) return false;
    return t == s || (x == c && !row_major);
  });
  const auto see = [&](int64_t set, int64_t t, int64_t x, const auto& pred, bool asks = false) {
    seen.regions.push_back(
        {cells_where(p, pred), asks ? p.globals + t * m + x : -1, set * n * m + t * m + x});
  };
  if (row_major) {
    for (int64_t t = 0; t < n; ++t) {
      if (p.is_causal ? t < s : t != s || p.overlaps_own)
        see(
            0, t, c, [&](int64_t row, int64_t) { return row == t; }, true);
    }
    return;
  }
  int64_t set = 0;
  if (p.kind != PartitionKind::kHorizontal) {
    for (int64_t x = 0; x < m; ++x)
      if (x != c) see(set, s, x, [&](int64_t row, int64_t col) { return col == x && row < s; });
    ++set;
    if (!p.is_causal) {
      for (int64_t x = 0; x < m; ++x)
        if (x != c) see(set, s, x, [&](int64_t row, int64_t col) { return col == x && row > s; });
      ++set;
    }
  }
  if (p.kind == PartitionKind::kVertical) return;
  for (int64_t t = 0; t < n; ++t) {
    if (p.is_causal ? t >= s : t == s) continue;
    see(set, t, c, [&](int64_t row, int64_t col) { return row == t && col < c; });
    see(set + 1, t, c, [&](int64_t row, int64_t col) { return row == t && col > c; });
  }
}

/// The parts of one query's softmax on their way.
class Row {
 public:
  Row(const Combiner& c, int64_t i) : c_(c), i_(i) {}

  void add_direct(int64_t j) {
    if (!counts(j)) return;
    add(dot(c_.q, i_, c_.k, j), {{j, factor(c_.keep, i_ * n() + j)}});
    num_direct_ = scores_.size();
  }
  void add_region(const SeenRegion& region) {
    Tokens tokens;
    for (int64_t j : region.tokens)
      if (counts(j)) tokens.push_back(j);
    if (tokens.empty()) return;
    const Doubles query = pooled(c_.pooled_q.empty() ? c_.q : c_.pooled_q, region, tokens);
    Doubles weights = softmax(query, tokens);
    const Doubles key = c_.key == RegionKey::kWeighted
                            ? mixture(weights, tokens)
                            : pooled(c_.pooled_k.empty() ? c_.k : c_.pooled_k, region, tokens);
    Shares shares;
    const int64_t regions = c_.partition.num_regions();
    const double kept = factor(c_.keep_region, i_ * regions + region.number);
    for (size_t e = 0; e < tokens.size(); ++e) {
      const double local = factor(c_.keep_local, region.number * n() + tokens[e]);
      shares.push_back({tokens[e], weights[e] * local * kept});
    }
    const double score = dot(c_.region_q.empty() ? c_.q : c_.region_q, i_, key, 0);
    add(score + c_.mass * std::log(static_cast<double>(tokens.size())), shares);
  }
  /// After all direct keys and all regions.
  void finish(CombinerOutput& out) const {
    if (scores_.empty()) return;
    tell(out);
    double highest = kNothing, sum = 0;
    for (double s : scores_) highest = std::max(highest, s);
    for (double s : scores_) sum += std::exp(s - highest);
    out.lse[static_cast<size_t>(i_)] = highest + std::log(sum);
    for (size_t e = 0; e < scores_.size(); ++e) {
      for (const auto& [j, share] : shares_[e])
        out.weights[static_cast<size_t>(i_ * n() + j)] +=
            share * std::exp(scores_[e] - highest) / sum;
    }
  }

 private:
  using Shares = std::vector<std::pair<int64_t, double>>;

  void tell(CombinerOutput& out) const {
    double direct = 0, regions = 0, entropy = 0;
    for (size_t e = 0; e < scores_.size(); ++e)
      (e < num_direct_ ? direct : regions) += std::exp(scores_[e]);
    out.direct[static_cast<size_t>(i_)] = direct / (direct + regions);
    if (num_direct_ == scores_.size()) return;
    for (size_t e = num_direct_; e < scores_.size(); ++e) {
      const double p = std::exp(scores_[e]) / regions;
      entropy -= p * std::log(p);
    }
    out.entropy[static_cast<size_t>(i_)] = entropy;
  }

  int64_t n() const { return c_.partition.length; }
  bool counts(int64_t j) const { return c_.mask.empty() || c_.mask[static_cast<size_t>(j)] != 0; }
  static double factor(const Doubles& factors, int64_t at) {
    return factors.empty() ? 1.0 : factors[static_cast<size_t>(at)];
  }
  double dot(const Doubles& a, int64_t i, const Doubles& b, int64_t j) const {
    double sum = 0.0;
    for (int64_t x = 0; x < c_.d; ++x)
      sum += a[static_cast<size_t>(i * c_.d + x)] * b[static_cast<size_t>(j * c_.d + x)];
    return c_.scale * sum;
  }
  void add(double score, const Shares& shares) {
    scores_.push_back(score);
    shares_.push_back(shares);
  }
  Doubles pooled(const Doubles& rows, const SeenRegion& region, const Tokens& tokens) const {
    Doubles result;
    for (int64_t x = 0; x < c_.d; ++x) {
      const auto at = [&](int64_t j) { return rows[static_cast<size_t>(j * c_.d + x)]; };
      if (region.asks >= 0) {
        int64_t asks = tokens[0];
        for (int64_t j : tokens)
          if (j <= region.asks) asks = j;
        result.push_back(at(asks));
        continue;
      }
      double sum = 0.0, highest = kNothing;
      for (int64_t j : tokens) sum += at(j), highest = std::max(highest, at(j));
      if (c_.pool == RegionPool::kMean) sum /= static_cast<double>(tokens.size());
      result.push_back(c_.pool == RegionPool::kMax ? highest : sum);
    }
    return result;
  }
  Doubles softmax(const Doubles& query, const Tokens& tokens) const {
    Doubles weights;
    double highest = kNothing, sum = 0.0;
    for (int64_t j : tokens) weights.push_back(dot(query, 0, c_.k, j));
    for (double w : weights) highest = std::max(highest, w);
    for (double& w : weights) sum += w = std::exp(w - highest);
    for (double& w : weights) w /= sum;
    return weights;
  }
  Doubles mixture(const Doubles& weights, const Tokens& tokens) const {
    Doubles key(static_cast<size_t>(c_.d));
    for (size_t e = 0; e < tokens.size(); ++e)
      for (int64_t x = 0; x < c_.d; ++x)
        key[static_cast<size_t>(x)] += weights[e] * c_.k[static_cast<size_t>(tokens[e] * c_.d + x)];
    return key;
  }

  const Combiner& c_;
  int64_t i_;
  Doubles scores_;
  std::vector<Shares> shares_;
  size_t num_direct_ = 0;
};

}  // namespace

Seen seen_by(const Partition& p, int64_t i) {
  Seen seen;
  if (i < p.globals) {
    for (int64_t j = 0; j < p.length; ++j)
      if (!p.is_causal || j <= i) seen.direct.push_back(j);
    return seen;
  }
  const int64_t cell = i - p.globals;
  if (p.kind == PartitionKind::kFixed) {
    see_blocks(p, cell, seen);
  } else if (p.kind == PartitionKind::kLogsparse) {
    see_spans(p, cell, seen);
  } else {
    see_grid(p, cell, seen);
  }
  for (int64_t j = 0; j < p.globals; ++j) seen.direct.push_back(j);
  return seen;
}

CombinerOutput combine(const Combiner& c) {
  const auto n = static_cast<size_t>(c.partition.length);
  CombinerOutput out{Doubles(n * static_cast<size_t>(c.d)), Doubles(n, kNothing), Doubles(n * n),
                     Doubles(n), Doubles(n, -1.0)};
  for (int64_t i = 0; i < c.partition.length; ++i) {
    Row row(c, i);
    const Seen seen = seen_by(c.partition, i);
    for (int64_t j : seen.direct) row.add_direct(j);
    for (const SeenRegion& region : seen.regions) row.add_region(region);
    row.finish(out);
    for (size_t j = 0; j < n; ++j)
      for (size_t x = 0; x < static_cast<size_t>(c.d); ++x)
        out.o[static_cast<size_t>(i) * static_cast<size_t>(c.d) + x] +=
            out.weights[static_cast<size_t>(i) * n + j] * c.v[j * static_cast<size_t>(c.d) + x];
  }
  return out;
}

}  // namespace stipple::kernels::reference
