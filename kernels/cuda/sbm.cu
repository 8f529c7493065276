// SPDX-License-Identifier: Apache-2.0
// The block model's small dense parts. Sums over a head or a problem run in two stages of fixed
// length, in double: block partials, then their sum in every block that needs it.
//
// Gram matrix: a block of 256 threads has a tile of 32 x 32 entries, warp w rows w, w + 8, ...
// Softmax and its gradient: a block has a run of a head's entries. Token rows (memberships, their
// gradients): a thread per 16 bytes.
#include <algorithm>
#include <cmath>

#include "core/copy.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/masks.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/math/sigmoid.h"
#include "kernels/runs.h"
#include "kernels/sbm.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTile = 32;
constexpr int kTileRows = kTile / kWarps;  // of one thread
constexpr int kTileStride = kTile + 1;     // no two lanes in one bank, by rows or by columns
constexpr size_t kSumBytes = kWarps * sizeof(double);

__device__ double* shared_doubles() { return reinterpret_cast<double*>(shared_memory()); }

// ------------------------------------------------------------------------------- block matrix

struct GramArgs {
  float* s;               // [H, K, K]
  const float* clusters;  // [H, K, D]
  int64_t k, d;
};

/// 32 rows of x, columns [col, col + 32), zeros beyond its edges.
__device__ void load_tile(float* tile, const float* x, int64_t row, int64_t col, int64_t rows,
                          int64_t cols) {
  for (int r = warp_index(); r < kTile; r += kWarps) {
    const bool is_inside = row + r < rows && col + lane_index() < cols;
    tile[r * kTileStride + lane_index()] =
        is_inside ? x[(row + r) * cols + col + lane_index()] : 0.0f;
  }
}

// Both halves sum the same products in the same order: the result is symmetric to the bit.
__global__ void gram_kernel(GramArgs args) {
  auto* rows = reinterpret_cast<float*>(shared_memory());
  float* cols = rows + kTile * kTileStride;
  const float* clusters = args.clusters + blockIdx.z * args.k * args.d;
  const int64_t u0 = int64_t{blockIdx.y} * kTile;
  const int64_t v0 = int64_t{blockIdx.x} * kTile;
  double dots[kTileRows] = {};
  for (int64_t x0 = 0; x0 < args.d; x0 += kTile) {
    load_tile(rows, clusters, u0, x0, args.k, args.d);
    load_tile(cols, clusters, v0, x0, args.k, args.d);
    sync_threads();
    for (int x = 0; x < kTile; ++x) {
      const double c = static_cast<double>(cols[lane_index() * kTileStride + x]);
      for (int i = 0; i < kTileRows; ++i) {
        dots[i] += static_cast<double>(rows[(warp_index() + i * kWarps) * kTileStride + x]) * c;
      }
    }
    sync_threads();
  }
  const int64_t v = v0 + lane_index();
  for (int i = 0; i < kTileRows; ++i) {
    const int64_t u = u0 + warp_index() + i * kWarps;
    if (u < args.k && v < args.k) {
      args.s[(blockIdx.z * args.k + u) * args.k + v] = static_cast<float>(dots[i]);
    }
  }
}

struct SoftmaxArgs {
  float* s;                // [H, K * K]  gram matrix, weights, softmax
  float* effective_cells;  // [H]
  float* maxima;           // [H]
  double* partials;        // [H, runs, 2]  sums of w and of w log w, w = exp(entry - maximum)
  int64_t k, run;
};

