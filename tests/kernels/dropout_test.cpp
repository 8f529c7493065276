// SPDX-License-Identifier: Apache-2.0
#include "kernels/dropout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/cpu/isa.h"
#include "tests/support/arrays.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::random_normal;

constexpr RngKey kKey{.seed = 11, .step = 5};

/// Element by element, straight from the contract.
Array<float> oracle(const Array<float>& x, const Array<uint32_t>& samples, float rate, int layer,
                    int site) {
  Array<float> y(x.shape());
  const int64_t tokens = x.shape()[1], channels = x.shape()[2];
  for (int64_t i = 0; i < x.numel(); ++i) {
    const auto c = static_cast<uint32_t>(i % channels);
    const auto n = static_cast<uint32_t>(i / channels % tokens);
    const PhiloxCounter bits = philox4x32(
        {c / 4, n, samples[i / channels / tokens], stream_word(layer, site, Purpose::kDropout)},
        kKey.philox());
    y[i] = to_unit_float(bits[c % 4]) >= rate ? x[i] * (1.0f / (1.0f - rate)) : 0.0f;
  }
  return y;
}

Dropout arguments(Array<float>& y, const Array<float>& x, const Array<uint32_t>& samples,
                  float rate) {
  return {.y = y, .x = x, .samples = samples, .rate = rate, .rng = kKey, .layer = 3, .site = 2};
}

TEST(Dropout, FollowsItsContractForOddSizesOnEveryInstructionSet) {
  const stipple::cpu::Isa before = stipple::cpu::isa();
  const Array<uint32_t> samples({3}, {70, 5, 4000000000u});
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    for (const auto [tokens, channels] :
         {std::array<int64_t, 2>{1, 1}, {7, 5}, {131, 4}, {50, 64}, {9, 100}, {3, 67}}) {
      for (float rate : {0.1f, 0.5f, 0.9f}) {
        SCOPED_TRACE(testing::Message() << stipple::cpu::isa_name(isa) << ", " << tokens << " x "
                                        << channels << ", rate " << rate);
        const Array<float> x = random_normal({3, tokens, channels}, 1);
        Array<float> y(x.shape());
        dropout(Stream(kCpuDevice), arguments(y, x, samples, rate));
        EXPECT_EQ(y.values(), oracle(x, samples, rate, 3, 2).values());
      }
    }
  }
  stipple::cpu::set_isa(before);
}

TEST(Dropout, DropsTheAskedShareAndKeepsTheMean) {
  Array<float> x({4, 500, 64}), y(x.shape());
  x.fill(1.0f);
  const Array<uint32_t> samples({4}, {1, 2, 3, 4});
  dropout(Stream(kCpuDevice), arguments(y, x, samples, 0.3f));
  double sum = 0, dropped = 0;
  for (float value : y.values()) sum += value, dropped += value == 0.0f ? 1 : 0;
  const double n = static_cast<double>(y.numel());
  const double deviation = std::sqrt(0.3 * 0.7 / n);
  EXPECT_NEAR(dropped / n, 0.3, 5 * deviation);
  EXPECT_NEAR(sum / n, 1.0, 5 * deviation / 0.7);
}

TEST(Dropout, DoesNotDependOnHowTheBatchWasCut) {
  const Array<float> x = random_normal({2, 10, 24}, 1);
  const Array<uint32_t> samples({2}, {8, 9});
  Array<float> whole(x.shape()), part({1, 10, 24});
  dropout(Stream(kCpuDevice), arguments(whole, x, samples, 0.5f));
  Dropout second = arguments(part, x, samples, 0.5f);
  second.x = {x.view().data + 240, {1, 10, 24}};
  second.samples = {samples.view().data + 1, {1}};
  dropout(Stream(kCpuDevice), second);
  EXPECT_TRUE(std::equal(part.values().begin(), part.values().end(), whole.values().begin() + 240));
}

