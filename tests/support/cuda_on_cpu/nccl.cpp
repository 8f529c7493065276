// SPDX-License-Identifier: Apache-2.0
// NCCL's calls over a private MPI communicator, at once, at their place in the emulated stream.
// Only the thread that makes and uses a communicator reaches MPI: asking for errors and aborting
// may come from another.
#include "nccl.h"

#include <mpi.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_on_cpu/host.h"

struct ncclComm {
  MPI_Comm mpi = MPI_COMM_NULL;
  int rank = 0;
  int size = 0;
  bool is_blocking = true;
  bool is_stalled_at_start = false;
  MPI_Request request = MPI_REQUEST_NULL;  ///< of the start
  bool is_duplicated = false;
  std::array<uint64_t, 2> id{};  ///< the unique id and its complement; the largest of all ranks
  uint64_t own_id = 0;
  std::atomic<int> state = ncclInProgress;
  std::atomic<int> lag = 0;  ///< how often to answer "in progress" although all is done
  std::atomic<bool> is_ready = false;
  std::atomic<bool> is_aborted = false;
  std::atomic<int64_t> sequence = 0;
};

namespace {

// NCCL works in threads of its own: what has been asked for is not done at once.
constexpr int kStartLag = 5;
constexpr int kCallLag = 2;

struct Failure {
  std::string kind;
  long sequence = 0;
  int rank = -1;
};

Failure requested_failure() {
  const char* const text = std::getenv("STIPPLE_NCCL_FAIL");
  Failure failure;
  if (text == nullptr) return failure;
  std::array<char, 32> kind{};
  if (std::sscanf(text, "%31[a-z_]@%ld:%d", kind.data(), &failure.sequence, &failure.rank) == 3 ||
      std::sscanf(text, "%31[a-z_]:%d", kind.data(), &failure.rank) == 2) {
    failure.kind = kind.data();
    return failure;
  }
  std::fprintf(stderr, "STIPPLE_NCCL_FAIL=%s is not understood\n", text);
  std::abort();
}

bool fails(const ncclComm& comm, const char* kind, long sequence) {
  static const Failure failure = requested_failure();
  return failure.kind == kind && failure.sequence == sequence && failure.rank == comm.rank;
}

/// Another thread may still look at a communicator that has been ended.
std::vector<std::unique_ptr<ncclComm>>& communicators() {
  static std::vector<std::unique_ptr<ncclComm>> all;
  return all;
}

std::string& last_error() {
  static std::string text;
  return text;
}

uint64_t number_of(const ncclUniqueId& id) {
  uint64_t number = 0;
  std::memcpy(&number, id.internal, sizeof(number));
  return number;
}

/// One poll of a start: duplicate the world, then see that all ranks have the same unique id.
void advance_start(ncclComm& comm) {
  if (comm.is_stalled_at_start || comm.is_aborted) return;
  int done = 0;
  MPI_Test(&comm.request, &done, MPI_STATUS_IGNORE);
  if (!done) return;
  if (!comm.is_duplicated) {
    comm.is_duplicated = true;
    MPI_Iallreduce(MPI_IN_PLACE, comm.id.data(), 2, MPI_UINT64_T, MPI_MAX, comm.mpi, &comm.request);
    return;
  }
  const bool same = comm.id[0] == comm.own_id && comm.id[1] == ~comm.own_id;
  if (!same) last_error() = "the ranks were given different unique ids";
  comm.state = same ? ncclSuccess : ncclInvalidUsage;
  comm.lag = kStartLag;
  comm.is_ready = true;
}

/// Until an abort: what a device does whose peers do not come.
void hang(const ncclComm& comm) {
  while (!comm.is_aborted) std::this_thread::yield();
}

void await_all(const ncclComm& comm, std::vector<MPI_Request>& requests) {
  int done = 0;
  while (!done && !comm.is_aborted) {
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (!done) std::this_thread::yield();
  }
}

struct Call {
  enum class Kind : uint8_t { kAllReduce, kSend, kRecv };
  Kind kind;
  const void* from;
  void* to;
  int count;
  int peer;
  ncclComm_t comm;
  cudaStream_t stream;
};

MPI_Request start(const Call& call) {
  MPI_Request request = MPI_REQUEST_NULL;
  const MPI_Comm mpi = call.comm->mpi;
  switch (call.kind) {
    case Call::Kind::kAllReduce:
      MPI_Iallreduce(call.from == call.to ? MPI_IN_PLACE : call.from, call.to, call.count,
                     MPI_FLOAT, MPI_SUM, mpi, &request);
      break;
    case Call::Kind::kSend:
      MPI_Isend(call.from, call.count, MPI_FLOAT, call.peer, 0, mpi, &request);
      break;
    case Call::Kind::kRecv:
      MPI_Irecv(call.to, call.count, MPI_FLOAT, call.peer, 0, mpi, &request);
      break;
  }
  return request;
}

void perform(ncclComm& comm, const std::vector<Call>& calls) {
  if (comm.is_aborted) return;
  const long sequence = ++comm.sequence;
  if (fails(comm, "async_error", sequence)) {
    last_error() = "injected failure";
    comm.state = ncclRemoteError;
    return hang(comm);
  }
  std::vector<MPI_Request> requests;
  for (const Call& call : calls) requests.push_back(start(call));
  await_all(comm, requests);
  if (fails(comm, "stall", sequence)) hang(comm);
}

ncclResult_t enqueue(std::vector<Call> calls) {
  if (calls.empty()) return ncclSuccess;
  ncclComm& comm = *calls[0].comm;
  if (!comm.is_ready || comm.state != ncclSuccess || comm.lag > 0) return ncclInvalidUsage;
  const bool alike = std::all_of(calls.begin(), calls.end(), [&](const Call& call) {
    return call.comm == calls[0].comm && call.stream == calls[0].stream;
  });
  if (!alike) return ncclInvalidArgument;
  const cudaStream_t stream = calls[0].stream;
  const cudaError_t status =
      cuda_on_cpu::enqueue(stream, [&comm, calls = std::move(calls)] { perform(comm, calls); });
  if (status != cudaSuccess) return ncclUnhandledCudaError;
  if (comm.is_aborted) return ncclInternalError;
  if (comm.is_blocking) return ncclSuccess;
  comm.lag = kCallLag;
  return ncclInProgress;
}

struct Group {
  int depth = 0;
  std::vector<Call> calls;
};
thread_local Group group;

ncclResult_t add(const Call& call, size_t count) {
  if (count > INT_MAX || call.comm == nullptr) return ncclInvalidArgument;
  if (call.peer < 0 || call.peer >= call.comm->size) return ncclInvalidArgument;
  if (group.depth == 0) return enqueue({call});
  group.calls.push_back(call);
  return ncclSuccess;
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::random_device random;
  const uint64_t number = uint64_t{random()} << 32 | random();
  std::memcpy(id->internal, &number, sizeof(number));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  auto made = std::make_unique<ncclComm>();
  MPI_Comm_rank(MPI_COMM_WORLD, &made->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &made->size);
  if (made->rank != rank || made->size != num_ranks) return ncclInvalidArgument;
  made->own_id = number_of(id);
  made->id = {made->own_id, ~made->own_id};
  made->is_blocking = config == nullptr || config->blocking != 0;
  made->is_stalled_at_start = fails(*made, "init_stall", 0);
  if (!made->is_stalled_at_start) MPI_Comm_idup(MPI_COMM_WORLD, &made->mpi, &made->request);
  *comm = communicators().emplace_back(std::move(made)).get();
  if (!(*comm)->is_blocking) return ncclInProgress;
  while (!(*comm)->is_ready) advance_start(**comm);
  (*comm)->lag = 0;
  return static_cast<ncclResult_t>((*comm)->state.load());
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  if (!comm->is_ready) advance_start(*comm);
  *state = static_cast<ncclResult_t>(comm->state.load());
  if (*state == ncclSuccess && comm->lag > 0) {
    --comm->lag;
    *state = ncclInProgress;
  }
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  comm->lag = kCallLag;
  return comm->is_blocking ? ncclSuccess : ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  comm->is_aborted = true;
  MPI_Comm_free(&comm->mpi);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->is_aborted = true;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (group.depth == 0) return ncclInvalidUsage;
  if (--group.depth > 0) return ncclSuccess;
  return enqueue(std::exchange(group.calls, {}));
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t, ncclRedOp_t,
                           ncclComm_t comm, cudaStream_t stream) {
  return add({Call::Kind::kAllReduce, from, to, static_cast<int>(count), 0, comm, stream}, count);
}

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add({Call::Kind::kSend, from, nullptr, static_cast<int>(count), peer, comm, stream},
             count);
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add({Call::Kind::kRecv, nullptr, to, static_cast<int>(count), peer, comm, stream}, count);
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
  }
  return "unknown result code";
}

const char* ncclGetLastError(ncclComm_t) { return last_error().c_str(); }
