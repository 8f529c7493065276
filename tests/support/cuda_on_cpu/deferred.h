// SPDX-License-Identifier: Apache-2.0
// STIPPLE_CUDA_ON_CPU_STREAMS=deferred: what is enqueued waits in its stream until the host waits for
// it or asks about it, and each piece that runs is of a stream chosen at random. Only order within a
// stream, and events that are waited for, come between. So a missing wait shows as a wrong result,
// for some seed. Work runs in the thread that waits; the order is that of the seed as long as one
// thread does.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

namespace cuda_on_cpu {

bool are_streams_deferred();

/// A record of an event, and whether it has been come to.
struct Marker {
  bool has_passed = false;
  std::chrono::steady_clock::time_point time;

  void pass() {
    time = std::chrono::steady_clock::now();
    has_passed = true;
  }
};

/// What waits in one stream, first in first out. Usable by several threads at once.
class StreamQueue {
 public:
  StreamQueue();
  ~StreamQueue();
  StreamQueue(const StreamQueue&) = delete;
  StreamQueue& operator=(const StreamQueue&) = delete;

  void push(std::function<void()> work);
  void push_record(std::shared_ptr<Marker>);
  /// What comes later waits for the marker.
  void push_wait(std::shared_ptr<const Marker>);

  bool is_empty() const;
  void run_all();  ///< and what it waits for, and some of the others'

 private:
  friend struct Streams;
  struct Piece {
    std::function<void()> work;
    std::shared_ptr<const Marker> after;
  };
  void push(Piece);

  std::deque<Piece> pieces_;
};

void run_until_passed(const Marker&);
void run_everything();
/// One piece of some stream, if there is any.
void run_a_piece();
bool has_passed(const Marker&);

/// Below `count`, from the seed of the emulation.
size_t random_below(size_t count);

}  // namespace cuda_on_cpu
