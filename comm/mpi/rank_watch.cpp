// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/rank_watch.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>

#include "comm/communicator.h"
#include "comm/deadline.h"
#include "comm/rank_board.h"
#include "core/error.h"

namespace stipple::comm {
namespace {

// Seldom enough to cost nothing, often enough that news of ranks are fresh.
constexpr std::chrono::milliseconds kBetweenLooks{20};
// Ranks that wait look at their messages every 20 ms; the rest is for a machine under load.
constexpr std::chrono::duration<double> kAnswerTime{3};
// Of the time-out: how often a rank that works tells so.
constexpr double kSignShare = 0.25;
constexpr size_t kMostNames = 8;

struct Identity {
  std::array<char, MPI_MAX_PROCESSOR_NAME> host{};
  int64_t process = 0;
};

Identity own_identity() {
  Identity identity;
  int length = 0;
  MPI_Get_processor_name(identity.host.data(), &length);
  identity.process = getpid();
  return identity;
}

/// What the kernel of this machine says of a process, where that explains its silence.
const char* condition_of(int64_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return ", gone";
  // The state follows the name, which stands in parentheses and may hold anything.
  const size_t end = text.rfind(')');
  const char state = end == std::string::npos || end + 2 >= text.size() ? '?' : text[end + 2];
  switch (state) {
    case 'T':
      return ", stopped";
    case 't':
      return ", stopped by a debugger";
    case 'Z':
      return ", dead";
    case 'D':
      return ", waiting for a disk or a network file system";
    default:
      return "";
  }
}

}  // namespace

RankWatch::RankWatch(MPI_Comm world) {
  set_timeout(kStartTimeout_s, "comm.init_timeout_s");
  MPI_Comm_dup(world, &comm_);
  MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  int size = 1;
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size);
  std::vector<Identity> identities(static_cast<size_t>(size));
  const Identity mine = own_identity();
  MPI_Allgather(&mine, sizeof mine, MPI_BYTE, identities.data(), sizeof mine, MPI_BYTE, comm_);
  for (const Identity& identity : identities) {
    Rank& rank = ranks_.emplace_back();
    rank.host = identity.host.data();
    rank.process = identity.process;
  }
}

void RankWatch::close() {
  hear();
  for (Rank& rank : ranks_) {
    if (rank.request != MPI_REQUEST_NULL) MPI_Request_free(&rank.request);
  }
  MPI_Comm_free(&comm_);
}

void RankWatch::set_timeout(double seconds, const char* key) {
  timeout_ = std::chrono::duration<double>(seconds);
  key_ = key;
}

void RankWatch::working() {
  const Clock::time_point now = Clock::now();
  if (now - last_sign_ < kSignShare * timeout_) return;
  hear();
  tell(kWorks, 0);
  last_sign_ = now;
}

void RankWatch::begin_wait() {
  began_ = since_ = last_look_ = Clock::now();
  asked_.reset();
  is_asked_ = false;
}

void RankWatch::waiting(const char* operation, int64_t sequence) {
  const Clock::time_point now = Clock::now();
  const Clock::duration pause = now - last_look_;
  if (pause < kBetweenLooks) return;
  last_look_ = now;
  // While the whole job is suspended, nobody is behind.
  if (pause > kSuspended) since_ += pause;
  hear();
  if (is_asked_) tell(kIWait, sequence);
  is_asked_ = false;
  if (now - since_ < timeout_) return;
  if (!asked_) return ask(sequence);
  // One rank is enough to tell: the lowest. The others follow should it be unable to.
  const auto answer_time = a_lower_rank_answered() ? 2 * kAnswerTime : kAnswerTime;
  if (now - *asked_ > answer_time) throw CommError(diagnosis(operation, sequence));
}

void RankWatch::ask(int64_t sequence) {
  for (Rank& rank : ranks_) rank.position.reset();
  tell(kWhereAreYou, sequence);
  asked_ = Clock::now();
}

bool RankWatch::a_lower_rank_answered() const {
  return std::any_of(ranks_.begin(), ranks_.begin() + rank_,
                     [](const Rank& rank) { return rank.position.has_value(); });
}

void RankWatch::tell(Sign sign, int64_t sequence) {
  for (size_t to = 0; to < ranks_.size(); ++to) {
    if (static_cast<int>(to) == rank_) continue;
    Rank& rank = ranks_[to];
    int is_sent = 1;
    MPI_Test(&rank.request, &is_sent, MPI_STATUS_IGNORE);
    if (is_sent == 0) continue;  // it takes nothing: there is no use in telling it more
    rank.outgoing = sequence;
    MPI_Isend(&rank.outgoing, 1, MPI_INT64_T, static_cast<int>(to), sign, comm_, &rank.request);
  }
}

void RankWatch::hear() {
  while (true) {
    int is_there = 0;
    MPI_Status status;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &is_there, &status);
    if (is_there == 0) return;
    int64_t sequence = 0;
    MPI_Recv(&sequence, 1, MPI_INT64_T, status.MPI_SOURCE, status.MPI_TAG, comm_,
             MPI_STATUS_IGNORE);
    take(static_cast<Sign>(status.MPI_TAG), status.MPI_SOURCE, sequence);
  }
}

void RankWatch::take(Sign sign, int from, int64_t sequence) {
  if (sign == kWorks) {
    since_ = Clock::now();
    asked_.reset();
    return;
  }
  ranks_[static_cast<size_t>(from)].position = sequence;
  is_asked_ |= sign == kWhereAreYou;
}

std::string RankWatch::name_of(size_t rank) const {
  const Rank& r = ranks_[rank];
  const bool is_here = r.host == ranks_[static_cast<size_t>(rank_)].host;
  return detail::concat("rank ", rank, " on ", r.host, " (process ", r.process,
                        is_here ? condition_of(r.process) : "", ")");
}

std::string RankWatch::diagnosis(const char* operation, int64_t sequence) const {
  std::vector<size_t> silent;
  std::vector<std::optional<Position>> positions;
  for (size_t rank = 0; rank < ranks_.size(); ++rank) {
    const bool is_own = static_cast<int>(rank) == rank_;
    const std::optional<int64_t> at = is_own ? sequence : ranks_[rank].position;
    positions.push_back(at ? std::optional<Position>({*at, *at, *at - 1}) : std::nullopt);
    if (!at) silent.push_back(rank);
  }
  std::ostringstream text;
  text << "rank " << rank_ << "/" << ranks_.size() << ": " << operation << " #" << sequence
       << " has not ended after " << std::chrono::duration<double>(Clock::now() - began_).count()
       << " s: ";
  if (silent.empty()) {
    text << who_is_behind(positions);
  } else {
    for (size_t i = 0; i < std::min(silent.size(), kMostNames); ++i) {
      text << (i > 0 ? ", " : "") << name_of(silent[i]);
    }
    if (silent.size() > kMostNames) text << " and " << silent.size() - kMostNames << " more";
    text << (silent.size() == 1 ? " is" : " are") << " behind and silent";
  }
  text << "; raise " << key_ << " if that was only slow";
  return text.str();
}

}  // namespace stipple::comm
