// SPDX-License-Identifier: Apache-2.0
#include "bench/bench_cuda_check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/copy.h"
#include "core/rng.h"
#include "kernels/math/thinning.h"

namespace stipple::bench {
namespace {

using kernels::EdgeForm;
using kernels::EdgeSet;

constexpr int64_t kCheckedProblems = 8;
constexpr int64_t kRowsOfProblem = 8;

/// Rows of one problem on the host.
struct Rows {
  int64_t width = 0;
  std::vector<double> values;

  const double* operator[](int64_t i) const { return values.data() + i * width; }
};

template <class T>
std::vector<T> fetch(const Stream& stream, const T* from, int64_t count) {
  std::vector<T> to(static_cast<size_t>(count));
  copy_bytes(stream, to.data(), from, to.size() * sizeof(T));
  stream.synchronize();
  return to;
}

Rows rows_of(const Stream& stream, const ConstRealView& from, int64_t problem, int64_t n) {
  Rows rows;
  if (from.empty()) return rows;
  rows.width = from.shape[3];
  with_real_type(from.precision, [&](auto zero) {
    using T = decltype(zero);
    const int64_t count = n * rows.width;
    for (const T x : fetch(stream, from.as<T>().data + problem * count, count)) {
      rows.values.push_back(static_cast<double>(to_float(x)));
    }
  });
  return rows;
}

/// The pairs of one problem, 1 each.
std::vector<uint8_t> pairs_of(const Stream& stream, const PassArrays& a, int64_t problem) {
  std::vector<uint8_t> dense(static_cast<size_t>(a.n * a.n), 1);
  if (a.edges.form.numel() == 0) return dense;
  const EdgeSet& all = a.edges;
  std::vector<EdgeForm> form = fetch(stream, all.form.data + problem, 1);
  std::vector<int32_t> row_ptr = fetch(stream, all.row_ptr.at(problem).data, a.n + 1);
  std::vector<uint32_t> storage = fetch(stream, all.storage.at(problem).data, all.storage.shape[1]);
  EdgeSet one = all;
  one.form = {form.data(), {1}};
  one.row_ptr = {row_ptr.data(), {1, a.n + 1}};
  one.storage = {storage.data(), {1, all.storage.shape[1]}};
  kernels::get_edges(one, 0, {dense.data(), {a.n, a.n}});
  return dense;
}

double dot(const double* x, const double* y, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += x[i] * y[i];
  return sum;
}

/// Sums of terms, with what rounding each of them may amount to.
struct BoundedSums {
  std::vector<double> sums, bounds;

  explicit BoundedSums(int64_t width)
      : sums(static_cast<size_t>(width)), bounds(static_cast<size_t>(width)) {}
  void add(double factor, double bound, const double* row) {
    for (size_t c = 0; c < sums.size(); ++c) {
      sums[c] += factor * row[c];
      bounds[c] += bound * std::abs(row[c]);
    }
  }
  /// Of the device's row, whose elements are rounded once more.
  double worst(const double* row, double factor, double rounding) const {
    double worst = 0;
    for (size_t c = 0; c < sums.size(); ++c) {
      const double expected = factor * sums[c];
      const double bound = std::abs(factor) * bounds[c] + rounding * std::abs(expected) + 1e-30;
      const double error = std::abs(row[c] - expected) / bound;
      worst = std::max(worst, error <= std::numeric_limits<double>::max()
                                  ? error
                                  : std::numeric_limits<double>::infinity());
    }
    return worst;
  }
};

/// One problem, its operands and results in double.
class Problem {
 public:
  Problem(const Stream& stream, const PassArrays& arrays, int64_t problem)
      : a_(arrays), problem_(problem), pairs_(pairs_of(stream, arrays, problem)) {
    const auto get = [&](const ConstRealView& from) {
      return rows_of(stream, from, problem, arrays.n);
    };
    q_ = get(a_.q), k_ = get(a_.k), v_ = get(a_.v), dout_ = get(a_.dout), o_ = get(a_.o);
    dq_ = get(a_.dq), dk_ = get(a_.dk), dv_ = get(a_.dv);
    mu_ = get(a_.mu), z_ = get(a_.z);
    row_grad_ = get(a_.row_grad), column_grad_ = get(a_.column_grad);
    for (const float x : fetch(stream, a_.lse.data + problem * a_.n, a_.n)) lse_.push_back(x);
    // Products of operands are rounded to the storage's precision, half a unit of it each.
    rounding_ = a_.q.precision == Precision::kBf16 ? 0x1p-7 : 0x1p-18;
  }

