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

/// A decimal whole number, or nothing. No leading zeros: they are what is left of 0.001 or 0,001
/// when a comma or a point gets lost.
std::optional<int64_t> parse_integer(std::string_view text);

/// A decimal number, with an exponent or .inf, or nothing. No leading zeros.
std::optional<double> parse_number(std::string_view text);

/// What somebody who wrote `text`, which is no number here, may mean: "0.001" for "0,001", "1000" for
/// "1_000", "1000 or 1.000" for "1,000", "7" for "007". Empty: no idea.
std::string meant_number(std::string_view text);
/// The same where only whole numbers are.
std::string meant_integer(std::string_view text);

}  // namespace stipple::config
