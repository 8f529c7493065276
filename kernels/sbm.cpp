// SPDX-License-Identifier: Apache-2.0
#include "kernels/sbm.h"

#include <algorithm>

#include "core/dispatch.h"
#include "kernels/checks.h"
#include "kernels/cpu/sample/rows.h"
#include "kernels/cpu/sample/sample.h"
#include "kernels/math/edge_form.h"
#include "kernels/math/key_tables.h"
#include "kernels/runs.h"
#include "kernels/sample_scratch.h"

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

/// Into how many runs CUDA cuts the K^2 entries of a head: every block adds up all the partial
/// sums, so there are never many.
int64_t entry_runs(int64_t k) {
  constexpr int64_t kShortest = 1024;
  constexpr int64_t kMost = 256;
  return std::min(kMost, num_runs(k * k, kShortest));
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
  STIPPLE_CHECK(!args.self_loop || mu.n == m, "sample_edges: self_loop needs as many keys (", m,
                ") as queries (", mu.n, ")");
  STIPPLE_CHECK(args.edges.capacity.multiplicity == (args.law == MaskLaw::kPoissonMulti),
                "sample_edges: law poisson_multi and a graph with multiplicities need each other");
  check_same_storage("sample_edges", {args.mu, args.z});
  STIPPLE_CHECK(args.scratch != nullptr, "sample_edges: scratch is missing");
}

}  // namespace

namespace {

SampleScratch alloc_cpu_scratch(Arena& arena, const SampleEdges& args, int threads) {
  const int64_t m = args.edges.num_keys;
  const int64_t k = args.mu.shape[3];
  const math::EdgeFormRule rule(args);
  SampleScratch scratch;
  if (rule.may_draw_tiles()) {
    scratch.panel = arena.alloc<float>({threads, k, cpu::kMaxPanel});
    if (rule.draws_counted_tiles()) {
      scratch.bits =
          arena.alloc<uint32_t>({threads, cpu::kCountedRowRun, args.edges.words_per_row()});
    }
  }
  if (rule.may_draw_rows()) {
    const int64_t columns = std::min(k, cpu::kAliasColumns);
    const int64_t stride = cpu::AliasBuild::stride_of(m);
    scratch.entries = arena.alloc<cpu::AliasEntry>({threads, k + 1, m});
    scratch.weights = arena.alloc<uint32_t>({threads, columns, stride});
    scratch.items = arena.alloc<uint64_t>({threads, columns, 2, stride});
    scratch.zeta = arena.alloc<double>({threads, k});
    scratch.zmax = arena.alloc<float>({threads, k});
    scratch.real_keys = arena.alloc<uint32_t>({threads, m + 1});
    scratch.rates = arena.alloc<uint64_t>({threads, cpu::SumTree(k + 1).size});
    scratch.drawn = arena.alloc<uint64_t>({threads, cpu::KeySet::num_words(m)});
    scratch.candidates = arena.alloc<uint32_t>({threads, m + 1});
    if (args.law == MaskLaw::kPoissonMulti) scratch.counts = arena.alloc<uint16_t>({threads, m});
  }
  return scratch;
}

// Bytes of scratch that the problems of one wave may take; fewer problems take what they need.
// Every wave ends with a round of blocks that leaves part of the GPU idle, so there should be few.
constexpr int64_t kWaveBytes = 512 << 20;

// Allocates for waves of the given number of problems.
CudaSampleScratch alloc_wave(Arena& arena, const SampleEdges& args, Precision precision,
                             int64_t wave) {
  const int64_t n = args.edges.num_queries;
  const int64_t m = args.edges.num_keys;
  const int64_t k = args.mu.shape[3];
  const math::EdgeFormRule rule(args);
  CudaSampleScratch scratch;
  scratch.wave = wave;
  constexpr int64_t kProduct = 16;
  const int64_t padded = (k + kProduct - 1) / kProduct * kProduct;
  const bool is_stored_rounded = args.mu.precision == Precision::kBf16;
  const bool is_rounded = is_stored_rounded || precision == Precision::kBf16;
  const bool is_ready = is_stored_rounded && padded == k;
  if (rule.may_be_bits() && is_rounded && !is_ready) {
    scratch.mu = arena.alloc<bf16>({wave, n, padded});
    scratch.z = arena.alloc<bf16>({wave, m, padded});
  }
  if (rule.may_draw_rows()) {
    scratch.entries = arena.alloc<math::AliasEntry>({wave, k + 1, m});
    scratch.zmax = arena.alloc<float>({wave, k});
    scratch.zeta = arena.alloc<double>({wave, k});
    scratch.num_real = arena.alloc<int32_t>({wave});
    scratch.num_items = arena.alloc<int32_t>({wave});
  }
  if (rule.may_draw_rows() || rule.draws_counted_tiles()) {
    scratch.drawn = arena.alloc<uint64_t>({wave});
    scratch.row_begin = arena.alloc<uint32_t>({wave, n});
    scratch.cursors = arena.alloc<int32_t>({wave, cuda::transpose_chunks(n), m});
  }
  return scratch;
}

CudaSampleScratch alloc_cuda_scratch(Arena& arena, const SampleEdges& args, Precision precision) {
  Arena one("one problem");
  alloc_wave(one, args, precision, 1);
  const auto bytes = std::max<int64_t>(1, static_cast<int64_t>(one.used()));
  const int64_t problems = std::max<int64_t>(1, args.edges.num_problems());
  const int64_t most = std::clamp<int64_t>(kWaveBytes / bytes, 1, problems);
  // Waves of nearly equal size.
  const int64_t waves = (problems + most - 1) / most;
  const auto before = static_cast<int64_t>(arena.used());
  CudaSampleScratch scratch = alloc_wave(arena, args, precision, (problems + waves - 1) / waves);
  // Fewer or shorter problems may go into fewer, larger waves; a plan for the most must serve them.
  const int64_t enough = std::max(bytes, std::min(kWaveBytes, problems * bytes));
  const int64_t used = static_cast<int64_t>(arena.used()) - before;
  arena.alloc<std::byte>({std::max<int64_t>(0, enough - used)});
  const int64_t k = args.mu.shape[3];
  const int64_t m = args.edges.num_keys;
  if (math::EdgeFormRule(args).may_draw_rows() && AliasWorkspace(m).is_long) {
    const int64_t blocks = std::min(AliasWorkspace::kLongBlocks, problems * (k + 1));
    scratch.long_sums = arena.alloc<uint64_t>({blocks, m});
    scratch.long_items = arena.alloc<uint32_t>({blocks, m});
  }
  const RowWorkspace workspace(m, math::SumTree(k + 1).size);
  if (!scratch.drawn.empty() && workspace.has_long_string) {
    scratch.long_string =
        arena.alloc<uint32_t>({RowWorkspace::kLongWarps, workspace.string_words()});
  }
  return scratch;
}

}  // namespace

