// SPDX-License-Identifier: Apache-2.0
// A file that appears complete or not at all: written under a temporary name in the same folder,
// renamed by publish(). The temporary file is locked as long as its writer lives, so that one left
// behind by a killed process can be told from one that is being written.
#pragma once

#include <string>
#include <string_view>

namespace stipple::data {

class OutputFile {
 public:
  /// Opens `temporary` for writing. Every member throws DataError with the path and the system's
  /// reason.
  OutputFile(std::string temporary, std::string final_path);
  ~OutputFile();  ///< removes the temporary file unless it was published
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(std::string_view text);
  /// Everything appended is on the disk when this returns.
  void finish();
  /// After finish(): takes the final name.
  void publish();

 private:
  void flush();

  std::string temporary_;
  std::string final_path_;
  int descriptor_ = -1;
  std::string buffer_;
  bool is_published_ = false;
};

/// Removes the temporary files of `final_path` (named final_path.partial.*) that no living process
/// writes, of this machine or another that shares the file system with locks.
void remove_stale_partials(const std::string& final_path);

/// The name that this process gives to its temporary file.
std::string partial_name(const std::string& final_path);

}  // namespace stipple::data
