// SPDX-License-Identifier: Apache-2.0
// Charts as text: an HTML <figure> with a legend and an inline SVG, without scripts. Colours come
// from the CSS variables of chart_css(), so that one figure is right on light and dark pages.
// Values that are not finite leave gaps; any chart, also one without points, gives a valid figure.
// Tooltips are <title> elements.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace stipple::trainer {

struct Point {
  double x = 0;
  double y = 0;
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

struct Chart {
  std::string title = {};
  std::string unit = {};  ///< of y, shown after the title; may be empty
  std::string x_label = "step";
  std::vector<Series> series = {};
  std::vector<Reference> references = {};
  bool from_zero = false;  ///< the y axis includes 0
  bool percent = false;    ///< y values are shares, shown as percentages
};

std::string line_chart(const Chart&);

/// The series on top of each other; all share the x values of the first.
std::string stacked_area_chart(const Chart&);

/// One row per series, x from left to right, y as colour.
std::string heat_map(const Chart&);

/// The style sheet that figures need, once per page.
std::string_view chart_css();

/// Text as it may stand between tags and inside quoted attributes. Control characters that no
/// document may hold vanish.
std::string escape_html(std::string_view text);

/// Round values inside [low, high], about `count` of them, at steps of 1, 2, 2.5 or 5 times a power
/// of ten.
std::vector<double> nice_ticks(double low, double high, int count);

/// 12.5k, 3.2M, 0.0015, 2e-05, or "not finite": short, for axes and tooltips.
std::string short_number(double value);

}  // namespace stipple::trainer
