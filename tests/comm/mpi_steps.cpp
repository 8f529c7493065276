// SPDX-License-Identifier: Apache-2.0
// The program of mpi_failures_test.cpp: ranks that all-reduce, as a training does.
//   mpi_steps WHAT TIMEOUT_S RANK
// WHAT happens to RANK before its fifth exchange: nothing, stop (as by SIGSTOP), suspend (all ranks
// are stopped for twice the time-out and go on), work (for twice the time-out, and says so), end
// (it stops after the last exchange), late (it does not even start).
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>

#include "comm/communicator.h"
#include "core/error.h"
#include "core/log.h"

namespace stipple::comm {
namespace {

using Seconds = std::chrono::duration<double>;

void work(Communicator& communicator, double seconds) {
  const auto end = std::chrono::steady_clock::now() + Seconds(seconds);
  while (std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    communicator.progress();
  }
}

/// Not at the same moment on all ranks: some already wait for the others.
void suspend(const Communicator& communicator, double seconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(100 * communicator.rank()));
  if (fork() == 0) {
    std::this_thread::sleep_for(Seconds(seconds));
    kill(getppid(), SIGCONT);
    _exit(0);
  }
  raise(SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
}

void run(Communicator& communicator, const std::string& what, double timeout_s, int rank) {
  communicator.set_timeout(timeout_s, "comm.timeout_s");
  for (int i = 1; i <= 8; ++i) {
    if (i == 5 && what == "suspend") suspend(communicator, 2 * timeout_s);
    if (i == 5 && communicator.rank() == rank) {
      if (what == "stop") raise(SIGSTOP);
      if (what == "work") work(communicator, 2 * timeout_s);
    }
    communicator.all_reduce(1.0, Reduction::kSum);
  }
  if (what == "end" && communicator.rank() == rank) raise(SIGSTOP);
}

}  // namespace
}  // namespace stipple::comm

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::string what = argv[1];
  const double timeout_s = std::atof(argv[2]);
  const int rank = std::atoi(argv[3]);
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // nothing is left of a job whose mpirun is killed
  const char* own_rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (what == "late" && own_rank != nullptr && std::atoi(own_rank) == rank) raise(SIGSTOP);
  const auto communicator = what == "late" ? stipple::comm::make_mpi_communicator(timeout_s)
                                           : stipple::comm::make_mpi_communicator();
  stipple::log::set_rank(communicator->rank(), communicator->size());
  try {
    stipple::comm::run(*communicator, what, timeout_s, rank);
  } catch (const stipple::Error& e) {
    stipple::log::fatal(e.what());
    stipple::comm::abort_job(1);
  }
}
