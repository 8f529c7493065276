// SPDX-License-Identifier: Apache-2.0
#include "kernels/sbm.h"

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {
namespace {

struct Sizes {
  int64_t b, h, n, k;
};

Sizes token_sizes(const char* op, const char* name, const Shape& shape) {
  STIPPLE_CHECK_AS(ShapeError, shape.rank() == 4 && shape[1] > 0 && shape[3] > 0, op, ": ", name,
                   " has shape ", shape.str(), ", expected [B, H, tokens, K]");
  return {shape[0], shape[1], shape[2], shape[3]};
}

Sizes cluster_sizes(const char* op, const Shape& shape) {
  STIPPLE_CHECK_AS(ShapeError, shape.rank() == 3 && shape[1] > 0 && shape[2] > 0, op,
                   ": clusters has shape ", shape.str(), ", expected [H, K, D]");
  return {.b = 1, .h = shape[0], .n = shape[2], .k = shape[1]};
}

void check_graph(const char* op, const EdgeSet& graph, int64_t problems) {
  STIPPLE_CHECK_AS(ShapeError, graph.form.shape == Shape({problems}), op, ": the graph has ",
                   graph.form.shape.str(), " problems, expected ", Shape({problems}).str());
}

void check_scratch_on_cuda(const char* op, const Stream& stream, const Arena* scratch) {
  STIPPLE_CHECK(scratch != nullptr || stream.device().backend() == DeviceType::kCpu, op,
                ": scratch is missing");
}

void check_sample_edges(const SampleEdges& args) {
  const Sizes mu = token_sizes("sample_edges", "mu", args.mu.shape);
  const int64_t m = args.edges.num_keys;
  STIPPLE_CHECK_SHAPE("sample_edges", args.mu, ({mu.b, mu.h, args.edges.num_queries, mu.k}));
  STIPPLE_CHECK_SHAPE("sample_edges", args.z, ({mu.b, mu.h, m, mu.k}));
  STIPPLE_CHECK_SHAPE("sample_edges", args.expected, ({mu.b * mu.h}));
  STIPPLE_CHECK_SHAPE("sample_edges", args.samples, ({mu.b}));
  check_mask("sample_edges", "query_mask", args.query_mask, mu.b, mu.n);
  check_mask("sample_edges", "key_mask", args.key_mask, mu.b, m);
  check_graph("sample_edges", args.edges, mu.b * mu.h);
  STIPPLE_CHECK(args.delta >= 0.0f && args.delta <= 1.0f, "sample_edges: delta ", args.delta,
                " is not a probability");
  STIPPLE_CHECK(args.window_radius < 0 || mu.n == m,
                "sample_edges: window_radius needs as many keys (", m, ") as queries (", mu.n, ")");
  STIPPLE_CHECK(args.edges.capacity.multiplicity == (args.law == MaskLaw::kPoissonMulti),
                "sample_edges: law poisson_multi and a graph with multiplicities need each other");
  check_same_storage("sample_edges", {args.mu, args.z});
  STIPPLE_CHECK(args.scratch != nullptr, "sample_edges: scratch is missing");
}

}  // namespace

void block_matrix(const Stream& stream, const BlockMatrix& args) {
  const Sizes c = cluster_sizes("block_matrix", args.clusters.shape);
  STIPPLE_CHECK_SHAPE("block_matrix", args.s, ({c.h, c.k, c.k}));
  STIPPLE_CHECK_SHAPE("block_matrix", args.effective_cells, ({c.h}));
  check_scratch_on_cuda("block_matrix", stream, args.scratch);
  STIPPLE_DISPATCH(stream, block_matrix, args);
}

void block_matrix_backward(const Stream& stream, const BlockMatrixBackward& args) {
  const Sizes c = cluster_sizes("block_matrix_backward", args.clusters.shape);
  STIPPLE_CHECK_SHAPE("block_matrix_backward", args.dclusters, ({c.h, c.k, c.n}));
  STIPPLE_CHECK_SHAPE("block_matrix_backward", args.ds, ({c.h, c.k, c.k}));
  STIPPLE_CHECK_SHAPE("block_matrix_backward", args.s, ({c.h, c.k, c.k}));
  STIPPLE_CHECK(args.scratch != nullptr, "block_matrix_backward: scratch is missing");
  STIPPLE_DISPATCH(stream, block_matrix_backward, args);
}

void memberships(const Stream& stream, const Memberships& args) {
  const Sizes y = token_sizes("memberships", "y", args.y.shape);
  STIPPLE_CHECK_SHAPE("memberships", args.logits, ({y.b, y.h, y.n, y.k}));
  check_mask("memberships", "mask", args.mask, y.b, y.n);
  check_same_storage("memberships", {args.y, args.logits});
  STIPPLE_DISPATCH(stream, memberships, args);
}

void expected_edges(const Stream& stream, const ExpectedEdges& args) {
  const Sizes y = token_sizes("expected_edges", "y", args.y.shape);
  const Sizes z = token_sizes("expected_edges", "z", args.z.shape);
  STIPPLE_CHECK_SHAPE("expected_edges", args.z, ({y.b, y.h, z.n, y.k}));
  STIPPLE_CHECK_SHAPE("expected_edges", args.s, ({y.h, y.k, y.k}));
  STIPPLE_CHECK_SHAPE("expected_edges", args.expected, ({y.b * y.h}));
  STIPPLE_CHECK_SHAPE("expected_edges", args.y_sum, ({y.b * y.h, y.k}));
  STIPPLE_CHECK_SHAPE("expected_edges", args.z_sum, ({y.b * y.h, y.k}));
  check_same_storage("expected_edges", {args.y, args.z});
  check_scratch_on_cuda("expected_edges", stream, args.scratch);
  STIPPLE_DISPATCH(stream, expected_edges, args);
}

void expected_edges_backward(const Stream& stream, const ExpectedEdgesBackward& args) {
  const Sizes y = token_sizes("expected_edges_backward", "dy", args.dy.shape);
  const Sizes z = token_sizes("expected_edges_backward", "dz", args.dz.shape);
  STIPPLE_CHECK_SHAPE("expected_edges_backward", args.dz, ({y.b, y.h, z.n, y.k}));
  STIPPLE_CHECK_SHAPE("expected_edges_backward", args.ds, ({y.h, y.k, y.k}));
  STIPPLE_CHECK_SHAPE("expected_edges_backward", args.s, ({y.h, y.k, y.k}));
  STIPPLE_CHECK_SHAPE("expected_edges_backward", args.y_sum, ({y.b * y.h, y.k}));
  STIPPLE_CHECK_SHAPE("expected_edges_backward", args.z_sum, ({y.b * y.h, y.k}));
  check_mask("expected_edges_backward", "query_mask", args.query_mask, y.b, y.n);
  check_mask("expected_edges_backward", "key_mask", args.key_mask, y.b, z.n);
  STIPPLE_CHECK(args.scratch != nullptr, "expected_edges_backward: scratch is missing");
  STIPPLE_DISPATCH(stream, expected_edges_backward, args);
}

void sparsity_loss(const Stream& stream, const SparsityLoss& args) {
  STIPPLE_CHECK_SHAPE("sparsity_loss", args.loss, ({1}));
  if (!args.expected.empty()) {
    STIPPLE_CHECK_SHAPE("sparsity_loss", args.expected, ({args.graph.num_problems()}));
  }
  STIPPLE_DISPATCH(stream, sparsity_loss, args);
}

void sample_edges(const Stream& stream, const SampleEdges& args) {
  check_sample_edges(args);
  STIPPLE_DISPATCH(stream, sample_edges, args);
}

}  // namespace stipple::kernels
