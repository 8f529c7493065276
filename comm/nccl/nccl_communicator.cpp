// SPDX-License-Identifier: Apache-2.0
// Ranks with a GPU each. NCCL moves bulk data on a stream of its own, MPI carries the rest.
//
// NCCL is told not to block: what takes time it reports as "in progress", and this file asks until
// that is over, because an operation's event may only follow what is in the stream already.
#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "comm/communicator.h"
#include "comm/deadline.h"
#include "comm/flight_recorder.h"
#include "comm/gpu_assignment.h"
#include "comm/rank_board.h"
#include "comm/watchdog.h"
#include "core/copy.h"
#include "core/cuda/runtime.h"
#include "core/error.h"
#include "core/log.h"

namespace stipple::comm {
namespace {

using Clock = std::chrono::steady_clock;

// Some twenty steps of a small model: how far the host may run ahead of the device.
constexpr size_t kOperations = 1024;
constexpr std::chrono::milliseconds kStartPoll{1};
// For ranks that end together; what has not closed by then is cut.
constexpr std::chrono::seconds kCloseTimeout{10};
// A thread that is stuck inside NCCL with the lock does not keep the communicator from being ended.
constexpr std::chrono::seconds kLockTimeout{1};
// Freeing what NCCL holds may wait for a device that hangs.
constexpr double kAbortTimeout_s = 30;
constexpr int kFailedExitCode = 1;

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

/// NCCL's communicator, used by the main thread and by the watchdog. After abort() nobody touches
/// it: NCCL has freed it.
class Library {
 public:
  ncclComm_t comm = nullptr;

  /// ncclInProgress, ncclSuccess, or what went wrong at any time since the start.
  ncclResult_t state() {
    const std::lock_guard lock(mutex_);
    return aborted_ ? ncclInternalError : state_unlocked();
  }
  /// For the watchdog, which must not wait for a thread that is stuck inside NCCL: the same without
  /// the lock. Only the watchdog itself aborts while it runs.
  ncclResult_t state_unlocked() const {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm, &state);
    return asked == ncclSuccess ? state : asked;
  }
  template <class Body>
  ncclResult_t call(const Body& body) {
    const std::lock_guard lock(mutex_);
    return aborted_ ? ncclInternalError : body(comm);
  }
  void abort() {
    const bool locked = mutex_.try_lock_for(kLockTimeout);
    if (!aborted_ && comm != nullptr) ncclCommAbort(comm);
    aborted_ = true;
    if (locked) mutex_.unlock();
  }

 private:
  std::timed_mutex mutex_;
  std::atomic<bool> aborted_ = false;
};

class NcclCommunicator final : public Communicator {
 public:
  using Communicator::all_reduce;
  using Communicator::broadcast;

  NcclCommunicator(Communicator& control, const Stream& compute, const NcclOptions&);
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const override { return control_.rank(); }
  int size() const override { return control_.size(); }
  int local_rank() const override { return control_.local_rank(); }
  int local_size() const override { return control_.local_size(); }

  Pending all_reduce_sum(std::span<float>) override;
  Pending exchange(std::span<const std::span<const float>> send,
                   std::span<const std::span<float>> recv) override;
  void wait(Pending pending) override {
    check();
    recorder_.wait(compute_, pending, who_);
  }
  void progress() override { check(); }
  void launched(const char* graph) override;

  void barrier() override {
    check();
    control_.barrier();
  }
  void broadcast(std::span<std::byte> bytes, int root) override {
    check();
    control_.broadcast(bytes, root);
  }
  void all_reduce(std::span<double> values, Reduction reduction) override {
    check();
    control_.all_reduce(values, reduction);
  }
  void all_reduce(std::span<int64_t> values, Reduction reduction) override {
    check();
    control_.all_reduce(values, reduction);
  }
  std::vector<std::string> all_gather(const std::string& text) override {
    check();
    return control_.all_gather(text);
  }

 private:
  bool is_alone() const { return control_.size() == 1; }
  void start(double timeout_s);
  ncclResult_t state_after_start(double timeout_s);
  void close();
  void finish();
  /// Ends the process with `why` should NCCL never come back from freeing its communicator.
  void abort(const std::string& why);

