// SPDX-License-Identifier: Apache-2.0
// Attention as one pair of kernels for every set of keys. Dense keys, all of them or those of a
// Pattern: `attend_dense` (flash-style, O(N) memory, exact). Sampled, predicted or given edges:
// `attend_edges`, whose backward also yields the straight-through gradient of the edge
// probabilities.
//
// Keys may be cut into parts, each with keys, values and pairs of its own (own block and summaries
// of the others; edges and a window). A part gives (o, lse), and `merge_parts` makes of them what one
// softmax over all keys would have given. Backward of a part needs its own q, k, v and pairs, and of
// the whole the lse and delta, the row's mean of what the weights' gradients are:
//
//   attend_dense(own block -> o1, lse1);  attend_edges(rest -> o2, lse2);
//   merge_parts({o1, lse1}, {o2, lse2} -> o, lse);
//   attend_delta(dout, o -> delta);
//   attend_dense_backward(own block, lse, delta -> ...);  attend_edges_backward(rest, lse, delta ...)
//
// Rows are [B, H, N, D]; problem p = b * H + h. q, k, v, o, their gradients and the arrays of the
// straight-through gradient are stored alike, as fp32 or, on CUDA, as bf16; sums and exponentials
// see fp32 only, a bf16 result is rounded once. Deterministic: yes, for any number of threads (each
// output row or problem has one owner, in a fixed order).
#pragma once

#include <limits>
#include <span>

#include "core/arena.h"
#include "core/real_view.h"
#include "core/rng.h"
#include "core/stream.h"
#include "core/view.h"
#include "kernels/edges.h"
#include "kernels/pattern.h"

