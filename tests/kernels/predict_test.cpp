// SPDX-License-Identifier: Apache-2.0
#include "kernels/predict.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/cpu/isa.h"
#include "core/error.h"
#include "kernels/math/predict.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::random_normal;
using test::test_devices;

Array<uint8_t> padded_mask(int64_t batch, int64_t n) {
  Array<uint8_t> mask({batch, n});
  mask.fill(1);
  for (int64_t i = 0; i < n; i += 5) mask[(batch - 1) * n + i] = 0;
  return mask;
}

// --- projection ----------------------------------------------------------------------------------

TEST(ProjectTokens, EveryHeadHasItsOwnMap) {
  for (const Device device : test_devices()) {
    for (const Precision storage : test::test_storages(device)) {
      for (const int64_t r : {1, 4, 7}) {
        DeviceMemory memory(device, {.threads = 2});
        const Array<float> x = test::rounded(random_normal({2, 3, 11, 5}, 1), storage);
        const Array<float> w = random_normal({3, 5, r}, 2);
        const View<float> y = memory.fresh<float>({2, 3, 11, r});
        project_tokens(memory.stream(),
                       {.y = y, .x = memory.put(x, storage), .weight = memory.put(w)});
        Array<double> expected({2, 3, 11, r});
        for (int64_t row = 0; row < 2 * 3 * 11; ++row) {
          const int64_t h = row / 11 % 3;
          for (int64_t e = 0; e < r; ++e) {
            double sum = 0;
            for (int64_t k = 0; k < 5; ++k)
              sum +=
                  static_cast<double>(x[row * 5 + k]) * static_cast<double>(w[(h * 5 + k) * r + e]);
            expected[row * r + e] = sum;
          }
        }
        test::expect_close(memory.get(y), expected, 1e-6);
      }
    }
  }
}

/// What an operation writes on each device: the same bits, so that graphs are the same.
template <class Run>
void expect_same_on_every_device(const Run& run) {
  DeviceMemory host(kCpuDevice, {.threads = 1});
  const auto expected = run(host).values();
  for (const Device device : test_devices()) {
    DeviceMemory memory(device, {.threads = 3});
    EXPECT_TRUE(run(memory).values() == expected) << test::name_of(device);
  }
}

TEST(ProjectTokens, HasTheSameBitsOnEveryDeviceAndForAnyThreads) {
  const Array<float> x = random_normal({2, 2, 300, 33}, 1), w = random_normal({2, 33, 6}, 2);
  expect_same_on_every_device([&](DeviceMemory& memory) {
    const View<float> y = memory.fresh<float>({2, 2, 300, 6});
    project_tokens(memory.stream(), {.y = y, .x = memory.put(x), .weight = memory.put(w)});
    return memory.get(y);
  });
}

TEST(ProjectTokens, HasTheBitsOfTheSumOneDimensionAfterTheOtherOnEveryInstructionSet) {
  const int64_t n = 21, d = 37, r = 9;
  const Array<float> x = random_normal({1, 1, n, d}, 21);
  const Array<float> weight = random_normal({1, d, r}, 22);
  const stipple::cpu::Isa before = stipple::cpu::isa();
  for (const stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    SCOPED_TRACE(stipple::cpu::isa_name(isa));
    stipple::cpu::set_isa(isa);
    Array<float> y({1, 1, n, r});
    project_tokens(Stream(kCpuDevice), {.y = y, .x = ConstRealView(x.view()), .weight = weight});
    for (int64_t e = 0; e < n * r; ++e) {
      float sum = 0.0f;
      for (int64_t k = 0; k < d; ++k) {
        const float product = x[e / r * d + k] * weight[k * r + e % r];
        sum += product;
      }
      ASSERT_EQ(y[e], sum) << "token " << e / r << ", dimension " << e % r;
    }
  }
  stipple::cpu::set_isa(before);
}

