// SPDX-License-Identifier: Apache-2.0
// A typed, non-owning, contiguous, row-major window on memory. Passed by value.
// There are no strides: what is not contiguous is copied, or described by its own fields in an op's
// arguments.
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include "core/shape.h"

namespace stipple {

template <class T>
struct View {
  T* data = nullptr;
  Shape shape;

  /// A View<T> is accepted where a View<const T> is asked for, never the other way.
  operator View<const T>() const  // NOLINT(google-explicit-constructor)
      requires(!std::is_const_v<T>) {
    return {data, shape};
  }

  int64_t numel() const { return shape.numel(); }
  size_t bytes() const { return static_cast<size_t>(numel()) * sizeof(T); }
  bool empty() const { return shape.rank() == 0; }  ///< an optional array that was not given

  T& operator[](int64_t i) const { return data[i]; }

  /// Element i along the first dimension: [A, B, C][i] is [B, C].
  View at(int64_t i) const {
    const Shape rest = shape.without_first();
    return {data == nullptr ? nullptr : data + i * rest.numel(), rest};
  }

  /// The same elements under another shape of equal size. ShapeError.
  View reshape(Shape to) const {
    STIPPLE_CHECK_AS(ShapeError, to.numel() == numel(), "cannot reshape ", shape.str(), " to ",
                     to.str());
    return {data, to};
  }

  std::span<T> span() const { return {data, static_cast<size_t>(numel())}; }
};

}  // namespace stipple
