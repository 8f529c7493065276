// SPDX-License-Identifier: Apache-2.0
// Spans of time as people give them to a scheduler: what `sbatch --time` takes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace stipple::trainer {

/// Seconds of "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours",
/// "days-hours:minutes" or "days-hours:minutes:seconds"; none: it is none of these, or nothing.
std::optional<int64_t> parse_duration(std::string_view text);

/// The forms, for messages.
inline constexpr std::string_view kDurationForms =
    "minutes, minutes:seconds, hours:minutes:seconds or days-hours:minutes:seconds, as for sbatch "
    "--time";

/// "1:02:03", or "2:03" below an hour.
std::string duration_text(double seconds);

}  // namespace stipple::trainer
