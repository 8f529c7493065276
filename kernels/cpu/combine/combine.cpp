// SPDX-License-Identifier: Apache-2.0
// Cuts the work into problems and scratch into buffers, and calls the bodies of the instruction set
// in force.
#include "kernels/combine.h"

#include <algorithm>
#include <cstddef>

#include "core/cpu/isa.h"
#include "kernels/cpu/attend/dropout_stream.h"
#include "kernels/cpu/combine/bodies.h"
#include "kernels/cpu/cutter.h"
#include "kernels/cpu/masks.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

constexpr int64_t kRegionRun = 64;  ///< regions that one task of forward summarises

const CombineBodies& combine_bodies() {
  switch (stipple::cpu::isa()) {
    case stipple::cpu::Isa::kAvx512:
      return avx512::kCombine;
    case stipple::cpu::Isa::kAvx2:
      return avx2::kCombine;
    case stipple::cpu::Isa::kScalar:
      break;
  }
  return scalar::kCombine;
}

// --- summaries -----------------------------------------------------------------------------------

SummaryBuffers cut_summaries(Cutter& cutter, int64_t longest, int64_t dim) {
  const int64_t tokens = longest + kMaxLanes;
  return {.list = cutter.take<uint32_t>(tokens),
          .weights = cutter.take<float>(tokens),
          .dweights = cutter.take<float>(tokens),
          .kept = cutter.take<float>(tokens),
          .dquery = cutter.take<float>(dim)};
}

/// Rows of problem p.
auto rows_at(auto array, int64_t p) {
  return array.floats().data + p * array.shape[2] * array.shape[3];
}
template <class T>
T* of_problem(View<T> array, int64_t p) {
  return array.empty() ? nullptr
                       : array.data + p * (array.numel() / (array.shape[0] * array.shape[1]));
}

template <class Args>
SummaryProblem summary_problem(const Args& a, const Summaries& s, int64_t p) {
  const int64_t heads = a.k.shape[1];
  SummaryProblem x;
  x.partition = a.partition;
  x.dim = a.k.shape[3];
  x.k = rows_at(a.k, p);
  x.v = rows_at(a.v, p);
  x.mask = mask_row(a.mask, p / heads);
  x.pool = a.pool;
  x.key_rule = a.key;
  x.scale = a.scale;
  x.dropout = dropout_stream(a.dropout, p / heads, p % heads);
  x.query = rows_at(s.query, p);
  x.key = rows_at(s.key, p);
  x.value = rows_at(s.value, p);
  x.query_from = of_problem(s.query_from, p);
  x.key_from = of_problem(s.key_from, p);
  x.lse = of_problem(s.lse, p);
  return x;
}

// --- attention -----------------------------------------------------------------------------------

CombineBuffers cut_combine(Cutter& cutter, const Partition& partition, int64_t dim,
                           bool is_backward) {
  const int64_t keys =
      (partition.longest_pass() + kTileKeys - 1) / kTileKeys * kTileKeys + kTileKeys;
  CombineBuffers b{};
  b.packed_keys = cutter.take<float>(keys * dim);
  const int64_t scored = has_lists(partition) ? partition.num_regions() : keys;
  b.bias = cutter.take<float>(scored);
  for (float*& tile : b.tiles) tile = cutter.take<float>(kTileRows * kTileKeys);
  if (is_backward) {
    b.packed_values = cutter.take<float>(keys * dim);
    b.log_tokens = cutter.take<float>(scored);
  } else {
    b.max = cutter.take<float>(partition.length);
    b.sum = cutter.take<float>(partition.length);
    b.region_sum = cutter.take<float>(partition.length);
    b.region_tilt = cutter.take<float>(partition.length);
  }
  return b;
}

