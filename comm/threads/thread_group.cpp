// SPDX-License-Identifier: Apache-2.0
// Ranks meet in a table of operations, matched by each rank's own count of calls. The last rank to
// arrive does the work for all, under the lock; a rank that waits only waits for that.
#include "comm/threads/thread_group.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "comm/rank_board.h"
#include "core/error.h"
#include "core/thread.h"

namespace stipple::comm {
namespace {

/// What one rank brings to an operation.
struct Part {
  bool arrived = false;
  bool waited = false;
  void* data = nullptr;
  size_t count = 0;
  std::vector<std::span<const float>> send;
  std::vector<std::span<float>> recv;
};

struct Operation;

struct Call {
  const char* name;
  int parameter;  ///< root or reduction; must agree
  void (*perform)(Operation&);
};

constexpr int64_t kFree = -1;

struct Operation {
  int64_t sequence = kFree;
  bool done = false;
  Call call{};
  std::vector<Part> parts;  ///< by rank
};

void check_equal_counts(const Operation& operation) {
  for (size_t r = 1; r < operation.parts.size(); ++r) {
    STIPPLE_CHECK_AS(CommError, operation.parts[r].count == operation.parts[0].count,
                     operation.call.name, " #", operation.sequence, ": rank 0 brings ",
                     operation.parts[0].count, " elements, rank ", r, " ",
                     operation.parts[r].count);
  }
}

template <class T>
T reduced(T a, T b, Reduction reduction) {
  if (reduction == Reduction::kSum) return a + b;
  return reduction == Reduction::kMin ? std::min(a, b) : std::max(a, b);
}

template <class T>
void perform_reduction(Operation& operation) {
  check_equal_counts(operation);
  const auto reduction = static_cast<Reduction>(operation.call.parameter);
  T* const first = static_cast<T*>(operation.parts[0].data);
  const size_t count = operation.parts[0].count;
  for (size_t r = 1; r < operation.parts.size(); ++r) {
    const T* const other = static_cast<const T*>(operation.parts[r].data);
    for (size_t i = 0; i < count; ++i) first[i] = reduced(first[i], other[i], reduction);
  }
  for (size_t r = 1; r < operation.parts.size(); ++r) {
    std::copy_n(first, count, static_cast<T*>(operation.parts[r].data));
  }
}

void perform_exchange(Operation& operation) {
  const size_t ranks = operation.parts.size();
  const size_t count = operation.parts[0].send.size();
  for (size_t from = 0; from < ranks; ++from) {
    STIPPLE_CHECK_AS(CommError, operation.parts[from].send.size() == count, "exchange #",
                     operation.sequence, ": rank 0 brings ", count, " spans, rank ", from, " ",
                     operation.parts[from].send.size());
    for (size_t at = 0; at < count; ++at) {
      const size_t to = at % ranks;
      const std::span<const float> sent = operation.parts[from].send[at];
      const std::span<float> expected = operation.parts[to].recv[at - to + from];
      STIPPLE_CHECK_AS(CommError, sent.size() == expected.size(), "exchange #", operation.sequence,
                       ": rank ", from, " sends ", sent.size(), " floats, rank ", to, " expects ",
                       expected.size());
      std::copy(sent.begin(), sent.end(), expected.begin());
    }
  }
}

void perform_broadcast(Operation& operation) {
  check_equal_counts(operation);
  const auto root = static_cast<size_t>(operation.call.parameter);
  for (size_t r = 0; r < operation.parts.size(); ++r) {
    if (r == root || operation.parts[r].count == 0) continue;
    std::memcpy(operation.parts[r].data, operation.parts[root].data, operation.parts[r].count);
  }
}

struct Gathered {
  const std::string* mine;
  std::vector<std::string> all;
};

void perform_gather(Operation& operation) {
  for (const Part& to : operation.parts) {
    for (const Part& from : operation.parts) {
      static_cast<Gathered*>(to.data)->all.push_back(*static_cast<Gathered*>(from.data)->mine);
    }
  }
}

void perform_nothing(Operation&) {}

class ThreadGroup {
 public:
  explicit ThreadGroup(int size) : size_(static_cast<size_t>(size)), ended_(size_, false) {
    // Ranks drift apart by chance; room made beforehand keeps that from showing as allocations.
    constexpr size_t kOperations = 64;
    while (operations_.size() < kOperations) add_operation();
  }

