// SPDX-License-Identifier: Apache-2.0
// How many cores this process may use.
#pragma once

namespace stipple::cpu {

/// Cores in the process's affinity mask (taskset, cgroups with cpusets, mpirun and Slurm bindings),
/// at least 1.
int allowed_cores();

}  // namespace stipple::cpu
