// SPDX-License-Identifier: Apache-2.0
// The name by which records and messages call a machine.
#pragma once

#include <string>

namespace stipple::trainer {

/// Of the one that this process runs on.
std::string host_name();

}  // namespace stipple::trainer
