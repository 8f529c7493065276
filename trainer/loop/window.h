// SPDX-License-Identifier: Apache-2.0
// Sums over the steps since the last log line. They are state, so that a resumed run tells the same
// history.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/state_visitor.h"
#include "model/facts.h"

namespace stipple::trainer {

class Window {
 public:
  /// Sums those facts of a leaf that metrics are made of: its counts.
  explicit Window(const model::FactTable&);

  std::span<const model::FactId> facts() const { return facts_; }
  /// `counts` by facts().
  void add(double loss, std::span<const double> counts);
  void clear();

  double mean_loss() const;
  double sum(std::string_view fact) const;  ///< NaN: there is none of that name
  void describe_state(StateVisitor&);

 private:
  std::vector<model::FactId> facts_;
  std::vector<std::string> names_;
  double loss_ = 0;
  std::vector<double> counts_;
  double steps_ = 0;
};

}  // namespace stipple::trainer
