// SPDX-License-Identifier: Apache-2.0
#include "kernels/edges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "tests/support/devices.h"
#include "tests/support/graphs.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::graph_defect;
using test::GraphProblem;
using test::HostGraph;
using test::put_graph;
using test::random_graph;
using test::test_devices;

constexpr DeviceType kLayouts[] = {DeviceType::kCpu, DeviceType::kCuda};

TEST(Edges, ComeBackAsTheyWereSetInEveryFormAndLayout) {
  for (DeviceType layout : kLayouts) {
    for (int64_t m : {1, 31, 32, 33, 100, 128, 129, 300}) {
      for (double density : {0.0, 0.3, 1.0}) {
        const Array<uint8_t> first = random_graph(17, m, density, 1);
        const Array<uint8_t> second = random_graph(17, m, 0.5, 2);
        for (EdgeForm form : {EdgeForm::kBits, EdgeForm::kCsr}) {
          const HostGraph graph({{form, first}, {form, second}}, {.tile_density = 1.0}, layout);
          EXPECT_EQ(graph.edges().form[0], form);
          EXPECT_EQ(graph.dense(0).values(), first.values());
          EXPECT_EQ(graph.dense(1).values(), second.values());
          EXPECT_EQ(graph_defect(graph.edges()), "");
        }
      }
    }
  }
}

TEST(Edges, KnowTheirDegreesInEveryFormAndLayout) {
  Array<uint8_t> dense({3, 40});
  dense[0] = dense[39] = 1;
  dense[2 * 40 + 32] = 1;
  for (DeviceType layout : kLayouts) {
    for (EdgeForm form : {EdgeForm::kBits, EdgeForm::kCsr}) {
      const HostGraph graph({{form, dense}}, {.tile_density = 1.0}, layout);
      EXPECT_EQ(graph.edges().degree(0, 0), 2);
      EXPECT_EQ(graph.edges().degree(0, 1), 0);
      EXPECT_EQ(graph.edges().degree(0, 2), 1);
      EXPECT_EQ(graph.edges().num_edges(0), 3);
    }
    const HostGraph csr({{EdgeForm::kCsr, dense}}, {.tile_density = 1.0}, layout);
    EXPECT_EQ(csr.edges().columns(0)[0], 0u);
    EXPECT_EQ(csr.edges().columns(0)[1], 39u);
    EXPECT_EQ(csr.edges().columns(0)[2], 32u);
    const HostGraph bits({{EdgeForm::kBits, dense}}, {.tile_density = 1.0}, layout);
    EXPECT_TRUE(bits.edges().has_bit(0, 0, 39));
    EXPECT_FALSE(bits.edges().has_bit(0, 1, 39));
  }
}

TEST(Edges, OnTheCpuKeepABitWhereItsColumnStands) {
  Array<uint8_t> dense({2, 70});
  dense[70 + 33] = 1;
  const HostGraph graph({{EdgeForm::kBits, dense}}, {}, DeviceType::kCpu);
  EXPECT_EQ(graph.edges().words_per_row(), 3);
  EXPECT_EQ(graph.edges().bits(0, 1)[1], 2u);
  EXPECT_TRUE(graph.edges().transposed.empty());
  EXPECT_TRUE(graph.edges().column_ptr.empty());
}

// Lane 4 r + w of a warp holds columns 8 t + 2 w and 8 t + 2 w + 1 of every tile t of eight columns
// of row r (PTX ISA, the accumulator of mma.m16n8k16): they must be bits 2 t and 2 t + 1 of word w.
TEST(Edges, OnTheDeviceKeepTheBitsOfALaneInOneWord) {
  std::vector<bool> used(8 * 32);
  for (int64_t j = 0; j < 256; ++j) {
    const int64_t tile = j % 128 / 8;
    const int64_t lane_word = j % 8 / 2;
    const BitPlace place = bit_place(BitOrder::kLanes, j);
    EXPECT_EQ(place.word, j / 128 * 4 + lane_word) << j;
    EXPECT_EQ(place.bit, 2 * tile + j % 2) << j;
    used[static_cast<size_t>(place.word * 32 + place.bit)] = true;
  }
  EXPECT_EQ(std::count(used.begin(), used.end(), true), 256);
  EXPECT_EQ(bit_words(BitOrder::kLanes, 1), 4);
  EXPECT_EQ(bit_words(BitOrder::kLanes, 128), 4);
  EXPECT_EQ(bit_words(BitOrder::kLanes, 129), 8);
}

