// SPDX-License-Identifier: Apache-2.0
#include "kernels/write_edges.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "core/error.h"
#include "kernels/attend_reference.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/graphs.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::get_graph;
using test::graph_defect;
using test::HostGraph;
using test::name_of;
using test::put_empty_graph;
using test::random_graph;
using test::test_devices;

constexpr EdgeForm kForms[] = {EdgeForm::kBits, EdgeForm::kCsr};

EdgeCapacity capacity_for(EdgeForm form) {
  return {.tile_density = form == EdgeForm::kBits ? 0.0 : 1.0};
}

/// A graph of two samples with two heads each, and who is real.
struct WriteCase {
  int64_t n = 1;
  int64_t m = 1;
  Array<uint8_t> query_mask, key_mask;  // [2, N], [2, M]

  static constexpr int64_t kBatch = 2;
  static constexpr int64_t kProblems = 4;

  WriteCase(int64_t queries, int64_t keys)
      : n(queries), m(keys), query_mask({kBatch, n}), key_mask({kBatch, m}) {
    query_mask.fill(1);
    key_mask.fill(1);
  }
  WriteCase& with_padding() {
    for (int64_t i = n / 2; i < n; ++i) query_mask[n + i] = 0;
    for (int64_t j = 0; j < m; j += 3) key_mask[j] = 0;
    for (int64_t j = m / 2; j < m; ++j) key_mask[m + j] = 0;
    return *this;
  }
  bool is_real(int64_t p, int64_t i, int64_t j) const {
    return query_mask[p / 2 * n + i] != 0 && key_mask[p / 2 * m + j] != 0;
  }
};

using HasPair = std::function<bool(int64_t p, int64_t i, int64_t j)>;
using Write = std::function<void(DeviceMemory&, const WriteCase&, const EdgeSet&, EdgeForm)>;

void expect_graph(const HostGraph& graph, const WriteCase& c, EdgeForm form, const HasPair& has) {
  EXPECT_EQ(graph_defect(graph.edges()), "");
  for (int64_t p = 0; p < WriteCase::kProblems; ++p) {
    EXPECT_EQ(graph.edges().form[p], form);
    const Array<uint8_t> dense = graph.dense(p);
    for (int64_t i = 0; i < c.n; ++i) {
      for (int64_t j = 0; j < c.m; ++j) {
        const bool expected = c.is_real(p, i, j) && has(p, i, j);
        ASSERT_EQ(dense[i * c.m + j] != 0, expected) << p << ", " << i << ", " << j;
      }
    }
  }
  const View<int32_t> overflow = graph.edges().overflow;
  EXPECT_TRUE(overflow.empty() || overflow[0] == 0);
}

void expect_written(const WriteCase& c, const HasPair& has, const Write& write) {
  for (Device device : test_devices()) {
    for (EdgeForm form : kForms) {
      SCOPED_TRACE(name_of(device));
      DeviceMemory memory(device, {.threads = 2}, size_t{4} << 20);
      const EdgeSet edges =
          put_empty_graph(memory, WriteCase::kProblems, c.n, c.m, capacity_for(form));
      write(memory, c, edges, form);
      expect_graph(get_graph(memory, edges), c, form, has);
    }
  }
}

void expect_pattern(const WriteCase& c, const Pattern& pattern,
                    const Array<int32_t>* query_group = {}, const Array<int32_t>* key_group = {}) {
  Pattern on_host = pattern;
  if (query_group != nullptr) on_host.query_group = query_group->view();
  if (key_group != nullptr) on_host.key_group = key_group->view();
  std::vector<reference::Doubles> pairs;
  for (int64_t p = 0; p < WriteCase::kProblems; ++p) {
    pairs.push_back(reference::pairs_of(on_host, p, c.n, c.m));
  }
  expect_written(
      c,
      [&](int64_t p, int64_t i, int64_t j) {
        return pairs[static_cast<size_t>(p)][static_cast<size_t>(i * c.m + j)] != 0.0;
      },
      [&](DeviceMemory& memory, const WriteCase& x, const EdgeSet& edges, EdgeForm form) {
        Pattern on_device = pattern;
        if (query_group != nullptr) on_device.query_group = memory.put(*query_group);
        if (key_group != nullptr) on_device.key_group = memory.put(*key_group);
        write_edges(memory.stream(), {.edges = edges,
                                      .pattern = on_device,
                                      .form = form,
                                      .query_mask = memory.put(x.query_mask),
                                      .key_mask = memory.put(x.key_mask),
                                      .scratch = &memory.scratch()});
      });
}

