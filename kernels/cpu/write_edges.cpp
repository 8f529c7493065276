// SPDX-License-Identifier: Apache-2.0
#include "kernels/write_edges.h"

#include <algorithm>

#include "kernels/cpu/edges.h"
#include "kernels/cpu/masks.h"
#include "kernels/graph_to_write.h"

namespace stipple::kernels::cpu {
namespace {

class GraphWriter {
 public:
  GraphWriter(const GraphToWrite& graph, int64_t p)
      : graph_(graph),
        p_(p),
        queries_(mask_row(graph.query_mask, p / graph.heads())),
        keys_(mask_row(graph.key_mask, p / graph.heads())) {}

  void write_bits() const {
    const EdgeSet& edges = graph_.edges;
    int32_t* row_ptr = edges.row_ptr.at(p_).data;
    for (int64_t i = 0; i < edges.num_queries; ++i) {
      uint32_t* bits = edges.bits(p_, i);
      std::fill_n(bits, edges.words_per_row(), 0u);
      int32_t degree = 0;
      for_each_key(i, [&](int64_t j) {
        bits[j / 32] |= 1u << (j % 32);
        ++degree;
      });
      row_ptr[i + 1] = degree;
    }
    sum_degrees(edges, p_);
  }

  void write_csr() const {
    CsrWriter writer(graph_.edges, p_);
    for (int64_t i = 0; i < graph_.edges.num_queries; ++i) {
      int64_t degree = 0;
      for_each_key(i, [&](int64_t) { ++degree; });
      uint32_t* column = writer.begin_row(degree);
      for_each_key(i, [&](int64_t j) { *column++ = static_cast<uint32_t>(j); });
      writer.end_row(degree);
    }
  }

 private:
  template <class Visit>
  void for_each_key(int64_t i, const Visit& visit) const {
    if (!is_real(queries_, i)) return;
    const EdgeSource& source = graph_.source;
    const Range candidates = source.candidates(p_, i, graph_.edges.num_keys);
    for (int64_t e = candidates.begin; e < candidates.end; ++e) {
      const int64_t j = source.key(e);
      if (source.has(p_, i, j) && is_real(keys_, j)) visit(j);
    }
  }

  const GraphToWrite& graph_;
  int64_t p_;
  const uint8_t* queries_;
  const uint8_t* keys_;
};

}  // namespace

void write_graph(const Stream& stream, const GraphToWrite& graph) {
  stream.parallel_for(graph.edges.num_problems(), [&](int64_t p, int) {
    graph.edges.form[p] = graph.form;
    const GraphWriter writer(graph, p);
    graph.form == EdgeForm::kBits ? writer.write_bits() : writer.write_csr();
  });
}

}  // namespace stipple::kernels::cpu
