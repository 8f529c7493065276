// SPDX-License-Identifier: Apache-2.0
// A rank keeps a stack of partial sums. The newest is the present leaf; when a leaf ends, the sums
// that are complete with it are merged, so that after the last leaf the stack holds the rank's
// nodes of the tree ("items").
//
// Then, bucket by bucket: every rank sends each item's slice to the slice's owner (scatter), the
// owner adds the items of all ranks in tree order (combine), and sends the result to everybody
// (gather). Buckets pass through these stages as a pipeline in one order on all ranks, which starts
// while the last leaf's backward still runs.
#include "comm/exact_reducer.h"

#include <algorithm>

#include "comm/leaf_order.h"
#include "comm/reduction_clock.h"
#include "comm/reduction_memory.h"
#include "comm/summation_tree.h"
#include "core/buffer.h"

namespace stipple::comm {
namespace {

// Buckets between two stages of the pipeline: enough for a message to travel while others are
// computed on.
constexpr int64_t kStageDistance = 4;

/// The part of a bucket that `owner` combines.
Range slice_of(Range bucket, int owner, int num_ranks) {
  const int64_t granules = (bucket.size() + kGranule - 1) / kGranule;
  const auto cut = [&](int64_t rank) {
    return std::min(bucket.end, bucket.begin + granules * rank / num_ranks * kGranule);
  };
  return {cut(owner), cut(owner + 1)};
}

/// Everything that follows from the options and the rank, before any memory is had.
struct ExactPlan {
  ExactPlan(const ReducerOptions& options, int rank, int num_ranks);
  /// Makes it the plan of another rank, at the cost of that rank's share only.
  void choose(int rank);

  size_t partial_bytes() const { return static_cast<size_t>(buckets.numel) * sizeof(float); }
  size_t num_items() const { return first_item.back(); }
  size_t items_of(size_t rank) const { return first_item[rank + 1] - first_item[rank]; }
  size_t staging_bytes() const { return static_cast<size_t>(stages * stage_numel) * sizeof(float); }
  size_t bytes() const { return num_partials * partial_bytes() + staging_bytes(); }

  SummationTree tree;
  std::vector<TreeNode> items;  ///< of all ranks, in tree order
  int64_t num_leaves;
  int num_ranks;
  Range leaves;
  std::vector<int> merges;  ///< by leaf of this rank: how often to add the two newest partial sums
  size_t num_partials = 1;  ///< that exist at one time; the first one also takes the result
  std::vector<size_t> first_item;   ///< by rank, and the end
  size_t rounds = 0;                ///< most items of any rank
  std::vector<Addition> additions;  ///< of items
  Buckets buckets;
  int64_t slice_numel = 0;  ///< room for one item's slice of one bucket
  int64_t stage_numel = 0;  ///< room for what arrives for one bucket
  int64_t stages = 0;       ///< buckets that wait to be combined at one time
};

ExactPlan::ExactPlan(const ReducerOptions& options, int rank, int ranks)
    : tree(options.num_leaves), num_leaves(options.num_leaves), num_ranks(ranks), buckets(options) {
  first_item.push_back(0);
  for (int r = 0; r < num_ranks; ++r) {
    const std::vector<TreeNode> nodes = tree.cover(leaves_of_rank(num_leaves, r, num_ranks));
    items.insert(items.end(), nodes.begin(), nodes.end());
    first_item.push_back(items.size());
    rounds = std::max(rounds, nodes.size());
  }
  additions = tree.additions(items);
  const int64_t granules = (buckets[0].size() + kGranule - 1) / kGranule;
  slice_numel = (granules + num_ranks - 1) / num_ranks * kGranule;
  if (num_ranks > 1) stages = std::min(buckets.count(), kStageDistance + 1);
  choose(rank);
}

void ExactPlan::choose(int rank) {
  const auto self = static_cast<size_t>(rank);
  leaves = leaves_of_rank(num_leaves, rank, num_ranks);
  merges.clear();
  num_partials = 1;
  size_t depth = 0;
  for (size_t item = first_item[self]; item < first_item[self + 1]; ++item) {
    for (const int count : tree.merges(items[item])) {
      merges.push_back(count);
      num_partials = std::max(num_partials, ++depth);
      depth -= static_cast<size_t>(count);
    }
  }
  stage_numel = slice_numel * static_cast<int64_t>(num_items() - items_of(self));
}

class ExactReducer final : public GradientReducer {
 public:
  ExactReducer(Communicator& communicator, const ReducerOptions& options);

  View<float> grads() const override { return {partial(newest_), {plan_.buckets.numel}}; }
  void begin_leaf(int64_t leaf) override;
  void ready(Range range) override;
  void end_leaf() override;
  View<float> finish() override;
  void choose_flight(int64_t flight) override { clock_.choose(flight); }
  ReducerTimes times(int64_t flight) const override { return clock_.times(flight); }
  size_t bytes() const override;