SampleScratch alloc_sample_scratch(Arena& arena, const SampleEdges& args, const Stream& stream) {
  if (stream.device().backend() == DeviceType::kCpu) {
    return alloc_cpu_scratch(arena, args, stream.threads());
  }
  SampleScratch scratch;
  scratch.cuda = alloc_cuda_scratch(arena, args, stream.precision());
  return scratch;
}

void block_matrix(const Stream& stream, const BlockMatrix& args) {
  const Sizes c = cluster_sizes("block_matrix", args.clusters.shape);
  STIPPLE_CHECK_SHAPE("block_matrix", args.s, ({c.h, c.k, c.k}));
  STIPPLE_CHECK_SHAPE("block_matrix", args.effective_cells, ({c.h}));
  if (stream.device().backend() == DeviceType::kCpu) {
    STIPPLE_DISPATCH(stream, block_matrix, args, {}, {});
    return;
  }
  STIPPLE_CHECK(args.scratch != nullptr, "block_matrix: scratch is missing");
  const Arena::Scope scope(*args.scratch);
  const View<float> maxima = args.scratch->alloc<float>({c.h});
  const View<double> partials = args.scratch->alloc<double>({c.h, entry_runs(c.k), 2});
  STIPPLE_DISPATCH(stream, block_matrix, args, maxima, partials);
}

void block_matrix_backward(const Stream& stream, const BlockMatrixBackward& args) {
  const Sizes c = cluster_sizes("block_matrix_backward", args.clusters.shape);
  STIPPLE_CHECK_SHAPE("block_matrix_backward", args.dclusters, ({c.h, c.k, c.n}));
  STIPPLE_CHECK_SHAPE("block_matrix_backward", args.ds, ({c.h, c.k, c.k}));
  STIPPLE_CHECK_SHAPE("block_matrix_backward", args.s, ({c.h, c.k, c.k}));
  STIPPLE_CHECK(args.scratch != nullptr, "block_matrix_backward: scratch is missing");
  const Arena::Scope scope(*args.scratch);
  if (stream.device().backend() == DeviceType::kCuda) {
    const View<double> means = args.scratch->alloc<double>({c.h, entry_runs(c.k)});
    STIPPLE_DISPATCH(stream, block_matrix_backward, args, means, {});
    return;
  }
  const View<double> means = args.scratch->alloc<double>({c.h});
  const View<double> sums = args.scratch->alloc<double>({stream.threads(), c.n});
  STIPPLE_DISPATCH(stream, block_matrix_backward, args, means, sums);
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
  if (stream.device().backend() == DeviceType::kCpu) {
    STIPPLE_DISPATCH(stream, expected_edges, args, {}, {});
    return;
  }
  STIPPLE_CHECK(args.scratch != nullptr, "expected_edges: scratch is missing");
  const Arena::Scope scope(*args.scratch);
  const auto partials = [&](const Sizes& side) {
    return args.scratch->alloc<double>({side.b * side.h, num_runs(side.n, kColumnSumRun), side.k});
  };
  const View<double> y_partials = partials(y);
  const View<double> z_partials = partials(z);
  STIPPLE_DISPATCH(stream, expected_edges, args, y_partials, z_partials);
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
  const Arena::Scope scope(*args.scratch);
  const View<double> gradients = args.scratch->alloc<double>({y.b * y.h, 2, y.k});
  STIPPLE_DISPATCH(stream, expected_edges_backward, args, gradients);
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
  const Arena::Scope scope(*args.scratch);
  const SampleScratch scratch = alloc_sample_scratch(*args.scratch, args, stream);
  STIPPLE_DISPATCH(stream, sample_edges, args, scratch);
}

}  // namespace stipple::kernels