  void check() {
    if (watchdog_) watchdog_->check();
  }
  /// Waits until NCCL has done what a call asked of it; throws when it could not.
  void settle(ncclResult_t result, const char* call);
  std::string error_text(ncclResult_t result, const char* call) const;
  int64_t begin(const char* kind, size_t numel);
  /// While the host has run ahead of the device as far as it may.
  void idle();
  ncclResult_t enqueue_exchange(ncclComm_t comm, std::span<const std::span<const float>> send,
                                std::span<const std::span<float>> recv) const;
  cudaStream_t native() const { return static_cast<cudaStream_t>(stream_.native()); }

  Communicator& control_;
  const Stream& compute_;
  Stream stream_;
  Event data_ready_;
  std::string who_;
  FlightRecorder recorder_;
  std::shared_ptr<Library> library_ = std::make_shared<Library>();
  std::shared_ptr<Deadline> deadline_;
  std::optional<RankBoard> board_;
  std::optional<Watchdog> watchdog_;
};

// NCCL's own error codes carry no context: rank, host and device do.
#define NCCL_CHECK(...) \
  settle(library_->call([&](ncclComm_t comm) { return __VA_ARGS__; }), #__VA_ARGS__)

std::string reason(ncclResult_t result, const char* call) {
  // The text belongs to the process; the argument is not used.
  const char* const text = ncclGetLastError(nullptr);
  const bool is_empty = text == nullptr || *text == '\0';
  return detail::concat(call, ": ", ncclGetErrorString(result), is_empty ? "" : ", ",
                        is_empty ? "" : text);
}

std::string describe(const Communicator& control, int device) {
  return detail::concat("rank ", control.rank(), "/", control.size(), " (", host_name(), ", GPU ",
                        device, ", ", cuda::device_info(device).bus_id, ")");
}

NcclCommunicator::NcclCommunicator(Communicator& control, const Stream& compute,
                                   const NcclOptions& options)
    : control_(control),
      compute_(compute),
      stream_(compute.device()),
      data_ready_(compute.device(), /*is_timed=*/false),
      who_(describe(control, compute.device().index)),
      recorder_(stream_, kOperations) {
  if (is_alone()) return;
  deadline_ = std::make_shared<Deadline>(kFailedExitCode);
  start(options.init_timeout_s);
  board_.emplace(control);
  watchdog_.emplace(recorder_, *board_, deadline_,
                    WatchdogOptions{.who = who_,
                                    .device = compute.device(),
                                    .operation_timeout_s = options.operation_timeout_s,
                                    .fault =
                                        [this] {
                                          const ncclResult_t state = library_->state_unlocked();
                                          const bool is_well =
                                              state == ncclSuccess || state == ncclInProgress;
                                          return is_well ? std::string() : reason(state, "NCCL");
                                        },
                                    .abort = [library = library_] { library->abort(); }});
}

void NcclCommunicator::start(double timeout_s) {
  ncclUniqueId id{};
  agree(control_, [&] {
    if (rank() != 0) return;
    const ncclResult_t result = ncclGetUniqueId(&id);
    STIPPLE_CHECK(result == ncclSuccess, error_text(result, "ncclGetUniqueId"));
  });
  control_.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);

  cuda::use_device(compute_.device().index);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclResult_t state = ncclCommInitRankConfig(&library_->comm, size(), id, rank(), &config);
  if (state == ncclSuccess || state == ncclInProgress) state = state_after_start(timeout_s);
  if (state != ncclSuccess) throw CommError(error_text(state, "ncclCommInitRankConfig"));
}

ncclResult_t NcclCommunicator::state_after_start(double timeout_s) {
  const Clock::time_point end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                   std::chrono::duration<double>(timeout_s));
  ncclResult_t state = library_->state();
  while (state == ncclInProgress) {
    if (Clock::now() > end) {
      const std::string text = detail::concat(
          who_, ": NCCL has not found all ", size(), " ranks after ", timeout_s,
          " s; see whether all are alive and can reach each other (NCCL_DEBUG=INFO tells how they "
          "try, NCCL_SOCKET_IFNAME names the network)");
      abort(text);
      throw CommError(text);
    }
    std::this_thread::sleep_for(kStartPoll);
    state = library_->state();
  }
  return state;
}

NcclCommunicator::~NcclCommunicator() {
  const bool failed = watchdog_ && watchdog_->has_failed();
  watchdog_.reset();
  if (!is_alone() && !failed) close();
}

void NcclCommunicator::close() {
  // After a fault the other ranks may never arrive: closing would hang instead of ending the job.
  if (std::uncaught_exceptions() > 0) {
    abort(who_ + ": NCCL does not come to its end after an error");
  } else {
    finish();
  }
}

