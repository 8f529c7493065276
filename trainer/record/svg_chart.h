// SPDX-License-Identifier: Apache-2.0
// Charts as text: an HTML <figure> with a legend and an inline SVG, without scripts. Colours come
// from the CSS variables of chart_css(), so that one figure is right on light and dark pages.
// Values that are not finite leave gaps; any chart, also one without points, gives a valid figure.
// Tooltips are <title> elements.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "trainer/record/chart.h"

namespace stipple::trainer {

/// A figure.
std::string draw(const Chart&);

/// The sections under their titles.
std::string draw(const std::vector<ChartSection>&);

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