/// One block a head. No entry exceeds the longest cluster's own: |<a, b>| <= max(<a, a>, <b, b>).
__global__ void diagonal_maximum_kernel(SoftmaxArgs args) {
  auto* shared = reinterpret_cast<float*>(shared_memory());
  const float* r = args.s + blockIdx.x * args.k * args.k;
  float largest = r[0];
  for (int64_t u = threadIdx.x; u < args.k; u += kThreads) {
    largest = fmaxf(largest, r[u * args.k + u]);
  }
  shared[threadIdx.x] = largest;
  for (int width = kThreads / 2; width > 0; width /= 2) {
    sync_threads();
    if (static_cast<int>(threadIdx.x) < width) {
      shared[threadIdx.x] = fmaxf(shared[threadIdx.x], shared[threadIdx.x + width]);
    }
  }
  if (threadIdx.x == 0) args.maxima[blockIdx.x] = shared[0];
}

/// Block (i, head) turns its run of entries into weights.
__global__ void weights_kernel(SoftmaxArgs args) {
  const Range run = nth_run(blockIdx.x, args.k * args.k, args.run);
  float* r = args.s + blockIdx.y * args.k * args.k;
  const double max = static_cast<double>(args.maxima[blockIdx.y]);
  double sum = 0.0;
  double weighted = 0.0;
  for (int64_t e = run.begin + threadIdx.x; e < run.end; e += kThreads) {
    const double x = static_cast<double>(r[e]) - max;
    const double w = exp(x);
    sum += w;
    weighted += w * x;
    r[e] = static_cast<float>(w);
  }
  sum = block_sum<kThreads>(sum, shared_doubles());
  weighted = block_sum<kThreads>(weighted, shared_doubles());
  if (threadIdx.x != 0) return;
  double* partial = args.partials + (int64_t{blockIdx.y} * gridDim.x + blockIdx.x) * 2;
  partial[0] = sum;
  partial[1] = weighted;
}

/// Sum of partials[0], partials[stride], ..., to every thread.
__device__ double sum_partials(const double* partials, int64_t count, int64_t stride) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partials[i * stride];
  return block_sum<kThreads>(sum, shared_doubles());
}

__global__ void normalize_kernel(SoftmaxArgs args) {
  const double* partials = args.partials + int64_t{blockIdx.y} * gridDim.x * 2;
  const double sum = sum_partials(partials, gridDim.x, 2);
  const Range run = nth_run(blockIdx.x, args.k * args.k, args.run);
  float* w = args.s + blockIdx.y * args.k * args.k;
  for (int64_t e = run.begin + threadIdx.x; e < run.end; e += kThreads) {
    w[e] = static_cast<float>(static_cast<double>(w[e]) / sum);
  }
  if (blockIdx.x != 0) return;
  const double weighted = sum_partials(partials + 1, gridDim.x, 2);
  if (threadIdx.x == 0) {
    args.effective_cells[blockIdx.y] = static_cast<float>(exp(log(sum) - weighted / sum));
  }
}

// ------------------------------------------------------------------ gradient of the block matrix

struct BlockGradientArgs {
  float* dclusters;       // [H, K, D]
  const float* ds;        // [H, K, K]
  const float* s;         // [H, K, K]
  const float* clusters;  // [H, K, D]
  double* partials;       // [H, runs]  of <ds, s>
  int64_t k, d, run, runs;
};

__global__ void mean_kernel(BlockGradientArgs args) {
  const Range run = nth_run(blockIdx.x, args.k * args.k, args.run);
  const int64_t first = blockIdx.y * args.k * args.k;
  double dot = 0.0;
  for (int64_t e = first + run.begin + threadIdx.x; e < first + run.end; e += kThreads) {
    dot += static_cast<double>(args.s[e]) * static_cast<double>(args.ds[e]);
  }
  dot = block_sum<kThreads>(dot, shared_doubles());
  if (threadIdx.x == 0) args.partials[blockIdx.y * args.runs + blockIdx.x] = dot;
}

