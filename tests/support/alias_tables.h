// SPDX-License-Identifier: Apache-2.0
// Alias tables of given weights, for tests: made by the samplers' own kernels, and again entry by
// entry as CUDA does.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/cpu/sample/sample.h"

namespace stipple::test {

using kernels::math::AliasEntry;
using Weights = std::vector<uint32_t>;
using AliasTable = std::vector<AliasEntry>;

inline uint64_t sum_of(const Weights& weights) {
  return std::accumulate(weights.begin(), weights.end(), uint64_t{0});
}

/// All of them in one call: at most kAliasColumns, of equal size.
inline std::vector<AliasTable> make_alias_tables(const kernels::cpu::SampleKernels& kernels,
                                                 const std::vector<Weights>& columns) {
  using kernels::cpu::AliasBuild;
  const size_t n = columns.front().size();
  const auto stride = static_cast<size_t>(AliasBuild::stride_of(static_cast<int64_t>(n)));
  Weights weights(columns.size() * stride, 12345u);  // what lies between columns must not matter
  std::vector<uint64_t> totals;
  for (size_t c = 0; c < columns.size(); ++c) {
    std::copy(columns[c].begin(), columns[c].end(), weights.data() + c * stride);
    totals.push_back(sum_of(columns[c]));
  }
  std::vector<uint64_t> items(columns.size() * 2 * stride);
  AliasTable entries(columns.size() * n);
  kernels.build_alias_tables({.weights = weights.data(),
                              .totals = totals.data(),
                              .items = items.data(),
                              .entries = entries.data(),
                              .num_columns = static_cast<int64_t>(columns.size()),
                              .num_keys = static_cast<int64_t>(n)});
  std::vector<AliasTable> tables;
  for (size_t c = 0; c < columns.size(); ++c) {
    tables.emplace_back(entries.data() + c * n, entries.data() + (c + 1) * n);
  }
  return tables;
}

inline AliasTable make_alias_table(const Weights& weights) {
  return make_alias_tables(kernels::cpu::kSampleScalar, {weights}).front();
}

/// Every entry by itself, from running sums.
inline AliasTable alias_table_by_search(const Weights& weights) {
  const uint64_t total = sum_of(weights);
  const uint64_t n = weights.size();
  std::vector<uint32_t> light, heavy;
  std::vector<uint64_t> deficits, surpluses;
  AliasTable table;
  for (uint64_t j = 0; j < n; ++j) {
    table.push_back(kernels::math::full_entry(static_cast<int64_t>(j)));
    const uint64_t weight = n * weights[j];
    if (weight < total) {
      light.push_back(static_cast<uint32_t>(j));
      deficits.push_back((deficits.empty() ? 0 : deficits.back()) + (total - weight));
    } else if (weight > total) {
      heavy.push_back(static_cast<uint32_t>(j));
      surpluses.push_back((surpluses.empty() ? 0 : surpluses.back()) + (weight - total));
    }
  }
  const kernels::math::AliasLists lists{.total = total,
                                        .scale = kernels::math::threshold_scale(total),
                                        .num_light = static_cast<int64_t>(light.size()),
                                        .num_heavy = static_cast<int64_t>(heavy.size()),
                                        .light = light.data(),
                                        .heavy = heavy.data(),
                                        .deficits = deficits.data(),
                                        .surpluses = surpluses.data()};
  for (size_t i = 0; i < light.size(); ++i) {
    table[light[i]] = lists.light_entry(static_cast<int64_t>(i));
  }
  for (size_t j = 0; j < heavy.size(); ++j) {
    table[heavy[j]] = lists.heavy_entry(static_cast<int64_t>(j));
  }
  return table;
}

}  // namespace stipple::test
