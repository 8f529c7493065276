// SPDX-License-Identifier: Apache-2.0
// sample_edges: gives every problem a form by its expected density, launches both samplers, and has
// the graph finished (kernels/cuda/edges.h). choose_forms: a block of 256 threads a problem.
#include <algorithm>

#include "core/copy.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/masks.cuh"
#include "kernels/cuda/sample/parts.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// --- forms

// kAuto: as the CPU decides.
__device__ bool is_dense(const SampleInputs& in, int64_t p, int64_t real_queries, int64_t real_keys,
                         double tile_density) {
  const auto queries = static_cast<double>(real_queries);
  const auto keys = static_cast<double>(real_keys);
  const double loops = in.self_loop ? queries : 0.0;
  const double edges = in.expected[p] + static_cast<double>(in.delta) * queries * keys + loops;
  // Bits cannot overflow; what to do about the numbers is the trainer's business.
  if (isnan(edges)) return true;
  return edges > 0.0 && edges >= tile_density * queries * keys;
}

__global__ void __launch_bounds__(kThreads)
    choose_forms_kernel(SampleInputs in, WritableGraph graph, double tile_density) {
  auto* sums = reinterpret_cast<int64_t*>(shared_memory());
  const int64_t p = blockIdx.x;
  bool is_bits = graph.has_bits && in.law != MaskLaw::kPoissonMulti;
  if (in.sampler == SamplerKind::kRows) is_bits = false;
  if (in.sampler == SamplerKind::kAuto && is_bits) {
    const SampleProblem problem = in.problem(p);
    const int64_t queries = count_real<kThreads>(problem.query_mask, in.num_queries, sums);
    const int64_t keys = count_real<kThreads>(problem.key_mask, in.num_keys, sums);
    is_bits = is_dense(in, p, queries, keys, tile_density);
  }
  if (threadIdx.x != 0) return;
  graph.form[p] = is_bits ? EdgeForm::kBits : EdgeForm::kCsr;
  if (p == 0) *graph.overflow = 0;
}

void choose_forms(const SampleCall& call, int64_t problems, double tile_density) {
  launch(call.stream,
         {.grid = dim3(static_cast<unsigned>(problems)),
          .block = kThreads,
          .shared_bytes = kThreads / kWarpSize * sizeof(int64_t)},
         choose_forms_kernel, call.inputs, call.graph, tile_density);
}

// --- host

SampleInputs sample_inputs(const SampleEdges& args) {
  return {.storage = args.mu.precision,
          .mu = args.mu.data,
          .z = args.z.data,
          .expected = args.expected.data,
          .query_mask = args.query_mask.data,
          .key_mask = args.key_mask.data,
          .samples = args.samples.data,
          .heads = args.mu.shape[1],
          .num_queries = args.edges.num_queries,
          .num_keys = args.edges.num_keys,
          .num_clusters = args.mu.shape[3],
          .law = args.law,
          .sampler = args.sampler,
          .delta = args.delta,
          .self_loop = args.self_loop,
          .rng = args.rng,
          .layer = args.layer,
          .first_head = args.first_head};
}

// Which forms are possible is known from the arguments; which one a problem has, only on the
// device.
void sample_wave(const SampleCall& call, const Wave& wave, int64_t problems) {
  const SampleInputs& in = call.inputs;
  const bool may_have_bits =
      call.graph.has_bits && in.law != MaskLaw::kPoissonMulti && in.sampler != SamplerKind::kRows;
  const bool may_have_csr = in.sampler != SamplerKind::kTiles || !may_have_bits;
  if (may_have_bits) {
    sample_tiles(call, wave);
    count_bits(call.stream, call.graph, wave);
  }
  if (may_have_csr) draw_rows(call, wave);
  sum_degrees(call.stream, call.graph, wave, problems);
  if (may_have_bits) transpose_bits(call.stream, call.graph, wave);
  if (may_have_csr) {
    place_rows(call, wave);
    transpose_csr(call.stream, call.graph, wave, call.scratch.cursors);
  }
}

}  // namespace

void sample_edges(const Stream& stream, const SampleEdges& args, const SampleScratch& scratch) {
  const int64_t problems = args.edges.num_problems();
  const SampleCall call{stream, sample_inputs(args), writable_graph(args.edges), scratch.cuda};
  if (problems == 0) return fill_zero(stream, args.edges.overflow);
  choose_forms(call, problems, args.edges.capacity.tile_density);
  if (args.edges.num_queries == 0 || args.edges.num_keys == 0) {
    fill_zero(stream, args.edges.row_ptr);
    fill_zero(stream, args.edges.column_ptr);
    return;
  }
  for (int64_t first = 0; first < problems; first += scratch.cuda.wave) {
    sample_wave(call, {first, std::min(scratch.cuda.wave, problems - first)}, problems);
  }
}

}  // namespace stipple::kernels::cuda
