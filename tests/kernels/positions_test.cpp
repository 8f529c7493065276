// SPDX-License-Identifier: Apache-2.0
#include "kernels/positions.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>

#include "core/cpu/isa.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::expect_close;
using test::expect_stored;
using test::name_of;
using test::random_normal;
using test::rounded;
using test::test_devices;
using test::test_storages;

double angle(int64_t n, int64_t i, int64_t width) {
  return static_cast<double>(n) /
         std::pow(10000.0, 2.0 * static_cast<double>(i) / static_cast<double>(width));
}

struct Table {
  Array<float> cosines, sines;
};

Table angles(Device device, int64_t tokens, int64_t half) {
  DeviceMemory memory(device);
  const View<float> cosines = memory.fresh<float>({tokens, half}),
                    sines = memory.fresh<float>({tokens, half});
  rotary_angles(memory.stream(), {.cosines = cosines, .sines = sines});
  return {memory.get(cosines), memory.get(sines)};
}

/// The elements from `first` on, so that arrays may start at any address.
RealView behind(RealView all, int64_t first, const Shape& shape) {
  auto* from =
      static_cast<std::byte*>(all.data) + static_cast<size_t>(first) * bytes_of(all.precision);
  return {from, shape, all.precision};
}

/// x as a flat array of `shape` behind `first` elements that do not count.
Array<float> turn(Device device, const Array<float>& x, const Shape& shape, Precision storage,
                  bool inverse = false, int64_t first = 0, bool in_place = false) {
  const Table table = angles(device, shape[2], shape[3] / 2);
  DeviceMemory memory(device);
  const RealView from = memory.put(x, storage),
                 to = in_place ? from : memory.fresh(x.shape(), storage);
  rotate(memory.stream(), {.y = behind(to, first, shape),
                           .x = behind(from, first, shape),
                           .cosines = memory.put(table.cosines),
                           .sines = memory.put(table.sines),
                           .inverse = inverse});
  return memory.get(behind(to, first, shape));
}

template <class Values>
Array<double> oracle(const Values& x, const Shape& shape, bool inverse = false, int64_t first = 0) {
  const int64_t tokens = shape[2], channels = shape[3], half = channels / 2;
  const auto at = [&](int64_t i) { return static_cast<double>(x[static_cast<size_t>(first + i)]); };
  Array<double> y(shape);
  for (int64_t row = 0; row < shape.numel() / channels; ++row) {
    for (int64_t i = 0; i < half; ++i) {
      const double a = (inverse ? -1 : 1) * angle(row % tokens, i, channels);
      const int64_t low = row * channels + i, high = low + half;
      y[low] = at(low) * std::cos(a) - at(high) * std::sin(a);
      y[high] = at(low) * std::sin(a) + at(high) * std::cos(a);
    }
  }
  return y;
}

constexpr std::array<std::array<int64_t, 4>, 6> kShapes{
    {{1, 1, 1, 2}, {2, 3, 5, 4}, {1, 2, 131, 6}, {2, 1, 33, 32}, {1, 3, 17, 50}, {3, 2, 7, 16}}};

TEST(SinusoidalPositions, MatchOracleForOddSizesOnEveryDevice) {
  for (Device device : test_devices()) {
    for (const auto [tokens, channels] :
         {std::array<int64_t, 2>{1, 1}, {7, 5}, {301, 64}, {3, 67}}) {
      SCOPED_TRACE(testing::Message() << name_of(device) << ", " << tokens << " x " << channels);
      DeviceMemory memory(device);
      const View<float> y = memory.fresh<float>({tokens, channels});
      sinusoidal_positions(memory.stream(), {.y = y});
      Array<double> expected({tokens, channels});
      for (int64_t e = 0; e < expected.numel(); ++e) {
        const int64_t n = e / channels, c = e % channels;
        const double a = angle(n, c / 2, channels + channels % 2);
        expected[e] = c % 2 == 0 ? std::sin(a) : std::cos(a);
      }
      expect_close(memory.get(y), expected, 1e-7);
    }
  }
}

TEST(RotaryAngles, AreAccurateAtTheLastOfManyPositions) {
  constexpr int64_t kTokens = 65536, kHalf = 3;
  for (Device device : test_devices()) {
    const Table table = angles(device, kTokens, kHalf);
    for (int64_t n : {int64_t{0}, int64_t{1}, kTokens - 1}) {
      for (int64_t i = 0; i < kHalf; ++i) {
        const double a = angle(n, i, 2 * kHalf);
        EXPECT_NEAR(table.cosines[n * kHalf + i], std::cos(a), 1e-7);
        EXPECT_NEAR(table.sines[n * kHalf + i], std::sin(a), 1e-7);
      }
    }
  }
}

