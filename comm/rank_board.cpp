// SPDX-License-Identifier: Apache-2.0
#include "comm/rank_board.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <random>

#include "core/error.h"

namespace stipple::comm {

struct RankBoard::Entry {
  std::atomic<int64_t> present;
  std::atomic<int64_t> begun;
  std::atomic<int64_t> reached;
  std::atomic<int64_t> finished;
};
static_assert(std::atomic<int64_t>::is_always_lock_free, "shared by processes");

namespace {

/// Open on the file that all ranks of this machine find under this name; -1 where none can be had.
int open_board(const std::string& name, size_t bytes, std::string& path) {
  const char* temporary = std::getenv("TMPDIR");
  for (const char* folder : {"/dev/shm", temporary == nullptr ? "/tmp" : temporary}) {
    path = std::string(folder) + "/" + name;
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) continue;
    // Not ftruncate: a full file system should refuse now, not at the first write.
    if (::posix_fallocate(file, 0, static_cast<off_t>(bytes)) == 0) return file;
    ::unlink(path.c_str());
    ::close(file);
  }
  return -1;
}

std::string new_name() {
  std::random_device random;
  return "stipple-" + std::to_string(random()) + "-" + std::to_string(random());
}

/// "rank 3" or "ranks 1, 3".
std::string names_of(const std::vector<size_t>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(ranks[i]);
  return text;
}

}  // namespace

RankBoard::RankBoard(Communicator& communicator)
    : rank_(communicator.rank()), size_(static_cast<size_t>(communicator.size())) {
  const std::string name = communicator.broadcast(rank_ == 0 ? new_name() : std::string(), 0);
  const size_t bytes = size_ * sizeof(Entry);
  std::string path;
  const int file = open_board(name, bytes, path);
  if (file >= 0) {
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) entries_ = static_cast<Entry*>(memory);
    ::close(file);
  }
  publish({});
  communicator.barrier();
  // All have it open: without a name it goes away with the last of them, however they end.
  if (communicator.local_rank() == 0) ::unlink(path.c_str());
}

RankBoard::~RankBoard() {
  if (entries_ != nullptr) ::munmap(entries_, size_ * sizeof(Entry));
}

void RankBoard::publish(const Position& position) {
  if (entries_ == nullptr) return;
  Entry& mine = entries_[rank_];
  mine.begun = position.begun;
  mine.reached = position.reached;
  mine.finished = position.finished;
  mine.present = 1;
}

std::vector<std::optional<Position>> RankBoard::read() const {
  std::vector<std::optional<Position>> positions(size_);
  for (size_t rank = 0; entries_ != nullptr && rank < size_; ++rank) {
    const Entry& entry = entries_[rank];
    if (entry.present == 0) continue;
    positions[rank] = Position{entry.begun, entry.reached, entry.finished};
  }
  return positions;
}

namespace {

/// The ranks with the lowest value, if any rank has a higher one, and what the others have.
struct Behind {
  std::vector<size_t> ranks;
  int64_t lowest = std::numeric_limits<int64_t>::max();
  int64_t highest = 0;
  bool others_are_equal = true;
};

Behind behind_in(std::span<const std::optional<Position>> positions, int64_t Position::*value) {
  Behind behind;
  for (const auto& position : positions) {
    if (!position) continue;
    behind.lowest = std::min(behind.lowest, (*position).*value);
    behind.highest = std::max(behind.highest, (*position).*value);
  }
  for (size_t rank = 0; rank < positions.size(); ++rank) {
    if (!positions[rank]) continue;
    const int64_t own = (*positions[rank]).*value;
    if (own == behind.lowest) {
      behind.ranks.push_back(rank);
    } else if (own != behind.highest) {
      behind.others_are_equal = false;
    }
  }
  return behind;
}

}  // namespace

std::string who_is_behind(std::span<const std::optional<Position>> positions) {
  std::vector<size_t> unknown;
  for (size_t rank = 0; rank < positions.size(); ++rank) {
    if (!positions[rank]) unknown.push_back(rank);
  }
  if (unknown.size() == positions.size()) return "where the ranks are is not known";

  const Behind reached = behind_in(positions, &Position::reached);
  const Behind finished = behind_in(positions, &Position::finished);
  std::string text;
  if (reached.lowest < reached.highest) {
    text = detail::concat(names_of(reached.ranks), reached.ranks.size() == 1 ? " is" : " are",
                          " at operation ", reached.lowest, ", all others at ",
                          reached.others_are_equal ? "" : "up to ", reached.highest);
  } else if (finished.lowest < finished.highest) {
    text = detail::concat(names_of(finished.ranks), finished.ranks.size() == 1 ? " has" : " have",
                          " not finished operation ", finished.lowest + 1, ", all others have");
  } else {
    text = detail::concat("all ranks", unknown.empty() ? "" : " that are known",
                          " are at operation ", reached.highest);
  }
  if (!unknown.empty()) {
    text += "; of " + names_of(unknown) + " on other machines nothing is known";
  }
  return text;
}

}  // namespace stipple::comm
