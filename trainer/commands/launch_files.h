// SPDX-License-Identifier: Apache-2.0
// Scripts of the folder launch/, which the program carries with it: a job that `stipple submit` made
// needs nothing of the working tree.
#pragma once

#include <span>
#include <string_view>

namespace stipple::trainer {

struct LaunchFile {
  std::string_view name;
  std::string_view text;
};

/// slurm.sbatch first, then what it calls from its own folder.
std::span<const LaunchFile> launch_files();

}  // namespace stipple::trainer
