// SPDX-License-Identifier: Apache-2.0
#include "kernels/sbm.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/masks.h"
#include "kernels/cpu/sums.h"
#include "kernels/cpu/vectorize.h"
#include "kernels/math/sigmoid.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

// r[u, v] = <c_u, c_v>. The two halves are the same operations, hence the same bits.
STIPPLE_VECTOR_BODY void gram_matrix(float* r, const float* c, int64_t k, int64_t d) {
  for (int64_t u = 0; u < k; ++u) {
    for (int64_t v = 0; v <= u; ++v) {
      const double dot = lane_sum<double>(d, [&](int64_t x) {
        return static_cast<double>(c[u * d + x]) * static_cast<double>(c[v * d + x]);
      });
      r[u * k + v] = r[v * k + u] = static_cast<float>(dot);
    }
  }
}

// Softmax over all entries, in place; returns exp(entropy).
double softmax_of_all(float* r, int64_t n) {
  const auto max = static_cast<double>(*std::max_element(r, r + n));
  double sum = 0.0;
  double weighted = 0.0;
  for (int64_t e = 0; e < n; ++e) {
    const double x = static_cast<double>(r[e]) - max;
    const double w = std::exp(x);
    sum += w;
    weighted += w * x;
    r[e] = static_cast<float>(w);
  }
  for (int64_t e = 0; e < n; ++e) r[e] = static_cast<float>(static_cast<double>(r[e]) / sum);
  return std::exp(std::log(sum) - weighted / sum);
}

struct MembershipRows {
  float* y;
  const float* logits;
  const uint8_t* mask;
  int64_t rows, k;
};

STIPPLE_VECTOR_BODY void membership_rows(MembershipRows in) {
  for (int64_t i = 0; i < in.rows; ++i) {
    float* y = in.y + i * in.k;
    const float* logits = in.logits + i * in.k;
    if (is_real(in.mask, i)) {
      for (int64_t v = 0; v < in.k; ++v) y[v] = math::sigmoid(logits[v]);
    } else {
      for (int64_t v = 0; v < in.k; ++v) y[v] = 0.0f;
    }
  }
}

STIPPLE_VECTOR_BODY void sum_columns(const float* x, int64_t n, int64_t k, double* sums) {
  for (int64_t v = 0; v < k; ++v) sums[v] = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t v = 0; v < k; ++v) sums[v] += static_cast<double>(x[i * k + v]);
  }
}

STIPPLE_VECTOR_BODY double bilinear(const double* a, const float* s, const double* c, int64_t k) {
  double sum = 0.0;
  for (int64_t u = 0; u < k; ++u) {
    sum += a[u] *
           lane_sum<double>(k, [&](int64_t v) { return static_cast<double>(s[u * k + v]) * c[v]; });
  }
  return sum;
}

struct EdgeGradients {
  double* query;  // [K]  weight * S cᵀ
  double* key;    // [K]  weight * Sᵀ aᵀ
};

void edge_gradients(const ExpectedEdgesBackward& args, int64_t p, EdgeGradients out) {
  const int64_t k = args.y_sum.shape[1];
  const float* s = args.s.at(p % args.s.shape[0]).data;
  const double* a = args.y_sum.at(p).data;
  const double* c = args.z_sum.at(p).data;
  const auto weight = static_cast<double>(args.weight);
  std::fill(out.key, out.key + k, 0.0);
  for (int64_t u = 0; u < k; ++u) {
    double dot = 0.0;
    for (int64_t v = 0; v < k; ++v) {
      const auto entry = static_cast<double>(s[u * k + v]);
      dot += entry * c[v];
      out.key[v] += weight * a[u] * entry;
    }
    out.query[u] = weight * dot;
  }
}

// Adds the same gradient to every real row.
void add_to_rows(View<float> rows, const uint8_t* mask, const double* gradient) {
  const int64_t k = rows.shape[1];
  for (int64_t i = 0; i < rows.shape[0]; ++i) {
    if (!is_real(mask, i)) continue;
    float* row = rows.data + i * k;
    for (int64_t v = 0; v < k; ++v) row[v] += static_cast<float>(gradient[v]);
  }
}

// Row u of ds for one head: w sum_b a_bu c_b.
void add_block_gradient(const ExpectedEdgesBackward& args, int64_t head, int64_t u) {
  const int64_t heads = args.s.shape[0];
  const int64_t k = args.s.shape[1];
  float* ds = args.ds.at(head).data + u * k;
  for (int64_t v = 0; v < k; ++v) {
    double sum = 0.0;
    for (int64_t p = head; p < args.y_sum.shape[0]; p += heads) {
      sum += args.y_sum.at(p)[u] * args.z_sum.at(p)[v];
    }
    ds[v] += static_cast<float>(static_cast<double>(args.weight) * sum);
  }
}

