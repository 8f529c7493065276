// SPDX-License-Identifier: Apache-2.0
// Ranks as processes. Every call is non-blocking towards MPI and waits here, so that one loop
// decides how to wait: it yields the core, because there may be more ranks than cores.
#include <mpi.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "comm/communicator.h"
#include "comm/deadline.h"
#include "comm/mpi/rank_watch.h"
#include "core/error.h"
#include "core/log.h"

namespace stipple::comm {
namespace {

// MPI counts elements in an int; 2^28 floats are 1 GiB, which every transport below can also
// address.
constexpr size_t kMaxCount = size_t{1} << 28;
// The smallest upper bound of tags that the MPI standard allows.
constexpr int64_t kNumTags = 32767;
// A Pending's id holds the operation's slot in its low bits and its sequence number above.
constexpr int kSlotBits = 20;
constexpr int kFailedExitCode = 1;

MPI_Op mpi_op(Reduction reduction) {
  switch (reduction) {
    case Reduction::kSum:
      return MPI_SUM;
    case Reduction::kMin:
      return MPI_MIN;
    case Reduction::kMax:
      return MPI_MAX;
  }
  throw CommError("unknown reduction");
}

std::string mpi_text(int code) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  return {text.data(), static_cast<size_t>(length)};
}

/// Calls body(piece) on consecutive pieces of at most kMaxCount elements.
template <class T, class Body>
void for_each_piece(std::span<T> data, const Body& body) {
  for (size_t at = 0; at < data.size(); at += kMaxCount) {
    body(data.subspan(at, std::min(kMaxCount, data.size() - at)));
  }
}

template <class T>
int count_of(std::span<T> piece) {
  return static_cast<int>(piece.size());
}

class MpiCommunicator final : public Communicator {
 public:
  using Communicator::all_reduce;
  using Communicator::broadcast;

  MpiCommunicator(bool finalizes, std::unique_ptr<Deadline>);
  ~MpiCommunicator() override;
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }

  Pending all_reduce_sum(std::span<float>) override;
  Pending exchange(std::span<const std::span<const float>> send,
                   std::span<const std::span<float>> recv) override;
  void wait(Pending) override;
  void progress() override;
  void set_timeout(double seconds, const char* key) override {
    if (watch_) watch_->set_timeout(seconds, key);
  }

  void barrier() override;
  void broadcast(std::span<std::byte>, int root) override;
  void all_reduce(std::span<double>, Reduction) override;
  void all_reduce(std::span<int64_t>, Reduction) override;
  std::vector<std::string> all_gather(const std::string&) override;

 private:
  /// A slot of the table of started operations. Slots and their vectors are reused: a steady step
  /// allocates nothing.
  struct Operation {
    const char* name = nullptr;
    int64_t sequence = 0;
    bool active = false;    ///< started and not yet waited for
    bool finished = false;  ///< MPI has nothing left to do
    std::vector<MPI_Request> requests;
  };

  size_t begin(const char* name);
  MPI_Request* new_request(size_t slot);
  void check(int code, const char* name, int64_t sequence) const;
  void check(int code, size_t slot) const {
    check(code, operations_[slot].name, operations_[slot].sequence);
  }
  bool test(size_t slot);
  void complete(size_t slot);
  void meet();
  template <class T>
  void reduce(std::span<T> values, MPI_Datatype type, Reduction reduction);

  bool finalizes_;
  MPI_Comm world_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  int local_rank_ = 0;
  int local_size_ = 1;
  int64_t sequence_ = 0;
  std::vector<Operation> operations_;
  std::vector<MPI_Status> statuses_;
  std::optional<RankWatch> watch_;      ///< none: this rank is alone
  std::unique_ptr<Deadline> deadline_;  ///< of calls in which MPI blocks
};

