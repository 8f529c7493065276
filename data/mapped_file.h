// SPDX-License-Identifier: Apache-2.0
// A file's bytes, mapped.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"

namespace stipple::data {

/// "cannot read PATH: the system's reason".
class UnreadableFile : public DataError {
 public:
  UnreadableFile(const std::string& path, int reason);
  int reason() const { return reason_; }  ///< errno

 private:
  int reason_;
};

/// In what order bytes will be asked for.
enum class Access : uint8_t { kInOrder, kAnywhere };

class MappedFile {
 public:
  /// UnreadableFile when it cannot be; a folder or device in its place counts as EISDIR.
  explicit MappedFile(const std::string& path, Access = Access::kInOrder);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view text() const { return {static_cast<const char*>(data_), bytes_}; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace stipple::data
