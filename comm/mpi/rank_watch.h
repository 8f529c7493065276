// SPDX-License-Identifier: Apache-2.0
// Finds out which rank keeps the others waiting. A rank that waits too long asks all where they
// are: those that wait too answer; one that is stopped, dead or stuck does not. A rank that works
// for long says so from time to time, and is not taken for dead. All this goes by small messages on
// a communicator of its own, and nothing is sent while no wait is long: a steady step pays a look
// at the clock.
//
// Belongs to one thread.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace stipple::comm {

class RankWatch {
 public:
  /// Collective.
  explicit RankWatch(MPI_Comm world);
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;
  /// In place of a destructor, because after a fault nothing of MPI may be touched. Collective.
  void close();

  /// How long a wait may last without a sign of work from any rank; `key` is what a message advises
  /// to raise.
  void set_timeout(double seconds, const char* key);

  /// This rank works: who waits for it goes on waiting.
  void working();
  void begin_wait();
  /// Again and again while operation #sequence has not ended. CommError, which names the ranks that
  /// are behind, their machines and processes, when the time is over.
  void waiting(const char* operation, int64_t sequence);
  void end_wait() { last_sign_ = Clock::now(); }

 private:
  using Clock = std::chrono::steady_clock;
  /// What a message says, besides the operation that its sender is at: its tag.
  enum Sign : int { kWorks, kWhereAreYou, kIWait };

  struct Rank {
    std::string host;
    int64_t process = 0;
    MPI_Request request = MPI_REQUEST_NULL;  ///< of the last message to it
    int64_t outgoing = 0;
    std::optional<int64_t> position;  ///< the operation that it waits for, as it answered
  };

  void tell(Sign, int64_t sequence);
  void hear();
  void take(Sign, int from, int64_t sequence);
  void ask(int64_t sequence);
  bool a_lower_rank_answered() const;
  std::string diagnosis(const char* operation, int64_t sequence) const;
  std::string name_of(size_t rank) const;

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  std::vector<Rank> ranks_;
  std::chrono::duration<double> timeout_{};
  const char* key_ = "";
  Clock::time_point last_sign_ = Clock::now();  ///< when others last heard of this rank
  Clock::time_point began_;                     ///< the wait
  Clock::time_point since_;                     ///< began_, or the last sign of work
  Clock::time_point last_look_;
  std::optional<Clock::time_point> asked_;
  bool is_asked_ = false;
};

}  // namespace stipple::comm
