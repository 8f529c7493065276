// SPDX-License-Identifier: Apache-2.0
// What `stipple sparsefinder sweep` found, as a table and as a page: of each way to predict a graph,
// how sparse it is and what it is worth.
#pragma once

#include <string>
#include <vector>

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
  std::string metric = {};  ///< its name
  bool is_share = false;    ///< shown in percent
  bool falls = false;       ///< a lower one is better
  double exact_metric = 0;  ///< of exact attention
  std::vector<SweepPoint> points = {};
};

/// Whether no other point is at least as sparse and recalls more, or as much and is sparser.
std::vector<bool> on_frontier(const Sweep&);

/// A header line, then a line per point.
std::string sweep_csv(const Sweep&);
/// Self-contained: sparsity against recall, dropped mass and the metric, and the table.
std::string sweep_page(const Sweep&, const std::string& run_name);

}  // namespace stipple::trainer
