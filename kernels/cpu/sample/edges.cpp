// SPDX-License-Identifier: Apache-2.0
// Chooses a sampler for every problem and turns what it draws into an EdgeSet.
#include "kernels/cpu/edges.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/cpu/masks.h"
#include "kernels/cpu/sample/rows.h"
#include "kernels/cpu/sample/sample.h"
#include "kernels/cpu/sample/scratch.h"
#include "kernels/math/edge_form.h"
#include "kernels/math/poisson.h"
#include "kernels/runs.h"
#include "kernels/sbm.h"

namespace stipple::kernels::cpu {
namespace {

SampleProblem problem_at(const SampleEdges& args, int64_t p) {
  const int64_t heads = args.mu.shape[1];
  const int64_t b = p / heads;
  const int64_t n = args.edges.num_queries;
  const int64_t m = args.edges.num_keys;
  const int64_t k = args.mu.shape[3];
  return {.mu = args.mu.floats().data + p * n * k,
          .z = args.z.floats().data + p * m * k,
          .query_mask = mask_row(args.query_mask, b),
          .key_mask = mask_row(args.key_mask, b),
          .num_queries = n,
          .num_keys = m,
          .num_clusters = k,
          .law = args.law,
          .delta = args.delta,
          .window_radius = args.window_radius,
          .key = args.rng.philox(),
          .sample = args.samples[b],
          .layer = args.layer,
          .head = args.first_head + static_cast<int>(p % heads)};
}

EdgeForm form_of(const SampleEdges& args, const math::EdgeFormRule& rule, int64_t p) {
  if (!rule.is_by_density()) return rule.form(0.0, 0, 0);
  const int64_t b = p / args.mu.shape[1];
  return rule.form(args.expected[p],
                   count_real(mask_row(args.query_mask, b), args.edges.num_queries),
                   count_real(mask_row(args.key_mask, b), args.edges.num_keys));
}

void set_window(const SampleProblem& problem, Range rows, uint32_t* bits, int64_t words) {
  if (problem.window_radius < 0) return;
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    uint32_t* row = bits + (i - rows.begin) * words;
    const Range keys = problem.window(i);
    for (int64_t j = keys.begin; j < keys.end; ++j)
      row[j / 32] |= static_cast<uint32_t>(problem.is_real_key(j)) << (j % 32);
  }
}

// Leaves degrees in row_ptr, to be summed up when all rows of the problem are there.
void sample_tile_rows(const SampleEdges& args, int64_t p, Range rows, const TileScratch& scratch) {
  const SampleProblem problem = problem_at(args, p);
  const int64_t words = args.edges.words_per_row();
  uint32_t* bits = args.edges.bits(p, rows.begin);
  const SampleKernels& kernels = sample_kernels();
  kernels.tile_rows(problem, rows, scratch, bits);
  set_window(problem, rows, bits, words);
  int32_t* row_ptr = args.edges.row_ptr.at(p).data;
  for (int64_t i = rows.begin; i < rows.end; ++i, bits += words) {
    row_ptr[i + 1] = kernels.count_bits(bits, words);
  }
}

void sample_rows(const SampleEdges& args, int64_t p, const SampleScratch& scratch, int worker) {
  const SampleProblem problem = problem_at(args, p);
  RowSampler sampler(problem, scratch, worker);
  CsrWriter writer(args.edges, p);
  for (int64_t i = 0; i < problem.num_queries; ++i) {
    const int64_t degree = sampler.sample(i);
    uint32_t* columns = writer.begin_row(degree);
    std::copy_n(sampler.keys(), degree, columns);
    if (args.law == MaskLaw::kPoissonMulti) {
      for (int64_t e = 0; e < degree; ++e)
        writer.multiplicity()[e] = sampler.take_count(columns[e]);
    }
    writer.end_row(degree);
  }
}

// How often the pair (i, j) occurs, given that its bit is set: the same uniform, further down.
uint16_t count_pair(const SampleProblem& problem, int64_t i, uint32_t j) {
  const int64_t k = problem.num_clusters;
  const float sum = sample_kernels().dot(problem.mu + i * k, problem.z + int64_t{j} * k, k);
  const PhiloxCounter words =
      philox4x32(rng_counter(j / 4, static_cast<uint32_t>(i), problem.sample,
                             problem.stream(Purpose::kEdgeTile)),
                 problem.key);
  const int64_t count = math::positive_poisson(static_cast<double>(sum + problem.delta),
                                               static_cast<double>(words[j % 4]) * 0x1p-32);
  return static_cast<uint16_t>(count);
}

void write_counted_row(const SampleProblem& problem, int64_t i, const uint32_t* bits, int64_t words,
                       CsrWriter& writer) {
  const int64_t degree = sample_kernels().count_bits(bits, words);
  uint32_t* columns = writer.begin_row(degree);
  int64_t e = 0;
  for (int64_t w = 0; w < words; ++w) {
    for (uint32_t rest = bits[w]; rest != 0; rest &= rest - 1) {
      const auto j = static_cast<uint32_t>(w * 32 + std::countr_zero(rest));
      columns[e] = j;
      writer.multiplicity()[e++] = count_pair(problem, i, j);
    }
  }
  writer.end_row(degree);
}

void sample_counted_tiles(const SampleEdges& args, int64_t p, const SampleScratch& scratch,
                          int worker) {
  const SampleProblem problem = problem_at(args, p);
  const int64_t words = args.edges.words_per_row();
  uint32_t* bits = scratch.bits.at(worker).data;
  CsrWriter writer(args.edges, p);
  for (int64_t run = 0; run < num_runs(problem.num_queries, kCountedRowRun); ++run) {
    const Range rows = nth_run(run, problem.num_queries, kCountedRowRun);
    sample_kernels().tile_rows(problem, rows, scratch.tiles(worker), bits);
    set_window(problem, rows, bits, words);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      write_counted_row(problem, i, bits + (i - rows.begin) * words, words, writer);
    }
  }
}

}  // namespace

void sample_edges(const Stream& stream, const SampleEdges& args) {
  const Arena::Scope scope(*args.scratch);
  const SampleScratch scratch = alloc_sample_scratch(*args.scratch, args, stream.threads());
  if (stream.is_plan()) return;
  const EdgeSet& edges = args.edges;
  const int64_t problems = edges.num_problems();
  const int64_t runs = std::max<int64_t>(1, num_runs(edges.num_queries, kMaxTileRows));
  const math::EdgeFormRule rule(args);
  for (int64_t p = 0; p < problems; ++p) edges.form[p] = form_of(args, rule, p);
  stream.parallel_for(problems * runs, [&](int64_t task, int worker) {
    const int64_t p = task / runs;
    const int64_t run = task % runs;
    if (edges.form[p] == EdgeForm::kBits) {
      const Range rows = nth_run(run, edges.num_queries, kMaxTileRows);
      return sample_tile_rows(args, p, rows, scratch.tiles(worker));
    }
    if (run != 0) return;  // CSR rows follow one another: one task draws them all
    if (rule.draws_counted_tiles()) {
      sample_counted_tiles(args, p, scratch, worker);
    } else {
      sample_rows(args, p, scratch, worker);
    }
  });
  stream.parallel_for(problems, [&](int64_t p, int) {
    if (edges.form[p] == EdgeForm::kBits) sum_degrees(edges, p);
  });
}

}  // namespace stipple::kernels::cpu
