// SPDX-License-Identifier: Apache-2.0
// Numbers of configurations: the text forms that are read, and the one that is written.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace stipple::config {

/// The shortest text that reads back to the same double.
std::string number_text(double value);

/// A decimal whole number, or nothing.
std::optional<int64_t> parse_integer(std::string_view text);

/// A decimal number, with an exponent or .inf, or nothing.
std::optional<double> parse_number(std::string_view text);

}  // namespace stipple::config