/// The tile of dR = s (ds - mean) at (row, col), zeros beyond the edges.
__device__ void load_gradient_tile(double* tile, const BlockGradientArgs& args, int64_t row,
                                   int64_t col, double mean) {
  const int64_t first = blockIdx.z * args.k * args.k;
  for (int r = warp_index(); r < kTile; r += kWarps) {
    double dr = 0.0;
    if (row + r < args.k && col + lane_index() < args.k) {
      const int64_t e = first + (row + r) * args.k + col + lane_index();
      dr = static_cast<double>(args.s[e]) * (static_cast<double>(args.ds[e]) - mean);
    }
    tile[r * kTileStride + lane_index()] = dr;
  }
}

constexpr size_t kGradientTileBytes =
    2 * kTile * kTileStride * sizeof(double) + kTile * kTileStride * sizeof(float);

/// Block (x tile, u tile, head): 32 rows of (dR + dRᵀ) C.
__global__ void cluster_gradient_kernel(BlockGradientArgs args) {
  const double mean = sum_partials(args.partials + blockIdx.z * args.runs, args.runs, 1);
  sync_threads();
  double* straight = shared_doubles();
  double* transposed = straight + kTile * kTileStride;
  auto* clusters = reinterpret_cast<float*>(transposed + kTile * kTileStride);
  const int64_t u0 = int64_t{blockIdx.y} * kTile;
  const int64_t x0 = int64_t{blockIdx.x} * kTile;
  double sums[kTileRows] = {};
  for (int64_t v0 = 0; v0 < args.k; v0 += kTile) {
    load_gradient_tile(straight, args, u0, v0, mean);
    load_gradient_tile(transposed, args, v0, u0, mean);
    load_tile(clusters, args.clusters + blockIdx.z * args.k * args.d, v0, x0, args.k, args.d);
    sync_threads();
    for (int v = 0; v < kTile; ++v) {
      const double c = static_cast<double>(clusters[v * kTileStride + lane_index()]);
      for (int i = 0; i < kTileRows; ++i) {
        const int u = warp_index() + i * kWarps;
        sums[i] += (straight[u * kTileStride + v] + transposed[v * kTileStride + u]) * c;
      }
    }
    sync_threads();
  }
  const int64_t x = x0 + lane_index();
  for (int i = 0; i < kTileRows; ++i) {
    const int64_t u = u0 + warp_index() + i * kWarps;
    if (u < args.k && x < args.d) {
      args.dclusters[(blockIdx.z * args.k + u) * args.d + x] += static_cast<float>(sums[i]);
    }
  }
}

// ------------------------------------------------------------------------------- memberships

/// What the rows of an array [B, H, N, K] are of.
struct TokenRows {
  const uint8_t* mask;  // [B, N]; nullptr: all real
  int64_t n, heads;

  __device__ int64_t problem(int64_t row) const { return row / n; }
  __device__ bool is_token(int64_t row) const {
    const int64_t p = problem(row);
    return is_real(mask, p / heads * n + row - p * n);
  }
};

/// T is the storage of both.
template <class T>
struct Sigmoids {
  T* y;
  const T* logits;
  TokenRows tokens;
  int64_t k;

  template <int kWidth>
  __device__ void run(int64_t row, int64_t v) const {
    Pack<kWidth> values{};
    if (tokens.is_token(row)) {
      values = load<kWidth>(logits + row * k + v);
      for (float& value : values.at) value = math::sigmoid(value);
    }
    store(y + row * k + v, values);
  }
};

// ---------------------------------------------------------------------------- expected edges

struct ExpectedArgs {
  double* expected;          // [P]
  double* y_sum;             // [P, K]
  double* z_sum;             // [P, K]
  const double* y_partials;  // [P, runs, K]
  const double* z_partials;  // [P, runs, K]
  const float* s;            // [H, K, K]
  int64_t y_runs, z_runs, heads, k;
};

__device__ void add_runs(double* sums, const double* partials, int64_t runs, int64_t k) {
  for (int64_t v = threadIdx.x; v < k; v += kThreads) {
    double sum = 0.0;
    for (int64_t run = 0; run < runs; ++run) sum += partials[run * k + v];
    sums[v] = sum;
  }
}

