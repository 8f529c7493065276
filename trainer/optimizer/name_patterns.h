// SPDX-License-Identifier: Apache-2.0
// Patterns of tensor names, as configurations give them: "encoder.*.bias, head.*".
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace stipple::trainer {

class NamePatterns {
 public:
  /// `text`: patterns with commas between; * stands for any letters, ? for one. `key` is the one
  /// that gives them, for messages.
  NamePatterns(std::string key, std::string_view text);

  bool empty() const { return patterns_.empty(); }
  bool match(const std::string& name) const;
  /// ConfigError for a pattern that matches none of `names`, with what may have been meant.
  void require_matches(const std::vector<std::string>& names) const;

 private:
  std::string key_;
  std::vector<std::string> patterns_;
};

}  // namespace stipple::trainer
