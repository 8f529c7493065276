// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/head_share.h"

#include <bit>
#include <span>
#include <vector>

namespace stipple::trainer {
namespace {

/// Numbers on their way to one rank: floats, and the bits of whole numbers.
class Packing {
 public:
  static size_t size_of(const model::ProjectionExample& example) {
    return 3 + example.q.size() + example.k.size() + example.gold.row_ptr.size() - 1 +
           example.gold.columns.size();
  }
  void reserve(size_t more) { all_.reserve(all_.size() + more); }
  void put(int32_t number) { all_.push_back(std::bit_cast<float>(number)); }
  void put(const std::vector<float>& numbers) {
    put(static_cast<int32_t>(numbers.size()));
    all_.insert(all_.end(), numbers.begin(), numbers.end());
  }
  void put(const kernels::EdgeList& edges) {
    put(static_cast<int32_t>(edges.num_queries()));
    for (size_t row = 0; row + 1 < edges.row_ptr.size(); ++row)
      put(static_cast<int32_t>(edges.row_ptr[row + 1] - edges.row_ptr[row]));
    for (const int32_t column : edges.columns) put(column);
  }
  const std::vector<float>& all() const { return all_; }

 private:
  std::vector<float> all_;
};

class Unpacking {
 public:
  explicit Unpacking(std::span<const float> all) : rest_(all) {}
  int32_t number() { return std::bit_cast<int32_t>(take(1).front()); }
  std::vector<float> floats() {
    const std::span<const float> own = take(static_cast<size_t>(number()));
    return {own.begin(), own.end()};
  }
  kernels::EdgeList edges() {
    kernels::EdgeList edges{.row_ptr = {0}, .columns = {}, .multiplicity = {}};
    const int32_t rows = number();
    edges.row_ptr.reserve(static_cast<size_t>(rows) + 1);
    for (int32_t row = 0; row < rows; ++row)
      edges.row_ptr.push_back(edges.row_ptr.back() + number());
    edges.columns.reserve(static_cast<size_t>(edges.row_ptr.back()));
    for (int64_t e = 0; e < edges.row_ptr.back(); ++e) edges.columns.push_back(number());
    return edges;
  }

 private:
  std::span<const float> take(size_t count) {
    const std::span<const float> own = rest_.first(count);
    rest_ = rest_.subspan(count);
    return own;
  }
  std::span<const float> rest_;
};

/// What each rank is sent; `of_leaves` is used up.
std::vector<Packing> pack(ExactSupports& of_leaves, const HeadShare& share) {
  std::vector<Packing> to_rank(static_cast<size_t>(share.ranks));
  for (size_t to = 0; to < to_rank.size(); ++to) {
    size_t size = 0;
    for (size_t head = to; head < of_leaves.size(); head += to_rank.size()) {
      ++size;
      for (const model::ProjectionExample& example : of_leaves[head])
        size += Packing::size_of(example);
    }
    to_rank[to].reserve(size);
  }
  for (size_t head = 0; head < of_leaves.size(); ++head) {
    Packing& packing = to_rank[static_cast<size_t>(share.owner(static_cast<int64_t>(head)))];
    packing.put(static_cast<int32_t>(of_leaves[head].size()));
    for (const model::ProjectionExample& example : of_leaves[head]) {
      packing.put(example.q);
      packing.put(example.k);
      packing.put(example.gold);
    }
    of_leaves[head] = {};
  }
  return to_rank;
}

void unpack(std::span<const float> from_rank, const HeadShare& share, ExactSupports& own) {
  Unpacking unpacking(from_rank);
  for (size_t head = 0; head < own.size(); ++head) {
    if (!share.owns(static_cast<int64_t>(head))) continue;
    const int32_t examples = unpacking.number();
    for (int32_t i = 0; i < examples; ++i) {
      model::ProjectionExample& example = own[head].emplace_back();
      example.q = unpacking.floats();
      example.k = unpacking.floats();
      example.gold = unpacking.edges();
    }
  }
}

/// How many numbers each rank sends to this one.
std::vector<int64_t> announced(comm::Communicator& communicator,
                               const std::vector<Packing>& to_rank) {
  const auto ranks = static_cast<size_t>(communicator.size());
  std::vector<int64_t> sizes(ranks * ranks);  // from, to
  for (size_t to = 0; to < ranks; ++to)
    sizes[static_cast<size_t>(communicator.rank()) * ranks + to] =
        static_cast<int64_t>(to_rank[to].all().size());
  communicator.all_reduce(std::span<int64_t>(sizes), comm::Reduction::kSum);
  std::vector<int64_t> to_this;
  for (size_t from = 0; from < ranks; ++from)
    to_this.push_back(sizes[from * ranks + static_cast<size_t>(communicator.rank())]);
  return to_this;
}

}  // namespace

ExactSupports exchange_heads(comm::Communicator& communicator, ExactSupports of_leaves) {
  if (communicator.size() == 1) return of_leaves;
  const HeadShare share{communicator.rank(), communicator.size()};
  ExactSupports own(of_leaves.size());
  std::vector<Packing> to_rank = pack(of_leaves, share);
  std::vector<std::vector<float>> from_rank;
  for (const int64_t size : announced(communicator, to_rank))
    from_rank.emplace_back(static_cast<size_t>(size));
  std::vector<std::span<const float>> send;
  for (const Packing& packing : to_rank) send.emplace_back(packing.all());
  std::vector<std::span<float>> receive(from_rank.begin(), from_rank.end());
  communicator.wait(communicator.exchange(send, receive));
  to_rank.clear();
  for (std::vector<float>& numbers : from_rank) {
    unpack(numbers, share, own);
    numbers = {};
  }
  return own;
}

}  // namespace stipple::trainer
