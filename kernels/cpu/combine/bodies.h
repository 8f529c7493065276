// SPDX-License-Identifier: Apache-2.0
// What the instruction-set specific bodies of Combiner attention get to see: one problem p =
// (sample, head) as plain pointers, and scratch already cut to size. No types with inline functions
// that might not be inlined, so that nothing compiled for one instruction set is linked into another.
#pragma once

#include <cstdint>

#include "kernels/combine.h"
#include "kernels/cpu/attend/bodies.h"

namespace stipple::kernels::cpu {

/// Summaries of one problem. Rows of tokens are [N, D], of regions [R, D].
struct SummaryProblem {
  Partition partition;
  int64_t dim = 0;
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  const float* pooled_k = nullptr;
  const uint8_t* mask = nullptr;
  RegionPool pool = RegionPool::kMax;
  RegionKey key_rule = RegionKey::kPooled;
  float scale = 1.0f;
  DropoutStream dropout;

  float* query = nullptr;  ///< written in forward, read in backward, as all up to `tokens`
  float* key = nullptr;
  float* value = nullptr;
  int32_t* query_from = nullptr;  ///< null: not kept
  int32_t* key_from = nullptr;
  float* lse = nullptr;
  int32_t* tokens = nullptr;  ///< null: another head of the sample writes them

  float* dq = nullptr;
  float* dk = nullptr;
  float* dv = nullptr;
  float* dpooled_k = nullptr;
  const float* dkey = nullptr;
  const float* dvalue = nullptr;
};

/// Scratch of one worker, a line for each token of a region.
struct SummaryBuffers {
  uint32_t* list;   ///< tokens with mask 1
  float* weights;   ///< a, whole vectors
  float* dweights;  ///< da
  float* kept;      ///< dropout's factors
  float* dquery;    ///< [D]
};

/// CombineFacts of one problem.
struct ProblemFacts {
  double direct_weight = 0.0;
  double region_entropy = 0.0;
  int64_t queries = 0;
  int64_t with_regions = 0;
};

/// Attention over tokens and regions of one problem, or of a run of its queries.
struct CombineProblem {
  Partition partition;
  int64_t first_query = 0, end_query = 0;
  int64_t dim = 0;
  const float* q = nullptr;
  const float* region_q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  const float* region_key = nullptr;
  const float* region_value = nullptr;
  const int32_t* region_tokens = nullptr;
  const uint8_t* mask = nullptr;
  float scale = 1.0f;
  float mass = 0.0f;
  DropoutStream dropout;         ///< of tokens
  DropoutStream region_dropout;  ///< of regions

  float* o = nullptr;
  float* lse = nullptr;
  ProblemFacts* facts = nullptr;  ///< null: not wanted

  const float* final_lse = nullptr;
  const float* delta = nullptr;  ///< [N]
  const float* dout = nullptr;
  float* dq = nullptr;
  float* dregion_q = nullptr;  ///< may be dq
  float* dk = nullptr;
  float* dv = nullptr;
  float* dregion_key = nullptr;  ///< the queries' part of it, as the next
  float* dregion_value = nullptr;
  double* dmass = nullptr;  ///< null: not wanted
};

/// Is a query's list of keys gone through, rather than passes? `bias` and `log_tokens` are of all
/// regions then.
[[gnu::always_inline]] inline bool has_lists(const Partition& p) {
  return p.kind == PartitionKind::kLogsparse && p.globals == 0;
}

/// Scratch of one worker.
struct CombineBuffers {
  float* packed_keys;    ///< [D, keys of a pass], in panels
  float* packed_values;  ///< the same; backward only
  float* bias;           ///< of each key of a pass: 0, a region's mass, or -inf: does not count
  float* log_tokens;     ///< of each key of a pass; backward with dmass only
  float* max;            ///< [N]  the running softmax of each query; forward only
  float* sum;            ///< [N]
  float* region_sum;     ///< [N]  what of the sum is regions'; with facts only, as the next
  float* region_tilt;    ///< [N]  sum of e^(s - max) (s - max) over regions
  float* tiles[2];       ///< [kTileRows, kTileKeys]
};

/// The bodies for one instruction set.
struct CombineBodies {
  void (*summarize)(const SummaryProblem&, const SummaryBuffers&, int64_t first_region,
                    int64_t last_region);
  /// Of some regions where they share no token, else of all.
  void (*summarize_backward)(const SummaryProblem&, const SummaryBuffers&, int64_t first_region,
                             int64_t last_region);
  void (*forward)(const CombineProblem&, const CombineBuffers&);
  void (*backward)(const CombineProblem&, const CombineBuffers&);
};
namespace scalar {
extern const CombineBodies kCombine;
}
namespace avx2 {
extern const CombineBodies kCombine;
}
namespace avx512 {
extern const CombineBodies kCombine;
}

}  // namespace stipple::kernels::cpu