MpiCommunicator::MpiCommunicator(bool finalizes, std::unique_ptr<Deadline> deadline)
    : finalizes_(finalizes), deadline_(std::move(deadline)) {
  check(MPI_Comm_dup(MPI_COMM_WORLD, &world_), "start", 0);
  check(MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN), "start", 0);
  MPI_Comm_rank(world_, &rank_);
  MPI_Comm_size(world_, &size_);
  MPI_Comm machine = MPI_COMM_NULL;
  check(MPI_Comm_split_type(world_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &machine), "start",
        0);
  MPI_Comm_rank(machine, &local_rank_);
  MPI_Comm_size(machine, &local_size_);
  MPI_Comm_free(&machine);
  if (size_ > 1) watch_.emplace(world_);
  deadline_->lift();
}

MpiCommunicator::~MpiCommunicator() {
  const bool left_open = std::any_of(operations_.begin(), operations_.end(),
                                     [](const Operation& o) { return o.active; });
  // After a fault the other ranks may never arrive: finalising would hang instead of ending the
  // job.
  if (std::uncaught_exceptions() > 0 || left_open) return;
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized) return;
  if (finalizes_) meet();
  deadline_->set(kStartTimeout_s,
                 detail::concat("rank ", rank_, "/", size_,
                                ": MPI does not come to its end; is another rank stopped?"));
  if (watch_) watch_->close();
  MPI_Comm_free(&world_);
  if (finalizes_) MPI_Finalize();
  deadline_->lift();
}

/// MPI's own end waits for all ranks without saying for whom, so they meet here before.
void MpiCommunicator::meet() {
  try {
    barrier();
  } catch (const Error& e) {
    log::fatal(e.what());
    abort_job(kFailedExitCode);
  }
}

void MpiCommunicator::check(int code, const char* name, int64_t sequence) const {
  if (code == MPI_SUCCESS) return;
  throw CommError(
      detail::concat("rank ", rank_, "/", size_, ": ", name, " #", sequence, ": ", mpi_text(code)));
}

size_t MpiCommunicator::begin(const char* name) {
  const auto free = std::find_if(operations_.begin(), operations_.end(),
                                 [](const Operation& o) { return !o.active; });
  const size_t slot = static_cast<size_t>(free - operations_.begin());
  if (free == operations_.end()) operations_.emplace_back();
  Operation& operation = operations_[slot];
  operation.name = name;
  operation.sequence = ++sequence_;
  operation.active = true;
  operation.finished = false;
  operation.requests.clear();
  return slot;
}

MPI_Request* MpiCommunicator::new_request(size_t slot) {
  return &operations_[slot].requests.emplace_back(MPI_REQUEST_NULL);
}

bool MpiCommunicator::test(size_t slot) {
  Operation& operation = operations_[slot];
  if (operation.finished) return true;
  statuses_.resize(std::max(statuses_.size(), operation.requests.size()));
  int flag = 0;
  const int code = MPI_Testall(static_cast<int>(operation.requests.size()),
                               operation.requests.data(), &flag, statuses_.data());
  if (code == MPI_ERR_IN_STATUS) {
    for (size_t i = 0; i < operation.requests.size(); ++i) {
      if (statuses_[i].MPI_ERROR != MPI_ERR_PENDING) check(statuses_[i].MPI_ERROR, slot);
    }
  }
  check(code, slot);
  operation.finished = flag != 0;
  return operation.finished;
}

void MpiCommunicator::complete(size_t slot) {
  if (!test(slot)) {
    if (watch_) watch_->begin_wait();
    do {
      std::this_thread::yield();
      if (watch_) watch_->waiting(operations_[slot].name, operations_[slot].sequence);
    } while (!test(slot));
  }
  if (watch_) watch_->end_wait();
  operations_[slot].active = false;
}