TEST(ProjectTokens, MayBeOfLengthOneOrZero) {
  const Array<float> x({1, 1, 2, 2}, {3, 1, 0, 0}), w({1, 2, 2}, {1, 0, 0, -4});
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    const View<float> y = memory.fresh<float>({1, 1, 2, 2});
    project_tokens(memory.stream(),
                   {.y = y, .x = memory.put(x), .weight = memory.put(w), .to_unit_length = true});
    EXPECT_EQ(memory.get(y).values(), (std::vector<float>{0.6f, -0.8f, 0, 0}));
  }
  const Array<float> many = random_normal({2, 2, 300, 9}, 1), to = random_normal({2, 9, 5}, 2);
  expect_same_on_every_device([&](DeviceMemory& memory) {
    const View<float> y = memory.fresh<float>({2, 2, 300, 5});
    project_tokens(
        memory.stream(),
        {.y = y, .x = memory.put(many), .weight = memory.put(to), .to_unit_length = true});
    return memory.get(y);
  });
}

// --- centroids -----------------------------------------------------------------------------------

TEST(NearestGroups, AreTheNearestByDistanceAndNumber) {
  const int64_t n = 37, c = 9, r = 3, top = 4;
  const Array<float> x = random_normal({2, 2, n, r}, 4);
  const Array<float> centroids = random_normal({2, c, r}, 5);
  const Array<uint8_t> mask = padded_mask(2, n);
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    Array<int32_t> before({2, 2, n, top + 2});
    before.fill(77);
    const View<int32_t> groups = memory.put(before);
    nearest_groups(memory.stream(), {.groups = groups,
                                     .x = memory.put(x),
                                     .centroids = memory.put(centroids),
                                     .mask = memory.put(mask),
                                     .first_slot = 1,
                                     .top = top,
                                     .first_group = 100});
    const Array<int32_t> actual = memory.get(groups);
    for (int64_t row = 0; row < 2 * 2 * n; ++row) {
      const int32_t* own = &actual[row * (top + 2)];
      EXPECT_EQ(own[0], 77);
      EXPECT_EQ(own[top + 1], 77);
      if (mask[row / (2 * n) * n + row % n] == 0) {
        for (int64_t t = 0; t < top; ++t) ASSERT_EQ(own[1 + t], kNoGroup);
        continue;
      }
      std::vector<std::pair<double, int32_t>> by_distance;
      for (int64_t g = 0; g < c; ++g) {
        double squared = 0;
        for (int64_t e = 0; e < r; ++e) {
          const double difference = static_cast<double>(x[row * r + e]) -
                                    static_cast<double>(centroids[(row / n % 2 * c + g) * r + e]);
          squared += difference * difference;
        }
        by_distance.emplace_back(squared, static_cast<int32_t>(100 + g));
      }
      std::sort(by_distance.begin(), by_distance.end());
      for (int64_t t = 0; t < top; ++t)
        ASSERT_EQ(own[1 + t], by_distance[static_cast<size_t>(t)].second) << row << " " << t;
    }
  }
}

// Centroids so close that rounding decides: 150 in three blocks, for which instruction sets have loops
// of their own.
TEST(NearestGroups, AreThoseOfTheDefinitionToTheBitOnEveryInstructionSet) {
  const int64_t n = 500, c = 150, r = 5, top = 3;
  const Array<float> x = random_normal({1, 1, n, r}, 11);
  Array<float> centroids({1, c, r});
  const Array<float> middle = random_normal({r}, 12);
  for (int64_t g = 0; g < c; ++g) {
    for (int64_t e = 0; e < r; ++e)
      centroids[g * r + e] =
          middle[e] * (1.0f + static_cast<float>((g * 7 + e * 3) % 5) * 0x1p-23f);
  }
  const stipple::cpu::Isa before = stipple::cpu::isa();
  for (const stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    SCOPED_TRACE(stipple::cpu::isa_name(isa));
    stipple::cpu::set_isa(isa);
    for (const int64_t nearest : {int64_t{1}, top}) {
      Array<int32_t> groups({1, 1, n, nearest});
      nearest_groups(Stream(kCpuDevice),
                     {.groups = groups, .x = x, .centroids = centroids, .top = nearest});
      for (int64_t i = 0; i < n; ++i) {
        std::vector<uint64_t> keys;
        for (int64_t g = 0; g < c; ++g)
          keys.push_back(math::centroid_key(&x[i * r], &centroids[g * r], r, g));
        std::sort(keys.begin(), keys.end());
        for (int64_t t = 0; t < nearest; ++t)
          ASSERT_EQ(groups[i * nearest + t], math::centroid_of(keys[static_cast<size_t>(t)]));
      }
    }
  }
  stipple::cpu::set_isa(before);
}

