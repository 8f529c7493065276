// SPDX-License-Identifier: Apache-2.0
// Scalars for TensorBoard: an event file per process, written without TensorFlow or protobuf. A
// resumed run starts a new file whose first records tell TensorBoard to forget what older files say
// about later steps, so curves never overlap.
//
// Format: records of (u64 length, masked CRC32C of it, protobuf Event, masked CRC32C of that),
// little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "trainer/checkpoint/durable_file.h"

namespace stipple::trainer {

struct Scalar {
  std::string_view tag;  ///< "loss/train": what comes before the '/' groups the charts
  double value = 0;
};

/// For rank 0 only. Error when the file cannot be written.
class TensorBoardWriter {
 public:
  /// Makes the directory and a new file in it. `restored_step` as for MetricsWriter: -1 for a run
  /// from the start.
  TensorBoardWriter(const std::string& directory, int64_t restored_step);

  const std::string& path() const { return file_.path(); }
  void write(int64_t step, std::span<const Scalar> scalars);

 private:
  void append(const std::string& event);

  AppendFile file_;
};

/// Castagnoli's CRC, as in RFC 3720.
uint32_t crc32c(std::span<const std::byte> bytes);
/// The form TFRecord stores, so that a CRC over data that holds CRCs stays meaningful.
uint32_t masked_crc32c(std::span<const std::byte> bytes);

}  // namespace stipple::trainer