TEST(WriteEdges, APatternOfPositionsBecomesTheSamePairsOnEveryDevice) {
  for (const auto& [n, m] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {33, 33}, {130, 130}, {70, 150}, {150, 70}}) {
    const WriteCase c = WriteCase(n, m).with_padding();
    expect_pattern(c, {});
    expect_pattern(c, {.is_causal = true});
    expect_pattern(c, {.kind = PatternKind::kWindow, .radius = 3});
    expect_pattern(c, {.kind = PatternKind::kWindow, .is_causal = true, .radius = 40});
    expect_pattern(c, {.kind = PatternKind::kWindow, .radius = 4, .dilation = 7});
  }
}

TEST(WriteEdges, BlocksAndOtherGroupsMayDifferFromProblemToProblem) {
  const WriteCase c = WriteCase(90, 100).with_padding();
  Array<int32_t> queries({90}), keys({100}), own_queries({4, 90}), own_keys({4, 100});
  for (int64_t i = 0; i < 90; ++i) queries[i] = static_cast<int32_t>(i / 16);
  for (int64_t j = 0; j < 100; ++j) keys[j] = static_cast<int32_t>(j / 16);
  for (int64_t i = 0; i < 360; ++i) own_queries[i] = static_cast<int32_t>(i * 7 % 5);
  for (int64_t j = 0; j < 400; ++j) own_keys[j] = static_cast<int32_t>(j * 3 % 7);
  for (PatternKind kind :
       {PatternKind::kOwnGroup, PatternKind::kOtherGroups, PatternKind::kEarlierGroups}) {
    expect_pattern(c, {.kind = kind}, &queries, &keys);
    expect_pattern(c, {.kind = kind, .is_causal = true}, &own_queries, &own_keys);
  }
}

TEST(WriteEdges, WithoutMasksEveryTokenIsReal) {
  for (Device device : test_devices()) {
    DeviceMemory memory(device, {}, size_t{4} << 20);
    const EdgeSet edges = put_empty_graph(memory, 3, 40, 40, {.tile_density = 1.0});
    write_edges(memory.stream(), {.edges = edges,
                                  .pattern = {.kind = PatternKind::kWindow, .radius = 1},
                                  .scratch = &memory.scratch()});
    const HostGraph graph = get_graph(memory, edges);
    for (int64_t p = 0; p < 3; ++p) EXPECT_EQ(graph.edges().num_edges(p), 3 * 40 - 2);
  }
}

TEST(WriteEdges, MoreEdgesThanRoomAreRefusedOrCounted) {
  for (Device device : test_devices()) {
    DeviceMemory memory(device, {}, size_t{4} << 20);
    const EdgeSet edges =
        put_empty_graph(memory, 2, 40, 40, {.tile_density = 0.9, .max_density = 0.0});
    const int64_t room = edges.storage.shape[1];
    const WriteEdges args{.edges = edges, .scratch = &memory.scratch()};
    if (device.type == DeviceType::kCpu) {
      EXPECT_THROW(write_edges(memory.stream(), args), EdgeRoomError);
      continue;
    }
    write_edges(memory.stream(), args);
    const HostGraph graph = get_graph(memory, edges);
    EXPECT_EQ(graph_defect(graph.edges()), "");
    EXPECT_EQ(graph.edges().overflow[0], 2 * (1600 - room));
    EXPECT_EQ(graph.edges().num_edges(1), room);
  }
}

// --- a list of the host --------------------------------------------------------------------------

struct HostCsr {
  std::vector<int32_t> row_ptr;
  std::vector<uint32_t> columns;

  void append(const Array<uint8_t>& dense) {
    row_ptr.push_back(static_cast<int32_t>(columns.size()));
    for (int64_t i = 0; i < dense.shape()[0]; ++i) {
      for (int64_t j = 0; j < dense.shape()[1]; ++j) {
        if (dense[i * dense.shape()[1] + j] != 0) columns.push_back(static_cast<uint32_t>(j));
      }
      row_ptr.push_back(static_cast<int32_t>(columns.size()));
    }
  }
};

