// SPDX-License-Identifier: Apache-2.0
// sample_edges: gives every problem a form by its expected density, launches both samplers, and has
// the graph finished (kernels/cuda/edges.h). choose_forms: a block of 256 threads a problem.
#include <algorithm>

#include "core/copy.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/masks.cuh"
#include "kernels/cuda/sample/parts.h"
#include "kernels/math/edge_form.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    choose_forms_kernel(SampleInputs in, WritableGraph graph, math::EdgeFormRule rule) {
  auto* sums = reinterpret_cast<int64_t*>(shared_memory());
  const int64_t p = blockIdx.x;
  int64_t queries = 0;
  int64_t keys = 0;
  if (rule.is_by_density()) {
    const SampleProblem problem = in.problem(p);
    queries = count_real<kThreads>(problem.query_mask, in.num_queries, sums);
    keys = count_real<kThreads>(problem.key_mask, in.num_keys, sums);
  }
  if (threadIdx.x != 0) return;
  graph.form[p] = rule.form(in.expected[p], queries, keys);
  if (p == 0) *graph.overflow = 0;
}

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
          .window_radius = args.window_radius,
          .rng = args.rng,
          .layer = args.layer,
          .first_head = args.first_head};
}

// Which forms are possible is known from the arguments; which one a problem has, only on the
// device.
void sample_wave(const SampleCall& call, const math::EdgeFormRule& rule, const Wave& wave,
                 int64_t problems) {
  if (rule.may_be_bits()) {
    sample_tiles(call, wave);
    count_bits(call.stream, call.graph, wave);
  }
  if (rule.may_be_csr()) draw_rows(call, wave);
  sum_degrees(call.stream, call.graph, wave, problems);
  if (rule.may_be_bits()) transpose_bits(call.stream, call.graph, wave);
  if (rule.may_be_csr()) {
    place_rows(call, wave);
    transpose_csr(call.stream, call.graph, wave, call.scratch.cursors);
  }
}

}  // namespace

void sample_edges(const Stream& stream, const SampleEdges& args) {
  const Arena::Scope scope(*args.scratch);
  sample_edges(stream, args, alloc_sample_scratch(*args.scratch, args, stream.precision()));
}

void sample_edges(const Stream& stream, const SampleEdges& args, const SampleScratch& scratch) {
  if (stream.is_plan()) return;
  const int64_t problems = args.edges.num_problems();
  const SampleCall call{stream, sample_inputs(args), writable_graph(args.edges), scratch};
  if (problems == 0) return fill_zero(stream, args.edges.overflow);
  const math::EdgeFormRule rule(args);
  launch(stream,
         {.grid = blocks_for(problems, 1),
          .block = kThreads,
          .shared_bytes = kThreads / kWarpSize * sizeof(int64_t)},
         choose_forms_kernel, call.inputs, call.graph, rule);
  if (args.edges.num_queries == 0 || args.edges.num_keys == 0) {
    fill_zero(stream, args.edges.row_ptr);
    fill_zero(stream, args.edges.column_ptr);
    return;
  }
  for (int64_t first = 0; first < problems; first += scratch.wave) {
    sample_wave(call, rule, {first, std::min(scratch.wave, problems - first)}, problems);
  }
}

}  // namespace stipple::kernels::cuda