namespace stipple::kernels {

/// Inverted dropout of normalised weights. Pair (i, j) uses word j % 4 of Philox counter
/// {j / 4, i, samples[b], stream_word(layer, h, kAttentionDropout)} and is kept iff that word >=
/// rate * 2^32: the bit does not depend on how the graph is stored. j counts the keys of the call, so
/// parts that have key numbers in common drop the same of them; h counts from first_head, so that a
/// call for some heads of a layer drops what one for all would.
struct AttentionDropout {
  float rate = 0.0f;
  RngKey rng;
  int layer = 0;
  int first_head = 0;              ///< of the call, in its layer
  View<const uint32_t> samples{};  // [B]; needed when rate > 0
  /// The bits, which forward writes and backward reads; empty: each makes them for itself.
  View<uint32_t> kept{};  // [B * H, words] of alloc_kept
};

/// Memory for AttentionDropout::kept of N queries and M keys, or of a graph. Only the bits of edges
/// are ever decided:
///   pairs, bits  bit j % 32 of word i * ceil(M / 32) + j / 32 of the problem, as in BitOrder::kRows
///   CSR          edge e of row i: bit e % 32 of word row_ptr[i] / 32 + i + e / 32
/// On CUDA bits stand as in BitOrder::kLanes, of pairs and of graphs that have room for bits; kernels
/// over CSR make them anew.
View<uint32_t> alloc_kept(Arena&, int64_t problems, int64_t num_queries, int64_t num_keys);
View<uint32_t> alloc_kept(Arena&, const EdgeSet&);

/// o_i = sum_j drop(softmax_j(scale q_i . k_j)) v_j over the keys of the pattern with key_mask 1. A
/// row without keys gives o = 0, lse = -inf. Cost: O(N D) a key that some query of the neighbourhood
/// has: windows and causal patterns skip what they leave out, groups whole tiles of it.
struct AttendDense {
  RealView o;                      // [B, H, N, D]  written
  View<float> lse;                 // [B, H, N]     written: log sum_j exp(scale q_i . k_j)
  ConstRealView q;                 // [B, H, N, D]
  ConstRealView k, v;              // [B, H, M, D]
  View<const uint8_t> key_mask{};  // [B, M]; empty: all keys
  Pattern pattern{};
  float scale = 1.0f;
  AttentionDropout dropout{};
  Arena* scratch = nullptr;
};
void attend_dense(const Stream&, const AttendDense&);
namespace cpu {
void attend_dense(const Stream&, const AttendDense&);
}
namespace cuda {
void attend_dense(const Stream&, const AttendDense&);
}

struct AttendDenseBackward {
  RealView dq;      // [B, H, N, D]  written
  RealView dk, dv;  // [B, H, M, D]  written
  ConstRealView q, k, v;
  ConstRealView o{};  ///< may be empty where delta is given
  ConstRealView dout;
  View<const float> lse;           // [B, H, N]  of a part: of the whole
  View<const float> delta{};       // [B, H, N]  empty: dout . o, as attend_delta makes it
  View<const uint8_t> key_mask{};  // as in forward
  Pattern pattern{};
  float scale = 1.0f;
  AttentionDropout dropout{};
  Arena* scratch = nullptr;
};
void attend_dense_backward(const Stream&, const AttendDenseBackward&);
namespace cpu {
void attend_dense_backward(const Stream&, const AttendDenseBackward&);
}
namespace cuda {
void attend_dense_backward(const Stream&, const AttendDenseBackward&);
}

/// delta_i = do_i . o_i, which is sum_j W_ij (dout_i . v_j) of the weights W after softmax and
/// dropout: softmax's. The bits that backward makes for itself where it is given none.
struct AttendDelta {
  View<float> delta;      // [B, H, N]  written
  ConstRealView dout, o;  // [B, H, N, D]  of the whole
};
void attend_delta(const Stream&, const AttendDelta&);
namespace cpu {
void attend_delta(const Stream&, const AttendDelta&);
}
namespace cuda {
void attend_delta(const Stream&, const AttendDelta&);
}

/// What attention to a part of the keys gives.
struct AttendPart {
  ConstRealView o;        // [B, H, N, D]
  View<const float> lse;  // [B, H, N]
};

/// lse = log sum_k exp(lse_k);  o = sum_k exp(lse_k - lse) o_k. Parts with lse -inf add nothing; where
/// all are, o = 0 and lse = -inf. A part alone comes out as it went in.
struct MergeParts {
  static constexpr size_t kMostParts = 4;
  RealView o;                         // [B, H, N, D]  written; may be that of a part
  View<float> lse;                    // [B, H, N]     written; may be that of the same part
  std::span<const AttendPart> parts;  // 1 to kMostParts, stored as o
};
void merge_parts(const Stream&, const MergeParts&);
namespace cpu {
void merge_parts(const Stream&, const MergeParts&);
}
namespace cuda {
void merge_parts(const Stream&, const MergeParts&);
}

/// Who computes attend_edges.
enum class EdgesImplementation : uint8_t {
  kOurs,
  kCusparse,  ///< CUDA only: library calls, to compare with; memory for all edges at once
};

/// The same over the edges of a graph; an edge drawn c times weighs c e^s. Edges to keys with
/// key_mask 0 weigh nothing. Cost: bits: O(N M D) multiply-adds, exponentials per edge; CSR: O(E
/// D).
struct AttendEdges {
  RealView o;                      // [B, H, N, D]  written
  View<float> lse;                 // [B, H, N]     written
  ConstRealView q;                 // [B, H, N, D]
  ConstRealView k, v;              // [B, H, M, D]
  EdgeSet edges;                   // B * H problems
  View<const uint8_t> key_mask{};  // [B, M]; empty: all keys
  float scale = 1.0f;
  AttentionDropout dropout{};
  Arena* scratch = nullptr;
  EdgesImplementation implementation = EdgesImplementation::kOurs;
};
void attend_edges(const Stream&, const AttendEdges&);
namespace cpu {
void attend_edges(const Stream&, const AttendEdges&);
}
namespace cuda {
void attend_edges(const Stream&, const AttendEdges&);
}

/// Which number stands in for dL/dp of a sampled edge (docs/attention/sbm.md).
enum class SteRule : uint8_t {
  kScoreGradient,  ///< dp = ds: the derivative of masked softmax at mask 1, as in the official code
  kPaper,          ///< dp = ds * s, s = scale q . k: the mask multiplies the score
};

/// Straight-through gradient of edge probabilities: dp_ij = clamp(f_ij + regularizer, -clip, clip)
/// on edges, 0 elsewhere.
struct StraightThrough {
  RealView row_grad{};     // [B, H, N, K]  written: sum_j dp_ij z_j
  RealView column_grad{};  // [B, H, M, K]  written: sum_i dp_ij y_i
  ConstRealView y{};       // [B, H, N, K]
  ConstRealView z{};       // [B, H, M, K]
  SteRule rule = SteRule::kScoreGradient;
  float regularizer = 0.0f;
  float clip = std::numeric_limits<float>::infinity();
  int64_t window_radius = -1;  ///< pairs with |i - j| <= it were not drawn and get no gradient
};

struct AttendEdgesBackward {
  RealView dq;      // [B, H, N, D]  written
  RealView dk, dv;  // [B, H, M, D]  written
  ConstRealView q, k, v;
  ConstRealView o{};  ///< may be empty where delta is given
  ConstRealView dout;
  View<const float> lse;      // [B, H, N]  of a part: of the whole
  View<const float> delta{};  // [B, H, N]  empty: dout . o, as attend_delta makes it
  EdgeSet edges;
  View<const uint8_t> key_mask{};
  float scale = 1.0f;
  AttentionDropout dropout{};
  StraightThrough ste{};  ///< row_grad empty: no straight-through gradient
  Arena* scratch = nullptr;
  EdgesImplementation implementation = EdgesImplementation::kOurs;
};
void attend_edges_backward(const Stream&, const AttendEdgesBackward&);
namespace cpu {
void attend_edges_backward(const Stream&, const AttendEdgesBackward&);
}
namespace cuda {
void attend_edges_backward(const Stream&, const AttendEdgesBackward&);
}

}  // namespace stipple::kernels
