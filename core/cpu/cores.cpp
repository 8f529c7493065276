// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/cores.h"

#include <sched.h>

#include <algorithm>
#include <thread>

namespace stipple::cpu {

int allowed_cores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  // Fails on machines with more than 1024 cores: then all of them are assumed.
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) return std::max(1, CPU_COUNT(&mask));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace stipple::cpu