TEST(Edges, OnTheDeviceAreKeptByKeyToo) {
  const Array<uint8_t> dense({2, 3}, {0, 1, 1, 1, 0, 1});
  const HostGraph csr({{EdgeForm::kCsr, dense}}, {.tile_density = 1.0}, DeviceType::kCuda);
  const EdgeSet& edges = csr.edges();
  EXPECT_EQ(std::vector(edges.column_ptr.data, edges.column_ptr.data + 4),
            (std::vector<int32_t>{0, 1, 2, 4}));
  EXPECT_EQ(std::vector(edges.transposed.data, edges.transposed.data + 4),
            (std::vector<uint32_t>{1, 0, 0, 1}));
  EXPECT_EQ(edges.overflow[0], 0);
  const HostGraph bits({{EdgeForm::kBits, dense}}, {}, DeviceType::kCuda);
  EXPECT_EQ(bits.edges().words_per_column(), 4);
  EXPECT_EQ(bits.edges().transposed[0], 2u);
  EXPECT_EQ(bits.edges().transposed[4], 1u);
  EXPECT_EQ(bits.edges().transposed[8], 3u);
}

TEST(Edges, KeepHowOftenTheyWereDrawn) {
  const Array<uint8_t> drawn({2, 3}, {0, 3, 1, 0, 0, 200});
  for (DeviceType layout : kLayouts) {
    HostGraph graph({{EdgeForm::kCsr, drawn}}, {.multiplicity = true}, layout);
    EXPECT_EQ(graph.edges().num_edges(0), 3);
    EXPECT_EQ(graph.edges().multiplicity.at(0)[2], 200);
    EXPECT_EQ(graph.dense(0).values(), drawn.values());
    EXPECT_EQ(graph_defect(graph.edges()), "");
    EXPECT_THROW(set_edges(graph.edges(), 0, EdgeForm::kBits, drawn), Error);
    if (layout == DeviceType::kCuda) {
      EXPECT_EQ(graph.edges().transposed_multiplicity[2], 200);
    }
  }
}

TEST(Edges, SurviveTheWayToADeviceAndBack) {
  for (Device device : test::test_devices()) {
    test::DeviceMemory memory(device);
    const std::vector<GraphProblem> problems = {{EdgeForm::kCsr, random_graph(33, 140, 0.1, 1)},
                                                {EdgeForm::kBits, random_graph(33, 140, 0.7, 2)}};
    const EdgeSet edges = put_graph(memory, HostGraph(problems, {}, device.type));
    const HostGraph back = get_graph(memory, edges);
    EXPECT_EQ(graph_defect(back.edges()), "");
    for (size_t p = 0; p < problems.size(); ++p) {
      EXPECT_EQ(back.edges().form[static_cast<int64_t>(p)], problems[p].form);
      EXPECT_EQ(back.dense(static_cast<int64_t>(p)).values(), problems[p].dense.values());
    }
  }
}

// The check that other tests rely on.
TEST(Edges, WithADefectAreFound) {
  const GraphProblem bits = {EdgeForm::kBits, random_graph(20, 30, 0.5, 1)};
  const GraphProblem csr = {EdgeForm::kCsr, random_graph(20, 30, 0.5, 1)};
  const GraphProblem drawn = {EdgeForm::kCsr, random_graph(20, 30, 0.5, 1)};
  const auto defect = [](const GraphProblem& problem, bool multiplicity, const auto& damage) {
    HostGraph graph({problem}, {.tile_density = 1.0, .multiplicity = multiplicity},
                    DeviceType::kCuda);
    EXPECT_EQ(graph_defect(graph.edges()), "");
    damage(graph.edges());
    return graph_defect(graph.edges());
  };
  EXPECT_NE(defect(bits, false, [](EdgeSet& e) { e.storage[0] ^= 1; }), "");
  EXPECT_NE(defect(bits, false, [](EdgeSet& e) { e.storage[3] |= 1u << 31; }), "");
  EXPECT_NE(defect(bits, false, [](EdgeSet& e) { e.transposed[5] ^= 2; }), "");
  EXPECT_NE(defect(csr, false, [](EdgeSet& e) { std::swap(e.storage[0], e.storage[1]); }), "");
  EXPECT_NE(defect(csr, false, [](EdgeSet& e) { e.transposed[0] = 1000; }), "");
  EXPECT_NE(defect(csr, false, [](EdgeSet& e) { e.row_ptr[1] += 1; }), "");
  EXPECT_NE(defect(csr, false, [](EdgeSet& e) { e.column_ptr[3] = 1 << 30; }), "");
  EXPECT_NE(defect(drawn, true, [](EdgeSet& e) { e.transposed_multiplicity[7] += 1; }), "");
  EXPECT_NE(defect(drawn, true, [](EdgeSet& e) { e.multiplicity[7] = 0; }), "");
}

