// SPDX-License-Identifier: Apache-2.0
// The frame of our HTML pages: self-contained, for light and dark screens, without scripts.
#pragma once

#include <string>
#include <string_view>

#include "trainer/record/figures.h"

namespace stipple::trainer {

/// A whole page. The name is escaped here; subtitle and body are HTML.
std::string html_page(std::string_view name, std::string_view subtitle, std::string_view body);

/// A number to see first, with what it is: for a "tiles" division.
std::string tile(std::string_view value, std::string_view label);

/// "1 evaluation", "3 evaluations".
std::string count(size_t n, std::string_view what);

/// As its kind of number is shown: in percent, or short.
std::string shown(double value, const ShownFigure&);

/// ConfigError where something else than a page of ours has that name.
void require_own_page(const std::string& path);

}  // namespace stipple::trainer
