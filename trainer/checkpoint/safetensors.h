// SPDX-License-Identifier: Apache-2.0
// The safetensors file format: 8 bytes little-endian header length, a JSON header, then the
// tensors' bytes without holes. Three lines of Python open what is written here: `from
// safetensors.numpy import load_file; load_file(path)`. The format has no checksum;
// trainer/checkpoint/store.h adds one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/shape.h"
#include "trainer/checkpoint/durable_file.h"

namespace stipple::trainer {

enum class TensorType : uint8_t { kF32, kI64, kU8, kF16, kBf16 };

std::string_view name_of(TensorType);
int64_t bytes_of(TensorType);

/// A tensor to write. The bytes are not copied.
struct TensorSource {
  std::string name = {};
  TensorType type = TensorType::kF32;
  Shape shape = {};
  std::span<const std::byte> bytes = {};
};

using TensorMetadata = std::map<std::string, std::string>;

/// Everything before the first tensor's bytes, for tensors written one after the other in the given
/// order. Padded with spaces to 64 bytes. CheckpointError when a name repeats, is "__metadata__",
/// or bytes and shape disagree; also when an element would not start at a multiple of its size:
/// order by falling element size.
std::string safetensors_header(std::span<const TensorSource> tensors,
                               const TensorMetadata& metadata = {});

/// A file's table of contents, checked in full when it is opened: CheckpointError with the path and
/// what is wrong.
class SafetensorsFile {
 public:
  struct Entry {
    std::string name;
    TensorType type = TensorType::kF32;
    Shape shape;
    int64_t begin = 0;  ///< in the file
    int64_t end = 0;
    int64_t bytes() const { return end - begin; }
  };

  explicit SafetensorsFile(std::string path);

  const std::string& path() const { return file_.path(); }
  std::span<const Entry> entries() const { return entries_; }  ///< by position in the file
  const TensorMetadata& metadata() const { return metadata_; }
  const Entry* find(std::string_view name) const;
  /// `into` has exactly the entry's size.
  void read(const Entry&, std::span<std::byte> into) const;
  /// The numbers of an entry of kF32, kF16 or kBf16, all of which are numbers of fp32, too.
  /// CheckpointError of others.
  std::vector<float> floats(const Entry&) const;

 private:
  ReadableFile file_;
  std::vector<Entry> entries_;
  TensorMetadata metadata_;
};

/// A shape from a list. ShapeError when it has too many dimensions.
Shape shape_from(std::span<const int64_t> extents);

}  // namespace stipple::trainer
