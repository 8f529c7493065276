// SPDX-License-Identifier: Apache-2.0
#include "comm/fast_reducer.h"

#include "comm/leaf_order.h"
#include "comm/reduction_clock.h"
#include "comm/reduction_memory.h"

namespace stipple::comm {
namespace {

class FastReducer final : public GradientReducer {
 public:
  FastReducer(Communicator& communicator, const ReducerOptions& options)
      : communicator_(communicator),
        memory_(options),
        order_(leaves_of_rank(options.num_leaves, communicator.rank(), communicator.size()),
               options.numel),
        buckets_(options),
        sum_(memory_.device(), fast_reducer_bytes(options)),
        pending_(static_cast<size_t>(buckets_.count())),
        clock_(memory_, options.flights, 0) {}

  View<float> grads() const override { return {data(), {buckets_.numel}}; }

  void begin_leaf(int64_t leaf) override {
    order_.begin(leaf);
    if (order_.is_first()) clear();
  }

  void ready(Range range) override {
    order_.ready(range);
    if (!order_.is_last()) return;
    start_until(order_.front());
    communicator_.progress();
  }

  void end_leaf() override { order_.end(); }

  View<float> finish() override {
    order_.finish();
    clock_.begin_finish();
    if (!order_.has_leaves()) clear();
    start_until(buckets_.numel);
    for (const Pending pending : pending_) communicator_.wait(pending);
    started_ = 0;
    clock_.end_finish();
    return grads();
  }

  void choose_flight(int64_t flight) override { clock_.choose(flight); }
  ReducerTimes times(int64_t flight) const override { return clock_.times(flight); }
  size_t bytes() const override { return sum_.bytes(); }

 private:
  float* data() const { return reinterpret_cast<float*>(sum_.data()); }
  void clear() { memory_.fill_zero(sum_); }

  void start_until(int64_t front) {
    for (; started_ < buckets_.count() && buckets_[started_].end <= front; ++started_) {
      const Range bucket = buckets_[started_];
      pending_[static_cast<size_t>(started_)] =
          communicator_.all_reduce_sum({data() + bucket.begin, static_cast<size_t>(bucket.size())});
    }
  }

  Communicator& communicator_;
  ReductionMemory memory_;
  LeafOrder order_;
  Buckets buckets_;
  Buffer sum_;
  std::vector<Pending> pending_;  // by bucket
  int64_t started_ = 0;           // buckets of this step
  ReductionClock clock_;
};

}  // namespace

std::unique_ptr<GradientReducer> make_fast_reducer(Communicator& communicator,
                                                   const ReducerOptions& options) {
  return std::make_unique<FastReducer>(communicator, options);
}

size_t fast_reducer_bytes(const ReducerOptions& options) {
  return static_cast<size_t>(options.numel) * sizeof(float);
}

}  // namespace stipple::comm