void NcclCommunicator::abort(const std::string& why) {
  deadline_->set(kAbortTimeout_s, why);
  library_->abort();
  deadline_->lift();
}

void NcclCommunicator::finish() {
  deadline_->set(kAbortTimeout_s, who_ + ": NCCL does not come to its end");
  library_->call(ncclCommFinalize);
  const Clock::time_point end = Clock::now() + kCloseTimeout;
  while (library_->state() == ncclInProgress && Clock::now() < end) std::this_thread::yield();
  const ncclResult_t state = library_->state();
  if (state == ncclSuccess) {
    library_->call(ncclCommDestroy);
  } else {
    log::warn(error_text(state, "ncclCommFinalize"));
    library_->abort();
  }
  deadline_->lift();
}

std::string NcclCommunicator::error_text(ncclResult_t result, const char* call) const {
  return who_ + ": " + reason(result, call);
}

void NcclCommunicator::settle(ncclResult_t result, const char* call) {
  while (result == ncclInProgress) {
    check();
    std::this_thread::yield();
    result = library_->state();
  }
  check();
  if (result != ncclSuccess) throw CommError(error_text(result, call));
}

int64_t NcclCommunicator::begin(const char* kind, size_t numel) {
  check();
  compute_.record(data_ready_);
  stream_.wait(data_ready_);
  return recorder_.begin(kind, static_cast<int64_t>(numel * sizeof(float)), [this] { idle(); });
}

void NcclCommunicator::idle() {
  check();
  std::this_thread::yield();
}

Pending NcclCommunicator::all_reduce_sum(std::span<float> values) {
  const int64_t sequence = begin("all_reduce_sum", values.size());
  if (!is_alone()) {
    NCCL_CHECK(ncclAllReduce(values.data(), values.data(), values.size(), ncclFloat, ncclSum, comm,
                             native()));
  }
  return recorder_.end(sequence);
}

void NcclCommunicator::launched(const char* graph) {
  check();
  if (is_alone()) return;
  const int64_t sequence = recorder_.begin(graph, 0, [this] { idle(); });
  compute_.record(data_ready_);
  stream_.wait(data_ready_);
  recorder_.wait(stream_, recorder_.end(sequence), who_);
}

Pending NcclCommunicator::exchange(std::span<const std::span<const float>> send,
                                   std::span<const std::span<float>> recv) {
  exchange_rounds(*this, send, recv);
  size_t numel = 0;
  for (const std::span<const float> part : send) numel += part.size();
  const int64_t sequence = begin("exchange", numel);
  for (auto self = static_cast<size_t>(rank()); self < send.size();
       self += static_cast<size_t>(size())) {
    copy_bytes(stream_, recv[self].data(), send[self].data(), send[self].size_bytes());
  }
  if (!is_alone()) NCCL_CHECK(enqueue_exchange(comm, send, recv));
  return recorder_.end(sequence);
}

ncclResult_t NcclCommunicator::enqueue_exchange(ncclComm_t comm,
                                                std::span<const std::span<const float>> send,
                                                std::span<const std::span<float>> recv) const {
  ncclResult_t first = ncclGroupStart();
  const auto keep_first = [&](ncclResult_t result) {
    if (first == ncclSuccess || first == ncclInProgress) first = result;
  };
  // One group: NCCL starts work, and a non-blocking communicator a thread, at its end only. What
  // goes to one peer keeps its order.
  for (size_t p = 0; p < send.size(); ++p) {
    const int peer = static_cast<int>(p) % size();
    if (peer == rank()) continue;
    if (!send[p].empty()) {
      keep_first(ncclSend(send[p].data(), send[p].size(), ncclFloat, peer, comm, native()));
    }
    if (!recv[p].empty()) {
      keep_first(ncclRecv(recv[p].data(), recv[p].size(), ncclFloat, peer, comm, native()));
    }
  }
  keep_first(ncclGroupEnd());
  return first;
}

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& control, const Stream& compute,
                                                     const NcclOptions& options) {
  STIPPLE_CHECK(compute.device().type == DeviceType::kCuda,
                "make_nccl_communicator: the stream is not on a CUDA device");
  return std::make_unique<NcclCommunicator>(control, compute, options);
}

std::string nccl_version() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return {};
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

}  // namespace stipple::comm