void expect_csr(const WriteCase& c, const std::vector<Array<uint8_t>>& graphs) {
  HostCsr csr;
  for (const Array<uint8_t>& graph : graphs) csr.append(graph);
  expect_written(
      c,
      [&](int64_t p, int64_t i, int64_t j) {
        return graphs[graphs.size() == 1 ? 0 : static_cast<size_t>(p)][i * c.m + j] != 0;
      },
      [&](DeviceMemory& memory, const WriteCase& x, const EdgeSet& edges, EdgeForm form) {
        write_csr(memory.stream(), {.edges = edges,
                                    .row_ptr = csr.row_ptr,
                                    .columns = csr.columns,
                                    .form = form,
                                    .query_mask = memory.put(x.query_mask),
                                    .key_mask = memory.put(x.key_mask),
                                    .scratch = &memory.scratch()});
      });
}

TEST(WriteCsr, AListIsWrittenForEveryProblemOrForAllAlike) {
  for (const auto& [n, m] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {37, 131}, {140, 33}}) {
    const WriteCase c = WriteCase(n, m).with_padding();
    std::vector<Array<uint8_t>> graphs;
    for (uint64_t p = 0; p < 4; ++p) {
      graphs.push_back(random_graph(n, m, 0.1 * static_cast<double>(p), p));
    }
    expect_csr(c, graphs);
    expect_csr(c, {graphs[3]});
  }
}

TEST(WriteCsr, ListsThatAreNotGraphsAreRefused) {
  Arena graphs("graphs"), scratch("scratch");
  const EdgeSet edges = alloc_edges(graphs, 2, 2, 3, {.tile_density = 1.0});
  const auto write = [&](const std::vector<int32_t>& row_ptr,
                         const std::vector<uint32_t>& columns) {
    write_csr(Stream(kMetaDevice),
              {.edges = edges, .row_ptr = row_ptr, .columns = columns, .scratch = &scratch});
  };
  write({0, 2, 3}, {0, 2, 1});
  write({0, 2, 3, 3, 3, 3}, {0, 2, 1});
  EXPECT_THROW(write({0, 2}, {0, 2}), Error) << "rows missing";
  EXPECT_THROW(write({0, 2, 1}, {0, 2}), Error) << "offsets descend";
  EXPECT_THROW(write({0, 2, 3}, {0, 2}), Error) << "offsets leave the list";
  EXPECT_THROW(write({-1, 0, 1}, {0, 2}), Error) << "offsets leave the list";
  EXPECT_THROW(write({0, 2, 2}, {0, 3}), Error) << "no such key";
  EXPECT_THROW(write({0, 2, 2}, {2, 0}), Error) << "keys descend";
  EXPECT_THROW(write({0, 2, 2}, {1, 1}), Error) << "a key twice";
}

TEST(WriteEdges, RefusesWhatDoesNotFit) {
  Arena graphs("graphs"), scratch("scratch");
  const Stream meta(kMetaDevice);
  const EdgeSet csr = alloc_edges(graphs, 4, 5, 6, {.tile_density = 0.5, .max_density = 0.2});
  EXPECT_THROW(write_edges(meta, {.edges = csr, .form = EdgeForm::kBits, .scratch = &scratch}),
               Error);
  EXPECT_THROW(write_edges(meta, {.edges = csr}), Error);
  const EdgeSet drawn = alloc_edges(graphs, 4, 5, 6, {.multiplicity = true});
  EXPECT_THROW(write_edges(meta, {.edges = drawn, .scratch = &scratch}), Error);
  const Array<uint8_t> five({2, 5}), three({3, 6});
  EXPECT_THROW(write_edges(meta, {.edges = csr, .key_mask = five, .scratch = &scratch}),
               ShapeError);
  EXPECT_THROW(write_edges(meta, {.edges = csr, .key_mask = three, .scratch = &scratch}),
               ShapeError);
  write_edges(meta, {.edges = csr, .query_mask = five, .scratch = &scratch});
}

}  // namespace
}  // namespace stipple::kernels
