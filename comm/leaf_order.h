// SPDX-License-Identifier: Apache-2.0
// Follows the calls that a reducer gets during a step, and throws Error at the first that is out of
// order: a collective started on wrong data, or by only some ranks, would be much harder to find.
// Also the cut of the arena into buckets.
#pragma once

#include <algorithm>
#include <cstdint>

#include "comm/gradient_reducer.h"
#include "core/range.h"

namespace stipple::comm {

/// Messages are cut, and gaps between ranges allowed, in units of one padded tensor: 128 bytes of
/// floats.
inline constexpr int64_t kGranule = 32;

class LeafOrder {
 public:
  /// A rank that computes `leaves` of gradients with numel elements.
  LeafOrder(Range leaves, int64_t numel) : leaves_(leaves), numel_(numel), next_(leaves.begin) {}

  void begin(int64_t leaf);
  void ready(Range);
  void end();
  void finish();

  /// Of the present leaf, or of the one just ended.
  int64_t leaf() const { return open_ ? next_ : next_ - 1; }
  bool is_first() const { return leaf() == leaves_.begin; }
  bool is_last() const { return leaf() == leaves_.end - 1; }
  /// Elements below are final in the present leaf.
  int64_t front() const { return front_; }
  bool has_leaves() const { return leaves_.size() > 0; }

 private:
  Range leaves_;
  int64_t numel_;
  int64_t next_;
  int64_t front_ = 0;
  bool open_ = false;
};

/// The arena in pieces of one collective each, ascending; none is larger than the first. The last
/// of several is at most a quarter of a full one: it becomes final last, and backward cannot hide
/// it.
struct Buckets {
  int64_t numel = 0;
  int64_t bucket_numel = 0;
  int64_t last_begin = 0;

  explicit Buckets(const ReducerOptions& options);
  int64_t count() const { return (last_begin + bucket_numel - 1) / bucket_numel + 1; }
  Range operator[](int64_t k) const {
    const int64_t begin = k * bucket_numel;
    if (begin >= last_begin) return {last_begin, numel};
    return {begin, std::min(last_begin, begin + bucket_numel)};
  }
};

}  // namespace stipple::comm