template <class Args>
CombineProblem combine_problem(const Args& a, int64_t p) {
  const int64_t heads = a.q.shape[1];
  const int64_t b = p / heads, h = p % heads;
  CombineProblem x;
  x.partition = a.partition;
  x.dim = a.q.shape[3];
  x.q = rows_at(a.q, p);
  x.region_q = a.region_q.empty() ? x.q : rows_at(a.region_q, p);
  x.k = rows_at(a.k, p);
  x.v = rows_at(a.v, p);
  x.region_key = rows_at(a.region_key, p);
  x.region_value = rows_at(a.region_value, p);
  x.region_tokens = a.region_tokens.at(b).data;
  x.mask = mask_row(a.mask, b);
  x.scale = a.scale;
  x.mass = a.mass.factor * (a.mass.head_factor.empty() ? 1.0f : a.mass.head_factor[h]);
  x.dropout = dropout_stream(a.dropout, b, h);
  x.region_dropout = dropout_stream(a.region_dropout, b, h);
  return x;
}

/// What the gradients by a head's factor are, the problems' in order.
void add_head_factors(const CombineBackward& a, const double* of_problems) {
  const int64_t batch = a.q.shape[0], heads = a.q.shape[1];
  for (int64_t h = 0; h < heads; ++h) {
    double sum = 0.0;
    for (int64_t b = 0; b < batch; ++b) sum += of_problems[b * heads + h];
    a.dhead_factor[h] += static_cast<float>(sum * static_cast<double>(a.mass.factor));
  }
}

/// The problems' in order.
void add_facts(const Combine& a, const ProblemFacts* of_problems) {
  const int64_t batch = a.q.shape[0], heads = a.q.shape[1];
  for (int64_t p = 0; p < batch * heads; ++p) {
    const ProblemFacts& own = of_problems[p];
    a.facts.direct_weight[p % heads] += own.direct_weight;
    a.facts.region_entropy[p % heads] += own.region_entropy;
    a.facts.queries[p % heads] += own.queries;
    a.facts.with_regions[p % heads] += own.with_regions;
  }
}

}  // namespace

void summarize_regions(const Stream& stream, const SummarizeRegions& a) {
  const Arena::Scope scope(*a.scratch);
  const int64_t longest = a.partition.longest_region(), dim = a.k.shape[3], heads = a.k.shape[1];
  const int64_t bytes = bytes_of(cut_summaries, longest, dim);
  std::byte* scratch = a.scratch->alloc<std::byte>({stream.threads(), bytes}).data;
  const CombineBodies& body = combine_bodies();
  const int64_t regions = a.partition.num_regions();
  // Spans share tokens: they are done together, in an order of their own.
  const bool in_runs = a.partition.kind != PartitionKind::kLogsparse;
  const int64_t run_length = in_runs ? kRegionRun : std::max<int64_t>(regions, 1);
  const int64_t tasks = num_runs(regions, run_length);
  stream.parallel_for(a.k.shape[0] * heads * tasks, [&](int64_t t, int worker) {
    const int64_t p = t / tasks;
    SummaryProblem x = summary_problem(a, a.out, p);
    x.q = rows_at(a.q, p);
    x.pooled_k = a.pooled_k.empty() ? x.k : rows_at(a.pooled_k, p);
    if (p % heads == 0) x.tokens = a.out.tokens.at(p / heads).data;
    Cutter cutter(scratch + worker * bytes);
    const Range run = nth_run(t % tasks, regions, run_length);
    body.summarize(x, cut_summaries(cutter, longest, dim), run.begin, run.end);
  });
}

void summarize_regions_backward(const Stream& stream, const SummarizeRegionsBackward& a) {
  const Arena::Scope scope(*a.scratch);
  const int64_t longest = a.partition.longest_region(), dim = a.k.shape[3];
  const int64_t bytes = bytes_of(cut_summaries, longest, dim);
  std::byte* scratch = a.scratch->alloc<std::byte>({stream.threads(), bytes}).data;
  const CombineBodies& body = combine_bodies();
  stream.parallel_for(a.k.shape[0] * a.k.shape[1], [&](int64_t p, int worker) {
    SummaryProblem x = summary_problem(a, a.saved, p);
    x.dq = rows_at(a.dq, p);
    x.dk = rows_at(a.dk, p);
    x.dv = rows_at(a.dv, p);
    x.dpooled_k = a.dpooled_k.empty() ? x.dk : rows_at(a.dpooled_k, p);
    x.dkey = rows_at(a.dkey, p);
    x.dvalue = rows_at(a.dvalue, p);
    Cutter cutter(scratch + worker * bytes);
    body.summarize_backward(x, cut_summaries(cutter, longest, dim));
  });
}

