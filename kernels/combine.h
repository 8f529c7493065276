// SPDX-License-Identifier: Apache-2.0
// Combiner attention (Ren et al. 2021): a query sees some tokens directly and every other through
// the summary of its region, all under one softmax. Which tokens and regions is a Partition.
//
//   summarize_regions(q, k, v -> summaries);            once per region, whoever looks at it
//   combine(q, k, v, summaries -> o, lse);              softmax over direct keys and summaries
//   combine_backward(dout -> dq, dk, dv, d summaries);
//   summarize_regions_backward(d summaries -> += dq, dk, dv);
//
// With qh = scale q, regions r of tokens Om_r:
//
//   Q_r, K_r = pool over Om_r of q_j, k_j, channel by channel
//   a_rj     = softmax over j in Om_r of scale Q_r . k_j
//   V_r      = sum_j drop(a_rj) v_j
//   o_i      = sum over direct j of drop(P_ij) v_j + sum over regions r of drop(pi_ir) V_r
//   P, pi    = one softmax of qh_i . k_j and qh_i . K_r + mass log|Om_r|
//
// Rows are [B, H, N, D]; R regions of a sequence; only tokens with mask 1 count anywhere. A region
// without any is seen by nobody, a query without keys gives o = 0, lse = -inf. q, k, v, summaries and
// gradients are stored alike; sums and exponentials are fp32. A maximum is taken on stored values,
// and of equal ones the first token's, so that every device routes gradients to the same token.
// Deterministic: yes, for any number of threads: shapes alone say how problems b * H + h, and long
// ones within, are cut. Cost: O(D) a token of a region, and a pair of a pass.
#pragma once

#include <cstdint>

#include "core/arena.h"
#include "core/real_view.h"
#include "core/stream.h"
#include "core/view.h"
#include "kernels/attend.h"
#include "kernels/partition.h"