/// One block a problem: the second stage of the column sums, then a S cᵀ.
__global__ void expected_edges_kernel(ExpectedArgs args) {
  const int64_t p = blockIdx.x;
  double* a = args.y_sum + p * args.k;
  double* c = args.z_sum + p * args.k;
  add_runs(a, args.y_partials + p * args.y_runs * args.k, args.y_runs, args.k);
  add_runs(c, args.z_partials + p * args.z_runs * args.k, args.z_runs, args.k);
  sync_threads();
  const float* s = args.s + p % args.heads * args.k * args.k;
  double sum = 0.0;
  for (int64_t u = warp_index(); u < args.k; u += kWarps) {
    double dot = 0.0;
    for (int64_t v = lane_index(); v < args.k; v += kWarpSize) {
      dot += static_cast<double>(s[u * args.k + v]) * c[v];
    }
    sum += a[u] * dot;
  }
  sum = block_sum<kThreads>(sum, shared_doubles());
  if (threadIdx.x == 0) args.expected[p] = sum;
}

struct EdgeGradientArgs {
  double* gradients;    // [P, 2, K]
  float* ds;            // [H, K, K]
  const double* y_sum;  // [P, K]
  const double* z_sum;  // [P, K]
  const float* s;       // [H, K, K]
  int64_t problems, heads, k;
  double weight;
};

/// Block (p, 0): w S cᵀ, a warp an entry.  Block (p, 1): w Sᵀ aᵀ, a thread an entry.
__global__ void edge_gradients_kernel(EdgeGradientArgs args) {
  const int64_t p = blockIdx.x;
  const float* s = args.s + p % args.heads * args.k * args.k;
  double* gradient = args.gradients + (p * 2 + blockIdx.y) * args.k;
  if (blockIdx.y == 1) {
    const double* a = args.y_sum + p * args.k;
    for (int64_t v = threadIdx.x; v < args.k; v += kThreads) {
      double dot = 0.0;
      for (int64_t u = 0; u < args.k; ++u) dot += a[u] * static_cast<double>(s[u * args.k + v]);
      gradient[v] = args.weight * dot;
    }
    return;
  }
  const double* c = args.z_sum + p * args.k;
  for (int64_t u = warp_index(); u < args.k; u += kWarps) {
    double dot = 0.0;
    for (int64_t v = lane_index(); v < args.k; v += kWarpSize) {
      dot += static_cast<double>(s[u * args.k + v]) * c[v];
    }
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) dot += shuffle_xor(dot, mask);
    if (lane_index() == 0) gradient[u] = args.weight * dot;
  }
}

struct AddToTokens {
  float* rows;
  const double* gradients;  // [P, 2, K] from the side's first
  TokenRows tokens;
  int64_t k;

  template <int kWidth>
  __device__ void run(int64_t row, int64_t v) const {
    if (!tokens.is_token(row)) return;
    Pack<kWidth> values = load<kWidth>(rows + row * k + v);
    const double* added = gradients + tokens.problem(row) * 2 * k + v;
    for (int j = 0; j < kWidth; ++j) values.at[j] += static_cast<float>(added[j]);
    store(rows + row * k + v, values);
  }
};

/// rows [B, H, N, K] += gradients, on real tokens.
void add_to_tokens(const Stream& stream, View<float> rows, View<const uint8_t> mask,
                   const double* gradients) {
  const Shape& shape = rows.shape;
  for_each_row(stream, shape[0] * shape[1] * shape[2], shape[3], are_aligned(rows.data),
               AddToTokens{rows.data, gradients, {mask.data, shape[2], shape[1]}, shape[3]});
}