void take_keys(const Stream& stream, const TakeKeys& a) {
  const int64_t heads = a.key.shape[1], regions = a.key.shape[2], dim = a.key.shape[3];
  stream.parallel_for(a.key.shape[0] * heads, [&](int64_t p, int) {
    const float* tokens = rows_at(a.token_key, p);
    const int32_t* from = of_problem(a.from, p);
    float* key = rows_at(a.key, p);
    for (int64_t e = 0; e < regions * dim; ++e) {
      const bool exists = a.region_tokens.at(p / heads)[e / dim] > 0;
      key[e] = exists ? tokens[from[e] * dim + e % dim] : 0.0f;
    }
  });
}

void take_keys_backward(const Stream& stream, const TakeKeysBackward& a) {
  const int64_t heads = a.dkey.shape[1], regions = a.dkey.shape[2], dim = a.dkey.shape[3];
  stream.parallel_for(a.dkey.shape[0] * heads, [&](int64_t p, int) {
    float* tokens = rows_at(a.dtoken_key, p);
    const int32_t* from = of_problem(a.from, p);
    const float* dkey = rows_at(a.dkey, p);
    for (int64_t e = 0; e < regions * dim; ++e) {
      if (a.region_tokens.at(p / heads)[e / dim] > 0) tokens[from[e] * dim + e % dim] += dkey[e];
    }
  });
}

void combine(const Stream& stream, const Combine& a) {
  const Arena::Scope scope(*a.scratch);
  const int64_t problems = a.q.shape[0] * a.q.shape[1];
  const View<ProblemFacts> facts = a.scratch->alloc<ProblemFacts>({problems});
  const int64_t bytes = bytes_of(cut_combine, a.partition, a.q.shape[3], false);
  std::byte* scratch = a.scratch->alloc<std::byte>({stream.threads(), bytes}).data;
  const CombineBodies& body = combine_bodies();
  stream.parallel_for(problems, [&](int64_t p, int worker) {
    CombineProblem x = combine_problem(a, p);
    x.o = rows_at(a.o, p);
    x.lse = of_problem(a.lse, p);
    if (!a.facts.empty()) x.facts = &(facts[p] = {});
    Cutter cutter(scratch + worker * bytes);
    body.forward(x, cut_combine(cutter, a.partition, x.dim, false));
  });
  if (!a.facts.empty() && !stream.is_plan()) add_facts(a, facts.data);
}

void combine_backward(const Stream& stream, const CombineBackward& a) {
  const Arena::Scope scope(*a.scratch);
  const int64_t problems = a.q.shape[0] * a.q.shape[1];
  const View<double> dmass = a.scratch->alloc<double>({problems});
  const View<float> delta = a.scratch->alloc<float>(a.lse.shape);
  const int64_t bytes = bytes_of(cut_combine, a.partition, a.q.shape[3], true);
  std::byte* scratch = a.scratch->alloc<std::byte>({stream.threads(), bytes}).data;
  const CombineBodies& body = combine_bodies();
  attend_delta(stream, {.delta = delta, .dout = a.dout, .o = a.o});
  stream.parallel_for(problems, [&](int64_t p, int worker) {
    CombineProblem x = combine_problem(a, p);
    x.final_lse = of_problem(a.lse, p);
    x.delta = of_problem(View<const float>(delta), p);
    x.dout = rows_at(a.dout, p);
    x.dq = rows_at(a.dq, p);
    x.dregion_q = a.dregion_q.empty() ? x.dq : rows_at(a.dregion_q, p);
    x.dk = rows_at(a.dk, p);
    x.dv = rows_at(a.dv, p);
    x.dregion_key = rows_at(a.dregion_key, p);
    x.dregion_value = rows_at(a.dregion_value, p);
    if (!a.dhead_factor.empty()) x.dmass = &dmass[p];
    Cutter cutter(scratch + worker * bytes);
    body.backward(x, cut_combine(cutter, a.partition, x.dim, true));
  });
  if (!a.dhead_factor.empty() && !stream.is_plan()) add_head_factors(a, dmass.data);
}

}  // namespace stipple::kernels::cpu
