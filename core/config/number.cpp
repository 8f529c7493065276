// SPDX-License-Identifier: Apache-2.0
#include "core/config/number.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <vector>

namespace stipple::config {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool has_leading_zero(std::string_view magnitude) {
  return magnitude.size() > 1 && magnitude[0] == '0' && is_digit(magnitude[1]);
}

std::string_view without_sign(std::string_view text) {
  if (text.starts_with('+') || text.starts_with('-')) text.remove_prefix(1);
  return text;
}

/// "1,234,567.8": groups of three, as thousands are written in English.
bool has_thousands(std::string_view magnitude) {
  const std::string_view whole = magnitude.substr(0, magnitude.find('.'));
  if (whole.find(',') == std::string_view::npos || whole.find(',') > 3) return false;
  if (!is_digit(whole[0]) || whole[0] == '0') return false;
  for (size_t i = 0; i < whole.size(); ++i) {
    const bool is_place_of_comma = (whole.size() - i) % 4 == 0;
    if ((whole[i] == ',') != is_place_of_comma) return false;
  }
  return true;
}

std::string without(std::string text, char unwanted) {
  std::erase(text, unwanted);
  return text;
}

std::string without_leading_zeros(const std::string& text) {
  const size_t sign = text.size() - without_sign(text).size();
  size_t begin = sign;
  while (has_leading_zero(std::string_view(text).substr(begin))) ++begin;
  return text.substr(0, sign) + text.substr(begin);
}

/// Ways to read `typed`, the likelier first.
std::vector<std::string> readings(std::string_view typed) {
  const std::string text = without(std::string(typed), '_');
  std::vector<std::string> found;
  const auto commas = std::count(text.begin(), text.end(), ',');
  const bool has_point = text.find('.') != std::string::npos;
  if (commas == 0) found = {text};
  if (has_thousands(without_sign(text))) found.push_back(without(text, ','));
  if (commas == 1 && !has_point) {
    found.push_back(text);
    found.back()[text.find(',')] = '.';
  }
  for (std::string& reading : found) reading = without_leading_zeros(reading);
  return found;
}

}  // namespace

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
  if (has_leading_zero(without_sign(text))) return std::nullopt;
  int64_t value = 0;
  const auto result = std::from_chars(begin, end, value);
  if (result.ec != std::errc{} || result.ptr != end) return std::nullopt;
  return value;
}

std::optional<double> parse_number(std::string_view text) {
  const std::string_view magnitude = without_sign(text);
  const double sign = text.starts_with('-') ? -1.0 : 1.0;
  if (magnitude == ".inf" || magnitude == "inf") {
    return sign * std::numeric_limits<double>::infinity();
  }
  const bool starts_as_number =
      !magnitude.empty() && (magnitude[0] == '.' || (magnitude[0] >= '0' && magnitude[0] <= '9'));
  if (!starts_as_number || has_leading_zero(magnitude)) return std::nullopt;
  double value = 0;
  const char* end = magnitude.data() + magnitude.size();
  const auto result = std::from_chars(magnitude.data(), end, value);
  if (result.ec != std::errc{} || result.ptr != end) return std::nullopt;
  return sign * value;
}

std::string meant_number(std::string_view text) {
  std::string list;
  for (const std::string& reading : readings(text)) {
    if (reading != text && parse_number(reading)) list += (list.empty() ? "" : " or ") + reading;
  }
  return list;
}

std::string meant_integer(std::string_view text) {
  for (const std::string& reading : readings(text)) {
    if (reading != text && parse_integer(reading)) return reading;
  }
  return "";
}

}  // namespace stipple::config