/// Block (v tile, u tile, head): ds += w sum_b a_bu c_bv.
__global__ void block_gradient_kernel(EdgeGradientArgs args) {
  const int64_t v = int64_t{blockIdx.x} * kTile + lane_index();
  if (v >= args.k) return;
  for (int i = 0; i < kTileRows; ++i) {
    const int64_t u = int64_t{blockIdx.y} * kTile + warp_index() + i * kWarps;
    if (u >= args.k) return;
    double sum = 0.0;
    for (int64_t p = blockIdx.z; p < args.problems; p += args.heads) {
      sum += args.y_sum[p * args.k + u] * args.z_sum[p * args.k + v];
    }
    args.ds[(blockIdx.z * args.k + u) * args.k + v] += static_cast<float>(args.weight * sum);
  }
}

// --------------------------------------------------------------------------------- statistics

struct SparsityLossArgs {
  double* loss;            // [1]
  const double* expected;  // [P] or nullptr
  const int32_t* row_ptr;  // [P, N + 1]
  int64_t problems, n;
  double weight;
};

__global__ void sparsity_loss_kernel(SparsityLossArgs args) {
  double sum = 0.0;
  for (int64_t p = threadIdx.x; p < args.problems; p += kThreads) {
    sum += args.expected != nullptr ? args.expected[p]
                                    : static_cast<double>(args.row_ptr[p * (args.n + 1) + args.n]);
  }
  sum = block_sum<kThreads>(sum, shared_doubles());
  if (threadIdx.x == 0) args.loss[0] = args.weight * sum;
}

dim3 tiles_of(int64_t cols, int64_t rows, int64_t heads) {
  return {static_cast<unsigned>(num_runs(cols, kTile)),
          static_cast<unsigned>(num_runs(rows, kTile)), static_cast<unsigned>(heads)};
}

dim3 runs_of(int64_t runs, int64_t heads) {
  return {static_cast<unsigned>(runs), static_cast<unsigned>(heads)};
}

/// Into how many runs the K^2 entries of a head are cut: every block adds up all the partial
/// sums, so there are never many.
int64_t entry_runs(int64_t k) {
  constexpr int64_t kShortest = 1024;
  constexpr int64_t kMost = 256;
  return std::min(kMost, num_runs(k * k, kShortest));
}

/// First stage: the sums over runs of tokens, [problems, runs, K].
View<double> sum_tokens(const Stream& stream, Arena& scratch, ConstRealView x) {
  const View<double> partials = scratch.alloc<double>(
      {x.shape[0] * x.shape[1], num_runs(x.shape[2], kColumnSumRun), x.shape[3]});
  with_real_type(x.precision, [&](auto zero) {
    using T = decltype(zero);
    column_sums<T, double>(stream, partials.shape[0],
                           {.sums = partials.data,
                            .x = x.as<T>().data,
                            .rows = x.shape[2],
                            .cols = x.shape[3],
                            .run = kColumnSumRun});
  });
  return partials;
}

}  // namespace

void block_matrix(const Stream& stream, const BlockMatrix& args) {
  const int64_t heads = args.clusters.shape[0], k = args.clusters.shape[1];
  const int64_t d = args.clusters.shape[2], runs = entry_runs(k);
  const Arena::Scope scope(*args.scratch);
  const View<float> maxima = args.scratch->alloc<float>({heads});
  const View<double> partials = args.scratch->alloc<double>({heads, runs, 2});
  launch(stream,
         {.grid = tiles_of(k, k, heads),
          .block = kThreads,
          .shared_bytes = 2 * kTile * kTileStride * sizeof(float)},
         gram_kernel, GramArgs{args.s.data, args.clusters.data, k, d});
  const SoftmaxArgs softmax{args.s.data, args.effective_cells.data, maxima.data, partials.data,
                            k,           num_runs(k * k, runs)};
  launch(
      stream,
      {.grid = blocks_for(heads, 1), .block = kThreads, .shared_bytes = kThreads * sizeof(float)},
      diagonal_maximum_kernel, softmax);
  const LaunchShape shape{
      .grid = runs_of(runs, heads), .block = kThreads, .shared_bytes = kSumBytes};
  launch(stream, shape, weights_kernel, softmax);
  launch(stream, shape, normalize_kernel, softmax);
}

