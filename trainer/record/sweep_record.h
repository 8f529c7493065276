// SPDX-License-Identifier: Apache-2.0
// What `stipple sparsefinder sweep` found, as a table and as a page: of each way to predict a graph,
// how sparse it is and what it is worth.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/metric.h"

namespace stipple::trainer {

/// One way to predict, evaluated.
struct SweepPoint {
  std::string predictor = {};  ///< "cluster", ..., "window", "global"
  std::string setting = {};    ///< "clusters=16 top=1"
  int64_t window = 0;
  double density = 0, recall = 0, precision = 0, exact = 0, dropped_mass = 0;
  double loss = 0;
  double metric = 0;

  double sparsity() const { return 1 - density; }
};

struct Sweep {
  data::Metric metric = {};
  SweepPoint exact = {};  ///< exact attention: its density is that of its support
  std::vector<SweepPoint> points = {};
};

/// Which points no other is better than in one of sparsity and value, and at least as good as in both.
std::vector<bool> on_frontier(const std::vector<SweepPoint>&,
                              const std::function<double(const SweepPoint&)>& value, bool falls);

/// A header line, then a line for exact attention, then a line per point; the frontier is that of
/// recall.
std::string sweep_csv(const Sweep&);
/// ConfigError where something else than such a table has that name.
void require_own_sweep(const std::string& csv);
/// Self-contained: sparsity against recall, dropped mass and the metric, each with its frontier, and
/// the table.
std::string sweep_page(const Sweep&, const std::string& run_name);

}  // namespace stipple::trainer