// dR of one head, one row: s (ds - <ds, s>), plus the same of the transpose.
void add_cluster_gradient(const BlockMatrixBackward& args, int64_t head, int64_t u, double mean,
                          double* sums) {
  const int64_t k = args.s.shape[1];
  const int64_t d = args.clusters.shape[2];
  const float* s = args.s.at(head).data;
  const float* ds = args.ds.at(head).data;
  const float* clusters = args.clusters.at(head).data;
  std::fill(sums, sums + d, 0.0);
  for (int64_t v = 0; v < k; ++v) {
    const auto dr = [&](int64_t e) {
      return static_cast<double>(s[e]) * (static_cast<double>(ds[e]) - mean);
    };
    const double both = dr(u * k + v) + dr(v * k + u);
    for (int64_t x = 0; x < d; ++x) sums[x] += both * static_cast<double>(clusters[v * d + x]);
  }
  float* out = args.dclusters.at(head).data + u * d;
  for (int64_t x = 0; x < d; ++x) out[x] += static_cast<float>(sums[x]);
}

}  // namespace

void block_matrix(const Stream& stream, const BlockMatrix& args) {
  const int64_t k = args.clusters.shape[1];
  stream.parallel_for(args.clusters.shape[0], [&](int64_t head, int) {
    float* s = args.s.at(head).data;
    vectorized<gram_matrix>(s, args.clusters.at(head).data, k, args.clusters.shape[2]);
    args.effective_cells[head] = static_cast<float>(softmax_of_all(s, k * k));
  });
}

void block_matrix_backward(const Stream& stream, const BlockMatrixBackward& args) {
  const int64_t heads = args.s.shape[0];
  const int64_t k = args.s.shape[1];
  const Arena::Scope scope(*args.scratch);
  const View<double> means = args.scratch->alloc<double>({heads});
  const View<double> sums = args.scratch->alloc<double>({stream.threads(), args.clusters.shape[2]});
  stream.parallel_for(heads, [&](int64_t head, int) {
    const float* s = args.s.at(head).data;
    const float* ds = args.ds.at(head).data;
    double dot = 0.0;
    for (int64_t e = 0; e < k * k; ++e) {
      dot += static_cast<double>(s[e]) * static_cast<double>(ds[e]);
    }
    means[head] = dot;
  });
  stream.parallel_for(heads * k, [&](int64_t row, int worker) {
    add_cluster_gradient(args, row / k, row % k, means[row / k], sums.at(worker).data);
  });
}

void memberships(const Stream& stream, const Memberships& args) {
  const int64_t heads = args.y.shape[1];
  const int64_t n = args.y.shape[2];
  const int64_t k = args.y.shape[3];
  const int64_t runs = num_runs(n, kCopyRowRun);
  stream.parallel_for(args.y.shape[0] * heads * runs, [&](int64_t task, int) {
    const int64_t p = task / runs;
    const Range rows = nth_run(task % runs, n, kCopyRowRun);
    const uint8_t* mask = mask_row(args.mask, p / heads);
    const int64_t first = (p * n + rows.begin) * k;
    vectorized<membership_rows>(
        MembershipRows{args.y.floats().data + first, args.logits.floats().data + first,
                       mask == nullptr ? nullptr : mask + rows.begin, rows.size(), k});
  });
}

void expected_edges(const Stream& stream, const ExpectedEdges& args) {
  const int64_t heads = args.s.shape[0];
  const int64_t k = args.s.shape[1];
  const int64_t n = args.y.shape[2];
  const int64_t m = args.z.shape[2];
  stream.parallel_for(args.expected.shape[0], [&](int64_t p, int) {
    double* y_sum = args.y_sum.at(p).data;
    double* z_sum = args.z_sum.at(p).data;
    vectorized<sum_columns>(args.y.floats().data + p * n * k, n, k, y_sum);
    vectorized<sum_columns>(args.z.floats().data + p * m * k, m, k, z_sum);
    args.expected[p] = bilinear(y_sum, args.s.at(p % heads).data, z_sum, k);
  });
}

void expected_edges_backward(const Stream& stream, const ExpectedEdgesBackward& args) {
  const int64_t heads = args.s.shape[0];
  const int64_t k = args.s.shape[1];
  const Arena::Scope scope(*args.scratch);
  // Of every query and of every key.
  const View<double> gradients = args.scratch->alloc<double>({args.y_sum.shape[0], 2, k});
  const int64_t n = args.dy.shape[2];
  const int64_t m = args.dz.shape[2];
  stream.parallel_for(args.y_sum.shape[0], [&](int64_t p, int) {
    const int64_t b = p / heads;
    const EdgeGradients gradient{gradients.at(p).data, gradients.at(p).data + k};
    edge_gradients(args, p, gradient);
    add_to_rows({args.dy.data + p * n * k, {n, k}}, mask_row(args.query_mask, b), gradient.query);
    add_to_rows({args.dz.data + p * m * k, {m, k}}, mask_row(args.key_mask, b), gradient.key);
  });
  stream.parallel_for(heads * k,
                      [&](int64_t row, int) { add_block_gradient(args, row / k, row % k); });
}

void sparsity_loss(const Stream&, const SparsityLoss& args) {
  const EdgeSet& graph = args.graph;
  double sum = 0.0;
  for (int64_t p = 0; p < graph.num_problems(); ++p) {
    sum += args.expected.empty() ? static_cast<double>(graph.num_edges(p)) : args.expected[p];
  }
  args.loss[0] = args.weight * sum;
}

}  // namespace stipple::kernels::cpu
