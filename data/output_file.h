// SPDX-License-Identifier: Apache-2.0
// A file that appears complete or not at all: written under a temporary name in the same folder,
// renamed by publish(). The temporary file is locked as long as its writer lives, so that one left
// behind by a killed process can be told from one that is being written, and is removed by the next
// who writes the same file.
#pragma once

#include <string>
#include <string_view>

namespace stipple::data {

class OutputFile {
 public:
  /// Opens final_path.partial.PID for writing. Removes other files final_path.partial.* that no living
  /// process writes, of this machine or another that shares the file system with locks. Every member
  /// throws DataError with the path and the system's reason.
  explicit OutputFile(const std::string& final_path);
  /// Under a temporary name of one's own, and removes nothing.
  OutputFile(std::string temporary, std::string final_path);
  ~OutputFile();  ///< removes the temporary file unless it was published
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(std::string_view text);
  /// Everything appended is on the disk when this returns.
  void finish();
  /// After finish(): takes the final name, which is on the disk when this returns, where the file
  /// system can say so.
  void publish();

 private:
  void flush();

  std::string temporary_;
  std::string final_path_;
  int descriptor_ = -1;
  std::string buffer_;
  bool is_published_ = false;
};

/// A file that need not exist is gone, and on the disk, too, when this returns, where the file system
/// can say so. DataError with the path and the system's reason.
void remove_durably(const std::string& path);

}  // namespace stipple::data
