// SPDX-License-Identifier: Apache-2.0
// What a predicted graph is worth beside exact entmax attention: how much of the support it holds,
// and how much weight it drops. By the identity ||p - p'||_1 = 2 dropped, with p' the attention over
// the graph alone, the dropped mass bounds the error of a row's output: 2 dropped max_j |v_j|.
//
// Counts are by head, over the real queries of the batch. Scores of edges are computed once more, so
// that it costs O(edges D). Deterministic: yes.
#pragma once

#include "core/arena.h"
#include "core/real_view.h"
#include "core/stream.h"
#include "core/view.h"
#include "kernels/attend_entmax.h"
#include "kernels/edges.h"

namespace stipple::kernels {

struct GraphRecall {
  View<int64_t> support;             // [H]  written: keys in the supports of exact attention
  View<int64_t> found;               // [H]  written: those that are edges
  View<int64_t> edges;               // [H]  written: of the graph, the rows that count
  View<int64_t> exact_rows;          // [H]  written: rows whose whole support is there
  View<int64_t> rows;                // [H]  written: real queries
  View<double> dropped;              // [H]  written: sum over rows of the weight that no edge has
  EdgeSet graph;                     // B * H problems, CSR
  ConstRealView q;                   // [B, H, N, D]
  ConstRealView k;                   // [B, H, M, D]
  View<const float> tau;             // [B, H, N]  of exact attention
  View<const int32_t> support_size;  // [B, H, N]  likewise
  EntmaxHeads heads;
  View<const uint8_t> query_mask{};  // [B, N]; empty: all real
  float scale = 1.0f;
  Arena* scratch = nullptr;
};
void graph_recall(const Stream&, const GraphRecall&);
namespace cpu {
void graph_recall(const Stream&, const GraphRecall&);
}
namespace cuda {
void graph_recall(const Stream&, const GraphRecall&);
}

}  // namespace stipple::kernels