  int size() const { return static_cast<int>(size_); }
  /// Brings rank's part to its sequence-th call.
  void post(size_t rank, int64_t sequence, const Call& call, std::span<std::byte> data,
            size_t count, std::span<const std::span<const float>> send,
            std::span<const std::span<float>> recv);
  void wait(size_t rank, int64_t sequence, double timeout_s);

  void fail(std::exception_ptr error);
  void end(size_t rank);
  std::exception_ptr error() const { return error_; }

 private:
  std::string where(size_t rank, const char* name, int64_t sequence) const {
    return detail::concat("rank ", rank, "/", size_, ": ", name, " #", sequence, ": ");
  }
  Operation& add_operation();
  Operation* find(int64_t sequence);
  Operation& find_or_open(int64_t sequence, const Call& call);
  bool cannot_complete(const Operation& operation) const;
  std::string who_is_missing(const Operation& operation) const;

  const size_t size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Operation>> operations_;  // reused
  std::vector<bool> ended_;                             // ranks whose body has returned
  std::exception_ptr error_;                            // the first
};

Operation& ThreadGroup::add_operation() {
  auto operation = std::make_unique<Operation>();
  operation->parts.resize(size_);
  constexpr size_t kRounds = 16;  // more than an exchange of a reduction has
  for (Part& part : operation->parts) {
    part.send.reserve(kRounds * size_);
    part.recv.reserve(kRounds * size_);
  }
  return *operations_.emplace_back(std::move(operation));
}

Operation* ThreadGroup::find(int64_t sequence) {
  const auto found = std::find_if(operations_.begin(), operations_.end(),
                                  [&](const auto& o) { return o->sequence == sequence; });
  return found == operations_.end() ? nullptr : found->get();
}

Operation& ThreadGroup::find_or_open(int64_t sequence, const Call& call) {
  if (Operation* const present = find(sequence)) return *present;
  Operation* const unused = find(kFree);
  Operation& operation = unused ? *unused : add_operation();
  operation.sequence = sequence;
  operation.done = false;
  operation.call = call;
  for (Part& part : operation.parts) part.arrived = part.waited = false;
  return operation;
}

void ThreadGroup::post(size_t rank, int64_t sequence, const Call& call, std::span<std::byte> data,
                       size_t count, std::span<const std::span<const float>> send,
                       std::span<const std::span<float>> recv) {
  const std::lock_guard lock(mutex_);
  STIPPLE_CHECK_AS(CommError, !error_, where(rank, call.name, sequence), "another rank failed");
  Operation& operation = find_or_open(sequence, call);
  STIPPLE_CHECK_AS(
      CommError,
      operation.call.perform == call.perform && operation.call.parameter == call.parameter,
      where(rank, call.name, sequence), "the other ranks called ", operation.call.name,
      " or gave another root or reduction");
  Part& part = operation.parts[rank];
  part.arrived = true;
  part.data = data.data();
  part.count = count;
  part.send.assign(send.begin(), send.end());
  part.recv.assign(recv.begin(), recv.end());
  if (!std::all_of(operation.parts.begin(), operation.parts.end(),
                   [](const Part& p) { return p.arrived; })) {
    return;
  }
  call.perform(operation);
  operation.done = true;
  changed_.notify_all();
}

bool ThreadGroup::cannot_complete(const Operation& operation) const {
  if (error_) return true;
  for (size_t r = 0; r < size_; ++r) {
    if (ended_[r] && !operation.parts[r].arrived) return true;
  }
  return false;
}

std::string ThreadGroup::who_is_missing(const Operation& operation) const {
  std::vector<std::optional<Position>> positions;
  for (const Part& part : operation.parts) {
    const int64_t at = operation.sequence - (part.arrived ? 0 : 1);
    positions.push_back(Position{at, at, at});
  }
  return who_is_behind(positions);
}

void ThreadGroup::wait(size_t rank, int64_t sequence, double timeout_s) {
  std::unique_lock lock(mutex_);
  Operation* const operation = sequence == kFree ? nullptr : find(sequence);
  STIPPLE_CHECK_AS(CommError, operation && !operation->parts[rank].waited, "rank ", rank, "/",
                   size_, ": wait for operation #", sequence,
                   ", which is not pending; each is waited for once");
  const bool has_ended = changed_.wait_for(lock, std::chrono::duration<double>(timeout_s), [&] {
    return operation->done || cannot_complete(*operation);
  });
  STIPPLE_CHECK_AS(CommError, has_ended, where(rank, operation->call.name, sequence),
                   "has not ended after ", timeout_s, " s: ", who_is_missing(*operation));
  STIPPLE_CHECK_AS(CommError, operation->done, where(rank, operation->call.name, sequence),
                   "another rank failed or ended without this call");
  operation->parts[rank].waited = true;
  if (std::all_of(operation->parts.begin(), operation->parts.end(),
                  [](const Part& p) { return p.waited; })) {
    operation->sequence = kFree;
  }
}

void ThreadGroup::fail(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  if (!error_) error_ = std::move(error);
  changed_.notify_all();
}

void ThreadGroup::end(size_t rank) {
  const std::lock_guard lock(mutex_);
  ended_[rank] = true;
  changed_.notify_all();
}

class ThreadCommunicator final : public Communicator {
 public:
  using Communicator::all_reduce;
  using Communicator::broadcast;