  double forward(int64_t i) const {
    double highest = -std::numeric_limits<double>::infinity();
    std::vector<double> scores(static_cast<size_t>(a_.n));
    for (int64_t j = 0; j < a_.n; ++j) {
      if (!has(i, j)) continue;
      scores[static_cast<size_t>(j)] = score(i, j);
      highest = std::max(highest, score(i, j));
    }
    double sum = 0;
    BoundedSums o(a_.d);
    for (int64_t j = 0; j < a_.n; ++j) {
      if (!has(i, j)) continue;
      const double weight = std::exp(scores[static_cast<size_t>(j)] - highest);
      sum += weight;
      o.add(weight, rounding_ * weight, v_[j]);
    }
    const double error = o.worst(o_[i], sum == 0 ? 0 : 1 / sum, rounding_);
    if (sum == 0) return error;
    const double lse = lse_[static_cast<size_t>(i)];
    return std::max(error, std::abs(lse - highest - std::log(sum)) / 1e-3);
  }

  /// dq and row_grad of query i, dk, dv and column_grad of key i.
  double backward(int64_t i, bool with_ste) const {
    BoundedSums dq(a_.d), dk(a_.d), dv(a_.d), row_grad(a_.clusters), column_grad(a_.clusters);
    for (int64_t j = 0; j < a_.n; ++j) {
      if (has(i, j)) {
        const Pair pair = differentiate(i, j);
        dq.add(pair.ds, pair.bound, k_[j]);
        if (with_ste) row_grad.add(pair.ds, pair.bound, z_[j]);
      }
      if (has(j, i)) {
        const Pair pair = differentiate(j, i);
        dk.add(pair.ds, pair.bound, q_[j]);
        dv.add(pair.weight, rounding_ * pair.weight, dout_[j]);
        if (with_ste) column_grad.add(pair.ds, pair.bound, z_[j]);
      }
    }
    double error =
        std::max({dq.worst(dq_[i], a_.scale, rounding_), dk.worst(dk_[i], a_.scale, rounding_),
                  dv.worst(dv_[i], 1, rounding_)});
    if (with_ste) {
      error = std::max({error, row_grad.worst(row_grad_[i], 1, rounding_),
                        column_grad.worst(column_grad_[i], 1, rounding_)});
    }
    return error;
  }

  double tile_sample(int64_t i) const {
    const PhiloxKey key = RngKey{.seed = a_.seed, .step = a_.step}.philox();
    const uint32_t stream = stream_word(0, static_cast<int>(problem_), Purpose::kEdgeTile);
    for (int64_t j = 0; j < a_.n; ++j) {
      const auto words = philox4x32(
          rng_counter(static_cast<uint32_t>(j / 4), static_cast<uint32_t>(i), 0, stream), key);
      const double uniform = (words[static_cast<size_t>(j % 4)] >> 1) * 0x1p-31;
      const double p = dot(mu_[i], z_[j], a_.clusters);
      constexpr double kSumError = 1e-5;
      if (std::abs(uniform - p) > kSumError && has(i, j) != (uniform < p)) {
        return std::numeric_limits<double>::infinity();
      }
    }
    return 0;
  }

  /// Edges of row i, and how many are expected.
  std::pair<double, double> degree(int64_t i) const {
    double edges = 0, expected = 0;
    for (int64_t j = 0; j < a_.n; ++j) {
      edges += has(i, j);
      expected += dot(mu_[i], z_[j], a_.clusters);
    }
    return {edges, expected};
  }

 private:
  struct Pair {
    double weight, ds, bound;
  };