TEST(Edges, ReserveBitsOnlyWhereAProblemMayBecomeDense) {
  Arena plan("plan");
  constexpr int64_t kN = 1000;
  constexpr int64_t kBitWords = kN * 32;
  const auto words = [&](EdgeCapacity capacity) {
    return alloc_edges(plan, 1, kN, kN, capacity).storage.shape[1];
  };
  const auto round_up = [](int64_t count) { return (count + 31) / 32 * 32; };
  // 1 % of a million is 10000; six standard deviations are 600.
  EXPECT_EQ(words({.tile_density = 0.25, .max_density = 0.01}), round_up(10000 + 600 + 64));
  EXPECT_EQ(words({.tile_density = 0.01, .max_density = 1.0}), kBitWords);
  EXPECT_EQ(words({.tile_density = 0.25, .max_density = 1.0}), round_up(250000 + 3000 + 64));
  EXPECT_EQ(words({.tile_density = 1.0, .max_density = 1.0}), kN * kN);
  EXPECT_EQ(words({.tile_density = 0.01, .max_density = 0.5, .multiplicity = true}),
            round_up(500000 + 4242 + 64));
  // A window is there besides what is promised, and is most of a short sequence's pairs.
  EXPECT_EQ(words({.tile_density = 0.25, .max_density = 0.01, .window_radius = 32}),
            round_up(10000 + 600 + 64 + 64 * kN));
  EXPECT_EQ(words({.tile_density = 0.25, .max_density = 1.0, .window_radius = 32}),
            round_up(250000 + 3000 + 64));
  const EdgeCapacity sparse = {.tile_density = 0.25, .max_density = 0.2};
  EXPECT_FALSE(has_room_for_bits(alloc_edges(plan, 1, kN, kN, sparse)));
  EXPECT_TRUE(has_room_for_bits(alloc_edges(plan, 1, kN, kN, {})));
}

TEST(Edges, OnMetaOnlyCountTheMemoryTheyWouldTake) {
  for (DeviceType layout : kLayouts) {
    Arena plan("plan", meta_device(layout));
    Arena memory("edges", kCpuDevice, size_t{1} << 20);
    for (bool multiplicity : {false, true}) {
      const EdgeCapacity capacity = {.tile_density = 0.1, .multiplicity = multiplicity};
      const EdgeSet planned = alloc_edges(plan, 3, 50, 70, capacity);
      EXPECT_EQ(planned.storage.data, nullptr);
      EXPECT_EQ(planned.num_problems(), 3);
      EXPECT_EQ(planned.transposed.empty(), layout == DeviceType::kCpu);
      alloc_edges(memory, 3, 50, 70, capacity, layout);
      EXPECT_EQ(plan.used(), memory.used());
    }
  }
}

TEST(Edges, LongSequencesFitWhenTheirGraphsAreSparse) {
  Arena plan("plan");
  const int64_t n = int64_t{1} << 17;
  const EdgeSet edges = alloc_edges(plan, 1, n, n, {.tile_density = 0.06, .max_density = 1e-3});
  EXPECT_GT(edges.storage.numel(), n * n / 1000);
  EXPECT_LT(edges.storage.numel(), n * n / 900);
  EXPECT_THROW(alloc_edges(plan, 1, n, n, {.tile_density = 0.06, .max_density = 1.0}),
               EdgeRoomError);
}

TEST(Edges, RefuseWhatDoesNotFit) {
  Arena memory("edges", kCpuDevice, size_t{1} << 20);
  EXPECT_THROW(alloc_edges(memory, 1, int64_t{1} << 16, int64_t{1} << 15, {}), EdgeRoomError);
  EdgeSet edges = alloc_edges(memory, 1, 100, 100, {.tile_density = 0.5, .max_density = 0.02});
  const Array<uint8_t> full = random_graph(100, 100, 1.0, 1);
  EXPECT_THROW(set_edges(edges, 0, EdgeForm::kCsr, full), Error);
  EXPECT_THROW(set_edges(edges, 0, EdgeForm::kBits, full), Error);
  Array<uint8_t> wrong({100, 99});
  EXPECT_THROW(set_edges(edges, 0, EdgeForm::kCsr, wrong), ShapeError);
  EXPECT_THROW(get_edges(edges, 0, wrong), ShapeError);
}