 private:
  float* partial(size_t i) const { return reinterpret_cast<float*>(partials_[i].data()); }
  bool is_alone() const { return communicator_.size() == 1; }
  Range slice(int64_t bucket, size_t owner) const {
    return slice_of(plan_.buckets[bucket], static_cast<int>(owner), communicator_.size());
  }
  int merges_of_leaf() const {
    return plan_.merges[static_cast<size_t>(order_.leaf() - plan_.leaves.begin)];
  }
  void merge(Range);
  void merge_and_send_until(int64_t front);

  void scatter(int64_t bucket);
  void combine(int64_t bucket);
  void add_items(float* result, int64_t numel);
  void gather(int64_t bucket);
  /// Moves on the buckets that entered the stage before more than `distance` buckets ago.
  void combine_behind(int64_t distance);
  void wait_for_gathers_behind(int64_t distance);

  float* arrived(int64_t bucket, size_t item) const;
  Pending& scattered(int64_t bucket);
  Pending& gathered(int64_t bucket);

  Communicator& communicator_;
  ReductionMemory memory_;
  ExactPlan plan_;
  size_t self_;
  LeafOrder order_;
  std::vector<Buffer> partials_;
  Buffer staging_;
  size_t newest_ = 0;  // partial sum that the present leaf fills

