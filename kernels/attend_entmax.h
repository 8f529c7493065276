// SPDX-License-Identifier: Apache-2.0
// Attention with alpha-entmax in place of softmax (Peters et al. 2019; Correia et al. 2019): weights
// are exactly zero for all keys but a row's best, its support, and what follows costs the support
// and not the pairs.
//
//   s_ij = temperature scale q_i . k_j over the pairs that take part,  x_ij = (alpha - 1) s_ij
//   P_ij = [x_ij - tau_i]_+ ^ (1 / (alpha - 1)) / S_i,    tau_i such that S_i = 1, up to rounding
//   o_i  = sum_j drop_ij P_ij v_j
//
//   u_ij = P_ij ^ (2 - alpha) on the support;  o2_i = sum_j drop_ij u_ij v_j / sum_j u_ij
//   delta_i = dout_i . o2_i
//   ds_ij = u_ij (drop_ij dout_i . v_j - delta_i)
//
// tau is finished over the support alone, in ascending order of keys, from a start that depends on
// it alone: any set of pairs that holds the support of all gives the same bits as all. A row without
// keys has o = 0, tau = +inf and no gradients; padding and pairs that take no part are never seen. A
// row with a score that is not a number, or +inf, has NaN in o, o2, tau and dq and an empty support.
// Gradients of alpha, and what is near alpha 1: kernels/entmax.h. Instruction sets and devices differ by
// rounding.
//
// Rows are [B, H, N, D]; storage as in kernels/attend.h. Deterministic: yes, for any number of
// threads. Cost: O(N M D) multiply-adds for the scores of all pairs, or O(E D) of edges, and O(D) for
// each pair of the support; memory O(N + M) whatever the support.
#pragma once

#include "core/arena.h"
#include "core/real_view.h"
#include "core/stream.h"
#include "core/view.h"
#include "kernels/attend.h"
#include "kernels/edges.h"
#include "kernels/entmax.h"
#include "kernels/pattern.h"

namespace stipple::kernels {

/// Keys that are kept of a row for backward, which looks at all pairs of longer rows once more; what
/// stands in their place of such a row is forward's business. Any other room, from 1 on, will do:
/// forward's results do not depend on it, gradients only by rounding.
inline constexpr int64_t kEntmaxRoom = 64;
EntmaxSupport alloc_entmax_support(Arena&, int64_t batch, int64_t heads, int64_t num_queries,
                                   int64_t room = kEntmaxRoom);

/// What is learned, or not, for each head. In the memory of the device.
struct EntmaxHeads {
  View<const float> alpha;          // [H]  in (1, 4]
  View<const float> temperature{};  // [H]  multiplies scores, not 0; empty: 1
};

struct AttendEntmax {
  RealView o;               // [B, H, N, D]  written
  RealView o2{};            // [B, H, N, D]  written; empty: no backward follows
  View<float> tau;          // [B, H, N]     written
  EntmaxSupport support{};  // [B, H, N]     written; empty: not asked
  ConstRealView q;          // [B, H, N, D]
  ConstRealView k, v;       // [B, H, M, D]
  EntmaxHeads heads;
  EdgeSet edges{};  // B * H problems, no multiplicity: these pairs; empty: the pattern's
  View<const uint8_t> key_mask{};  // [B, M]; empty: all keys
  Pattern pattern{};               // without edges
  float scale = 1.0f;
  AttentionDropout dropout{};  ///< the bits of attend_dense; `kept` is not used
  Arena* scratch = nullptr;
};
void attend_entmax(const Stream&, const AttendEntmax&);
namespace cpu {
void attend_entmax(const Stream&, const AttendEntmax&);
}
namespace cuda {
void attend_entmax(const Stream&, const AttendEntmax&);
}

struct AttendEntmaxBackward {
  RealView dq;                 // [B, H, N, D]  written
  RealView dk, dv;             // [B, H, M, D]  written
  View<float> dalpha{};        // [B, H, N]  written: each row's share; empty: not asked
  View<float> dtemperature{};  // [B, H, N]  written, likewise
  ConstRealView q, k, v;
  ConstRealView o2, dout;
  View<const float> tau;
  EntmaxSupport support;
  EntmaxHeads heads;
  EdgeSet edges{};  // from here on as in forward
  View<const uint8_t> key_mask{};
  Pattern pattern{};
  float scale = 1.0f;
  AttentionDropout dropout{};
  Arena* scratch = nullptr;
};
void attend_entmax_backward(const Stream&, const AttendEntmaxBackward&);
namespace cpu {
void attend_entmax_backward(const Stream&, const AttendEntmaxBackward&);
}
namespace cuda {
void attend_entmax_backward(const Stream&, const AttendEntmaxBackward&);
}

}  // namespace stipple::kernels
