// SPDX-License-Identifier: Apache-2.0
// Attention graphs for tests: made from dense matrices in host memory, in the layout of any device,
// put on that device, read back, and checked to say the same by query and by key.
//
//   const std::vector<GraphProblem> problems = {{EdgeForm::kCsr, dense}, ...};
//   const EdgeSet edges = put_graph(memory, HostGraph(problems, capacity, device.type));
//   ... run an operation that reads or writes `edges` ...
//   const HostGraph back = get_graph(memory, edges);
//   EXPECT_EQ(graph_defect(back.edges()), "");
//   EXPECT_EQ(back.dense(p).values(), dense.values());
#pragma once

#include <bit>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/edges.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"

namespace stipple::test {

using kernels::BitOrder;
using kernels::EdgeCapacity;
using kernels::EdgeForm;
using kernels::EdgeSet;

struct GraphProblem {
  EdgeForm form;
  Array<uint8_t> dense;  ///< [N, M] 0/1, or how often drawn where the graph keeps multiplicity
};

inline Array<uint8_t> random_graph(int64_t n, int64_t m, double density, uint64_t seed) {
  Array<uint8_t> dense({n, m});
  std::mt19937_64 generator(seed);
  std::bernoulli_distribution edge(density);
  for (uint8_t& x : dense.values()) x = edge(generator) ? 1 : 0;
  return dense;
}

/// A graph in host memory in the layout of `layout`. Words that hold no edge are all ones, so that
/// reading one shows.
class HostGraph {
 public:
  HostGraph(int64_t problems, int64_t n, int64_t m, const EdgeCapacity& capacity,
            DeviceType layout) {
    Arena plan("plan");
    kernels::alloc_edges(plan, problems, n, m, capacity, layout);
    memory_ = std::make_unique<Arena>("graph", kCpuDevice, plan.used());
    const Arena::Mark begin = memory_->mark();
    const View<uint8_t> all = memory_->alloc<uint8_t>({static_cast<int64_t>(plan.used())});
    std::memset(all.data, 0xFF, all.bytes());
    memory_->rewind(begin);
    edges_ = kernels::alloc_edges(*memory_, problems, n, m, capacity, layout);
    if (!edges_.overflow.empty()) edges_.overflow[0] = 0;
  }
  HostGraph(const std::vector<GraphProblem>& problems, const EdgeCapacity& capacity,
            DeviceType layout)
      : HostGraph(static_cast<int64_t>(problems.size()), problems.at(0).dense.shape()[0],
                  problems.at(0).dense.shape()[1], capacity, layout) {
    for (size_t p = 0; p < problems.size(); ++p) {
      kernels::set_edges(edges_, static_cast<int64_t>(p), problems[p].form, problems[p].dense);
    }
  }
  EdgeSet& edges() { return edges_; }
  const EdgeSet& edges() const { return edges_; }
  Array<uint8_t> dense(int64_t p) const {
    Array<uint8_t> result({edges_.num_queries, edges_.num_keys});
    kernels::get_edges(edges_, p, result);
    return result;
  }

