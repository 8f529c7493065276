// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/window.h"

#include <algorithm>
#include <limits>

namespace stipple::trainer {

Window::Window(const model::FactTable& table) {
  for (const model::Fact& fact : table.facts()) {
    if (fact.per_layer || fact.type != model::FactType::kInt64) continue;
    facts_.push_back(table.find(fact.name));
    names_.push_back(fact.name);
  }
  clear();
}

void Window::add(double loss, const FactSums& facts) {
  loss_ += loss;
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += facts.total(facts_[i]);
  steps_ += 1;
}

void Window::clear() {
  loss_ = steps_ = 0;
  counts_.assign(facts_.size(), 0);
}

double Window::mean_loss() const { return loss_ / std::max(1.0, steps_); }

double Window::sum(std::string_view fact) const {
  if (fact == model::kLossSum) return mean_loss() * sum(model::kLabels);
  const auto found = std::find(names_.begin(), names_.end(), fact);
  if (found == names_.end()) return std::numeric_limits<double>::quiet_NaN();
  return counts_[static_cast<size_t>(found - names_.begin())];
}

void Window::describe_state(StateVisitor& v) {
  v.number("window/loss", loss_);
  for (size_t i = 0; i < names_.size(); ++i) v.number("window/" + names_[i], counts_[i]);
  v.number("window/steps", steps_);
}

}  // namespace stipple::trainer
