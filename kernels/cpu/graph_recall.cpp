// SPDX-License-Identifier: Apache-2.0
#include "kernels/graph_recall.h"

#include <algorithm>

#include "kernels/cpu/masks.h"
#include "kernels/math/graph_recall.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

constexpr int64_t kRecallRun = 64;  ///< rows of one piece of work

math::RowRecall recall_of_row(const GraphRecall& args, int64_t p, int64_t i,
                              const math::EntmaxWeight& weight) {
  const int64_t d = args.q.shape[3];
  const float* q = args.q.floats().data + (p * args.q.shape[2] + i) * d;
  const float* keys = args.k.floats().data + p * args.k.shape[2] * d;
  const int32_t* row = args.graph.row_ptr.at(p).data + i;
  math::RowRecall recall;
  for (int32_t e = row[0]; e < row[1]; ++e) {
    const float* k = keys + args.graph.columns(p)[e] * d;
    float dot = 0.0f;
    for (int64_t c = 0; c < d; ++c) dot += q[c] * k[c];
    recall.add(weight, dot);
  }
  recall.found = std::min(recall.found, args.support_size[p * args.q.shape[2] + i]);
  return recall;
}

}  // namespace

void graph_recall(const Stream& stream, const GraphRecall& args) {
  const Shape& q = args.q.shape;
  const Arena::Scope scope(*args.scratch);
  const View<int32_t> found = args.scratch->alloc<int32_t>({q[0], q[1], q[2]});
  const View<double> dropped = args.scratch->alloc<double>({q[0], q[1], q[2]});
  const int64_t n = q[2], runs = num_runs(n, kRecallRun);
  stream.parallel_for(q[0] * q[1] * runs, [&](int64_t piece, int) {
    const int64_t p = piece / runs, h = p % q[1];
    const uint8_t* mask = mask_row(args.query_mask, p / q[1]);
    const float temperature = args.heads.temperature.empty() ? 1.0f : args.heads.temperature[h];
    const Range rows = nth_run(piece % runs, n, kRecallRun);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      if (!is_real(mask, i)) continue;
      const math::RowRecall row = recall_of_row(
          args, p, i,
          math::entmax_weight(args.heads.alpha[h], temperature, args.scale, args.tau[p * n + i]));
      found[p * n + i] = row.found;
      dropped[p * n + i] = row.dropped();
    }
  });
  // Heads one after the other, rows in order: the sums are the same for any number of threads.
  stream.parallel_for(q[1], [&](int64_t h, int) {
    int64_t support = 0, in_graph = 0, edges = 0, exact = 0, rows = 0;
    double mass = 0.0;
    for (int64_t b = 0; b < q[0]; ++b) {
      const uint8_t* mask = mask_row(args.query_mask, b);
      const int64_t p = b * q[1] + h;
      for (int64_t i = 0; i < n; ++i) {
        if (!is_real(mask, i)) continue;
        const int32_t size = args.support_size[p * n + i];
        ++rows;
        support += size;
        in_graph += found[p * n + i];
        edges += args.graph.degree(p, i);
        exact += found[p * n + i] >= size ? 1 : 0;
        mass += dropped[p * n + i];
      }
    }
    args.support[h] = support;
    args.found[h] = in_graph;
    args.edges[h] = edges;
    args.exact_rows[h] = exact;
    args.rows[h] = rows;
    args.dropped[h] = mass;
  });
}

}  // namespace stipple::kernels::cpu
