// SPDX-License-Identifier: Apache-2.0
// What another configuration means for a run that has begun: which keys may have new values from
// the next step on, and which would contradict what was learned so far.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "trainer/config/config_text.h"

namespace stipple::trainer {

struct ConfigChanges {
  std::vector<KeyDifference> refused = {};  ///< the run is another with these; model keys first
  std::vector<KeyDifference> applied = {};  ///< take effect from here on
};

/// Both as config_to_yaml writes them, of this version or an earlier one: a key that only one side
/// knows is no change.
ConfigChanges changes_between(std::string_view stored_yaml, std::string_view now_yaml);

/// How long, how fast, where and how closely watched a run is may change; not what it learns from,
/// which model it is, or what the moments of its optimizer are averages of.
bool may_change(std::string_view key);

/// The keys and sections ("optimizer.schedule.") that may_change() allows.
const std::vector<std::string_view>& changeable_keys();

}  // namespace stipple::trainer
