// SPDX-License-Identifier: Apache-2.0
// Moves bytes between host and device, in stream order. On the CPU both are the same memory and a
// copy is done when it returns.
#pragma once

#include <cstddef>
#include <span>

#include "core/error.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple {

/// Enqueues; both sides must stay until the stream has passed it. Either side may be host memory
/// (see Buffer::staging).
void copy_bytes(const Stream&, void* to, const void* from, size_t bytes);
void fill_zero_bytes(const Stream&, void* to, size_t bytes);

template <class T>
void fill_zero(const Stream& stream, View<T> to) {
  fill_zero_bytes(stream, to.data, to.bytes());
}

/// Returns when the copy is done: for set-up, checkpoints and tests.
template <class T>
void upload(const Stream& stream, View<T> to, std::span<const std::type_identity_t<T>> from) {
  STIPPLE_CHECK(to.bytes() == from.size_bytes(), "upload: ", from.size(), " elements into ",
                to.shape.str());
  copy_bytes(stream, to.data, from.data(), from.size_bytes());
  stream.synchronize();
}
template <class T>
void download(const Stream& stream, std::span<std::remove_const_t<T>> to, View<T> from) {
  STIPPLE_CHECK(from.bytes() == to.size_bytes(), "download: ", from.shape.str(), " into ",
                to.size(), " elements");
  copy_bytes(stream, to.data(), from.data, to.size_bytes());
  stream.synchronize();
}

}  // namespace stipple