  int64_t num_scattered_ =
      0;  // buckets of this step that have entered, or at last left, each stage
  int64_t num_combined_ = 0;
  int64_t num_gathered_ = 0;
  std::vector<Pending> scatters_;             // by bucket modulo stages
  std::vector<Pending> gathers_;              // by bucket modulo stages
  std::vector<std::span<const float>> send_;  // by round and rank; of the exchange being started
  std::vector<std::span<float>> recv_;
  std::vector<float*> values_;  // by item; of the slice being combined
  ReductionClock clock_;
};

ExactReducer::ExactReducer(Communicator& communicator, const ReducerOptions& options)
    : communicator_(communicator),
      memory_(options),
      plan_(options, communicator.rank(), communicator.size()),
      self_(static_cast<size_t>(communicator.rank())),
      order_(plan_.leaves, options.numel),
      staging_(memory_.device(), plan_.staging_bytes()),
      scatters_(static_cast<size_t>(plan_.stages)),
      gathers_(static_cast<size_t>(plan_.stages)),
      send_(plan_.rounds * static_cast<size_t>(communicator.size())),
      recv_(send_.size()),
      values_(plan_.num_items()),
      clock_(memory_, options.flights,
             is_alone() ? 0 : 2 * static_cast<size_t>(plan_.buckets.count())) {
  for (size_t i = 0; i < plan_.num_partials; ++i) {
    partials_.emplace_back(memory_.device(), plan_.partial_bytes());
  }
}

size_t ExactReducer::bytes() const {
  size_t total = staging_.bytes();
  for (const Buffer& partial : partials_) total += partial.bytes();
  return total;
}

void ExactReducer::begin_leaf(int64_t leaf) {
  order_.begin(leaf);
  newest_ = order_.is_first() ? 0 : newest_ + 1;
  memory_.fill_zero(partials_[newest_]);
}

void ExactReducer::ready(Range range) {
  order_.ready(range);
  if (!order_.is_last()) return;
  merge_and_send_until(order_.front());
  communicator_.progress();
}

void ExactReducer::end_leaf() {
  order_.end();
  if (order_.is_last()) {
    merge_and_send_until(plan_.buckets.numel);
  } else {
    merge({0, plan_.buckets.numel});
  }
  newest_ -= static_cast<size_t>(merges_of_leaf());
}

void ExactReducer::merge(Range range) {
  const auto count = static_cast<size_t>(merges_of_leaf());
  for (int64_t at = range.begin, numel = 0; at < range.end; at += numel) {
    numel = std::min(memory_.piece_numel(), range.end - at);
    for (size_t right = newest_; right > newest_ - count; --right) {
      float* const left = partial(right - 1) + at;
      memory_.add(left, left, partial(right) + at, numel);
    }
  }
}

void ExactReducer::merge_and_send_until(int64_t front) {
  while (num_scattered_ < plan_.buckets.count() && plan_.buckets[num_scattered_].end <= front) {
    const int64_t bucket = num_scattered_++;
    if (order_.has_leaves()) merge(plan_.buckets[bucket]);
    if (is_alone()) continue;
    scatter(bucket);
    combine_behind(kStageDistance);
  }
}

View<float> ExactReducer::finish() {
  order_.finish();
  clock_.begin_finish();
  merge_and_send_until(plan_.buckets.numel);
  if (!is_alone()) {
    combine_behind(0);
    wait_for_gathers_behind(0);
  }
  num_scattered_ = num_combined_ = num_gathered_ = 0;
  newest_ = 0;
  clock_.end_finish();
  return grads();
}

void ExactReducer::combine_behind(int64_t distance) {
  while (num_combined_ < num_scattered_ - distance) {
    const int64_t bucket = num_combined_++;
    combine(bucket);
    gather(bucket);
    wait_for_gathers_behind(kStageDistance);
  }
}

void ExactReducer::wait_for_gathers_behind(int64_t distance) {
  while (num_gathered_ < num_combined_ - distance) {
    clock_.begin_wait();
    communicator_.wait(gathered(num_gathered_++));
    clock_.end_wait();
  }
}

void ExactReducer::scatter(int64_t bucket) {
  const auto numel = static_cast<size_t>(slice(bucket, self_).size());
  const auto ranks = static_cast<size_t>(communicator_.size());
  for (size_t at = 0; at < send_.size(); ++at) {
    const size_t round = at / ranks, peer = at % ranks;
    send_[at] = {};
    recv_[at] = {};
    if (peer == self_) continue;
    if (round < plan_.items_of(self_)) {
      const Range theirs = slice(bucket, peer);
      send_[at] = {partial(round) + theirs.begin, static_cast<size_t>(theirs.size())};
    }
    if (round < plan_.items_of(peer)) {
      recv_[at] = {arrived(bucket, plan_.first_item[peer] + round), numel};
    }
  }
  scattered(bucket) = communicator_.exchange(send_, recv_);
}

void ExactReducer::combine(int64_t bucket) {
  clock_.begin_wait();
  communicator_.wait(scattered(bucket));
  clock_.end_wait();
  const Range mine = slice(bucket, self_);
  const size_t first_own = plan_.first_item[self_];
  for (size_t item = 0; item < values_.size(); ++item) {
    const bool own = item >= first_own && item < plan_.first_item[self_ + 1];
    values_[item] = own ? partial(item - first_own) + mine.begin : arrived(bucket, item);
  }
  add_items(partial(0) + mine.begin, mine.size());
}

void ExactReducer::add_items(float* result, int64_t numel) {
  if (plan_.additions.empty()) {
    if (values_[0] != result) memory_.copy(result, values_[0], numel);
    return;
  }
  for (int64_t at = 0, count = 0; at < numel; at += count) {
    count = std::min(memory_.piece_numel(), numel - at);
    for (const Addition& addition : plan_.additions) {
      // The last sum can go straight to its place: nothing that stands there is still needed.
      const bool last = &addition == &plan_.additions.back();
      float* const left = values_[addition.left] + at;
      memory_.add(last ? result + at : left, left, values_[addition.right] + at, count);
    }
  }
}

void ExactReducer::gather(int64_t bucket) {
  const Range mine = slice(bucket, self_);
  const auto ranks = static_cast<size_t>(communicator_.size());
  for (size_t peer = 0; peer < ranks; ++peer) {
    send_[peer] = {};
    recv_[peer] = {};
    if (peer == self_) continue;
    const Range theirs = slice(bucket, peer);
    send_[peer] = {partial(0) + mine.begin, static_cast<size_t>(mine.size())};
    recv_[peer] = {partial(0) + theirs.begin, static_cast<size_t>(theirs.size())};
  }
  gathered(bucket) =
      communicator_.exchange(std::span(send_).first(ranks), std::span(recv_).first(ranks));
}

float* ExactReducer::arrived(int64_t bucket, size_t item) const {
  const size_t place = item < plan_.first_item[self_] ? item : item - plan_.items_of(self_);
  return reinterpret_cast<float*>(staging_.data()) + bucket % plan_.stages * plan_.stage_numel +
         static_cast<int64_t>(place) * plan_.slice_numel;
}

Pending& ExactReducer::scattered(int64_t bucket) {
  return scatters_[static_cast<size_t>(bucket % plan_.stages)];
}

Pending& ExactReducer::gathered(int64_t bucket) {
  return gathers_[static_cast<size_t>(bucket % plan_.stages)];
}

}  // namespace

std::unique_ptr<GradientReducer> make_exact_reducer(Communicator& communicator,
                                                    const ReducerOptions& options) {
  return std::make_unique<ExactReducer>(communicator, options);
}

size_t exact_reducer_bytes(const ReducerOptions& options, int rank, int num_ranks) {
  return ExactPlan(options, rank, num_ranks).bytes();
}

size_t largest_exact_reducer_bytes(const ReducerOptions& options, int num_ranks) {
  ExactPlan plan(options, 0, num_ranks);
  size_t most = 0;
  for (int rank = 0; rank < num_ranks; ++rank) {
    plan.choose(rank);
    most = std::max(most, plan.bytes());
  }
  return most;
}

}  // namespace stipple::comm
