// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "comm/gpu_assignment.h"
#include "core/cpu/cores.h"
#include "core/cpu/isa.h"
#include "core/cuda/runtime.h"
#include "core/error.h"
#include "core/stopwatch.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/rank_checks.h"
#include "trainer/exit_code.h"
#include "trainer/record/host_name.h"

namespace stipple::trainer {
namespace {

double memory_gb() {
  return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE)) /
         1e9;
}

/// Microseconds of a small all-reduce: thousands mean that ranks outnumber cores and spin.
double all_reduce_us(comm::Communicator& communicator) {
  constexpr int kRounds = 50;
  communicator.barrier();
  Stopwatch watch;
  for (int i = 0; i < kRounds; ++i) communicator.all_reduce(1.0, comm::Reduction::kSum);
  return watch.lap() / kRounds * 1e6;
}

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

void print_gpu(int device, int count) {
  const cuda::DeviceInfo info = cuda::device_info(device);
  fmt::print("  {:<3} {}, compute {}.{}, {} multiprocessors, {:.1f} of {:.1f} GB free, {}\n",
             device, info.name, info.compute_major, info.compute_minor, info.multiprocessors,
             static_cast<double>(info.free_bytes) / 1e9,
             static_cast<double>(info.total_bytes) / 1e9, info.bus_id);
  for (int peer = 0; peer < count; ++peer) {
    if (peer != device && !cuda::can_access_peer(device, peer)) {
      fmt::print("      no direct access to the memory of GPU {}\n", peer);
    }
  }
}

/// The devices of rank 0's machine, and which pairs can read each other's memory.
void print_cuda() {
  if (!cuda::is_built()) {
    fmt::print("cuda         {}\n", cuda::why_no_device());
    return;
  }
  const int driver = cuda::driver_version();
  fmt::print("cuda         built for {}, driver {}, NCCL {}\n",
             version_text(cuda::runtime_version()),
             driver == 0 ? "none" : "serves " + version_text(driver), comm::nccl_version());
  const int count = cuda::device_count();
  if (count == 0) fmt::print("gpus         none: {}\n", cuda::why_no_device());
  for (int device = 0; device < count; ++device) {
    try {
      print_gpu(device, count);
    } catch (const CudaError& e) {
      fmt::print("  {:<3} {}\n", device, e.what());
    }
  }
}

/// What device=cuda would use, by rank; why it cannot, where it cannot.
std::string cuda_choice(comm::Communicator& communicator) {
  try {
    return fmt::format(", would use GPU {}", comm::choose_cuda_device(communicator));
  } catch (const ConfigError& e) {
    return cuda::is_built() ? fmt::format("; device=cuda: {}", e.what()) : "";
  }
}

/// The job this runs in, if any.
void print_slurm() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  const std::string job = variable("SLURM_JOB_ID");
  if (job.empty()) return;
  const std::string end = variable("SLURM_JOB_END_TIME");
  fmt::print("slurm        job {} on {}, {}\n", job, variable("SLURM_JOB_NODELIST"),
             end.empty() ? "whose end is not told (SLURM_JOB_END_TIME): a run leaves in time under "
                           "launch/slurm.sbatch, which asks for it"
                         : "whose end is told");
}

}  // namespace

int doctor(comm::Communicator& communicator, const std::string& folder) {
  const int cores = cpu::allowed_cores();
  const std::string gpu = cuda_choice(communicator);
  const std::vector<std::string> ranks = communicator.all_gather(
      fmt::format("{:<20} local rank {}/{}, {} cores allowed, {}, {:.1f} GB memory{}", host_name(),
                  communicator.local_rank(), communicator.local_size(), cores,
                  cpu::isa_name(cpu::isa()), memory_gb(), gpu));
  const double latency = all_reduce_us(communicator);
  std::vector<Finding> findings = {check_shared_folder(communicator, folder)};
  if (communicator.size() > 1) {
    findings.push_back(check_clocks(communicator));
    findings.push_back(check_bandwidth(communicator));
    findings.push_back(check_interfaces(communicator));
  }
  if (communicator.rank() != 0) return kDone;

  fmt::print("stipple      {}\n", STIPPLE_VERSION);
  print_cuda();
  fmt::print("kernels      ");
  for (const cpu::Isa isa : cpu::available_isas()) fmt::print("{} ", cpu::isa_name(isa));
  fmt::print("(in use: {}{}; STIPPLE_ISA and STIPPLE_VNNI choose)\n", cpu::isa_name(cpu::isa()),
             cpu::has_vnni() ? " with VNNI" : "");
  print_slurm();
  fmt::print("ranks        {}\n", communicator.size());
  for (size_t i = 0; i < ranks.size(); ++i) fmt::print("  {:<3} {}\n", i, ranks[i]);
  if (communicator.size() > 1) fmt::print("all-reduce   {:.0f} us for one number\n", latency);
  for (const Finding& finding : findings) {
    if (finding.title.empty()) continue;
    fmt::print("{:<12} {}\n", finding.title, finding.text);
    if (!finding.advice.empty()) fmt::print("note         {}\n", finding.advice);
  }
  if (communicator.local_size() > cores) {
    fmt::print("note         {} ranks share {} cores: correct, but slower than one rank per core\n",
               communicator.local_size(), cores);
  }
  if (latency > 2000) {
    fmt::print(
        "note         ranks wait for each other too long; set OMPI_MCA_mpi_yield_when_idle=1 and\n"
        "             OMPI_MCA_hwloc_base_binding_policy=none (launch/mpi_environment.sh)\n");
  }
  return kDone;
}

}  // namespace stipple::trainer
