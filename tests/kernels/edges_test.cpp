// SPDX-License-Identifier: Apache-2.0
#include "kernels/edges.h"

#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "tests/support/arrays.h"

namespace stipple::kernels {
namespace {

using test::Array;

Array<uint8_t> random_graph(int64_t n, int64_t m, double density, uint64_t seed) {
  Array<uint8_t> dense({n, m});
  std::mt19937_64 generator(seed);
  std::bernoulli_distribution edge(density);
  for (uint8_t& x : dense.values()) x = edge(generator) ? 1 : 0;
  return dense;
}

TEST(Edges, ComeBackAsTheyWereSetInBothForms) {
  Arena memory("edges", kCpuDevice, size_t{1} << 20);
  for (int64_t m : {1, 31, 32, 33, 100}) {
    EdgeSet edges = alloc_edges(memory, 2, 17, m, {.tile_density = 1.0});
    for (double density : {0.0, 0.3, 1.0}) {
      const Array<uint8_t> first = random_graph(17, m, density, 1);
      const Array<uint8_t> second = random_graph(17, m, 0.5, 2);
      Array<uint8_t> back({17, m});
      for (EdgeForm form : {EdgeForm::kBits, EdgeForm::kCsr}) {
        set_edges(edges, 0, form, first);
        set_edges(edges, 1, form, second);
        EXPECT_EQ(edges.form[0], form);
        get_edges(edges, 0, back);
        EXPECT_EQ(back.values(), first.values());
        get_edges(edges, 1, back);
        EXPECT_EQ(back.values(), second.values());
      }
    }
  }
}

TEST(Edges, KnowTheirDegreesInBothForms) {
  Arena memory("edges", kCpuDevice, size_t{1} << 20);
  EdgeSet edges = alloc_edges(memory, 1, 3, 40, {.tile_density = 1.0});
  Array<uint8_t> dense({3, 40});
  dense[0] = dense[39] = 1;
  dense[2 * 40 + 32] = 1;
  for (EdgeForm form : {EdgeForm::kBits, EdgeForm::kCsr}) {
    set_edges(edges, 0, form, dense);
    EXPECT_EQ(edges.degree(0, 0), 2);
    EXPECT_EQ(edges.degree(0, 1), 0);
    EXPECT_EQ(edges.degree(0, 2), 1);
    EXPECT_EQ(edges.num_edges(0), 3);
  }
  EXPECT_EQ(edges.columns(0)[0], 0u);
  EXPECT_EQ(edges.columns(0)[1], 39u);
  EXPECT_EQ(edges.columns(0)[2], 32u);
  set_edges(edges, 0, EdgeForm::kBits, dense);
  EXPECT_TRUE(edges.has_bit(0, 0, 39));
  EXPECT_FALSE(edges.has_bit(0, 1, 39));
  EXPECT_EQ(edges.bits(0, 2)[1], 1u);
}

TEST(Edges, KeepHowOftenTheyWereDrawn) {
  Arena memory("edges", kCpuDevice, size_t{1} << 20);
  EdgeSet edges = alloc_edges(memory, 1, 2, 3, {.multiplicity = true});
  const Array<uint8_t> drawn({2, 3}, {0, 3, 1, 0, 0, 200});
  set_edges(edges, 0, EdgeForm::kCsr, drawn);
  EXPECT_EQ(edges.num_edges(0), 3);
  EXPECT_EQ(edges.multiplicity.at(0)[2], 200);
  Array<uint8_t> back({2, 3});
  get_edges(edges, 0, back);
  EXPECT_EQ(back.values(), drawn.values());
  EXPECT_THROW(set_edges(edges, 0, EdgeForm::kBits, drawn), Error);
}

TEST(Edges, ReserveBitsOnlyWhereAProblemMayBecomeDense) {
  Arena plan("plan");
  constexpr int64_t kN = 1000;
  constexpr int64_t kBitWords = kN * 32;
  const auto words = [&](EdgeCapacity capacity) {
    return alloc_edges(plan, 1, kN, kN, capacity).storage.shape[1];
  };
  // 1 % of a million is 10000; six standard deviations are 600.
  EXPECT_EQ(words({.tile_density = 0.25, .max_density = 0.01}), 10000 + 600 + 64);
  EXPECT_EQ(words({.tile_density = 0.01, .max_density = 1.0}), kBitWords);
  EXPECT_EQ(words({.tile_density = 0.25, .max_density = 1.0}), 250000 + 3000 + 64);
  EXPECT_EQ(words({.tile_density = 1.0, .max_density = 1.0}), kN * kN);
  EXPECT_EQ(words({.tile_density = 0.01, .max_density = 0.5, .multiplicity = true}),
            500000 + 4242 + 64);
  const EdgeCapacity sparse = {.tile_density = 0.25, .max_density = 0.2};
  EXPECT_FALSE(has_room_for_bits(alloc_edges(plan, 1, kN, kN, sparse)));
  EXPECT_TRUE(has_room_for_bits(alloc_edges(plan, 1, kN, kN, {})));
}

TEST(Edges, OnMetaOnlyCountTheMemoryTheyWouldTake) {
  Arena plan("plan");
  Arena memory("edges", kCpuDevice, size_t{1} << 20);
  for (bool multiplicity : {false, true}) {
    const EdgeCapacity capacity = {.tile_density = 0.1, .multiplicity = multiplicity};
    const EdgeSet planned = alloc_edges(plan, 3, 50, 70, capacity);
    EXPECT_EQ(planned.storage.data, nullptr);
    EXPECT_EQ(planned.num_problems(), 3);
    alloc_edges(memory, 3, 50, 70, capacity);
    EXPECT_EQ(plan.used(), memory.used());
  }
}

TEST(Edges, LongSequencesFitWhenTheirGraphsAreSparse) {
  Arena plan("plan");
  const int64_t n = int64_t{1} << 17;
  const EdgeSet edges = alloc_edges(plan, 1, n, n, {.tile_density = 0.06, .max_density = 1e-3});
  EXPECT_GT(edges.storage.numel(), n * n / 1000);
  EXPECT_LT(edges.storage.numel(), n * n / 900);
  EXPECT_THROW(alloc_edges(plan, 1, n, n, {.tile_density = 0.06, .max_density = 1.0}), Error);
}

TEST(Edges, RefuseWhatDoesNotFit) {
  Arena memory("edges", kCpuDevice, size_t{1} << 20);
  EXPECT_THROW(alloc_edges(memory, 1, int64_t{1} << 16, int64_t{1} << 15, {}), Error);
  EdgeSet edges = alloc_edges(memory, 1, 100, 100, {.tile_density = 0.5, .max_density = 0.02});
  const Array<uint8_t> full = random_graph(100, 100, 1.0, 1);
  EXPECT_THROW(set_edges(edges, 0, EdgeForm::kCsr, full), Error);
  EXPECT_THROW(set_edges(edges, 0, EdgeForm::kBits, full), Error);
  Array<uint8_t> wrong({100, 99});
  EXPECT_THROW(set_edges(edges, 0, EdgeForm::kCsr, wrong), ShapeError);
  EXPECT_THROW(get_edges(edges, 0, wrong), ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
