// SPDX-License-Identifier: Apache-2.0
// XXH3-128 of bytes: how a checkpoint proves that what is on disk is what was in memory.
// It finds damage; it is no protection against someone who wants to forge a file.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace stipple::trainer {

/// Bytes in, in as many pieces as convenient; 32 lower-case hexadecimal digits out.
class ContentHasher {
 public:
  ContentHasher();
  ~ContentHasher();
  ContentHasher(const ContentHasher&) = delete;
  ContentHasher& operator=(const ContentHasher&) = delete;

  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  /// Of everything so far; more may follow.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string content_hash(std::span<const std::byte> bytes);
inline std::string content_hash(std::string_view text) {
  return content_hash(std::as_bytes(std::span(text)));
}

}  // namespace stipple::trainer