TEST(NearestGroups, TiesGoToTheLowerNumberAndWhatIsNoNumberStaysAGroup) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Array<float> x({1, 1, 3, 2}, {0, 0, 1, 0, nan, 0});
  const Array<float> centroids({1, 4, 2}, {0, 1, 1, 0, 1, 0, 0, -1});
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    for (const bool is_ranked : {false, true}) {
      const View<int32_t> groups = memory.fresh<int32_t>({1, 1, 3, 3});
      nearest_groups(memory.stream(), {.groups = groups,
                                       .x = memory.put(x),
                                       .centroids = memory.put(centroids),
                                       .top = 3,
                                       .is_ranked = is_ranked});
      const int32_t c = is_ranked ? 4 : 0;
      EXPECT_EQ(memory.get(groups).values(),
                (std::vector<int32_t>{0, c + 1, 2 * c + 2, 1, c + 2, 2 * c, 0, c + 1, 2 * c + 2}));
    }
  }
}

TEST(NearestGroups, AreTheSameOnEveryDevice) {
  const Array<float> x = random_normal({2, 2, 300, 5}, 6), c = random_normal({2, 40, 5}, 7);
  expect_same_on_every_device([&](DeviceMemory& memory) {
    const View<int32_t> groups = memory.fresh<int32_t>({2, 2, 300, 3});
    nearest_groups(memory.stream(),
                   {.groups = groups, .x = memory.put(x), .centroids = memory.put(c), .top = 3});
    return memory.get(groups);
  });
}

// --- buckets -------------------------------------------------------------------------------------

TEST(QuantiseTokens, EqualBucketsHaveAsManyTokensByRank) {
  for (const int64_t n : {1, 2, 31, 130}) {
    const int64_t r = 3, buckets = 4;
    Array<float> x = random_normal({2, 2, n, r}, 8);
    for (int64_t e = 0; e < x.numel(); e += 7) x[e] = 0.5f;  // ties
    const Array<uint8_t> mask = padded_mask(2, n);
    for (const Device device : test_devices()) {
      DeviceMemory memory(device, {.threads = 2});
      const View<int32_t> groups = memory.fresh<int32_t>({2, 2, n, r});
      quantise_tokens(memory.stream(), {.groups = groups,
                                        .x = memory.put(x),
                                        .mask = memory.put(mask),
                                        .buckets = buckets,
                                        .scratch = &memory.scratch()});
      const Array<int32_t> actual = memory.get(groups);
      for (int64_t p = 0; p < 4; ++p) {
        const uint8_t* is_real = &mask[p / 2 * n];
        const int64_t real = std::count(is_real, is_real + n, uint8_t{1});
        const int64_t size = (real + buckets - 1) / buckets;
        for (int64_t e = 0; e < r; ++e) {
          const auto value = [&](int64_t i) { return x[(p * n + i) * r + e]; };
          for (int64_t i = 0; i < n; ++i) {
            int64_t rank = 0;
            for (int64_t j = 0; j < n; ++j)
              if (is_real[j] != 0 && (value(j) < value(i) || (value(j) == value(i) && j < i)))
                ++rank;
            const int64_t expected = is_real[i] != 0 ? e * buckets + rank / size : kNoGroup;
            ASSERT_EQ(actual[(p * n + i) * r + e], expected) << n << " " << p << " " << i;
          }
        }
      }
    }
  }
}

TEST(QuantiseTokens, TheLowestBucketAloneIsAGroup) {
  const Array<float> x({1, 1, 5, 2}, {4, 1, 3, 2, 9, 9, 2, 3, 1, 4});
  const Array<uint8_t> mask({1, 5}, {1, 1, 0, 1, 1});
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    for (const int64_t buckets : {2, 9}) {
      const View<int32_t> groups = memory.fresh<int32_t>({1, 1, 5, 2});
      quantise_tokens(memory.stream(), {.groups = groups,
                                        .x = memory.put(x),
                                        .mask = memory.put(mask),
                                        .kind = Quantisation::kLowest,
                                        .buckets = buckets,
                                        .scratch = &memory.scratch()});
      const auto second = static_cast<int32_t>(buckets);
      const int32_t of_two = buckets == 2 ? second : kNoGroup;  // the second of two in its bucket
      EXPECT_EQ(memory.get(groups).values(),
                (std::vector<int32_t>{kNoGroup, second, kNoGroup, of_two, kNoGroup, kNoGroup,
                                      of_two == kNoGroup ? kNoGroup : 0, kNoGroup, 0, kNoGroup}));
    }
  }
}

