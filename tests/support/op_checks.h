// SPDX-License-Identifier: Apache-2.0
// Claims that every operation's test makes: same bits for any number of threads, planned scratch =
// used scratch, and the derivative of a double-precision oracle by central differences.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "core/arena.h"
#include "core/stream.h"
#include "tests/support/arrays.h"

namespace stipple::test {

inline constexpr size_t kScratchBytes = size_t{8} << 20;

/// run(stream, scratch) returns what an operation wrote. The same bits with 1, 2 and 3 threads, and
/// twice in a row.
template <class Run>
void expect_same_bits_for_any_threads(const Run& run) {
  Arena scratch("scratch", kCpuDevice, kScratchBytes);
  const Stream one(kCpuDevice, {.threads = 1});
  const auto expected = run(one, scratch);
  for (int threads : {1, 2, 3}) {
    const Stream stream(kCpuDevice, {.threads = threads});
    for (int repeat = 0; repeat < 2; ++repeat) {
      EXPECT_TRUE(run(stream, scratch) == expected) << threads << " threads, run " << repeat;
    }
  }
}

/// op(stream, scratch): a run on meta counts exactly the bytes that the device uses, and with one
/// alignment unit less the device says so. The operands of op lie on the device.
template <class Op>
void expect_meta_counts_scratch(Device device, const Op& op) {
  const Device meta = meta_device(device.type);
  Arena planned("scratch", meta);
  op(Stream(meta, {.threads = 2}), planned);
  EXPECT_EQ(planned.used(), 0u) << "scratch was not given back";
  ASSERT_GT(planned.peak(), 0u);
  const Stream stream(device, {.threads = 2});
  Arena exact("scratch", device, planned.peak());
  op(stream, exact);
  stream.synchronize();
  EXPECT_EQ(exact.peak(), planned.peak());
  Arena small("scratch", device, planned.peak() - Buffer::kAlignment);
  EXPECT_THROW(op(stream, small), ArenaError);
}

template <class Op>
void expect_meta_counts_scratch(const Op& op) {
  expect_meta_counts_scratch(kCpuDevice, op);
}

inline std::vector<double> to_double(const Array<float>& a) {
  return {a.values().begin(), a.values().end()};
}

/// d f / d x of f(x) by central differences; f is smooth and computed in double.
template <class F>
Array<double> central_differences(const Array<float>& at, const F& f) {
  constexpr double kStep = 1e-4;
  std::vector<double> x = to_double(at);
  Array<double> gradient(at.shape());
  for (size_t i = 0; i < x.size(); ++i) {
    const double middle = x[i];
    x[i] = middle + kStep;
    const double above = f(x);
    x[i] = middle - kStep;
    const double below = f(x);
    x[i] = middle;
    gradient.values()[i] = (above - below) / (2 * kStep);
  }
  return gradient;
}

/// sum over i of a[i] b[i]: the loss whose gradient in y is `a`.
inline double dot(const Array<float>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < b.size(); ++i) sum += static_cast<double>(a.values()[i]) * b[i];
  return sum;
}

}  // namespace stipple::test
