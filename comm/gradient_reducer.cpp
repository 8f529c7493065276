// SPDX-License-Identifier: Apache-2.0
#include "comm/gradient_reducer.h"

#include <algorithm>

#include "comm/exact_reducer.h"
#include "comm/fast_reducer.h"
#include "core/error.h"

namespace stipple::comm {
namespace {

void check(const ReducerOptions& options) {
  STIPPLE_CHECK(options.numel > 0, "gradient reducer: numel is ", options.numel,
                ", there is nothing to sum");
  STIPPLE_CHECK(options.num_leaves > 0, "gradient reducer: num_leaves is ", options.num_leaves,
                ", a global batch has at least one");
  STIPPLE_CHECK(options.flights > 0, "gradient reducer: flights is ", options.flights,
                ", a step needs one");
  STIPPLE_CHECK(options.bucket_bytes > 0, "gradient reducer: bucket_bytes is ",
                options.bucket_bytes, ", it must be positive");
}

}  // namespace

Range leaves_of_rank(int64_t num_leaves, int rank, int num_ranks) {
  STIPPLE_CHECK(num_leaves >= 0 && rank >= 0 && rank < num_ranks, "leaves_of_rank: rank ", rank,
                " of ", num_ranks, ", ", num_leaves, " leaves");
  if (num_leaves < num_ranks)
    return {std::min<int64_t>(rank, num_leaves), std::min<int64_t>(rank + 1, num_leaves)};
  return {num_leaves * rank / num_ranks, num_leaves * (rank + 1) / num_ranks};
}

std::unique_ptr<GradientReducer> make_gradient_reducer(Communicator& communicator,
                                                       const ReducerOptions& options) {
  check(options);
  if (options.policy == ReductionPolicy::kFast) return make_fast_reducer(communicator, options);
  return make_exact_reducer(communicator, options);
}

size_t reducer_bytes(const ReducerOptions& options, int rank, int num_ranks) {
  check(options);
  if (options.policy == ReductionPolicy::kFast) return fast_reducer_bytes(options);
  return exact_reducer_bytes(options, rank, num_ranks);
}

size_t largest_reducer_bytes(const ReducerOptions& options, int num_ranks) {
  check(options);
  if (options.policy == ReductionPolicy::kFast) return fast_reducer_bytes(options);
  return largest_exact_reducer_bytes(options, num_ranks);
}

}  // namespace stipple::comm
