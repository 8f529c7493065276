// SPDX-License-Identifier: Apache-2.0
#include "core/config/number.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>

namespace stipple::config {

std::string number_text(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  const bool is_plain_whole = value == std::trunc(value) && std::abs(value) < 1e15;
  if (is_plain_whole && !(value == 0 && std::signbit(value))) {
    return std::to_string(static_cast<int64_t>(value));
  }
  std::array<char, 32> digits{};
  const auto result = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return {digits.data(), result.ptr};
}

std::optional<int64_t> parse_integer(std::string_view text) {
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const char* end = text.data() + text.size();
  int64_t value = 0;
  const auto result = std::from_chars(begin, end, value);
  if (result.ec != std::errc{} || result.ptr != end) return std::nullopt;
  return value;
}

std::optional<double> parse_number(std::string_view text) {
  std::string_view magnitude = text;
  if (text.starts_with('+') || text.starts_with('-')) magnitude.remove_prefix(1);
  const double sign = text.starts_with('-') ? -1.0 : 1.0;
  if (magnitude == ".inf" || magnitude == "inf") {
    return sign * std::numeric_limits<double>::infinity();
  }
  const bool starts_as_number =
      !magnitude.empty() && (magnitude[0] == '.' || (magnitude[0] >= '0' && magnitude[0] <= '9'));
  if (!starts_as_number) return std::nullopt;
  double value = 0;
  const char* end = magnitude.data() + magnitude.size();
  const auto result = std::from_chars(magnitude.data(), end, value);
  if (result.ec != std::errc{} || result.ptr != end) return std::nullopt;
  return sign * value;
}

}  // namespace stipple::config