  ThreadCommunicator(ThreadGroup& group, int rank) : group_(group), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_.size(); }
  int local_rank() const override { return rank_; }
  int local_size() const override { return group_.size(); }

  Pending all_reduce_sum(std::span<float> values) override {
    return post({"all_reduce_sum", static_cast<int>(Reduction::kSum), perform_reduction<float>},
                std::as_writable_bytes(values), values.size());
  }

  Pending exchange(std::span<const std::span<const float>> send,
                   std::span<const std::span<float>> recv) override {
    exchange_rounds(*this, send, recv);
    return post({"exchange", 0, perform_exchange}, {}, 0, send, recv);
  }

  void wait(Pending pending) override {
    group_.wait(static_cast<size_t>(rank_), pending.id, timeout_s_);
  }
  void progress() override {}
  void set_timeout(double seconds, const char* /*key*/) override { timeout_s_ = seconds; }

  void barrier() override { wait(post({"barrier", 0, perform_nothing}, {}, 0)); }

  void broadcast(std::span<std::byte> bytes, int root) override {
    STIPPLE_CHECK_AS(CommError, root >= 0 && root < size(), "rank ", rank_, "/", size(),
                     ": broadcast from rank ", root, ", which does not exist");
    wait(post({"broadcast", root, perform_broadcast}, bytes, bytes.size()));
  }

  void all_reduce(std::span<double> values, Reduction reduction) override {
    reduce(values, reduction);
  }
  void all_reduce(std::span<int64_t> values, Reduction reduction) override {
    reduce(values, reduction);
  }

  std::vector<std::string> all_gather(const std::string& text) override {
    Gathered gathered{&text, {}};
    wait(post({"all_gather", 0, perform_gather}, std::as_writable_bytes(std::span(&gathered, 1)),
              1));
    return std::move(gathered.all);
  }

 private:
  template <class T>
  void reduce(std::span<T> values, Reduction reduction) {
    wait(post({"all_reduce", static_cast<int>(reduction), perform_reduction<T>},
              std::as_writable_bytes(values), values.size()));
  }

  Pending post(const Call& call, std::span<std::byte> data, size_t count,
               std::span<const std::span<const float>> send = {},
               std::span<const std::span<float>> recv = {}) {
    group_.post(static_cast<size_t>(rank_), ++sequence_, call, data, count, send, recv);
    return {sequence_};
  }

  ThreadGroup& group_;
  int rank_;
  int64_t sequence_ = 0;
  double timeout_s_ = kStartTimeout_s;
};

}  // namespace

void run_ranks(int size, const std::function<void(Communicator&)>& body) {
  STIPPLE_CHECK(size > 0, "run_ranks: at least one rank is needed, got ", size);
  ThreadGroup group(size);
  const auto run = [&group, &body](int rank) {
    try {
      ThreadCommunicator communicator(group, rank);
      body(communicator);
    } catch (...) {
      group.fail(std::current_exception());
    }
    group.end(static_cast<size_t>(rank));
  };
  std::vector<std::thread> ranks;
  try {
    for (int r = 0; r < size; ++r) {
      ranks.push_back(start_thread(detail::concat("rank ", r, "/", size), [&run, r] { run(r); }));
    }
  } catch (...) {
    group.fail(std::current_exception());
  }
  for (std::thread& rank : ranks) rank.join();
  if (group.error()) std::rethrow_exception(group.error());
}

}  // namespace stipple::comm
