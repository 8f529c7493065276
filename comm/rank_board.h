// SPDX-License-Identifier: Apache-2.0
// Where the ranks of one machine show each other how far they have come, without MPI or a network:
// a small file mapped by all. It tells who is missing when an operation never ends.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/flight_recorder.h"

namespace stipple::comm {

class RankBoard {
 public:
  /// Collective. Without a folder for the file, this rank sees nobody and nobody sees it.
  explicit RankBoard(Communicator&);
  ~RankBoard();
  RankBoard(const RankBoard&) = delete;
  RankBoard& operator=(const RankBoard&) = delete;

  /// From any thread.
  void publish(const Position&);
  /// By rank; empty for ranks on other machines.
  std::vector<std::optional<Position>> read() const;

 private:
  struct Entry;
  int rank_;
  size_t size_;
  Entry* entries_ = nullptr;
};

/// "rank 1 is at operation 11, all others at 12": which ranks are behind.
std::string who_is_behind(std::span<const std::optional<Position>> positions);

}  // namespace stipple::comm
