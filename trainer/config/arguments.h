// SPDX-License-Identifier: Apache-2.0
// Configuration as it is given on a command line: files and key=value overrides, in any order.
#pragma once

#include <string>
#include <vector>

namespace stipple::trainer {

struct ConfigArguments {
  std::vector<std::string> files;
  std::vector<std::string> overrides;
};

/// An argument with '=' that is no existing file is an override, any other a file or the name of
/// one. ConfigError as below.
ConfigArguments split_config_arguments(const std::vector<std::string>& arguments);

/// "train.steps = 50" arrives as three arguments, none of which means anything alone. ConfigError,
/// collective, that shows how to write it.
void refuse_spaced_assignments(const std::vector<std::string>& arguments);

}  // namespace stipple::trainer