TEST(Dropout, LayersAndSitesDropDifferentElements) {
  Array<float> x({1, 10, 24}), a(x.shape()), b(x.shape()), c(x.shape());
  x.fill(1.0f);
  const Array<uint32_t> samples({1}, {8});
  Dropout args = arguments(a, x, samples, 0.5f);
  dropout(Stream(kCpuDevice), args);
  args.y = b, args.layer = 4;
  dropout(Stream(kCpuDevice), args);
  args.y = c, args.layer = 3, args.site = 1;
  dropout(Stream(kCpuDevice), args);
  EXPECT_NE(a.values(), b.values());
  EXPECT_NE(a.values(), c.values());
}

TEST(Dropout, KeepsAnElementWhoseDrawEqualsTheRate) {
  const Array<uint32_t> samples({1}, {8});
  Array<float> x({1, 1, 4}), y(x.shape());
  x.fill(1.0f);
  const PhiloxCounter bits =
      philox4x32({0, 0, 8, stream_word(3, 2, Purpose::kDropout)}, kKey.philox());
  for (int64_t c = 0; c < 4; ++c) {
    const float draw = to_unit_float(bits[static_cast<size_t>(c)]);
    dropout(Stream(kCpuDevice), arguments(y, x, samples, draw));
    EXPECT_GT(y[c], 0.0f);
    dropout(Stream(kCpuDevice), arguments(y, x, samples, std::nextafter(draw, 1.0f)));
    EXPECT_EQ(y[c], 0.0f);
  }
}

TEST(Dropout, IsItsOwnDerivative) {
  const Array<float> x = random_normal({1, 5, 7}, 1), dy = random_normal({1, 5, 7}, 2);
  const Array<uint32_t> samples({1}, {8});
  Array<float> dx(x.shape());
  dropout(Stream(kCpuDevice), arguments(dx, dy, samples, 0.4f));
  // Linear in x, so any step is exact: the derivative in x[i] is what dropout makes of the i-th
  // unit vector.
  for (int64_t i = 0; i < x.numel(); ++i) {
    Array<float> unit(x.shape()), y(x.shape());
    unit[i] = 1.0f;
    dropout(Stream(kCpuDevice), arguments(y, unit, samples, 0.4f));
    EXPECT_FLOAT_EQ(dx[i], y[i] * dy[i]);
  }
}

TEST(Dropout, RateZeroCopies) {
  Array<float> x = random_normal({2, 3, 5}, 1);
  Array<float> y(x.shape());
  const Array<uint32_t> samples({2}, {1, 2});
  dropout(Stream(kCpuDevice), arguments(y, x, samples, 0.0f));
  EXPECT_EQ(y.values(), x.values());
  dropout(Stream(kCpuDevice), arguments(x, x, samples, 0.0f));
  EXPECT_EQ(y.values(), x.values());
}

TEST(Dropout, MayOverwriteItsInput) {
  Array<float> x = random_normal({2, 30, 5}, 1);
  Array<float> y(x.shape());
  const Array<uint32_t> samples({2}, {1, 2});
  dropout(Stream(kCpuDevice), arguments(y, x, samples, 0.5f));
  dropout(Stream(kCpuDevice), arguments(x, x, samples, 0.5f));
  EXPECT_EQ(x.values(), y.values());
}

TEST(Dropout, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena&) {
    const Array<float> x = random_normal({3, 301, 32}, 1);
    const Array<uint32_t> samples({3}, {1, 2, 3});
    Array<float> y(x.shape());
    dropout(stream, arguments(y, x, samples, 0.5f));
    return y.values();
  });
}

TEST(Dropout, RefusesWrongShapesAndRates) {
  Array<float> x({2, 3, 5}), wrong({2, 5, 3});
  const Array<uint32_t> samples({2}), three({3});
  EXPECT_THROW(dropout(Stream(kCpuDevice), arguments(wrong, x, samples, 0.5f)), ShapeError);
  EXPECT_THROW(dropout(Stream(kCpuDevice), arguments(x, x, three, 0.5f)), ShapeError);
  EXPECT_THROW(dropout(Stream(kMetaDevice), arguments(x, x, samples, 1.0f)), Error);
}

}  // namespace
}  // namespace stipple::kernels
