// SPDX-License-Identifier: Apache-2.0
// Sums gradients over the leaves (micro-batches) of a global batch and over ranks. The trainer
// calls, every step on every rank:
//
//   for (leaf : my_leaves(...)) {          // ascending
//     reducer.begin_leaf(leaf);            // grads() may be another buffer than before
//     backward(...);                       // adds to grads(); ready(range) as each becomes final
//     reducer.end_leaf();
//   }
//   View<const float> sum = reducer.finish();   // the same bits on every rank
//
// Ranges become ready in ascending order and touch, except for padding: what lies below the end of
// a range is final, too. What no range covers is final at end_leaf. A rank without leaves only
// calls finish(). Error when calls come in another order.
//
// Two policies behind the same calls (docs/adr: reduction order):
//   exact: leaves are added in one fixed binary tree over the global batch, whatever rank computed
//          them: 1, 2, 4, 8 ranks, or 3, and any number of threads give the same bits. A rank keeps
//          log2(its leaves) + 1 partial sums (up to twice that when the number of ranks is not a
//          power of two); aligned subtrees are summed locally, slices are exchanged, summed in tree
//          order by their owner and gathered.
//          Wire bytes equal a ring all-reduce when the number of ranks is a power of two. The tree
//          over L leaves: node (level, i) covers leaves [L i / 2^level, L (i + 1) / 2^level),
//          rounded down; its sum is left + right in fp32. See comm/summation_tree.h.
//   fast:  leaves are added as they come and buckets all-reduced by the transport, started while
//          backward still runs.
//
// On a CUDA stream all arrays are device memory, everything is enqueued and the host never waits;
// the communicator is one for device memory (make_nccl_communicator). Same tree, same bits as on
// the CPU. The calls may be captured in a graph.
#pragma once

#include <functional>
#include <memory>

#include "comm/communicator.h"
#include "core/range.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::comm {

enum class ReductionPolicy : uint8_t { kExact, kFast };

/// The leaves [begin, end) that a rank computes: contiguous, sizes differ by at most one, aligned
/// to subtrees when the number of ranks is a power of two. Ranks beyond the number of leaves get an
/// empty range.
Range leaves_of_rank(int64_t num_leaves, int rank, int num_ranks);

struct ReducerTimes {
  /// What the step's backward could not hide: all of finish(), and the time that ready()
  /// waited for other ranks.
  double exposed_s = 0;
  double waited_in_backward_s = 0;  ///< the second part of it
};

class GradientReducer {
 public:
  virtual ~GradientReducer() = default;
  virtual View<float> grads()
      const = 0;  ///< where the present leaf's backward adds its gradients; flat, [numel]
  virtual void begin_leaf(
      int64_t leaf) = 0;  ///< global number of the leaf; zeroes what the policy needs zero
  virtual void ready(
      Range) = 0;  ///< this range of the present leaf is final; ascending, the same on every leaf
  virtual void end_leaf() = 0;
  /// The sum over all leaves of all ranks; valid, and the caller's, until the next begin_leaf.
  virtual View<float> finish() = 0;
  /// Where several steps are on their way at one time: which of ReducerOptions::flights the next
  /// one is. Its times stand there until another step goes the same way.
  virtual void choose_flight(int64_t flight) = 0;
  /// Of the flight's last step. On CUDA measured by events, captured or not: zero before the first
  /// step, and to be asked for only when the host has waited for the step's end.
  virtual ReducerTimes times(int64_t flight = 0) const = 0;
  virtual size_t bytes() const = 0;  ///< memory held: what `dry-run` prints
};

/// Enqueues out = left + right on the stream of the reducer; out may be left.
using DeviceAddition =
    std::function<void(float* out, const float* left, const float* right, int64_t count)>;

struct ReducerOptions {
  ReductionPolicy policy = ReductionPolicy::kExact;
  int64_t numel = 0;
  int64_t num_leaves = 0;          ///< of the whole global batch
  int64_t bucket_bytes = 1 << 20;  ///< size of one collective
  int64_t flights = 1;             ///< steps whose times are kept apart
  const Stream* stream = nullptr;  ///< of the computation; null: host memory
  DeviceAddition add = {};         ///< CUDA only: the kernel that adds
};
/// All buffers are made here, none later.
std::unique_ptr<GradientReducer> make_gradient_reducer(Communicator&, const ReducerOptions&);

/// What make_gradient_reducer would hold on `rank` of `num_ranks`, without making it.
size_t reducer_bytes(const ReducerOptions&, int rank, int num_ranks);
/// The most that one of `num_ranks` would hold. Its time grows with ranks and leaves, not with their
/// product.
size_t largest_reducer_bytes(const ReducerOptions&, int num_ranks);

}  // namespace stipple::comm
