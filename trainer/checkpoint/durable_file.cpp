// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "trainer/checkpoint/content_hash.h"

namespace stipple::trainer {
namespace {

// Linux moves at most 0x7ffff000 bytes per call; 64 MiB pieces keep memory pressure of the page
// cache even.
constexpr size_t kPieceBytes = size_t{64} << 20;
constexpr size_t kHashPieceBytes = size_t{1} << 20;

template <class Healing = CheckpointError>
[[noreturn]] void fail(std::string_view step, const std::string& path, int code) {
  const std::string what = detail::concat("cannot ", step, " ", path, ": ", std::strerror(code));
  if (is_permanent(code)) throw ConfigError(what);
  throw Healing(what);
}

void reach(const FaultPoint& fault, std::string_view step, const std::string& path) {
  if (fault) fault(detail::concat(step, " ", path));
}

int64_t free_bytes(const struct statvfs& s) {
  return static_cast<int64_t>(s.f_bavail) * static_cast<int64_t>(s.f_frsize);
}

/// What limits a process's files (ulimit -f, RLIMIT_FSIZE) will limit them after a restart, too.
void require_allowed_size(const std::string& path, int code) {
  STIPPLE_CHECK_AS(ConfigError, code != EFBIG, "cannot write ", path,
                   ": it would grow beyond the file-size limit of this process; raise it (ulimit "
                   "-f) and start again");
}

[[noreturn]] void fail_write(const std::string& path, size_t missing, int code) {
  require_allowed_size(path, code);
  std::string room;
  struct statvfs s {};
  if (code == ENOSPC && ::statvfs(path.c_str(), &s) == 0)
    room = detail::concat(" (", missing, " bytes still to write, ", free_bytes(s),
                          " free); free some space or lower checkpoint.keep");
  throw CheckpointError(detail::concat("cannot write ", path, ": ", std::strerror(code), room));
}

/// The bytes that could not be written, with errno set; 0 when all are.
size_t write_fully(int descriptor, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(descriptor, bytes.data(), std::min(bytes.size(), kPieceBytes));
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = ENOSPC;
    if (n <= 0) return bytes.size();
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return 0;
}

std::string parent_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

bool is_permanent(int code) {
  constexpr std::array kCodes = {EACCES, EPERM, EROFS, ENOTDIR, EISDIR, ELOOP, ENAMETOOLONG};
  return std::find(kCodes.begin(), kCodes.end(), code) != kCodes.end();
}

DurableFile::DurableFile(std::string path, FaultPoint fault)
    : path_(std::move(path)), fault_(std::move(fault)) {
  reach(fault_, "create", path_);
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail("create", path_, errno);
}

DurableFile::~DurableFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void DurableFile::write(std::span<const std::byte> bytes) {
  reach(fault_, "write", path_);
  const size_t missing = write_fully(descriptor_, bytes);
  if (missing != 0) fail_write(path_, missing, errno);
}

void DurableFile::close() {
  reach(fault_, "sync", path_);
  if (::fdatasync(descriptor_) != 0) fail("sync", path_, errno);
  reach(fault_, "close", path_);
  // The descriptor is gone whatever close returns, so it must never be closed again.
  const int descriptor = std::exchange(descriptor_, -1);
  if (::close(descriptor) != 0 && errno != EINTR) fail("close", path_, errno);
}

AppendFile::AppendFile(std::string path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail<Error>("open", path_, errno);
}

AppendFile::~AppendFile() { ::close(descriptor_); }

void AppendFile::append(std::string_view piece) {
  if (write_fully(descriptor_, std::as_bytes(std::span(piece))) == 0) return;
  const int code = errno;
  require_allowed_size(path_, code);
  throw Error(detail::concat("cannot write ", path_, ": ", std::strerror(code)));
}

ReadableFile::ReadableFile(std::string path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) fail("open", path_, errno);
  struct stat s {};
  const int code = ::fstat(descriptor_, &s) != 0 ? errno : S_ISREG(s.st_mode) ? 0 : EINVAL;
  if (code != 0) {
    ::close(descriptor_);
    fail("read", path_, code);
  }
  bytes_ = s.st_size;
}

ReadableFile::~ReadableFile() { ::close(descriptor_); }

void ReadableFile::read(int64_t offset, std::span<std::byte> into) const {
  while (!into.empty()) {
    const ssize_t n = ::pread(descriptor_, into.data(), std::min(into.size(), kPieceBytes), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("read", path_, errno);
    STIPPLE_CHECK_AS(CheckpointError, n > 0, "cannot read ", path_, ": it ends at byte ", offset);
    into = into.subspan(static_cast<size_t>(n));
    offset += n;
  }
}

std::string ReadableFile::hash(bool from_device) const {
  if (from_device) ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED);
  ContentHasher hasher;
  std::vector<std::byte> piece(
      static_cast<size_t>(std::min<int64_t>(bytes_, int64_t{kHashPieceBytes})));
  for (int64_t at = 0; at < bytes_; at += static_cast<int64_t>(piece.size())) {
    piece.resize(
        static_cast<size_t>(std::min<int64_t>(bytes_ - at, static_cast<int64_t>(piece.size()))));
    read(at, piece);
    hasher.update(piece);
  }
  return hasher.hex();
}

std::string read_text(const std::string& path, int64_t max_bytes) {
  const ReadableFile file(path);
  STIPPLE_CHECK_AS(CheckpointError, file.bytes() <= max_bytes, path, " has ", file.bytes(),
                   " bytes, more than the ", max_bytes, " such a file may have");
  std::string text(static_cast<size_t>(file.bytes()), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_durably(const std::string& path, std::string_view text, const FaultPoint& fault) {
  DurableFile file(path, fault);
  file.write(std::as_bytes(std::span(text)));
  file.close();
}

void replace_durably(const std::string& path, std::string_view text, const FaultPoint& fault) {
  const auto bytes = std::as_bytes(std::span(text));
  replace_durably(path, std::span(&bytes, 1), fault);
}

void replace_durably(const std::string& path, std::span<const std::span<const std::byte>> pieces,
                     const FaultPoint& fault) {
  const std::string temporary = path + kTemporarySuffix;
  remove_tree(temporary, fault);
  DurableFile file(temporary, fault);
  for (const std::span<const std::byte> piece : pieces) file.write(piece);
  file.close();
  reach(fault, "rename", path);
  if (::rename(temporary.c_str(), path.c_str()) != 0) fail("rename to", path, errno);
  sync_directory(parent_of(path), fault);
}

void create_directory(const std::string& path, const FaultPoint& fault) {
  reach(fault, "create", path);
  if (::mkdir(path.c_str(), 0755) != 0) fail("create", path, errno);
}

void create_directories(const std::string& path) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  // A file in the place of the last folder is no error to the library.
  if (!code && !std::filesystem::is_directory(path))
    code = std::make_error_code(std::errc::not_a_directory);
  if (code) fail("create", path, code.value());
}

void sync_directory(const std::string& path, const FaultPoint& fault) {
  reach(fault, "sync", path);
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail("open", path, errno);
  const int code = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  // Some network file systems cannot synchronise directories and say so with EINVAL.
  if (code != 0 && code != EINVAL) fail("sync", path, code);
}

bool rename_or_exchange(const std::string& from, const std::string& to, const FaultPoint& fault) {
  reach(fault, "rename", to);
  if (::rename(from.c_str(), to.c_str()) == 0) return false;
  if (errno != ENOTEMPTY && errno != EEXIST) fail("rename to", to, errno);
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return true;
  if (errno != EINVAL && errno != ENOSYS) fail("exchange", to, errno);
  // No atomic exchange here: for an instant `to` has no name, but both directories exist in full.
  const std::string aside = from + ".replaced";
  if (::rename(to.c_str(), aside.c_str()) != 0) fail("move aside", to, errno);
  if (::rename(from.c_str(), to.c_str()) != 0) fail("rename to", to, errno);
  if (::rename(aside.c_str(), from.c_str()) != 0) fail("rename to", from, errno);
  return true;
}

void remove_tree(const std::string& path, const FaultPoint& fault) {
  reach(fault, "remove", path);
  std::error_code code;
  std::filesystem::remove_all(path, code);
  if (code) fail("remove", path, code.value());
}

void require_free_space(const std::string& directory, int64_t bytes, int64_t files,
                        const FaultPoint& fault) {
  reach(fault, "check free space of", directory);
  struct statvfs s {};
  if (::statvfs(directory.c_str(), &s) != 0) fail("ask the free space of", directory, errno);
  STIPPLE_CHECK_AS(CheckpointError, free_bytes(s) >= bytes, "no room in ", directory, ": ", bytes,
                   " bytes needed, ", free_bytes(s),
                   " free; free some space or lower checkpoint.keep");
  // f_files is 0 where the file system makes inodes as it goes.
  STIPPLE_CHECK_AS(CheckpointError, s.f_files == 0 || static_cast<int64_t>(s.f_favail) >= files,
                   "no room in ", directory, ": ", files, " new files needed, ", s.f_favail,
                   " inodes free; remove some files");
}

bool path_exists(const std::string& path) {
  std::error_code code;
  const std::filesystem::file_status status = std::filesystem::status(path, code);
  if (status.type() == std::filesystem::file_type::none) fail("look at", path, code.value());
  return std::filesystem::exists(status);
}

std::vector<std::string> list_directory(const std::string& path) {
  std::error_code code;
  std::vector<std::string> names;
  std::filesystem::directory_iterator entries(path, code);
  if (code == std::errc::no_such_file_or_directory) return names;
  if (code) fail("list", path, code.value());
  for (const auto& entry : entries) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace stipple::trainer
