// SPDX-License-Identifier: Apache-2.0
// A pretended training step: leaves of random gradients, their sum by a plain recursive tree, and
// the calls a trainer makes.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "comm/gradient_reducer.h"
#include "float_array.h"

namespace stipple::comm::test {

using Gradients = std::vector<float>;

struct Batch {
  int64_t numel = 0;
  int64_t num_leaves = 0;
  uint64_t step = 0;
  std::vector<Range> ranges;  ///< that backward announces; what they leave out is padding
};

/// Ranges of 1 to 300 elements, each padded to 32: all but the last few of numel elements.
inline Batch make_batch(int64_t numel, int64_t num_leaves, uint64_t step) {
  Batch batch{numel, num_leaves, step, {}};
  std::mt19937_64 generator(42);
  std::uniform_int_distribution<int64_t> size(1, 300);
  for (int64_t at = 0; at < numel - 40;) {
    batch.ranges.push_back({at, std::min(numel, at + size(generator))});
    at = (batch.ranges.back().end + 31) / 32 * 32;
  }
  return batch;
}

/// Random signs, mantissas and exponents over twelve orders of magnitude: any other order of
/// summation shows in the bits.
inline Gradients leaf_gradients(const Batch& batch, int64_t leaf) {
  Gradients gradients(static_cast<size_t>(batch.numel), 0.0f);
  std::mt19937_64 generator(batch.step * 1000003 + static_cast<uint64_t>(leaf));
  for (const Range range : batch.ranges) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const uint64_t random = generator();
      const auto exponent = static_cast<uint32_t>(107 + (random >> 32) % 41);
      const auto sign_and_mantissa = static_cast<uint32_t>(random) & 0x807fffffu;
      gradients[static_cast<size_t>(i)] = std::bit_cast<float>(sign_and_mantissa | exponent << 23);
    }
  }
  return gradients;
}

/// The definition: node (level, index) covers leaves [L index / 2^level, L (index + 1) / 2^level).
inline Gradients tree_sum(const Batch& batch, int level = 0, int64_t index = 0) {
  const int64_t first = batch.num_leaves * index / (int64_t{1} << level);
  const int64_t last = batch.num_leaves * (index + 1) / (int64_t{1} << level);
  if (last - first == 1) return leaf_gradients(batch, first);
  Gradients sum = tree_sum(batch, level + 1, 2 * index);
  const Gradients right = tree_sum(batch, level + 1, 2 * index + 1);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = sum[i] + right[i];
  return sum;
}

inline Gradients running_sum(const Batch& batch) {
  Gradients sum(static_cast<size_t>(batch.numel), 0.0f);
  for (int64_t leaf = 0; leaf < batch.num_leaves; ++leaf) {
    const Gradients next = leaf_gradients(batch, leaf);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += next[i];
  }
  return sum;
}

/// What a sum in fp32 can be wrong by, whatever the order: by element, the sum of magnitudes.
inline Gradients sum_of_magnitudes(const Batch& batch) {
  Gradients sum(static_cast<size_t>(batch.numel), 0.0f);
  for (int64_t leaf = 0; leaf < batch.num_leaves; ++leaf) {
    const Gradients next = leaf_gradients(batch, leaf);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += std::abs(next[i]);
  }
  return sum;
}

/// grads[i] += gradients[i] in host memory.
inline void add_on_host(View<float> grads, const Gradients& gradients, Range range) {
  for (int64_t i = range.begin; i < range.end; ++i) grads[i] += gradients[static_cast<size_t>(i)];
}

/// Adds the leaf's gradients, as backward does, announcing each range.
template <class Add>
void backward(GradientReducer& reducer, const Batch& batch, const Gradients& gradients,
              const Add& add) {
  for (const Range range : batch.ranges) {
    add(reducer.grads(), gradients, range);
    reducer.ready(range);
  }
}
inline void backward(GradientReducer& reducer, const Batch& batch, const Gradients& gradients) {
  backward(reducer, batch, gradients, add_on_host);
}

template <class Add>
View<const float> run_step(GradientReducer& reducer, const Communicator& communicator,
                           const Batch& batch, const Add& add) {
  const Range leaves = leaves_of_rank(batch.num_leaves, communicator.rank(), communicator.size());
  for (int64_t leaf = leaves.begin; leaf < leaves.end; ++leaf) {
    reducer.begin_leaf(leaf);
    backward(reducer, batch, leaf_gradients(batch, leaf), add);
    reducer.end_leaf();
  }
  return reducer.finish();
}
inline View<const float> run_step(GradientReducer& reducer, const Communicator& communicator,
                                  const Batch& batch) {
  return run_step(reducer, communicator, batch, add_on_host);
}

inline bool same_bits(View<const float> actual, const Gradients& expected) {
  return actual.numel() == static_cast<int64_t>(expected.size()) &&
         std::memcmp(actual.data, expected.data(), actual.bytes()) == 0;
}

inline void expect_close(View<const float> actual, const Gradients& expected,
                         const Gradients& magnitudes) {
  ASSERT_EQ(actual.numel(), static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(actual.data[i], expected[i], 1e-6f * magnitudes[i]) << "element " << i;
  }
}

}  // namespace stipple::comm::test
