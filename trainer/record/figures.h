// SPDX-License-Identifier: Apache-2.0
// figures.json of a run: how the numbers in metrics.jsonl that its task and model declared are to
// be shown. Without it (runs of earlier versions) they are shown by their names.
//   [{"name": "density", "title": "Density", "unit": "edges / pairs", "share": true,
//     "metric": false}, ...], with "baseline" where another figure is to be drawn behind it
#pragma once

#include <string>
#include <vector>

namespace stipple::trainer {

struct ShownFigure {
  std::string name;  ///< the key in metrics.jsonl
  std::string title;
  std::string unit = {};
  bool is_share = false;      ///< shown in percent
  bool is_metric = false;     ///< what the task is judged by; otherwise what attention reports
  std::string baseline = {};  ///< the figure that it is to be held against; empty: none
};

std::string figures_to_json(const std::vector<ShownFigure>&);

/// No file: empty. DataError when it does not hold what it should.
std::vector<ShownFigure> read_figures(const std::string& path);

}  // namespace stipple::trainer
