// SPDX-License-Identifier: Apache-2.0
#include "trainer/config/duration.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <vector>

namespace stipple::trainer {
namespace {

constexpr int64_t kMinute_s = 60;
constexpr int64_t kHour_s = 60 * kMinute_s;
constexpr int64_t kDay_s = 24 * kHour_s;
constexpr int64_t kMostOfAUnit = 1'000'000;

std::optional<int64_t> parse_count(std::string_view text) {
  int64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size() || text.starts_with('-') ||
      value > kMostOfAUnit)
    return std::nullopt;
  return value;
}

/// The numbers between colons; empty: one of them is no number.
std::vector<int64_t> parse_fields(std::string_view text) {
  std::vector<int64_t> fields;
  for (;;) {
    const size_t colon = text.find(':');
    const auto count = parse_count(text.substr(0, colon));
    if (!count) return {};
    fields.push_back(*count);
    if (colon == std::string_view::npos) return fields;
    text.remove_prefix(colon + 1);
  }
}

}  // namespace

std::optional<int64_t> parse_duration(std::string_view text) {
  int64_t seconds = 0;
  const size_t dash = text.find('-');
  const bool has_days = dash != std::string_view::npos;
  if (has_days) {
    const auto days = parse_count(text.substr(0, dash));
    if (!days) return std::nullopt;
    seconds = *days * kDay_s;
    text.remove_prefix(dash + 1);
  }
  const std::vector<int64_t> fields = parse_fields(text);
  if (fields.empty() || fields.size() > 3) return std::nullopt;
  // After days the first field is hours; without them, minutes, unless there are three.
  int64_t unit = has_days || fields.size() == 3 ? kHour_s : kMinute_s;
  for (const int64_t field : fields) {
    seconds += field * unit;
    unit /= 60;
  }
  return seconds;
}

std::string duration_text(double seconds) {
  const int64_t s = std::llround(seconds);
  return s >= kHour_s ? fmt::format("{}:{:02}:{:02}", s / kHour_s, s / kMinute_s % 60, s % 60)
                      : fmt::format("{}:{:02}", s / kMinute_s, s % 60);
}

}  // namespace stipple::trainer
