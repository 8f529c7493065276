// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/bitmap.h"

#include <array>

#include "core/error.h"

namespace stipple::trainer {
namespace {

constexpr int kColors = 256;
constexpr uint32_t kHeadersBytes = 14 + 40;

void append(std::string& to, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) to += static_cast<char>(value >> (8 * i) & 0xFF);
}

std::string base64(const std::string& bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t at = 0; at < bytes.size(); at += 3) {
    uint32_t three = 0;
    for (size_t i = 0; i < 3; ++i) {
      const uint32_t byte = at + i < bytes.size() ? static_cast<uint8_t>(bytes[at + i]) : 0u;
      three = three << 8 | byte;
    }
    for (int i = 0; i < 4; ++i)
      text +=
          at + static_cast<size_t>(i) <= bytes.size() ? kDigits[three >> (18 - 6 * i) & 63] : '=';
  }
  return text;
}

}  // namespace

std::string bitmap_uri(std::span<const uint8_t> levels, int64_t width, int64_t height) {
  STIPPLE_CHECK(static_cast<int64_t>(levels.size()) == width * height, "a bitmap of ", width, " x ",
                height, " has not ", levels.size(), " levels");
  const auto row = static_cast<uint32_t>((width + 3) / 4 * 4);
  const uint32_t begin = kHeadersBytes + 4 * kColors;
  const uint32_t pixels = row * static_cast<uint32_t>(height);
  std::string file = "BM";
  append(file, begin + pixels, 4);
  append(file, 0, 4);
  append(file, begin, 4);
  append(file, 40, 4);
  append(file, static_cast<uint32_t>(width), 4);
  append(file, static_cast<uint32_t>(height), 4);
  append(file, 1, 2);  // planes
  append(file, 8, 2);  // bits
  append(file, 0, 4);  // not compressed
  append(file, pixels, 4);
  append(file, 0, 8);  // resolution
  append(file, kColors, 4);
  append(file, 0, 4);
  // From white to a dark blue: turned around with its hue kept, it goes from black to a light blue.
  constexpr std::array<uint32_t, 3> kInk = {0x5B, 0x2A, 0x08};  // blue, green, red
  for (uint32_t level = 0; level < kColors; ++level) {
    for (const uint32_t ink : kInk) append(file, (255 * (255 - level) + ink * level) / 255, 1);
    append(file, 0, 1);
  }
  for (int64_t y = height - 1; y >= 0; --y) {
    for (int64_t x = 0; x < width; ++x)
      file += static_cast<char>(levels[static_cast<size_t>(y * width + x)]);
    file.append(row - static_cast<size_t>(width), '\0');
  }
  return "data:image/bmp;base64," + base64(file);
}

}  // namespace stipple::trainer
