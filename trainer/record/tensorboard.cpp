// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "trainer/record/host_name.h"

namespace stipple::trainer {
namespace {

static_assert(std::endian::native == std::endian::little,
              "numbers are written as they lie in memory");

constexpr std::string_view kFilePrefix = "events.out.tfevents.";
// Time stamps in file names have ten digits until the year 2286, so that names sort by time.
constexpr size_t kTimeDigits = 10;

constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (0x82f63b78u & (0u - (c & 1u)));
    table[i] = c;
  }
  return table;
}();

template <class T>
std::string raw(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

/// The part of protobuf's wire format that events need.
class Message {
 public:
  void add_integer(uint32_t field, int64_t value) {
    key(field, 0);
    varint(static_cast<uint64_t>(value));
  }
  void add_double(uint32_t field, double value) {
    key(field, 1);
    bytes_ += raw(value);
  }
  void add_bytes(uint32_t field, std::string_view value) {
    key(field, 2);
    varint(value.size());
    bytes_ += value;
  }
  void add_float(uint32_t field, float value) {
    key(field, 5);
    bytes_ += raw(value);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void key(uint32_t field, uint32_t wire_type) { varint((field << 3) | wire_type); }
  void varint(uint64_t value) {
    for (; value > 127; value >>= 7) bytes_ += static_cast<char>((value & 127) | 128);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

double now_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Message event_at(int64_t step) {
  Message event;
  event.add_double(1, now_s());
  event.add_integer(2, step);
  return event;
}

std::string version_event() {
  Message event = event_at(0);
  event.add_bytes(3, "brain.Event:2");
  return event.bytes();
}

/// SessionLog START: readers drop everything from this step on that they have read from older
/// files.
std::string restart_event(int64_t first_step) {
  Message session;
  session.add_integer(1, 1);
  Message event = event_at(first_step);
  event.add_bytes(7, session.bytes());
  return event.bytes();
}

/// Readers take files in the order of names, so a new one must be later than all present even
/// within one second.
std::string new_file_path(const std::string& directory) {
  std::error_code code;
  std::filesystem::create_directories(directory, code);
  STIPPLE_CHECK(!code, "cannot create ", directory, ": ", code.message());
  auto seconds = static_cast<int64_t>(now_s());
  for (const std::string& name : list_directory(directory)) {
    if (!name.starts_with(kFilePrefix)) continue;
    const std::string digits = name.substr(kFilePrefix.size(), kTimeDigits);
    const bool numeric =
        digits.size() == kTimeDigits &&
        std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (numeric) seconds = std::max<int64_t>(seconds, std::stoll(digits) + 1);
  }
  return fmt::format("{}/{}{:010d}.{}", directory, kFilePrefix, seconds, host_name());
}

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes) {
  uint32_t c = ~0u;
  for (std::byte b : bytes) c = (c >> 8) ^ kCrcTable[(c ^ static_cast<uint32_t>(b)) & 255u];
  return ~c;
}

uint32_t masked_crc32c(std::span<const std::byte> bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

TensorBoardWriter::TensorBoardWriter(const std::string& directory, int64_t restored_step)
    : file_(new_file_path(directory)) {
  append(version_event());
  append(restart_event(restored_step + 1));
}

void TensorBoardWriter::write(int64_t step, std::span<const Scalar> scalars) {
  Message summary;
  for (const Scalar& scalar : scalars) {
    Message value;
    value.add_bytes(1, scalar.tag);
    value.add_float(2, static_cast<float>(scalar.value));
    summary.add_bytes(1, value.bytes());
  }
  Message event = event_at(step);
  event.add_bytes(5, summary.bytes());
  append(event.bytes());
}

void TensorBoardWriter::append(const std::string& event) {
  const std::string length = raw(static_cast<uint64_t>(event.size()));
  const auto crc = [](const std::string& s) {
    return raw(masked_crc32c(std::as_bytes(std::span(s))));
  };
  file_.append(length + crc(length) + event + crc(event));
}

}  // namespace stipple::trainer
