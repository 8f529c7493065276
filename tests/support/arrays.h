// SPDX-License-Identifier: Apache-2.0
// Owned arrays, random contents and comparisons for tests.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/real_view.h"
#include "core/view.h"

namespace stipple::test {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// An array that owns its memory and converts to views. Starts as zeros.
template <class T>
class Array {
 public:
  Array() = default;  ///< not given
  explicit Array(Shape shape) : shape_(shape), data_(static_cast<size_t>(shape.numel())) {}
  Array(Shape shape, std::initializer_list<T> values) : shape_(shape), data_(values) {
    EXPECT_EQ(shape.numel(), static_cast<int64_t>(data_.size()));
  }
  View<T> view() { return {data_.data(), shape_}; }
  View<const T> view() const { return {data_.data(), shape_}; }
  operator View<T>() { return view(); }              // NOLINT(google-explicit-constructor)
  operator View<const T>() const { return view(); }  // NOLINT(google-explicit-constructor)
  operator RealView()                                // NOLINT(google-explicit-constructor)
      requires kIsReal<T> {
    return view();
  }
  operator ConstRealView() const  // NOLINT(google-explicit-constructor)
      requires kIsReal<T> {
    return view();
  }
  T& operator[](int64_t i) { return data_[static_cast<size_t>(i)]; }
  const T& operator[](int64_t i) const { return data_[static_cast<size_t>(i)]; }
  int64_t numel() const { return shape_.numel(); }
  const Shape& shape() const { return shape_; }
  std::vector<T>& values() { return data_; }
  const std::vector<T>& values() const { return data_; }
  void fill(T value) { std::fill(data_.begin(), data_.end(), value); }

 private:
  Shape shape_;
  std::vector<T> data_;
};

/// N(0, stddev^2) from a seeded generator.
inline Array<float> random_normal(Shape shape, uint64_t seed, double stddev = 1.0) {
  Array<float> a(shape);
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal(0.0, stddev);
  for (float& x : a.values()) x = static_cast<float>(normal(generator));
  return a;
}

inline Array<float> random_uniform(Shape shape, uint64_t seed, double low, double high) {
  Array<float> a(shape);
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> uniform(low, high);
  for (float& x : a.values()) x = static_cast<float>(uniform(generator));
  return a;
}

/// max |a - b| <= tolerance * max(max |b|, floor); names the worst element.
template <class A, class B>
void expect_close(const A& actual, const B& expected, double tolerance, double floor = 1e-6) {
  ASSERT_EQ(actual.values().size(), expected.values().size());
  double scale = floor;
  double worst = 0;
  size_t where = 0;
  for (size_t i = 0; i < expected.values().size(); ++i) {
    const double e = static_cast<double>(expected.values()[i]);
    const double d = std::abs(static_cast<double>(actual.values()[i]) - e);
    scale = std::max(scale, std::abs(e));
    if (!(d <= worst)) worst = d, where = i;
  }
  EXPECT_LE(worst, tolerance * scale) << "element " << where << ": " << actual.values()[where]
                                      << " instead of " << expected.values()[where];
}

}  // namespace stipple::test
