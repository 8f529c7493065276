// SPDX-License-Identifier: Apache-2.0
// A window on an array of real numbers whose storage, fp32 or bfloat16, is known at run time only:
// what operations take where `precision: bf16` halves the memory of activations. Made from a View
// without a word; turned back into one by as<T>() once the storage is known.
//
//   void f(const Stream& stream, ConstRealView x) {
//     with_real_type(x.precision, [&](auto zero) {
//       using T = decltype(zero);
//       launch(stream, shape, f_kernel<T>, x.as<T>().data);
//     });
//   }
#pragma once

#include <initializer_list>
#include <type_traits>

#include "core/bf16.h"
#include "core/device.h"
#include "core/view.h"

namespace stipple {

constexpr size_t bytes_of(Precision p) { return p == Precision::kBf16 ? 2 : 4; }
constexpr const char* name_of(Precision p) { return p == Precision::kBf16 ? "bf16" : "fp32"; }

template <class T>
inline constexpr bool kIsReal =
    std::is_same_v<std::remove_const_t<T>, float> || std::is_same_v<std::remove_const_t<T>, bf16>;

/// Memory is void or const void. Passed by value; contiguous, row-major, not owning: as View.
template <class Memory>
struct BasicRealView {
  template <class T>
  using Element = std::conditional_t<std::is_const_v<Memory>, const T, T>;

  Memory* data = nullptr;
  Shape shape;
  Precision precision = Precision::kFp32;  ///< of the storage

  BasicRealView() = default;
  BasicRealView(Memory* memory, const Shape& extents, Precision storage)
      : data(memory), shape(extents), precision(storage) {}
  template <class T>
  requires(kIsReal<T> && (std::is_const_v<Memory> || !std::is_const_v<T>))
      BasicRealView(T* memory, const Shape& extents)
      : BasicRealView(
            memory, extents,
            std::is_same_v<std::remove_const_t<T>, bf16> ? Precision::kBf16 : Precision::kFp32) {}
  template <class T>
  requires(kIsReal<T> && (std::is_const_v<Memory> || !std::is_const_v<T>))
      BasicRealView(View<T> v)  // NOLINT(google-explicit-constructor)
      : BasicRealView(v.data, v.shape) {}
  template <class Other>
  requires(std::is_const_v<Memory> && !std::is_const_v<Other>)
      BasicRealView(const BasicRealView<Other>& v)  // NOLINT(google-explicit-constructor)
      : data(v.data), shape(v.shape), precision(v.precision) {}

  int64_t numel() const { return shape.numel(); }
  size_t bytes() const { return static_cast<size_t>(numel()) * bytes_of(precision); }
  bool empty() const { return shape.rank() == 0; }  ///< an optional array that was not given

  /// The same elements under another shape of equal size. ShapeError.
  BasicRealView reshape(const Shape& to) const {
    STIPPLE_CHECK_AS(ShapeError, to.numel() == numel(), "cannot reshape ", shape.str(), " to ",
                     to.str());
    return {data, to, precision};
  }

  /// T is float or bf16. Error where that is not what is stored.
  template <class T>
  View<Element<T>> as() const {
    constexpr Precision kAsked = std::is_same_v<T, bf16> ? Precision::kBf16 : Precision::kFp32;
    STIPPLE_CHECK(precision == kAsked || empty(), "an array ", shape.str(), " is stored as ",
                  name_of(precision), ", this operation needs ", name_of(kAsked));
    return {static_cast<Element<T>*>(data), shape};
  }
  /// as<float>(): all that the CPU knows.
  View<Element<float>> floats() const { return as<float>(); }
};

using RealView = BasicRealView<void>;
using ConstRealView = BasicRealView<const void>;

/// Calls body(float{}) or body(bf16{}).
template <class Body>
decltype(auto) with_real_type(Precision storage, const Body& body) {
  if (storage == Precision::kBf16) return body(bf16{});
  return body(float{});
}

/// For the front of an operation: arrays that must be stored alike; those not given do not count.
inline void check_same_storage(const char* op, std::initializer_list<ConstRealView> arrays) {
  const ConstRealView* first = nullptr;
  for (const ConstRealView& array : arrays) {
    if (array.empty()) continue;
    if (first == nullptr) first = &array;
    STIPPLE_CHECK(array.precision == first->precision, op, ": arrays ", first->shape.str(), " of ",
                  name_of(first->precision), " and ", array.shape.str(), " of ",
                  name_of(array.precision), " must be stored alike");
  }
}

}  // namespace stipple
