// SPDX-License-Identifier: Apache-2.0
#include "comm/leaf_order.h"

#include "core/error.h"

namespace stipple::comm {

void LeafOrder::begin(int64_t leaf) {
  STIPPLE_CHECK(!open_, "begin_leaf(", leaf, "): leaf ", next_, " has not ended");
  STIPPLE_CHECK(next_ < leaves_.end, "begin_leaf(", leaf, "): this rank's leaves [", leaves_.begin,
                ", ", leaves_.end, ") are done, call finish()");
  STIPPLE_CHECK(leaf == next_, "begin_leaf(", leaf, "): this rank's next leaf is ", next_, " of [",
                leaves_.begin, ", ", leaves_.end, ")");
  open_ = true;
  front_ = 0;
}

void LeafOrder::ready(Range range) {
  STIPPLE_CHECK(open_, "ready([", range.begin, ", ", range.end, ")): no leaf has begun");
  STIPPLE_CHECK(range.begin >= front_ && range.begin < front_ + kGranule, "ready([", range.begin,
                ", ", range.end, ")): ranges come in ascending order, the next starts at ", front_);
  STIPPLE_CHECK(range.end >= range.begin && range.end <= numel_, "ready([", range.begin, ", ",
                range.end, ")): the gradients are [0, ", numel_, ")");
  front_ = range.end;
}

void LeafOrder::end() {
  STIPPLE_CHECK(open_, "end_leaf: no leaf has begun");
  open_ = false;
  front_ = numel_;
  ++next_;
}

void LeafOrder::finish() {
  STIPPLE_CHECK(!open_, "finish: leaf ", next_, " has not ended");
  STIPPLE_CHECK(next_ == leaves_.end, "finish: this rank has still to compute leaves [", next_,
                ", ", leaves_.end, ")");
  next_ = leaves_.begin;
}

Buckets::Buckets(const ReducerOptions& options)
    : numel(options.numel),
      bucket_numel(
          std::max<int64_t>(1, options.bucket_bytes / (kGranule * int64_t{sizeof(float)})) *
          kGranule),
      last_begin((numel - 1) / bucket_numel * bucket_numel) {
  const int64_t quarter = bucket_numel / 4 / kGranule * kGranule;
  if (quarter > 0 && numel - last_begin > quarter && numel >= 2 * quarter) {
    last_begin = (numel - quarter + kGranule - 1) / kGranule * kGranule;
  }
}

}  // namespace stipple::comm