void MpiCommunicator::wait(Pending pending) {
  const size_t slot = static_cast<size_t>(pending.id) & ((size_t{1} << kSlotBits) - 1);
  const int64_t sequence = pending.id >> kSlotBits;
  STIPPLE_CHECK_AS(CommError,
                   pending.id >= 0 && slot < operations_.size() && operations_[slot].active &&
                       operations_[slot].sequence == sequence,
                   "rank ", rank_, "/", size_, ": wait for operation #", sequence,
                   ", which is not pending; each is waited for once");
  complete(slot);
}

void MpiCommunicator::progress() {
  if (watch_) watch_->working();
  // Testing one unfinished request advances all of them: the rest of the table can be left alone.
  for (size_t slot = 0; slot < operations_.size(); ++slot) {
    if (operations_[slot].active && !test(slot)) return;
  }
}

Pending MpiCommunicator::all_reduce_sum(std::span<float> values) {
  const size_t slot = begin("all_reduce_sum");
  for_each_piece(values, [&](std::span<float> piece) {
    check(MPI_Iallreduce(MPI_IN_PLACE, piece.data(), count_of(piece), MPI_FLOAT, MPI_SUM, world_,
                         new_request(slot)),
          slot);
  });
  return {(operations_[slot].sequence << kSlotBits) | static_cast<int64_t>(slot)};
}

Pending MpiCommunicator::exchange(std::span<const std::span<const float>> send,
                                  std::span<const std::span<float>> recv) {
  const size_t slot = begin("exchange");
  const int64_t sequence = operations_[slot].sequence;
  const size_t rounds = exchange_rounds(*this, send, recv);
  const auto ranks = static_cast<size_t>(size_);
  const auto self = static_cast<size_t>(rank_);
  const int tag = static_cast<int>(sequence % kNumTags);
  // Peers in rotated order: all ranks writing to rank 0 first would make a queue of it. What a peer
  // sends with one tag arrives in order, so rounds do not mix.
  for (size_t round = 0; round < rounds; ++round) {
    for (size_t step = 1; step < ranks; ++step) {
      const size_t peer = (self + ranks - step) % ranks;
      for_each_piece(recv[round * ranks + peer], [&](std::span<float> piece) {
        check(MPI_Irecv(piece.data(), count_of(piece), MPI_FLOAT, static_cast<int>(peer), tag,
                        world_, new_request(slot)),
              slot);
      });
    }
  }
  for (size_t round = 0; round < rounds; ++round) {
    for (size_t step = 1; step < ranks; ++step) {
      const size_t peer = (self + step) % ranks;
      for_each_piece(send[round * ranks + peer], [&](std::span<const float> piece) {
        check(MPI_Isend(piece.data(), count_of(piece), MPI_FLOAT, static_cast<int>(peer), tag,
                        world_, new_request(slot)),
              slot);
      });
    }
    const std::span<const float> own = send[round * ranks + self];
    std::copy(own.begin(), own.end(), recv[round * ranks + self].begin());
  }
  return {(sequence << kSlotBits) | static_cast<int64_t>(slot)};
}

void MpiCommunicator::barrier() {
  const size_t slot = begin("barrier");
  check(MPI_Ibarrier(world_, new_request(slot)), slot);
  complete(slot);
}

void MpiCommunicator::broadcast(std::span<std::byte> bytes, int root) {
  const size_t slot = begin("broadcast");
  for_each_piece(bytes, [&](std::span<std::byte> piece) {
    check(MPI_Ibcast(piece.data(), count_of(piece), MPI_BYTE, root, world_, new_request(slot)),
          slot);
  });
  complete(slot);
}

template <class T>
void MpiCommunicator::reduce(std::span<T> values, MPI_Datatype type, Reduction reduction) {
  const size_t slot = begin("all_reduce");
  for_each_piece(values, [&](std::span<T> piece) {
    check(MPI_Iallreduce(MPI_IN_PLACE, piece.data(), count_of(piece), type, mpi_op(reduction),
                         world_, new_request(slot)),
          slot);
  });
  complete(slot);
}

