// SPDX-License-Identifier: Apache-2.0
// The extents of a dense row-major array of at most five dimensions. Their product is checked here,
// once for all arrays: what has a shape can be counted, in elements and bytes, in 64 bits.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/error.h"

namespace stipple {

class Shape {
 public:
  static constexpr int kMaxRank = 5;
  static constexpr int64_t kMaxElements = int64_t{1} << 56;

  Shape() = default;
  /// SizeError above kMaxElements.
  Shape(std::initializer_list<int64_t> extents) {
    STIPPLE_CHECK(extents.size() <= kMaxRank, "a shape has at most ", int{kMaxRank}, " dimensions");
    for (int64_t extent : extents) {
      STIPPLE_CHECK(extent >= 0, "a shape has no negative extents, got ", extent);
      extents_[static_cast<size_t>(rank_++)] = extent;
    }
    check_product();
  }

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return extents_[static_cast<size_t>(i)]; }

  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= extents_[static_cast<size_t>(i)];
    return n;
  }

  /// The shape of one element along the first dimension.
  Shape without_first() const {
    Shape s;
    for (int i = 1; i < rank_; ++i) s.extents_[static_cast<size_t>(s.rank_++)] = (*this)[i];
    return s;
  }

  /// "[2, 128, 64]"
  std::string str() const {
    std::string s = "[";
    for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string((*this)[i]);
    return s + "]";
  }

  bool operator==(const Shape&) const = default;

 private:
  void check_product() const {
    int64_t product = 1;
    bool overflows = false;
    for (int i = 0; i < rank_; ++i) {
      if ((*this)[i] == 0) return;
      overflows |= __builtin_mul_overflow(product, (*this)[i], &product);
    }
    STIPPLE_CHECK_AS(SizeError, !overflows && product <= kMaxElements, "an array of ", str(),
                     " has more elements than any machine holds");
  }

  std::array<int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

}  // namespace stipple