  bool has(int64_t i, int64_t j) const { return pairs_[static_cast<size_t>(i * a_.n + j)] != 0; }
  double score(int64_t i, int64_t j) const { return a_.scale * dot(q_[i], k_[j], a_.d); }
  Pair differentiate(int64_t i, int64_t j) const {
    const double weight = std::exp(score(i, j) - lse_[static_cast<size_t>(i)]);
    const double da = dot(dout_[i], v_[j], a_.d);
    const double delta = dot(dout_[i], o_[i], a_.d);
    // The difference is taken in fp32 of sums in fp32.
    const double cancelled = 1e-4 * weight * (std::abs(da) + std::abs(delta));
    const double ds = weight * (da - delta);
    return {weight, ds, rounding_ * std::abs(ds) + cancelled};
  }

  const PassArrays& a_;
  int64_t problem_;
  std::vector<uint8_t> pairs_;
  Rows q_, k_, v_, dout_, o_, dq_, dk_, dv_, mu_, z_, row_grad_, column_grad_;
  std::vector<double> lse_;
  double rounding_;
};

bool is_by_tiles(const Stream& stream, const PassArrays& a) {
  return fetch(stream, a.edges.form.data, 1)[0] == EdgeForm::kBits;
}

/// A pass's results as bytes.
struct Bytes {
  void* data;
  size_t count;
};
std::vector<Bytes> results_of(const PassArrays& a, Pass pass) {
  std::vector<Bytes> all;
  const auto add = [&](const RealView& x) {
    if (!x.empty()) all.push_back({x.data, x.bytes()});
  };
  if (pass == Pass::kForward) {
    add(a.o);
    add(a.lse);
  } else if (pass == Pass::kSample) {
    all.push_back({a.edges.row_ptr.data, a.edges.row_ptr.bytes()});
  } else {
    for (const RealView& x : {a.dq, a.dk, a.dv}) add(x);
    if (pass == Pass::kBackwardSte) {
      add(a.row_grad);
      add(a.column_grad);
    }
  }
  return all;
}

constexpr size_t kPiece = size_t{64} << 20;

}  // namespace

double worst_error(const Stream& stream, const PassArrays& a, Pass pass) {
  std::mt19937_64 random(11);
  double worst = 0, edges = 0, expected = 0;
  const bool counts = pass == Pass::kSample && !is_by_tiles(stream, a);
  const int64_t problems = std::min(kCheckedProblems, a.problems);
  for (int64_t x = 0; x < problems; ++x) {
    const Problem problem(stream, a, x * (a.problems - 1) / std::max<int64_t>(1, problems - 1));
    for (int64_t y = 0; y < kRowsOfProblem; ++y) {
      const auto i = static_cast<int64_t>(random() % static_cast<uint64_t>(a.n));
      if (counts) {
        const auto [have, want] = problem.degree(i);
        edges += have;
        expected += want;
      } else if (pass == Pass::kSample) {
        worst = std::max(worst, problem.tile_sample(i));
      } else if (pass == Pass::kForward) {
        worst = std::max(worst, problem.forward(i));
      } else {
        worst = std::max(worst, problem.backward(i, pass == Pass::kBackwardSte));
      }
    }
  }
  return counts ? std::abs(edges - expected) / (6 * std::sqrt(expected)) : worst;
}

void poison_results(const Stream& stream, const PassArrays& a, Pass pass) {
  const std::vector<std::byte> poison(kPiece, std::byte{0xFF});
  for (const Bytes& result : results_of(a, pass)) {
    for (size_t at = 0; at < result.count; at += kPiece) {
      copy_bytes(stream, static_cast<std::byte*>(result.data) + at, poison.data(),
                 std::min(kPiece, result.count - at));
    }
  }
  stream.synchronize();
}

uint64_t hash_results(const Stream& stream, const PassArrays& a, Pass pass) {
  uint64_t hash = 0xcbf29ce484222325;
  std::vector<uint64_t> piece(kPiece / sizeof(uint64_t));
  for (const Bytes& result : results_of(a, pass)) {
    for (size_t at = 0; at < result.count; at += kPiece) {
      const size_t count = std::min(kPiece, result.count - at);
      std::fill(piece.begin(), piece.end(), 0);
      copy_bytes(stream, piece.data(), static_cast<const std::byte*>(result.data) + at, count);
      stream.synchronize();
      for (size_t i = 0; i < (count + 7) / 8; ++i) hash = (hash ^ piece[i]) * 0x100000001b3;
    }
  }
  return hash;
}

}  // namespace stipple::bench