void MpiCommunicator::all_reduce(std::span<double> values, Reduction reduction) {
  reduce(values, MPI_DOUBLE, reduction);
}

void MpiCommunicator::all_reduce(std::span<int64_t> values, Reduction reduction) {
  reduce(values, MPI_INT64_T, reduction);
}

std::vector<std::string> MpiCommunicator::all_gather(const std::string& text) {
  std::vector<int64_t> lengths(static_cast<size_t>(size_), 0);
  lengths[static_cast<size_t>(rank_)] = static_cast<int64_t>(text.size());
  reduce(std::span(lengths), MPI_INT64_T, Reduction::kSum);

  std::vector<int> counts;
  std::vector<int> offsets;
  int64_t total = 0;
  for (int64_t length : lengths) {
    offsets.push_back(static_cast<int>(total));
    counts.push_back(static_cast<int>(length));
    total += length;
    STIPPLE_CHECK_AS(CommError, total <= INT_MAX, "rank ", rank_, "/", size_,
                     ": all_gather of more than 2 GiB of text");
  }
  std::string all(static_cast<size_t>(total), '\0');
  const size_t slot = begin("all_gather");
  check(MPI_Iallgatherv(text.data(), static_cast<int>(text.size()), MPI_CHAR, all.data(),
                        counts.data(), offsets.data(), MPI_CHAR, world_, new_request(slot)),
        slot);
  complete(slot);

  std::vector<std::string> texts;
  for (size_t r = 0; r < counts.size(); ++r) {
    texts.push_back(all.substr(static_cast<size_t>(offsets[r]), static_cast<size_t>(counts[r])));
  }
  return texts;
}

/// mpirun of Open MPI, srun --mpi=pmix, and the launchers that speak PMI-1 or PMI-2.
bool started_by_launcher() {
  constexpr std::array kMarks{"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMIX_NAMESPACE", "PMI_RANK",
                              "PMI_SIZE"};
  return std::any_of(kMarks.begin(), kMarks.end(),
                     [](const char* name) { return std::getenv(name) != nullptr; });
}

bool mpi_is_up() {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  STIPPLE_CHECK_AS(CommError, !finalized,
                   "MPI was already finalised in this process and cannot start again");
  return initialized != 0;
}

void initialize_mpi() {
  int provided = MPI_THREAD_SINGLE;
  const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
  STIPPLE_CHECK_AS(CommError, code == MPI_SUCCESS, "MPI does not start: ", mpi_text(code));
  STIPPLE_CHECK_AS(CommError, provided >= MPI_THREAD_SERIALIZED,
                   "this MPI allows calls from its first thread only; install one with "
                   "MPI_THREAD_SERIALIZED");
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(double start_timeout_s) {
  const bool is_up = mpi_is_up();
  if (!is_up && !started_by_launcher()) {
    const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
    STIPPLE_CHECK_AS(
        ConfigError,
        tasks == nullptr || std::atoi(tasks) <= 1 || std::getenv("SLURM_PROCID") == nullptr,
        "srun started ", tasks,
        " tasks that cannot see each other; use srun --mpi=pmix, or mpirun");
    return make_single_communicator();
  }
  // mpirun killed with SIGKILL cannot tell its ranks: the kernel does.
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) prctl(PR_SET_PDEATHSIG, SIGKILL);
  // MPI blocks while ranks find each other, and cannot be asked for whom it waits.
  auto deadline = std::make_unique<Deadline>(kFailedExitCode);
  deadline->set(start_timeout_s,
                detail::concat("MPI has not found all ranks after ", start_timeout_s,
                               " s; see whether all were started and can reach each other"));
  if (!is_up) initialize_mpi();
  return std::make_unique<MpiCommunicator>(!is_up, std::move(deadline));
}

void abort_job(int exit_code) noexcept {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (initialized && !finalized) MPI_Abort(MPI_COMM_WORLD, exit_code);
  _exit(exit_code);
}

}  // namespace stipple::comm