namespace stipple::kernels {

/// How channels of a region's tokens become one.
enum class RegionPool : uint8_t { kMax, kMean, kSum };

/// What a region's key is.
enum class RegionKey : uint8_t {
  kPooled,    ///< K_r as above; where a token asks for the region (Region::asks), that token's key
  kWeighted,  ///< sum_j a_rj k_j, before dropout
};

/// What summarize_regions leaves of R regions.
struct Summaries {
  RealView query;            // [B, H, R, D]  Q_r, for backward
  RealView key, value;       // [B, H, R, D]  zeros where a region has no token
  View<int32_t> query_from;  // [B, H, R, D]  the token each channel of the query is of; empty: all
  View<int32_t> key_from;    // [B, H, R, D]  of the key; empty: all, or a weighted key
  View<float> lse;           // [B, H, R]     log sum_j exp(scale Q_r . k_j); -inf without tokens
  View<int32_t> tokens;      // [B, R]        how many tokens with mask 1 it has
};

/// Memory for them. Partitions in which tokens ask (kRowMajor) pool nothing, whatever `pool` is.
Summaries alloc_summaries(Arena&, Precision, int64_t batch, int64_t heads, int64_t dim,
                          const Partition&, RegionPool, RegionKey);

struct SummarizeRegions {
  Summaries out;               // written
  ConstRealView q, k, v;       // [B, H, N, D]  q is only pooled
  ConstRealView pooled_k{};    // [B, H, N, D]  what keys are pooled from; empty: k
  View<const uint8_t> mask{};  // [B, N]; empty: all
  Partition partition;
  RegionPool pool = RegionPool::kMax;
  RegionKey key = RegionKey::kPooled;
  float scale = 1.0f;
  /// Of a_rj, bits of pair (N + r, j) as attend_dense's; `kept` is not used.
  AttentionDropout dropout{};
  Arena* scratch = nullptr;
};
void summarize_regions(const Stream&, const SummarizeRegions&);
namespace cpu {
void summarize_regions(const Stream&, const SummarizeRegions&);
}
namespace cuda {
void summarize_regions(const Stream&, const SummarizeRegions&);
}

/// Gradients are added to; arrays may be the same memory.
struct SummarizeRegionsBackward {
  RealView dq, dk, dv;         // [B, H, N, D]  +=
  RealView dpooled_k{};        // [B, H, N, D]  +=; empty: dk
  ConstRealView dkey, dvalue;  // [B, H, R, D]
  Summaries saved;             // read
  ConstRealView k, v;
  View<const uint8_t> mask{};
  Partition partition;
  RegionPool pool = RegionPool::kMax;
  RegionKey key = RegionKey::kPooled;
  float scale = 1.0f;
  AttentionDropout dropout{};
  Arena* scratch = nullptr;
};
void summarize_regions_backward(const Stream&, const SummarizeRegionsBackward&);
namespace cpu {
void summarize_regions_backward(const Stream&, const SummarizeRegionsBackward&);
}
namespace cuda {
void summarize_regions_backward(const Stream&, const SummarizeRegionsBackward&);
}

/// Keys of regions that are asked for, where keys of tokens are made apart:
/// key[r, x] = token_key[from[r, x], x], and 0 where the region has no token.
struct TakeKeys {
  RealView key;                       // [B, H, R, D]  written
  ConstRealView token_key;            // [B, H, N, D]
  View<const int32_t> from;           // [B, H, R, D]  Summaries::query_from
  View<const int32_t> region_tokens;  // [B, R]
  Arena* scratch = nullptr;
};
void take_keys(const Stream&, const TakeKeys&);
namespace cpu {
void take_keys(const Stream&, const TakeKeys&);
}
namespace cuda {
void take_keys(const Stream&, const TakeKeys&);
}

struct TakeKeysBackward {
  RealView dtoken_key;                // [B, H, N, D]  +=
  ConstRealView dkey;                 // [B, H, R, D]
  View<const int32_t> from;           // [B, H, R, D]
  View<const int32_t> region_tokens;  // [B, R]
  Arena* scratch = nullptr;
};
void take_keys_backward(const Stream&, const TakeKeysBackward&);
namespace cpu {
void take_keys_backward(const Stream&, const TakeKeysBackward&);
}
namespace cuda {
void take_keys_backward(const Stream&, const TakeKeysBackward&);
}

/// mass log|Om_r| on a region's score: with 1 a region weighs as many tokens as it has, with 0 one.
struct RegionMass {
  float factor = 0.0f;
  View<const float> head_factor{};  // [H]  times factor; empty: 1
};

/// What of each head is told, summed over queries with mask 1.
struct CombineFacts {
  View<double> direct_weight{};   // [H]  += the weight of all direct keys together
  View<double> region_entropy{};  // [H]  += of the weights among a query's regions, in nats
  View<int64_t> queries{};        // [H]  +=
  View<int64_t> with_regions{};   // [H]  += queries that see a region
  bool empty() const { return direct_weight.empty(); }
};

struct Combine {
  RealView o;                         // [B, H, N, D]  written
  View<float> lse;                    // [B, H, N]     written
  ConstRealView q, k, v;              // [B, H, N, D]
  ConstRealView region_q{};           // [B, H, N, D]  what regions are scored with; empty: q
  ConstRealView region_key;           // [B, H, R, D]
  ConstRealView region_value;         // [B, H, R, D]
  View<const int32_t> region_tokens;  // [B, R]  0: nobody sees it
  View<const uint8_t> mask{};         // [B, N]; empty: all
  Partition partition;
  RegionMass mass{};
  float scale = 1.0f;
  AttentionDropout dropout{};  ///< of P, bits of pair (i, j) as attend_dense's; `kept` is not used
  /// Of pi, bits of pair (i, N + r).
  AttentionDropout region_dropout{};
  CombineFacts facts{};  ///< empty: not wanted
  Arena* scratch = nullptr;
};
void combine(const Stream&, const Combine&);
namespace cpu {
void combine(const Stream&, const Combine&);
}
namespace cuda {
void combine(const Stream&, const Combine&);
}

struct CombineBackward {
  RealView dq, dk, dv;                  // [B, H, N, D]  written
  RealView dregion_q{};                 // [B, H, N, D]  += ; empty: dq
  RealView dregion_key, dregion_value;  // [B, H, R, D]  written
  View<float> dhead_factor{};           // [H]  +=; empty: not wanted
  ConstRealView q, k, v, region_q{};
  ConstRealView region_key, region_value;
  View<const int32_t> region_tokens;
  ConstRealView o, dout;
  View<const float> lse;
  View<const uint8_t> mask{};
  Partition partition;
  RegionMass mass{};
  float scale = 1.0f;
  AttentionDropout dropout{};
  AttentionDropout region_dropout{};
  Arena* scratch = nullptr;
};
void combine_backward(const Stream&, const CombineBackward&);
namespace cpu {
void combine_backward(const Stream&, const CombineBackward&);
}
namespace cuda {
void combine_backward(const Stream&, const CombineBackward&);
}

}  // namespace stipple::kernels
