// SPDX-License-Identifier: Apache-2.0
#include "deferred.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "cuda_on_cpu/host.h"

namespace cuda_on_cpu {

namespace {

bool is_asked_for() {
  const char* text = std::getenv("STIPPLE_CUDA_ON_CPU_STREAMS");
  if (text == nullptr || std::strcmp(text, "inline") == 0) return false;
  if (std::strcmp(text, "deferred") == 0) return true;
  std::fprintf(stderr, "STIPPLE_CUDA_ON_CPU_STREAMS=%s is not understood\n", text);
  std::abort();
}

std::atomic<bool>& are_deferred() {
  static std::atomic<bool> are = is_asked_for();
  return are;
}

}  // namespace

bool are_streams_deferred() { return are_deferred(); }

void defer_streams(bool are) {
  run_everything();
  are_deferred() = are;
}

/// All queues. `running` is held while a piece runs, so that a queue's next one comes after it;
/// `state` for looks at queues and markers only.
struct Streams {
  std::recursive_mutex running;
  std::mutex state;
  std::vector<StreamQueue*> queues;
  std::mt19937_64 random{first_seed()};

  static Streams& get() {
    static auto& streams = *new Streams;  // streams may outlive statics
    return streams;
  }

  /// False: no queue has a piece that could run.
  bool run_one() {
    StreamQueue::Piece piece;
    {
      const std::lock_guard lock(state);
      std::vector<StreamQueue*> ready;
      for (StreamQueue* queue : queues) {
        if (queue->pieces_.empty()) continue;
        const auto& after = queue->pieces_.front().after;
        if (after == nullptr || after->has_passed) ready.push_back(queue);
      }
      if (ready.empty()) return false;
      StreamQueue& chosen = *ready[random() % ready.size()];
      piece = std::move(chosen.pieces_.front());
      chosen.pieces_.pop_front();
    }
    if (piece.work != nullptr) piece.work();
    return true;
  }

  bool are_empty() const {
    return std::ranges::all_of(queues, [](const auto* queue) { return queue->pieces_.empty(); });
  }

  template <class IsDone>
  void run_until(const IsDone& is_done) {
    const std::lock_guard lock(running);
    const auto look = [&] {
      const std::lock_guard state_lock(state);
      return is_done();
    };
    while (!look()) {
      if (run_one()) continue;
      std::fprintf(stderr, "cuda_on_cpu: a stream waits for an event that never comes\n");
      std::abort();
    }
  }

 private:
  static uint64_t first_seed() {
    const char* text = std::getenv("STIPPLE_CUDA_ON_CPU_SEED");
    return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
  }
};

StreamQueue::StreamQueue() {
  const std::lock_guard lock(Streams::get().state);
  Streams::get().queues.push_back(this);
}
StreamQueue::~StreamQueue() {
  const std::lock_guard lock(Streams::get().state);
  std::erase(Streams::get().queues, this);
}

void StreamQueue::push(Piece piece) {
  const std::lock_guard lock(Streams::get().state);
  pieces_.push_back(std::move(piece));
}
void StreamQueue::push(std::function<void()> work) {
  push({.work = std::move(work), .after = nullptr});
}
void StreamQueue::push_record(std::shared_ptr<Marker> marker) {
  push([marker = std::move(marker)] {
    const std::lock_guard lock(Streams::get().state);
    marker->pass();
  });
}
void StreamQueue::push_wait(std::shared_ptr<const Marker> marker) {
  push({.work = nullptr, .after = std::move(marker)});
}

bool StreamQueue::is_empty() const {
  const std::lock_guard lock(Streams::get().state);
  return pieces_.empty();
}
void StreamQueue::run_all() {
  Streams::get().run_until([this] { return pieces_.empty(); });
}

void run_until_passed(const Marker& marker) {
  Streams::get().run_until([&] { return marker.has_passed; });
}
void run_everything() {
  Streams& streams = Streams::get();
  streams.run_until([&] { return streams.are_empty(); });
}
void run_a_piece() {
  if (!are_streams_deferred()) return;
  const std::lock_guard lock(Streams::get().running);
  Streams::get().run_one();
}
bool has_passed(const Marker& marker) {
  const std::lock_guard lock(Streams::get().state);
  return marker.has_passed;
}

size_t random_below(size_t count) {
  const std::lock_guard lock(Streams::get().state);
  return Streams::get().random() % count;
}

}  // namespace cuda_on_cpu
