// SPDX-License-Identifier: Apache-2.0
#include "kernels/entmax_heads.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/devices.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::random_normal;
using test::test_devices;

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

TEST(EntmaxHeads, AlphaLiesInItsRangeAndTemperatureIsPositive) {
  for (const Device device : test_devices()) {
    SCOPED_TRACE(test::name_of(device));
    DeviceMemory memory(device);
    const Array<float> weight({4}, {-40.0f, -1.0f, 0.0f, 2.0f});
    const View<float> alpha = memory.fresh<float>({4}), temperature = memory.fresh<float>({4});
    set_entmax_heads(memory.stream(), {.alpha = alpha,
                                       .temperature = temperature,
                                       .alpha_weight = memory.put(weight),
                                       .temperature_weight = memory.put(weight),
                                       .low = 1.0f,
                                       .high = 3.0f});
    for (int64_t h = 0; h < 4; ++h) {
      const double w = static_cast<double>(weight[h]);
      const double held = static_cast<double>(kEntmaxHeldAbove);
      EXPECT_NEAR(memory.get(alpha)[h], std::max(held, 1 + 2 * logistic(w)), 1e-6);
      EXPECT_NEAR(memory.get(temperature)[h], std::exp(w), 1e-6 * std::exp(w));
    }
    set_entmax_heads(memory.stream(), {.alpha = alpha, .temperature = temperature, .low = 1.5f});
    EXPECT_EQ(memory.get(alpha)[3], 1.5f);
    EXPECT_EQ(memory.get(temperature)[3], 1.0f);
  }
}

TEST(EntmaxHeads, GradientsAreTheSharesOfAllRowsTimesTheSlope) {
  constexpr int64_t kBatch = 2, kHeads = 3, kLength = 301;
  const Array<float> weight = random_normal({kHeads}, 1);
  const Array<float> dalpha = random_normal({kBatch, kHeads, kLength}, 2);
  const Array<float> dtemperature = random_normal({kBatch, kHeads, kLength}, 3);
  for (const Device device : test_devices()) {
    SCOPED_TRACE(test::name_of(device));
    DeviceMemory memory(device);
    const View<float> of_alpha = memory.put(Array<float>({kHeads}, {1, 1, 1}));
    const View<float> of_temperature = memory.put(Array<float>({kHeads}, {1, 1, 1}));
    set_entmax_heads_backward(memory.stream(), {.dalpha_weight = of_alpha,
                                                .dtemperature_weight = of_temperature,
                                                .dalpha = memory.put(dalpha),
                                                .dtemperature = memory.put(dtemperature),
                                                .alpha_weight = memory.put(weight),
                                                .temperature_weight = memory.put(weight),
                                                .low = 1.0f,
                                                .high = 2.5f});
    for (int64_t h = 0; h < kHeads; ++h) {
      double alpha_sum = 0.0, temperature_sum = 0.0;
      for (int64_t b = 0; b < kBatch; ++b) {
        for (int64_t i = 0; i < kLength; ++i) {
          alpha_sum += static_cast<double>(dalpha[(b * kHeads + h) * kLength + i]);
          temperature_sum += static_cast<double>(dtemperature[(b * kHeads + h) * kLength + i]);
        }
      }
      const double share = logistic(static_cast<double>(weight[h]));
      EXPECT_NEAR(memory.get(of_alpha)[h], 1 + alpha_sum * 1.5 * share * (1 - share), 1e-4);
      EXPECT_NEAR(memory.get(of_temperature)[h],
                  1 + temperature_sum * std::exp(static_cast<double>(weight[h])), 1e-4);
    }
  }
}

TEST(Anneal, IsLinearAndStaysAtItsEnd) {
  for (const Device device : test_devices()) {
    SCOPED_TRACE(test::name_of(device));
    DeviceMemory memory(device);
    for (const auto& [step, expected] :
         {std::pair{uint64_t{0}, 1.25f}, {2, 1.375f}, {4, 1.5f}, {1u << 20, 1.5f}}) {
      const View<float> values = memory.fresh<float>({3});
      Anneal args{.values = values, .from = 1.25, .to = 1.5, .steps = 4, .rng = {.step = step}};
      anneal(memory.stream(), args);
      EXPECT_EQ(memory.get(values).values(), std::vector<float>(3, expected)) << step;
      // Where the step stands in the memory of the device.
      Array<uint64_t> where({1}, {step});
      const View<uint64_t> on_device = memory.put(where);
      args.rng = {.step = 77, .device_step = on_device.data};
      anneal(memory.stream(), args);
      EXPECT_EQ(memory.get(values).values(), std::vector<float>(3, expected)) << step;
    }
  }
}

TEST(SupportStatistics, CountsRealQueriesOnly) {
  constexpr int64_t kBatch = 2, kHeads = 2, kLength = 5;
  Array<int32_t> size({kBatch, kHeads, kLength});
  for (int64_t i = 0; i < size.numel(); ++i) size[i] = static_cast<int32_t>(i);
  const Array<uint8_t> mask({kBatch, kLength}, {1, 1, 0, 1, 0, 1, 1, 1, 1, 1});
  for (const Device device : test_devices()) {
    SCOPED_TRACE(test::name_of(device));
    DeviceMemory memory(device);
    const View<int64_t> edges = memory.fresh<int64_t>({kHeads});
    const View<int64_t> pairs = memory.fresh<int64_t>({kHeads});
    const View<int64_t> rows = memory.fresh<int64_t>({kHeads});
    SupportStatistics args{.edges = edges, .pairs = pairs, .rows = rows, .size = memory.put(size)};
    args.mask = memory.put(mask);
    support_statistics(memory.stream(), args);
    EXPECT_EQ(memory.get(edges).values(),
              (std::vector<int64_t>{0 + 1 + 3 + 10 + 11 + 12 + 13 + 14,
                                    5 + 6 + 8 + 15 + 16 + 17 + 18 + 19}));
    EXPECT_EQ(memory.get(pairs).values(), (std::vector<int64_t>{9 + 25, 9 + 25}));
    EXPECT_EQ(memory.get(rows).values(), (std::vector<int64_t>{8, 8}));
    args.is_causal = true;
    support_statistics(memory.stream(), args);
    EXPECT_EQ(memory.get(pairs).values(), (std::vector<int64_t>{6 + 15, 6 + 15}));
  }
}

}  // namespace
}  // namespace stipple::kernels
