// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/fact_sums.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace stipple::trainer {
namespace {

using model::Fact;
using model::FactId;
using model::FactType;
using model::Unite;

enum class Kind : uint8_t { kCount, kPerLeaf, kSame };

Kind kind_of(const Fact& fact) {
  if (fact.unite == Unite::kSame) return Kind::kSame;
  const bool is_integer = fact.type == FactType::kInt64 || fact.type == FactType::kInt32;
  return is_integer ? Kind::kCount : Kind::kPerLeaf;
}

int64_t layers_of(const Fact& fact, const model::FactTable& table) {
  return fact.per_layer ? table.layers() : 1;
}

/// visit(FactId, layer, index, view of the stored type) for every value of a block.
template <class Visit>
void for_each_value(const model::FactTable& table, const model::Facts& facts, Visit visit) {
  for (int index = 0; index < static_cast<int>(table.facts().size()); ++index) {
    const FactId id{index};
    const Fact& fact = table.fact(id);
    for (int64_t layer = 0; layer < layers_of(fact, table); ++layer) {
      for (int64_t i = 0; i < fact.size; ++i) {
        switch (fact.type) {
          case FactType::kInt64:
            visit(id, layer, i, facts.at<int64_t>(id, layer)[i]);
            break;
          case FactType::kInt32:
            visit(id, layer, i, int64_t{facts.at<int32_t>(id, layer)[i]});
            break;
          case FactType::kDouble:
            visit(id, layer, i, facts.at<double>(id, layer)[i]);
            break;
          case FactType::kFloat:
            visit(id, layer, i, static_cast<double>(facts.at<float>(id, layer)[i]));
            break;
        }
      }
    }
  }
}

}  // namespace

std::vector<LayerRecord> layer_records(
    const model::FactTable& table,
    FunctionRef<double(const model::Figure&, int64_t layer, int64_t i)> value) {
  std::vector<LayerRecord> records;
  if (table.figures().empty()) return records;
  for (int64_t layer = 0; layer < table.layers(); ++layer) {
    LayerRecord& record = records.emplace_back();
    for (const model::Figure& figure : table.figures()) {
      const model::Fact& fact = table.fact(figure.over);
      if (!fact.per_layer) continue;
      std::vector<double>& values = record.emplace_back(figure.name, 0).second;
      for (int64_t i = 0; i < fact.size; ++i) values.push_back(value(figure, layer, i));
    }
  }
  return records;
}

FactSums::FactSums(const model::FactTable& table, int64_t num_leaves)
    : table_(table), num_leaves_(num_leaves) {
  size_t ends[3] = {0, 0, 0};
  for (const Fact& fact : table.facts()) {
    size_t& end = ends[static_cast<size_t>(kind_of(fact))];
    first_.push_back(end);
    end += static_cast<size_t>(layers_of(fact, table) * fact.size);
  }
  counts_.resize(ends[static_cast<size_t>(Kind::kCount)]);
  per_leaf_.resize(ends[static_cast<size_t>(Kind::kPerLeaf)] * static_cast<size_t>(num_leaves));
  same_.resize(ends[static_cast<size_t>(Kind::kSame)]);
}

size_t FactSums::slot(FactId id, int64_t layer, int64_t i) const {
  return first_[static_cast<size_t>(id.index)] +
         static_cast<size_t>(layer * table_.fact(id).size + i);
}

void FactSums::clear() {
  std::fill(counts_.begin(), counts_.end(), int64_t{0});
  std::fill(per_leaf_.begin(), per_leaf_.end(), 0.0);
  std::fill(same_.begin(), same_.end(), 0.0);
}

void FactSums::add(int64_t leaf, const model::Facts& facts) {
  for_each_value(table_, facts, [&](FactId id, int64_t layer, int64_t i, auto value) {
    const size_t at = slot(id, layer, i);
    switch (kind_of(table_.fact(id))) {
      case Kind::kCount:
        counts_[at] += static_cast<int64_t>(value);
        break;
      case Kind::kPerLeaf:
        per_leaf_[at * static_cast<size_t>(num_leaves_) + static_cast<size_t>(leaf)] =
            static_cast<double>(value);
        break;
      case Kind::kSame:
        same_[at] = static_cast<double>(value);
        break;
    }
  });
}

void FactSums::all_reduce(comm::Communicator& communicator) {
  communicator.all_reduce(std::span<int64_t>(counts_), comm::Reduction::kSum);
  // Each entry is non-zero on one rank only, so the transport's order cannot change its bits.
  communicator.all_reduce(std::span<double>(per_leaf_), comm::Reduction::kSum);
  // A rank without leaves knows none of these.
  communicator.all_reduce(std::span<double>(same_), comm::Reduction::kMax);
}

double FactSums::value(FactId id, int64_t layer, int64_t i) const {
  const size_t at = slot(id, layer, i);
  switch (kind_of(table_.fact(id))) {
    case Kind::kCount:
      return static_cast<double>(counts_[at]);
    case Kind::kSame:
      return same_[at];
    case Kind::kPerLeaf:
      break;
  }
  double sum = 0;
  for (int64_t leaf = 0; leaf < num_leaves_; ++leaf)
    sum += per_leaf_[at * static_cast<size_t>(num_leaves_) + static_cast<size_t>(leaf)];
  return sum;
}

double FactSums::total(FactId id) const {
  const Fact& fact = table_.fact(id);
  const size_t begin = slot(id, 0, 0);
  const size_t end = begin + static_cast<size_t>(layers_of(fact, table_) * fact.size);
  double sum = 0;
  if (kind_of(fact) == Kind::kPerLeaf) {
    for (size_t leaf = 0; leaf < static_cast<size_t>(num_leaves_); ++leaf) {
      double of_leaf = 0;
      for (size_t at = begin; at < end; ++at)
        of_leaf += per_leaf_[at * static_cast<size_t>(num_leaves_) + leaf];
      sum += of_leaf;
    }
    return sum;
  }
  for (size_t at = begin; at < end; ++at)
    sum += kind_of(fact) == Kind::kCount ? static_cast<double>(counts_[at]) : same_[at];
  return sum;
}

double FactSums::figure(const model::Figure& figure) const {
  if (!figure.under.exists()) return total(figure.over);
  const double under = total(figure.under);
  return under == 0 ? std::numeric_limits<double>::quiet_NaN() : total(figure.over) / under;
}

double FactSums::figure(const model::Figure& figure, int64_t layer, int64_t i) const {
  if (!figure.under.exists()) return value(figure.over, layer, i);
  const double under = value(figure.under, layer, i);
  return under == 0 ? std::numeric_limits<double>::quiet_NaN()
                    : value(figure.over, layer, i) / under;
}

void FactSums::require_limits() const {
  for (const model::Limit& limit : table_.limits()) {
    const auto excess = static_cast<int64_t>(total(limit.fact));
    if (excess == 0) continue;
    ConfigError error(detail::concat(limit.message_before, excess, limit.message_after));
    error.set_collective();
    throw error;
  }
}

}  // namespace stipple::trainer