 private:
  std::unique_ptr<Arena> memory_;
  EdgeSet edges_;
};

namespace detail {

/// The graph with queries and keys exchanged.
inline EdgeSet seen_by_key(const EdgeSet& edges) {
  EdgeSet turned = edges;
  std::swap(turned.num_queries, turned.num_keys);
  turned.row_ptr = edges.column_ptr;
  turned.storage = edges.transposed;
  turned.multiplicity = edges.transposed_multiplicity;
  return turned;
}

/// Offsets that rise from 0 to at most the room, and indices that rise within each row.
inline std::string csr_defect(const EdgeSet& edges, int64_t p) {
  const int32_t* ptr = edges.row_ptr.at(p).data;
  if (ptr[0] != 0) return "CSR does not start at 0";
  for (int64_t i = 0; i < edges.num_queries; ++i) {
    if (ptr[i + 1] < ptr[i] || ptr[i + 1] > edges.storage.shape[1]) {
      return "bad offset after row " + std::to_string(i);
    }
    for (int32_t e = ptr[i]; e < ptr[i + 1]; ++e) {
      const uint32_t column = edges.columns(p)[e];
      if (column >= edges.num_keys || (e > ptr[i] && column <= edges.columns(p)[e - 1])) {
        return "bad index " + std::to_string(column) + " in row " + std::to_string(i);
      }
      if (edges.capacity.multiplicity && edges.multiplicity.at(p)[e] == 0) {
        return "an edge drawn 0 times in row " + std::to_string(i);
      }
    }
  }
  return "";
}

/// As many bits as row_ptr says where `has_ptr`, and none beyond the last column.
inline std::string bits_defect(const EdgeSet& edges, int64_t p, bool has_ptr) {
  for (int64_t i = 0; i < edges.num_queries; ++i) {
    int64_t set = 0;
    for (int64_t w = 0; w < edges.words_per_row(); ++w) set += std::popcount(edges.bits(p, i)[w]);
    int64_t expected = 0;
    for (int64_t j = 0; j < edges.num_keys; ++j) expected += edges.has_bit(p, i, j) ? 1 : 0;
    if (set != expected) return "bits beyond the last column of row " + std::to_string(i);
    if (has_ptr && edges.degree(p, i) != expected) {
      return "degree differs from the bits of row " + std::to_string(i);
    }
  }
  return has_ptr && edges.row_ptr.at(p)[0] != 0 ? "degrees do not start at 0" : "";
}

inline std::string transpose_defect(const EdgeSet& by_query, const EdgeSet& by_key, int64_t p) {
  Array<uint8_t> rows({by_query.num_queries, by_query.num_keys});
  Array<uint8_t> columns({by_query.num_keys, by_query.num_queries});
  kernels::get_edges(by_query, p, rows);
  kernels::get_edges(by_key, p, columns);
  for (int64_t i = 0; i < by_query.num_queries; ++i) {
    for (int64_t j = 0; j < by_query.num_keys; ++j) {
      if (rows[i * by_query.num_keys + j] == columns[j * by_query.num_queries + i]) continue;
      return "by key differs at (" + std::to_string(i) + ", " + std::to_string(j) + ")";
    }
  }
  return "";
}

inline std::string problem_defect(const EdgeSet& edges, int64_t p) {
  const bool has_bits = edges.form[p] == EdgeForm::kBits;
  if (!has_bits && edges.form[p] != EdgeForm::kCsr) return "no form";
  if (has_bits && !has_room_for_bits(edges)) return "bits without room";
  if (std::string d = has_bits ? bits_defect(edges, p, true) : csr_defect(edges, p); !d.empty()) {
    return d;
  }
  if (edges.transposed.empty()) return "";
  const EdgeSet turned = seen_by_key(edges);  // its offsets are kept for CSR only
  if (std::string d = has_bits ? bits_defect(turned, p, false) : csr_defect(turned, p);
      !d.empty()) {
    return "by key: " + d;
  }
  return transpose_defect(edges, turned, p);
}

}  // namespace detail

/// What is wrong with a graph in host memory, or nothing: forms, offsets, order of indices, counts,
/// and that by key it is exactly the transpose.
inline std::string graph_defect(const EdgeSet& edges) {
  for (int64_t p = 0; p < edges.num_problems(); ++p) {
    if (std::string d = detail::problem_defect(edges, p); !d.empty()) {
      return "problem " + std::to_string(p) + ": " + d;
    }
  }
  return "";
}

/// A copy of the graph on the device of `memory`.
inline EdgeSet put_graph(DeviceMemory& memory, const HostGraph& host) {
  EdgeSet edges = host.edges();
  const auto put = [&](auto& view) {
    using T = std::remove_pointer_t<decltype(view.data)>;
    if (!view.empty()) view = memory.put(View<const T>(view));
  };
  put(edges.form);
  put(edges.row_ptr);
  put(edges.storage);
  put(edges.multiplicity);
  put(edges.column_ptr);
  put(edges.transposed);
  put(edges.transposed_multiplicity);
  put(edges.overflow);
  return edges;
}

/// Room on the device of `memory` for what an operation will write.
inline EdgeSet put_empty_graph(DeviceMemory& memory, int64_t problems, int64_t n, int64_t m,
                               const EdgeCapacity& capacity) {
  return put_graph(memory, HostGraph(problems, n, m, capacity, memory.stream().device().backend()));
}

inline HostGraph get_graph(DeviceMemory& memory, const EdgeSet& edges) {
  const DeviceType layout =
      edges.bit_order == BitOrder::kLanes ? DeviceType::kCuda : DeviceType::kCpu;
  HostGraph host(edges.num_problems(), edges.num_queries, edges.num_keys, edges.capacity, layout);
  const auto get = [&](auto to, auto from) {
    if (!from.empty()) download(memory.stream(), to.span(), from);
  };
  get(host.edges().form, edges.form);
  get(host.edges().row_ptr, edges.row_ptr);
  get(host.edges().storage, edges.storage);
  get(host.edges().multiplicity, edges.multiplicity);
  get(host.edges().column_ptr, edges.column_ptr);
  get(host.edges().transposed, edges.transposed);
  get(host.edges().transposed_multiplicity, edges.transposed_multiplicity);
  get(host.edges().overflow, edges.overflow);
  return host;
}

}  // namespace stipple::test
