// SPDX-License-Identifier: Apache-2.0
#include "model/facts.h"

#include <algorithm>

namespace stipple::model {
namespace {

int64_t words_of(const Fact& fact) {
  const bool is_half = fact.type == FactType::kInt32 || fact.type == FactType::kFloat;
  return is_half ? (fact.size + 1) / 2 : fact.size;
}

}  // namespace

FactTable::FactTable(int64_t layers) : layers_(layers) {
  declare<double>(kLossSum);
  declare<int64_t>(kLabels);
  declare_per_layer<double>(kAuxiliaryLoss);
}

FactId FactTable::find(std::string_view name) const {
  const auto found = std::find_if(facts_.begin(), facts_.end(),
                                  [&](const Fact& fact) { return fact.name == name; });
  return {found == facts_.end() ? -1 : static_cast<int>(found - facts_.begin())};
}

FactId FactTable::add(Fact fact) {
  const FactId known = find(fact.name);
  if (known.exists()) {
    fact.offset = this->fact(known).offset;
    STIPPLE_CHECK(fact == this->fact(known), "fact '", fact.name,
                  "' is declared twice, with two meanings");
    return known;
  }
  int64_t& end = fact.per_layer ? layer_words_ : leaf_words_;
  fact.offset = end;
  end += words_of(fact);
  facts_.push_back(std::move(fact));
  return {static_cast<int>(facts_.size()) - 1};
}

void FactTable::show(const Figure& figure) {
  const bool is_known = std::any_of(figures_.begin(), figures_.end(),
                                    [&](const Figure& f) { return f.name == figure.name; });
  if (!is_known) figures_.push_back(figure);
}

void FactTable::require_zero(const Limit& limit) {
  const bool is_known = std::any_of(limits_.begin(), limits_.end(), [&](const Limit& l) {
    return l.fact.index == limit.fact.index;
  });
  if (!is_known) limits_.push_back(limit);
}

}  // namespace stipple::model
