// SPDX-License-Identifier: Apache-2.0
// Sums over the steps since the last log line. They are state, so that a resumed run tells the same
// history.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/state_visitor.h"
#include "model/facts.h"
#include "trainer/loop/fact_sums.h"

namespace stipple::trainer {

class Window {
 public:
  /// Sums those facts of a leaf that metrics are made of: its counts, and the loss.
  explicit Window(const model::FactTable&);

  /// One step's.
  void add(double loss, const FactSums&);
  void clear();

  double mean_loss() const;
  /// NaN: there is none of that name. The loss is that of mean_loss(), for all labels.
  double sum(std::string_view fact) const;
  void describe_state(StateVisitor&);

 private:
  std::vector<model::FactId> facts_;
  std::vector<std::string> names_;
  double loss_ = 0;
  std::vector<double> counts_;
  double steps_ = 0;
};

}  // namespace stipple::trainer
