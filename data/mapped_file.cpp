// SPDX-License-Identifier: Apache-2.0
#include "data/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace stipple::data {

UnreadableFile::UnreadableFile(const std::string& path, int reason)
    : DataError(fmt::format("cannot read {}: {}", path, std::strerror(reason))), reason_(reason) {}

MappedFile::MappedFile(const std::string& path, Access access) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw UnreadableFile(path, errno);
  struct stat status {};
  int reason = ::fstat(descriptor, &status) == 0 ? 0 : errno;
  if (reason == 0 && !S_ISREG(status.st_mode)) reason = EISDIR;
  if (reason == 0 && status.st_size > 0) {
    bytes_ = static_cast<size_t>(status.st_size);
    data_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data_ == MAP_FAILED) reason = errno;
  }
  ::close(descriptor);
  if (reason != 0) throw UnreadableFile(path, reason);
  if (bytes_ > 0 && access == Access::kInOrder) ::madvise(data_, bytes_, MADV_SEQUENTIAL);
}

MappedFile::~MappedFile() {
  if (bytes_ > 0) ::munmap(data_, bytes_);
}

}  // namespace stipple::data
