// SPDX-License-Identifier: Apache-2.0
// The stochastic block model of SBM-Transformer (Cho et al., NeurIPS 2022, arXiv 2210.15541):
// memberships, block matrix, and the samplers that turn them into a graph in time proportional to
// its edges. The mathematics: docs/attention/sbm.md.
#pragma once

#include "core/arena.h"
#include "core/real_view.h"
#include "core/rng.h"
#include "core/stream.h"
#include "core/view.h"
#include "kernels/edges.h"

namespace stipple::kernels {

/// s = softmax over all K^2 entries of C Cᵀ, per head. Symmetric, positive, sums to 1.
struct BlockMatrix {
  View<float> s;                // [H, K, K]  written
  View<float> effective_cells;  // [H]        written: exp(entropy of s), between 1 and K^2
  View<const float> clusters;   // [H, K, D]
  Arena* scratch = nullptr;     ///< CUDA only
};
void block_matrix(const Stream&, const BlockMatrix&);
namespace cpu {
void block_matrix(const Stream&, const BlockMatrix&);
}
namespace cuda {
void block_matrix(const Stream&, const BlockMatrix&);
}

/// dR = s (ds - <ds, s>);  dclusters += (dR + dRᵀ) C.
struct BlockMatrixBackward {
  View<float> dclusters;       // [H, K, D]  +=
  View<const float> ds, s;     // [H, K, K]
  View<const float> clusters;  // [H, K, D]
  Arena* scratch = nullptr;
};
void block_matrix_backward(const Stream&, const BlockMatrixBackward&);
namespace cpu {
void block_matrix_backward(const Stream&, const BlockMatrixBackward&);
}
namespace cuda {
void block_matrix_backward(const Stream&, const BlockMatrixBackward&);
}

/// y = sigmoid(logits) on real tokens, exactly 0 on padding, so that no edge can touch padding.
struct Memberships {
  RealView y;                  // [B, H, N, K]  written; may be logits
  ConstRealView logits;        // [B, H, N, K]  stored as y
  View<const uint8_t> mask{};  // [B, N]; empty: all real
};
void memberships(const Stream&, const Memberships&);
namespace cpu {
void memberships(const Stream&, const Memberships&);
}
namespace cuda {
void memberships(const Stream&, const Memberships&);
}

/// Closed-form expected number of edges, without exploration: a S cᵀ with a = column sums of y, c =
/// column sums of z, per problem; linear in (N + M) K. Also the regulariser `expected` and its
/// exact gradient.
struct ExpectedEdges {
  View<double> expected;      // [B * H]     written
  View<double> y_sum, z_sum;  // [B * H, K]  written
  ConstRealView y;            // [B, H, N, K]
  ConstRealView z;            // [B, H, M, K]  stored as y
  View<const float> s;        // [H, K, K]
  Arena* scratch = nullptr;   ///< CUDA only
};
void expected_edges(const Stream&, const ExpectedEdges&);
namespace cpu {
void expected_edges(const Stream&, const ExpectedEdges&);
}
namespace cuda {
void expected_edges(const Stream&, const ExpectedEdges&);
}

/// Gradient of sum_p weight * expected[p]:  dy_i += w S cᵀ;  dz_j += w Sᵀ aᵀ;  ds += w aᵀ c (summed
/// over the batch).
struct ExpectedEdgesBackward {
  View<float> dy;                   // [B, H, N, K]  +=
  View<float> dz;                   // [B, H, M, K]  +=
  View<float> ds;                   // [H, K, K]     +=
  View<const double> y_sum, z_sum;  // [B * H, K]
  View<const float> s;              // [H, K, K]
  View<const uint8_t> query_mask{},
      key_mask{};  // [B, N], [B, M]; empty: all real. Padding gets no gradient.
  float weight = 0.0f;
  Arena* scratch = nullptr;
};
void expected_edges_backward(const Stream&, const ExpectedEdgesBackward&);
namespace cpu {
void expected_edges_backward(const Stream&, const ExpectedEdgesBackward&);
}
namespace cuda {
void expected_edges_backward(const Stream&, const ExpectedEdgesBackward&);
}

/// loss = weight times the expected number of edges of all problems, or the drawn one where
/// `expected` is empty: what the training log tells of the sparsity loss.
struct SparsityLoss {
  View<double> loss;              // [1]  written
  View<const double> expected{};  // [B * H]  of expected_edges; empty: none
  double weight = 0.0;
  EdgeSet graph;  // B * H problems
};
void sparsity_loss(const Stream&, const SparsityLoss&);
namespace cpu {
void sparsity_loss(const Stream&, const SparsityLoss&);
}
namespace cuda {
void sparsity_loss(const Stream&, const SparsityLoss&);
}

/// The distribution of the mask given p_ij = mu_i . z_j (docs/attention/sbm.md, "Three mask laws").
enum class MaskLaw : uint8_t {
  kBernoulli,        ///< independent Bernoulli(min(1, p + delta)): the official default path
  kPoissonCollapse,  ///< 1[N > 0], N ~ Poisson(p + delta): the paper's Algorithm 1
  kPoissonMulti,     ///< N ~ Poisson(p + delta), kept as a multiplicity
};

/// Who draws the edges. Both have the same law, not the same bits; each is bit-stable by itself.
enum class SamplerKind : uint8_t {
  kAuto,  ///< by expected density, per problem: tiles at or above capacity.tile_density, rows below
  kTiles,  ///< every pair looks at its own uniform: O(N M K), one bit out per pair
  kRows,   ///< each row draws its edges by Poisson splitting: O(E log K) + O((N + M) K)
};

/// Draws the graph of every problem. A pure function of its arguments: any thread count, batch
/// split, head split, replay or instruction set gives the same bits. Randomness: Philox by (rng,
/// row, samples[b], layer, head, purpose), integer thresholds.
///   Edges never touch tokens with mask 0. `delta` is the exploration probability added to every
///   real pair. `window_radius` adds the real pairs with |i - j| <= it
///   (N = M), with multiplicity at least 1, each once whether drawn or not; 0: (i, i); -1: none.
///   kTiles writes bits; rows serve instead where the capacity reserves none. The uniform of the
///   pair (i, j) is word j % 4 of Philox block j / 4 of row i (kEdgeTile); the pair is kept where
///   word >> 1 < floor(2^31 p), and always where p >= 1. kRows writes CSR: fastRG split into
///   independent rows; bernoulli oversamples by c = -ln(1 - p) / p and thins, rows whose bound on p
///   exceeds 0.98 are drawn pair by pair. kAuto: tiles where expected edges (exploration and the
///   window included) are at least tile_density of the real pairs. Law poisson_multi always writes
///   CSR; kAuto is kRows for it. More edges than CSR room throw EdgeRoomError; on CUDA the first
///   that fit are kept, edges.overflow counts the rest. NaN probabilities give no edges. CUDA draws
///   the CPU's bits, but for tiles of precision bf16, whose probabilities are products of rounded
///   factors. The first call on a CUDA device that may draw rows sets up tables there: it must not
///   be captured.
/// Cost: see SamplerKind. No floating-point memory of size N x M.
struct SampleEdges {
  EdgeSet edges;                                 // B * H problems  written
  ConstRealView mu;                              // [B, H, N, K] = y S
  ConstRealView z;                               // [B, H, M, K]  stored as mu
  View<const double> expected;                   // [B * H]  sum of p_ij, from expected_edges
  View<const uint8_t> query_mask{}, key_mask{};  // [B, N], [B, M]; empty: all real
  View<const uint32_t> samples;                  // [B]  global sample ids
  MaskLaw law = MaskLaw::kBernoulli;
  SamplerKind sampler = SamplerKind::kAuto;
  float delta = 0.0f;
  int64_t window_radius = -1;
  RngKey rng{};
  int layer = 0;
  int first_head = 0;  ///< number of problem 0's head, when heads are split
  Arena* scratch = nullptr;
};
void sample_edges(const Stream&, const SampleEdges&);
namespace cpu {
void sample_edges(const Stream&, const SampleEdges&);
}
namespace cuda {
void sample_edges(const Stream&, const SampleEdges&);
}

}  // namespace stipple::kernels