TEST(Rotate, MatchesOracleForOddSizesOnEveryDevice) {
  for (Device device : test_devices()) {
    for (Precision storage : test_storages(device)) {
      for (const auto [batch, heads, tokens, channels] : kShapes) {
        const Shape shape{batch, heads, tokens, channels};
        for (bool inverse : {false, true}) {
          SCOPED_TRACE(testing::Message() << name_of(device) << " " << shape.str() << inverse);
          const Array<float> x = rounded(random_normal(shape, 1), storage);
          expect_stored(turn(device, x, shape, storage, inverse),
                        oracle(x.values(), shape, inverse), storage, 1e-6);
        }
      }
    }
  }
}

TEST(Rotate, IsTheSameOnEveryInstructionSet) {
  const stipple::cpu::Isa before = stipple::cpu::isa();
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    for (const auto [batch, heads, tokens, channels] : kShapes) {
      const Shape shape{batch, heads, tokens, channels};
      const Array<float> x = random_normal(shape, 2);
      expect_close(turn(kCpuDevice, x, shape, Precision::kFp32), oracle(x.values(), shape), 1e-6);
    }
  }
  stipple::cpu::set_isa(before);
}

TEST(Rotate, WorksInPlaceAndMayStartAtAnyAddress) {
  const Shape shape{2, 1, 9, 16};
  for (Device device : test_devices()) {
    for (Precision storage : test_storages(device)) {
      for (int64_t first : {0, 1, 2, 4}) {
        for (bool in_place : {false, true}) {
          SCOPED_TRACE(testing::Message() << name_of(device) << ", from " << first << in_place);
          const Array<float> x = rounded(random_normal({shape.numel() + first}, 3), storage);
          expect_stored(turn(device, x, shape, storage, false, first, in_place),
                        oracle(x.values(), shape, false, first), storage, 1e-6);
        }
      }
    }
  }
}

/// What rotations are for.
TEST(Rotate, MakesScoresDependOnDistanceAlone) {
  constexpr int64_t kTokens = 12, kChannels = 8;
  const Array<float> one_query = random_normal({kChannels}, 4),
                     one_key = random_normal({kChannels}, 5);
  const Shape shape{1, 1, kTokens, kChannels};
  Array<float> q(shape), k(shape);
  for (int64_t i = 0; i < q.numel(); ++i) {
    q[i] = one_query[i % kChannels], k[i] = one_key[i % kChannels];
  }
  q = turn(kCpuDevice, q, shape, Precision::kFp32);
  k = turn(kCpuDevice, k, shape, Precision::kFp32);
  const auto score = [&](int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t c = 0; c < kChannels; ++c) {
      sum += static_cast<double>(q[i * kChannels + c]) * static_cast<double>(k[j * kChannels + c]);
    }
    return sum;
  };
  for (int64_t i = 0; i < kTokens - 4; ++i) {
    EXPECT_NEAR(score(i, i + 4), score(0, 4), 1e-5);
    EXPECT_NEAR(score(i + 3, i), score(3, 0), 1e-5);
  }
  EXPECT_GT(std::abs(score(0, 4) - score(4, 0)), 1e-2);
}

TEST(Rotate, InverseIsTheDerivative) {
  const Shape shape{1, 2, 5, 6};
  const Array<float> x = random_normal(shape, 6), dy = random_normal(shape, 7);
  const Array<double> expected = test::central_differences(
      x, [&](const auto& at) { return test::dot(dy, oracle(at, shape).values()); });
  for (Device device : test_devices()) {
    expect_close(turn(device, dy, shape, Precision::kFp32, true), expected, 1e-6);
  }
}

TEST(Rotate, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena&) {
    const Array<float> x = random_normal({2, 3, 301, 10}, 8);
    Array<float> cosines({301, 5}), sines({301, 5}), y(x.shape()), sinusoids({301, 7});
    rotary_angles(stream, {.cosines = cosines, .sines = sines});
    rotate(stream, {.y = y, .x = x, .cosines = cosines, .sines = sines});
    sinusoidal_positions(stream, {.y = sinusoids});
    std::vector<float> all = y.values();
    all.insert(all.end(), sinusoids.values().begin(), sinusoids.values().end());
    return all;
  });
}

TEST(Rotate, RefusesShapesThatDoNotFit) {
  const Stream meta(kMetaDevice);
  Array<float> odd({1, 1, 4, 5}), x({1, 1, 4, 6}), cosines({4, 3}), sines({4, 3}), few({3, 3});
  EXPECT_THROW(rotate(meta, {.y = odd, .x = odd, .cosines = cosines, .sines = sines}), ShapeError);
  EXPECT_THROW(rotate(meta, {.y = x, .x = x, .cosines = few, .sines = few}), ShapeError);
  EXPECT_THROW(rotate(meta, {.y = x, .x = x, .cosines = cosines, .sines = few}), ShapeError);
  EXPECT_THROW(rotary_angles(meta, {.cosines = cosines, .sines = few}), ShapeError);
  EXPECT_THROW(sinusoidal_positions(meta, {.y = odd}), ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
