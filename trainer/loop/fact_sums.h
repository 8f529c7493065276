// SPDX-License-Identifier: Apache-2.0
// The facts of many leaves, brought together over leaves and ranks as the table says.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "core/function_ref.h"
#include "model/facts.h"
#include "trainer/record/metrics.h"

namespace stipple::trainer {

/// `value` of every figure that layers have, by layer.
std::vector<LayerRecord> layer_records(
    const model::FactTable&,
    FunctionRef<double(const model::Figure&, int64_t layer, int64_t i)> value);

class FactSums {
 public:
  /// Room for the facts of `num_leaves` leaves, of all ranks together. The table must outlive this.
  FactSums(const model::FactTable&, int64_t num_leaves);

  void clear();
  /// Adds what one leaf told; host memory. Every leaf comes at most once, on one rank.
  void add(int64_t leaf, const model::Facts&);
  /// Every rank then holds what all ranks added. Floating-point numbers are added in the order of
  /// the leaves: the same bits for any number of ranks. Collective.
  void all_reduce(comm::Communicator&);

  /// Summed over layers and values.
  double total(model::FactId) const;
  double total(std::string_view name) const { return total(table_.find(name)); }
  /// One value of one layer.
  double value(model::FactId, int64_t layer, int64_t i) const;
  /// NaN where there is nothing to divide by.
  double figure(const model::Figure&) const;
  double figure(const model::Figure&, int64_t layer, int64_t i) const;

  /// ConfigError of all ranks, once all_reduce() has made the sums theirs.
  void require_limits() const;

 private:
  size_t slot(model::FactId, int64_t layer, int64_t i) const;

  const model::FactTable& table_;
  int64_t num_leaves_;
  std::vector<size_t> first_;     // by fact: of its slots, in the array of its kind
  std::vector<int64_t> counts_;   // sums of integers
  std::vector<double> per_leaf_;  // sums of floating-point numbers: [slots, num_leaves]
  std::vector<double> same_;
};

}  // namespace stipple::trainer
