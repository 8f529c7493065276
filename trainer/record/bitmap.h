// SPDX-License-Identifier: Apache-2.0
// A small image inside a page: an uncompressed 8-bit BMP, which every browser reads and 60 lines
// write.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace stipple::trainer {

/// data: URI of width * height levels, by rows from the top: 0 is white, 255 the darkest ink.
/// Dark pages turn it around by CSS.
std::string bitmap_uri(std::span<const uint8_t> levels, int64_t width, int64_t height);

}  // namespace stipple::trainer
