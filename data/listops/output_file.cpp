// SPDX-License-Identifier: Apache-2.0
#include "data/listops/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace stipple::data::listops {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

[[noreturn]] void fail(std::string_view what, const std::string& path) {
  const int reason = errno;
  throw DataError(fmt::format("cannot {} {}: {}", what, path, std::strerror(reason)));
}

}  // namespace

OutputFile::OutputFile(std::string temporary, std::string final_path)
    : temporary_(std::move(temporary)), final_path_(std::move(final_path)) {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail("create", temporary_);
  buffer_.reserve(kBufferBytes);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  // A device that was opened as a file is not ours to remove.
  struct stat status {};
  if (!is_published_ && ::stat(temporary_.c_str(), &status) == 0 && S_ISREG(status.st_mode)) {
    ::unlink(temporary_.c_str());
  }
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
  if (::close(std::exchange(descriptor_, -1)) != 0) fail("write", temporary_);
}

void OutputFile::publish() {
  if (std::rename(temporary_.c_str(), final_path_.c_str()) != 0) fail("create", final_path_);
  is_published_ = true;
}

}  // namespace stipple::data::listops
