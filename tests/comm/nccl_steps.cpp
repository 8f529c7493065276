// SPDX-License-Identifier: Apache-2.0
// The program of nccl_failures_test.cpp: ranks that all-reduce and exchange, as a training does.
//   nccl_steps OPERATIONS OPERATION_TIMEOUT_S INIT_TIMEOUT_S [SLEEPER:OPERATION]
// The rank SLEEPER stops before the operation of this number, outside of the communicator.
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "comm/gpu_assignment.h"
#include "core/error.h"
#include "core/log.h"
#include "float_array.h"

namespace stipple::comm {
namespace {

void run(Communicator& control, char** argv) {
  const int operations = std::atoi(argv[1]);
  int sleeper = -1;
  int last = 0;
  if (argv[4] != nullptr) std::sscanf(argv[4], "%d:%d", &sleeper, &last);

  const Stream stream(cuda_device(choose_cuda_device(control)));
  const auto nccl = make_nccl_communicator(
      control, stream,
      {.init_timeout_s = std::atof(argv[3]), .operation_timeout_s = std::atof(argv[2])});
  const auto ranks = static_cast<size_t>(control.size());
  const test::FloatArray values(&stream, std::vector<float>(64, 0.0f));
  const test::FloatArray arrived(&stream, std::vector<float>(ranks, 0.0f));
  std::vector<std::span<const float>> send(ranks, values.span().subspan(0, 1));
  std::vector<std::span<float>> recv;
  for (size_t r = 0; r < ranks; ++r) recv.push_back(arrived.span().subspan(r, 1));
  for (int i = 1; i <= operations; ++i) {
    if (control.rank() == sleeper && i == last) std::this_thread::sleep_for(std::chrono::hours(1));
    nccl->wait(i % 2 == 1 ? nccl->all_reduce_sum(values.span()) : nccl->exchange(send, recv));
    stream.synchronize();
  }
  nccl->barrier();
}

}  // namespace
}  // namespace stipple::comm

int main(int, char** argv) {
  const auto control = stipple::comm::make_mpi_communicator();
  stipple::log::set_rank(control->rank(), control->size());
  try {
    stipple::comm::run(*control, argv);
  } catch (const stipple::Error& e) {
    if (e.is_collective()) {
      if (control->rank() == 0) stipple::log::error(e.what());
      return 2;
    }
    stipple::log::fatal(e.what());
    stipple::comm::abort_job(1);
  }
}
