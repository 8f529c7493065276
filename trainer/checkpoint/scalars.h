// SPDX-License-Identifier: Apache-2.0
// Counts and numbers of a run by name, and how components (core/state_visitor.h) give and take
// them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/state_visitor.h"

namespace stipple::trainer {

struct Scalars {
  std::map<std::string, int64_t, std::less<>> counts = {};
  std::map<std::string, std::vector<double>, std::less<>> numbers = {};  ///< bit-exact

  /// CheckpointError when there is none.
  int64_t count(std::string_view name) const;
  const std::vector<double>& list(std::string_view name) const;

  bool operator==(const Scalars&) const = default;
};

/// Error when two components use one name.
Scalars scalars_of(DescribeState);
/// Gives each component its own. CheckpointError naming what is not there; what no component asks
/// for is left alone.
void restore_scalars(const Scalars&, DescribeState);

}  // namespace stipple::trainer
