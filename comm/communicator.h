// SPDX-License-Identifier: Apache-2.0
// Ranks that work on one training job. Data moves through transports in subfolders: `mpi/`
// (processes), `nccl/` (their GPUs), `threads/` (ranks in one process, for tests). Every call is
// collective unless it says otherwise: all ranks make the same calls in the same order. Errors of
// the transport throw CommError with rank, operation and sequence number; there is no recovery in
// place. A rank that never comes to a call is such an error on the others, once the time-out is
// over.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/function_ref.h"
#include "core/stream.h"

namespace stipple::comm {

enum class Reduction : uint8_t { kSum, kMin, kMax };

/// A started operation; hand it to wait(). Copyable, no ownership.
struct Pending {
  int64_t id = -1;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Position among the ranks of this machine, and their number.
  virtual int local_rank() const = 0;
  virtual int local_size() const = 0;

  // --- bulk data; buffers must stay alive and untouched until wait() returns ---------------------
  /// In place; the order of the sum is the transport's own.
  virtual Pending all_reduce_sum(std::span<float>) = 0;
  /// Rank r gets the bytes recv[r'] of every r' (sizes agreed beforehand): the building block of
  /// fixed-order reductions.
  ///   send[d] goes to rank d, recv[s] comes from rank s; empty spans move nothing.
  /// Spans of several rounds, as many on all ranks, may follow each other: they travel together.
  virtual Pending exchange(std::span<const std::span<const float>> send,
                           std::span<const std::span<float>> recv) = 0;
  virtual void wait(Pending) = 0;
  /// Lets started operations advance; never blocks. Cheap; called between layers. It also tells the
  /// others, now and then, that this rank works, so that their time-out does not take it for dead.
  virtual void progress() = 0;
  /// Call it after each launch of a graph in which operations were captured: those are not watched
  /// one by one, so the launch is. The host does not wait.
  virtual void launched(const char* /*graph*/) {}

  /// How long this rank waits, in one call, for others of which it hears nothing: then CommError
  /// names them and their machines. `key` is the configuration's, for the message. At first
  /// kStartTimeout_s.
  virtual void set_timeout(double /*seconds*/, const char* /*key*/) {}

  // --- control: small, blocking ------------------------------------------------------------------
  virtual void barrier() = 0;
  virtual void broadcast(std::span<std::byte>, int root) = 0;
  virtual void all_reduce(std::span<double>, Reduction) = 0;
  virtual void all_reduce(std::span<int64_t>, Reduction) = 0;
  /// What every rank put in, by rank; the results exist on every rank.
  virtual std::vector<std::string> all_gather(const std::string&) = 0;

  // --- conveniences over the above ---------------------------------------------------------------
  double all_reduce(double value, Reduction);
  int64_t all_reduce(int64_t value, Reduction);
  std::string broadcast(std::string text, int root);
  bool any(bool flag);  ///< true on every rank if it is true on one
};

/// Of an exchange's spans, for its implementations: how many rounds. CommError where they are none,
/// or where a rank sends itself what it does not expect.
size_t exchange_rounds(const Communicator&, std::span<const std::span<const float>> send,
                       std::span<const std::span<float>> recv);

/// Runs body on every rank. If it throws on some, all throw: the error of the lowest such rank, of
/// the same type and marked collective. How a local fault becomes everybody's. A CommError passes
/// as it is, because then ranks cannot agree. Body may communicate only if it throws on all ranks
/// or on none before it does.
void agree(Communicator&, FunctionRef<void()> body);

/// For ranks to find each other and to agree on the configuration, which says how long they wait
/// later.
inline constexpr double kStartTimeout_s = 120;

/// The world that mpirun started, or a single rank when it did not. Initialises MPI on first use,
/// once per process; the returned object finalises it. CommError when MPI cannot start; the process
/// ends with exit code 1 when ranks do not find each other in time.
std::unique_ptr<Communicator> make_mpi_communicator(double start_timeout_s = kStartTimeout_s);

/// One rank and no transport: every operation is the identity.
std::unique_ptr<Communicator> make_single_communicator();

struct NcclOptions {
  double init_timeout_s = 300;       ///< for all ranks to find each other
  double operation_timeout_s = 600;  ///< for an operation, after the one before it
};
/// Bulk data in device memory: operations start after the work that is already enqueued on
/// `compute`; what is enqueued there after wait() sees the result; the host does not wait. Control
/// goes by `control`. A watchdog ends the job when operations fail or do not end. Collective;
/// `control` and `compute` must outlive it. CommError when the ranks do not find each other in
/// time.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& control, const Stream& compute,
                                                     const NcclOptions&);

/// Ends the whole job at once, all ranks, with this exit code. For the last line of `main`; never
/// returns.
[[noreturn]] void abort_job(int exit_code) noexcept;

}  // namespace stipple::comm
