// SPDX-License-Identifier: Apache-2.0
// A chart as data: what it shows and how it is labelled. Drawn by svg_chart.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace stipple::trainer {

struct Point {
  double x = 0;
  double y = 0;
  bool operator==(const Point&) const = default;
};

struct Series {
  std::string name = {};
  std::vector<Point> points = {};  ///< by ascending x
  int color = 0;                   ///< of the palette, taken modulo its size
  bool faint = false;    ///< raw data behind a smoothed curve; no tooltips, no legend entry
  bool markers = false;  ///< show the points themselves
};

/// A horizontal line with its name at the right end.
struct Reference {
  std::string name = {};
  double y = 0;
};

enum class ChartKind : uint8_t {
  kLines,
  kStack,    ///< the series on top of each other; all share the x values of the first
  kHeatMap,  ///< one row per series, x from left to right, y as colour
};

struct Chart {
  ChartKind kind = ChartKind::kLines;
  std::string title = {};
  std::string unit = {};  ///< of y, shown after the title; may be empty
  std::string x_label = "step";
  std::vector<Series> series = {};
  std::vector<Reference> references = {};
  bool from_zero = false;  ///< the y axis includes 0
  bool percent = false;    ///< y values are shares, shown as percentages
};

struct ChartSection {
  std::string title = {};
  std::vector<Chart> charts = {};
};

}  // namespace stipple::trainer