struct Statistics {
  std::vector<int64_t> edges, pairs, empty_rows, rows;
};

struct StatisticsInputs {
  const Array<uint8_t>* queries = nullptr;
  const Array<uint8_t>* keys = nullptr;
};

Statistics statistics_of(DeviceMemory& memory, const EdgeSet& graph, int64_t heads,
                         const StatisticsInputs& in) {
  const auto put = [&]<class T>(const Array<T>* host) {
    return host == nullptr ? View<const T>{} : memory.put(*host);
  };
  const EdgeStatistics args{.edges = memory.fresh<int64_t>({heads}),
                            .pairs = memory.fresh<int64_t>({heads}),
                            .empty_rows = memory.fresh<int64_t>({heads}),
                            .rows = memory.fresh<int64_t>({heads}),
                            .graph = graph,
                            .query_mask = put(in.queries),
                            .key_mask = put(in.keys)};
  edge_statistics(memory.stream(), args);
  return {memory.get(args.edges).values(), memory.get(args.pairs).values(),
          memory.get(args.empty_rows).values(), memory.get(args.rows).values()};
}

TEST(EdgeStatistics, CountEdgesPairsAndEmptyRowsOfRealTokens) {
  using Counts = std::vector<int64_t>;
  const Array<uint8_t> two_rows({3, 3}, {1, 1, 0, 0, 1, 0, 0, 0, 0});
  const Array<uint8_t> no_rows({3, 3});
  const std::vector<GraphProblem> problems = {{EdgeForm::kCsr, two_rows},
                                              {EdgeForm::kBits, two_rows},
                                              {EdgeForm::kCsr, no_rows},
                                              {EdgeForm::kBits, two_rows}};
  const Array<uint8_t> queries({2, 3}, {1, 1, 1, 1, 1, 0});
  const Array<uint8_t> keys({2, 3}, {1, 1, 0, 1, 1, 1});
  for (Device device : test_devices()) {
    DeviceMemory memory(device);
    const HostGraph host(problems, {.tile_density = 0.5}, device.type);
    const EdgeSet graph = put_graph(memory, host);
    const Statistics masked = statistics_of(memory, graph, 2, {.queries = &queries, .keys = &keys});
    EXPECT_EQ(masked.edges, (Counts{3, 6}));
    EXPECT_EQ(masked.pairs, (Counts{6 + 6, 6 + 6}));
    EXPECT_EQ(masked.empty_rows, (Counts{1 + 2, 1 + 0}));
    EXPECT_EQ(masked.rows, (Counts{5, 5}));
    const Statistics all = statistics_of(memory, graph, 2, {});
    EXPECT_EQ(all.pairs, (Counts{18, 18}));
    EXPECT_EQ(all.empty_rows, (Counts{1 + 3, 1 + 1}));
    EXPECT_EQ(all.rows, (Counts{6, 6}));
  }
}

TEST(EdgeStatistics, CountMoreRowsThanABlockHasThreads) {
  const std::vector<GraphProblem> problems = {{EdgeForm::kCsr, random_graph(300, 270, 0.01, 1)},
                                              {EdgeForm::kCsr, random_graph(300, 270, 0.005, 2)}};
  int64_t edges = 0, empty = 0;
  for (const GraphProblem& problem : problems) {
    for (int64_t i = 0; i < 300; ++i) {
      int64_t degree = 0;
      for (int64_t j = 0; j < 270; ++j) degree += problem.dense[i * 270 + j];
      edges += degree;
      empty += degree == 0 ? 1 : 0;
    }
  }
  for (Device device : test_devices()) {
    DeviceMemory memory(device);
    const HostGraph host(problems, {.tile_density = 0.5}, device.type);
    const Statistics counted = statistics_of(memory, put_graph(memory, host), 1, {});
    EXPECT_EQ(counted.edges[0], edges);
    EXPECT_EQ(counted.pairs[0], 2 * 300 * 270);
    EXPECT_EQ(counted.empty_rows[0], empty);
    EXPECT_EQ(counted.rows[0], 600);
  }
}

}  // namespace
}  // namespace stipple::kernels
