// SPDX-License-Identifier: Apache-2.0
#include "data/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.h"

namespace stipple::data {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr std::string_view kPartial = ".partial.";

[[noreturn]] void fail(std::string_view what, const std::string& path) {
  const int reason = errno;
  throw DataError(fmt::format("cannot {} {}: {}", what, path, std::strerror(reason)));
}

bool is_regular(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

/// Another process may sweep the file away between its making and its locking: then once more.
int open_locked(const std::string& path) {
  while (true) {
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor < 0) fail("create", path);
    // A file system without locks has no sweepers either. A process of the same number, in another
    // container, may be writing.
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      ::close(descriptor);
      throw DataError(fmt::format("cannot create {}: another process is writing it", path));
    }
    struct stat status {};
    if (::fstat(descriptor, &status) == 0 && status.st_nlink > 0) {
      const bool is_empty = !S_ISREG(status.st_mode) || ::ftruncate(descriptor, 0) == 0;
      if (is_empty) return descriptor;
      ::close(descriptor);
      fail("create", path);
    }
    ::close(descriptor);
  }
}

/// Of a name without a folder, this one.
std::string folder_of(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  return folder.empty() ? "." : folder.string();
}

void remove_stale_partials(const std::string& final_path) {
  const std::string prefix =
      std::filesystem::path(final_path).filename().string() + std::string(kPartial);
  std::error_code unreadable;  // then there is nothing to find, or the next step says why
  for (const auto& entry : std::filesystem::directory_iterator(folder_of(final_path), unreadable)) {
    const std::string name = entry.path().string();
    if (!entry.path().filename().string().starts_with(prefix) || !is_regular(name)) continue;
    const int descriptor = ::open(name.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) ::unlink(name.c_str());
    ::close(descriptor);
  }
}

std::string swept_partial_name(const std::string& final_path) {
  remove_stale_partials(final_path);
  return fmt::format("{}{}{}", final_path, kPartial, ::getpid());
}

/// A rename is on the disk only when its folder is.
void sync_folder(const std::string& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  // Some file systems refuse to sync a folder; the files themselves are safe by then.
  (void)::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

OutputFile::OutputFile(const std::string& final_path)
    : OutputFile(swept_partial_name(final_path), final_path) {}

OutputFile::OutputFile(std::string temporary, std::string final_path)
    : temporary_(std::move(temporary)), final_path_(std::move(final_path)) {
  descriptor_ = open_locked(temporary_);
  buffer_.reserve(kBufferBytes);
}

OutputFile::~OutputFile() {
  // A device that was opened as a file is not ours to remove.
  if (!is_published_ && is_regular(temporary_)) ::unlink(temporary_.c_str());
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::append(std::string_view text) {
  if (buffer_.size() + text.size() > kBufferBytes) flush();
  buffer_ += text;
}

void OutputFile::flush() {
  std::string_view rest = buffer_;
  while (!rest.empty()) {
    const ssize_t written = ::write(descriptor_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", temporary_);
    rest.remove_prefix(static_cast<size_t>(written));
  }
  buffer_.clear();
}

void OutputFile::finish() {
  flush();
  if (::fsync(descriptor_) != 0) fail("write", temporary_);
}

void OutputFile::publish() {
  if (std::rename(temporary_.c_str(), final_path_.c_str()) != 0) fail("create", final_path_);
  is_published_ = true;
  if (::close(std::exchange(descriptor_, -1)) != 0) fail("write", final_path_);
  sync_folder(folder_of(final_path_));
}

void remove_durably(const std::string& path) {
  if (::unlink(path.c_str()) != 0) {
    if (errno == ENOENT) return;
    fail("remove", path);
  }
  sync_folder(folder_of(path));
}

}  // namespace stipple::data
