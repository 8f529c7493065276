// SPDX-License-Identifier: Apache-2.0
// Which GPU each rank works on: one each, by position on the machine. Refuses what cannot work
// before anything is started.
#pragma once

#include <span>
#include <string>

#include "comm/communicator.h"

namespace stipple::comm {

/// The index of this rank's GPU among those it sees. Collective; throws the same ConfigError on all
/// ranks when one of them has no GPU, an old one, or one that another rank uses, too.
int choose_cuda_device(Communicator&);

/// "2.28.9", of the library that is loaded; empty in builds without CUDA.
std::string nccl_version();

/// What one rank sees.
struct GpuView {
  std::string host;
  int num_gpus = 0;
  std::string why_no_gpu;  ///< empty: there is one
  std::string name;        ///< of the GPU at this rank's place
  std::string bus_id;
  int compute_major = 0;
  int compute_minor = 0;
};
/// The place of a rank's GPU: launchers may show each rank only its own.
int gpu_index(int local_rank, int num_gpus);
/// Why these ranks cannot work like this, as one line; empty if they can.
std::string gpu_objection(std::span<const GpuView> view_of_rank);

}  // namespace stipple::comm
