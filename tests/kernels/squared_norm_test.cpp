// SPDX-License-Identifier: Apache-2.0
#include "kernels/squared_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::name_of;
using test::random_normal;
using test::test_devices;

double norm_of(const Stream& stream, Arena& scratch, const Array<float>& x) {
  Array<double> sum({1}, {-1});
  squared_norm(stream, {.sum = sum, .x = x, .scratch = &scratch});
  return sum[0];
}

/// Of the elements from `first` on, so that they may start at any address.
double norm_on(Device device, const Array<float>& x, int64_t first = 0) {
  DeviceMemory memory(device);
  const View<double> sum = memory.fresh<double>({1});
  const View<float> all = memory.put(x);
  squared_norm(memory.stream(), {.sum = sum,
                                 .x = View<float>{all.data + first, {x.numel() - first}},
                                 .scratch = &memory.scratch()});
  return memory.get(sum)[0];
}

double oracle_norm(const Array<float>& x, int64_t first = 0) {
  double sum = 0;
  for (int64_t i = first; i < x.numel(); ++i) sum += double{x[i]} * x[i];
  return sum;
}

TEST(SquaredNorm, MatchesOracleForOddSizes) {
  for (Device device : test_devices()) {
    for (int64_t n : {0, 1, 31, 4096, 4097, 50021}) {
      const Array<float> x = random_normal({n}, 1);
      const double expected = oracle_norm(x);
      EXPECT_NEAR(norm_on(device, x), expected, 1e-13 * expected) << name_of(device) << ", " << n;
    }
  }
}

TEST(SquaredNorm, MayStartAtAnyAddress) {
  const Array<float> x = random_normal({9001}, 1);
  for (Device device : test_devices()) {
    for (int64_t first : {1, 2, 3}) {
      const double expected = oracle_norm(x, first);
      EXPECT_NEAR(norm_on(device, x, first), expected, 1e-13 * expected) << name_of(device);
    }
  }
}

TEST(SquaredNorm, AnyBadElementMakesTheSumNonFinite) {
  for (Device device : test_devices()) {
    for (float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
      for (int64_t where : {0, 4100, 9999}) {
        Array<float> x = random_normal({10000}, 1);
        x[where] = bad;
        EXPECT_FALSE(std::isfinite(norm_on(device, x))) << name_of(device) << ", " << where;
      }
    }
  }
}

TEST(SquaredNorm, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena& scratch) {
    return norm_of(stream, scratch, random_normal({50021}, 1));
  });
}

TEST(SquaredNorm, RepeatsItsBits) {
  const Array<float> x = random_normal({50021}, 1);
  for (Device device : test_devices()) EXPECT_EQ(norm_on(device, x), norm_on(device, x));
}

TEST(SquaredNorm, PlansItsScratch) {
  const Array<float> x = random_normal({70000}, 1);
  test::expect_meta_counts_scratch(
      [&](const Stream& stream, Arena& scratch) { norm_of(stream, scratch, x); });
}

TEST(SquaredNorm, RefusesAWrongResultAndMissingScratch) {
  Array<double> two({2}), one({1});
  const Array<float> x({5});
  Arena scratch("scratch");
  EXPECT_THROW(squared_norm(Stream(kMetaDevice), {.sum = two, .x = x, .scratch = &scratch}),
               ShapeError);
  EXPECT_THROW(squared_norm(Stream(kCpuDevice), {.sum = one, .x = x}), Error);
}

}  // namespace
}  // namespace stipple::kernels