void block_matrix_backward(const Stream& stream, const BlockMatrixBackward& args) {
  const int64_t heads = args.s.shape[0], k = args.s.shape[1], d = args.clusters.shape[2];
  const int64_t runs = entry_runs(k);
  const Arena::Scope scope(*args.scratch);
  const View<double> means = args.scratch->alloc<double>({heads, runs});  // partial sums
  const BlockGradientArgs gradient{
      args.dclusters.data,   args.ds.data, args.s.data, args.clusters.data, means.data, k, d,
      num_runs(k * k, runs), runs};
  launch(stream, {.grid = runs_of(runs, heads), .block = kThreads, .shared_bytes = kSumBytes},
         mean_kernel, gradient);
  launch(stream,
         {.grid = tiles_of(d, k, heads), .block = kThreads, .shared_bytes = kGradientTileBytes},
         cluster_gradient_kernel, gradient);
}

void memberships(const Stream& stream, const Memberships& args) {
  const Shape& shape = args.y.shape;
  const TokenRows tokens{args.mask.data, shape[2], shape[1]};
  with_real_type(args.y.precision, [&](auto zero) {
    using T = decltype(zero);
    const Sigmoids<T> sigmoids{args.y.as<T>().data, args.logits.as<T>().data, tokens, shape[3]};
    for_each_row<kPackWidthOf<T>>(stream, shape[0] * shape[1] * shape[2], shape[3],
                                  are_aligned(sigmoids.y, sigmoids.logits), sigmoids);
  });
}

void expected_edges(const Stream& stream, const ExpectedEdges& args) {
  const int64_t problems = args.expected.shape[0], heads = args.s.shape[0], k = args.s.shape[1];
  const Arena::Scope scope(*args.scratch);
  const View<double> y_partials = sum_tokens(stream, *args.scratch, args.y);
  const View<double> z_partials = sum_tokens(stream, *args.scratch, args.z);
  launch(stream, {.grid = blocks_for(problems, 1), .block = kThreads, .shared_bytes = kSumBytes},
         expected_edges_kernel,
         ExpectedArgs{args.expected.data, args.y_sum.data, args.z_sum.data, y_partials.data,
                      z_partials.data, args.s.data, y_partials.shape[1], z_partials.shape[1], heads,
                      k});
}

void expected_edges_backward(const Stream& stream, const ExpectedEdgesBackward& args) {
  const int64_t problems = args.y_sum.shape[0], heads = args.s.shape[0], k = args.s.shape[1];
  const Arena::Scope scope(*args.scratch);
  // Of every query and of every key.
  const View<double> gradients = args.scratch->alloc<double>({problems, 2, k});
  const EdgeGradientArgs edges{gradients.data,
                               args.ds.data,
                               args.y_sum.data,
                               args.z_sum.data,
                               args.s.data,
                               problems,
                               heads,
                               k,
                               static_cast<double>(args.weight)};
  launch(stream, {.grid = dim3(static_cast<unsigned>(problems), 2), .block = kThreads},
         edge_gradients_kernel, edges);
  add_to_tokens(stream, args.dy, args.query_mask, gradients.data);
  add_to_tokens(stream, args.dz, args.key_mask, gradients.data + k);
  launch(stream, {.grid = tiles_of(k, k, heads), .block = kThreads}, block_gradient_kernel, edges);
}

void sparsity_loss(const Stream& stream, const SparsityLoss& args) {
  launch(stream, {.grid = 1, .block = kThreads, .shared_bytes = kSumBytes}, sparsity_loss_kernel,
         SparsityLossArgs{args.loss.data, args.expected.data, args.graph.row_ptr.data,
                          args.graph.num_problems(), args.graph.num_queries, args.weight});
}

}  // namespace stipple::kernels::cuda
