// SPDX-License-Identifier: Apache-2.0
// Files that survive a crash: created exclusively, written in full, synchronised, renamed into
// place; every system call is checked. Failures are CheckpointError with the path, the step that
// failed and the system's reason; ConfigError where only the user can mend that reason.
//
// A FaultPoint is called with the name of each step just before it runs ("create /runs/a/x", "sync
// /runs/a/x"). Tests throw or kill the process from it; an empty one costs nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stipple::trainer {

using FaultPoint = std::function<void(std::string_view step)>;

/// Whether an errno stays until somebody changes something: no permission, a read-only file
/// system, a file in the place of a folder. Others, a full disk among them, may heal.
bool is_permanent(int code);

/// A file being written. It must not exist before. Without close() it is left incomplete.
class DurableFile {
 public:
  explicit DurableFile(std::string path, FaultPoint fault = {});
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(std::span<const std::byte> bytes);
  /// Waits until the bytes are on the device, then closes.
  void close();

 private:
  std::string path_;
  FaultPoint fault_;
  int descriptor_ = -1;
};

/// A log that grows by whole pieces; created where it is missing. Error, not CheckpointError, when
/// it cannot be written; ConfigError as above.
class AppendFile {
 public:
  explicit AppendFile(std::string path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  const std::string& path() const { return path_; }
  /// Visible to readers at once; not synchronised.
  void append(std::string_view piece);

 private:
  std::string path_;
  int descriptor_ = -1;
};

/// A file open for reading at any position. Reading less than asked is an error.
class ReadableFile {
 public:
  explicit ReadableFile(std::string path);
  ~ReadableFile();
  ReadableFile(const ReadableFile&) = delete;
  ReadableFile& operator=(const ReadableFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t bytes() const { return bytes_; }
  void read(int64_t offset, std::span<std::byte> into) const;
  /// XXH3-128 of the whole file. With `from_device` the system is asked to forget its cached pages
  /// first.
  std::string hash(bool from_device = false) const;

 private:
  std::string path_;
  int descriptor_ = -1;
  int64_t bytes_ = 0;
};

/// The whole file as text; at most `max_bytes`.
std::string read_text(const std::string& path, int64_t max_bytes);

/// Writes a new file in one call.
void write_durably(const std::string& path, std::string_view text, const FaultPoint& fault = {});

/// Gives `path` new contents such that a reader, or a crash, sees either all of the old or all of
/// the new. A crash may leave `path` + kTemporarySuffix behind.
inline constexpr const char* kTemporarySuffix = ".tmp";
void replace_durably(const std::string& path, std::span<const std::span<const std::byte>> pieces,
                     const FaultPoint& fault = {});
void replace_durably(const std::string& path, std::string_view text, const FaultPoint& fault = {});

/// Creates a directory; its parent must exist. The entry is durable once the parent is
/// synchronised.
void create_directory(const std::string& path, const FaultPoint& fault = {});

/// Creates a directory and its parents where they are missing.
void create_directories(const std::string& path);

/// Makes the names inside a directory durable.
void sync_directory(const std::string& path, const FaultPoint& fault = {});

/// Renames within one file system. A directory already at `to` changes places with `from`: true if
/// there was one.
bool rename_or_exchange(const std::string& from, const std::string& to,
                        const FaultPoint& fault = {});

/// Removes a file or a directory with its contents; nothing there is fine.
void remove_tree(const std::string& path, const FaultPoint& fault = {});

/// Throws when the file system of `directory` has not `bytes` and `files` more, naming what is
/// needed and what is free.
void require_free_space(const std::string& directory, int64_t bytes, int64_t files,
                        const FaultPoint& fault = {});

/// Whether there is something of this name. A broken link is nothing.
bool path_exists(const std::string& path);

/// Names in a directory, sorted; none when it does not exist.
std::vector<std::string> list_directory(const std::string& path);

}  // namespace stipple::trainer