TEST(QuantiseTokens, IntervalsAreEqualPartsOfTheHyperbolicTangent) {
  const float infinity = std::numeric_limits<float>::infinity();
  const Array<float> x({1, 1, 8, 1}, {-infinity, -2, -0.3f, -0.01f, 0.01f, 0.3f, 2, infinity});
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    const View<int32_t> groups = memory.fresh<int32_t>({1, 1, 8, 1});
    quantise_tokens(memory.stream(), {.groups = groups,
                                      .x = memory.put(x),
                                      .kind = Quantisation::kInterval,
                                      .buckets = 4,
                                      .temperature = 2,
                                      .scratch = &memory.scratch()});
    // tanh(0.6) = 0.54, tanh(0.02) = 0.02
    EXPECT_EQ(memory.get(groups).values(), (std::vector<int32_t>{0, 0, 0, 1, 2, 3, 3, 3}));
  }
}

TEST(QuantiseTokens, AreTheSameOnEveryDevice) {
  const Array<float> x = random_normal({2, 2, 700, 4}, 9);
  for (const Quantisation kind : {Quantisation::kEqual, Quantisation::kInterval}) {
    expect_same_on_every_device([&](DeviceMemory& memory) {
      const View<int32_t> groups = memory.fresh<int32_t>({2, 2, 700, 4});
      quantise_tokens(memory.stream(), {.groups = groups,
                                        .x = memory.put(x),
                                        .kind = kind,
                                        .buckets = 16,
                                        .scratch = &memory.scratch()});
      return memory.get(groups);
    });
  }
}

TEST(QuantiseTokens, PlansItsScratch) {
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    const View<int32_t> groups = memory.fresh<int32_t>({2, 2, 50, 3});
    const View<float> x = memory.zeros<float>({2, 2, 50, 3});
    test::expect_meta_counts_scratch(device, [&](const Stream& stream, Arena& scratch) {
      quantise_tokens(stream, {.groups = groups, .x = x, .scratch = &scratch});
    });
  }
}

TEST(Predict, RefusesWhatDoesNotFit) {
  const Stream meta(kMetaDevice);
  Arena scratch("scratch");
  const auto floats = [](const Shape& shape) { return View<float>{nullptr, shape}; };
  const auto ints = [](const Shape& shape) { return View<int32_t>{nullptr, shape}; };
  const View<float> x = floats({2, 3, 5, 4});
  EXPECT_THROW(
      project_tokens(meta, {.y = floats({2, 3, 5, 2}), .x = x, .weight = floats({3, 2, 4})}),
      ShapeError);
  EXPECT_THROW(
      project_tokens(meta, {.y = floats({2, 3, 5, 33}), .x = x, .weight = floats({3, 4, 33})}),
      Error);
  const View<float> centroids = floats({3, 6, 4});
  EXPECT_THROW(nearest_groups(
                   meta, {.groups = ints({2, 3, 5, 7}), .x = x, .centroids = centroids, .top = 7}),
               Error);
  EXPECT_THROW(nearest_groups(
                   meta, {.groups = ints({2, 3, 5, 1}), .x = x, .centroids = centroids, .top = 2}),
               Error);
  EXPECT_THROW(
      nearest_groups(meta, {.groups = ints({2, 3, 5, 1}), .x = x, .centroids = floats({2, 6, 4})}),
      ShapeError);
  EXPECT_THROW(quantise_tokens(meta, {.groups = ints({2, 3, 5, 3}), .x = x, .scratch = &scratch}),
               ShapeError);
  EXPECT_THROW(quantise_tokens(meta, {.groups = ints({2, 3, 5, 4}), .x = x}), Error);
}

}  // namespace
}  // namespace stipple::kernels
