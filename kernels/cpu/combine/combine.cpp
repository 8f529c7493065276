// SPDX-License-Identifier: Apache-2.0
// Cuts the work into problems and scratch into buffers, and calls the bodies of the instruction set
// in force.
#include "kernels/combine.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "core/cpu/isa.h"
#include "kernels/cpu/attend/dropout_stream.h"
#include "kernels/cpu/combine/bodies.h"
#include "kernels/cpu/cutter.h"
#include "kernels/cpu/masks.h"
#include "kernels/cpu/sums.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

constexpr int64_t kRegionRun = 64;  ///< regions that one task summarises
/// Queries of a run, some: for fewer, packing the keys of regions for each run would show.
constexpr int64_t kQueryRun = 1024;
/// Of a problem at most: each has its own gradients of all regions.
constexpr int64_t kMostQueryRuns = 8;

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

// --- runs ----------------------------------------------------------------------------------------

/// Parts of a problem that threads may share: whole blocks, which have their direct keys for
/// themselves, or, where each query goes through its own list, any queries; else one. Never fewer
/// than a shorter sequence has: plans are of the longest.
struct QueryRuns {
  int64_t tokens, unit, shift, units;  ///< a unit is a block or a token
  int64_t count = 1;

  QueryRuns(const Partition& p, bool may_share_keys) : tokens(p.length) {
    const bool by_blocks = p.kind == PartitionKind::kFixed && p.globals == 0;
    unit = by_blocks ? p.block : 1;
    shift = by_blocks ? p.shift : 0;
    units = by_blocks ? p.num_blocks() : p.length;
    if (!by_blocks && !(may_share_keys && has_lists(p))) return;
    const int64_t least = std::max<int64_t>(kQueryRun / unit, 1);
    count = std::clamp<int64_t>(num_runs(units, least), 1, kMostQueryRuns);
  }
  /// Queries of run r.
  Range operator[](int64_t r) const { return {border(r), border(r + 1)}; }

 private:
  int64_t border(int64_t r) const {
    if (r == 0 || r == count) return r == 0 ? 0 : tokens;
    return r * units / count * unit - shift;
  }
};

/// How many regions one task of forward summarises, or of backward, which adds to their tokens.
int64_t region_run(const Partition& p, bool is_backward) {
  const int64_t all = std::max<int64_t>(p.num_regions(), 1);
  if (p.kind == PartitionKind::kFixed) return std::clamp<int64_t>(kQueryRun / p.block, 1, all);
  // Spans share tokens: they are done together, in an order of their own.
  const bool are_apart = !is_backward && p.kind != PartitionKind::kLogsparse;
  return are_apart ? kRegionRun : all;
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
CombineProblem combine_problem(const Args& a, int64_t p, Range queries) {
  const int64_t heads = a.q.shape[1];
  const int64_t b = p / heads, h = p % heads;
  CombineProblem x;
  x.partition = a.partition;
  x.first_query = queries.begin;
  x.end_query = queries.end;
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

/// What the gradients by a head's factor are, the runs' in order.
void add_head_factors(const CombineBackward& a, View<const double> of_runs) {
  const int64_t batch = a.q.shape[0], heads = a.q.shape[1], runs = of_runs.shape[1];
  for (int64_t h = 0; h < heads; ++h) {
    double sum = 0.0;
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t r = 0; r < runs; ++r) sum += of_runs[(b * heads + h) * runs + r];
    }
    a.dhead_factor[h] += static_cast<float>(sum * static_cast<double>(a.mass.factor));
  }
}

/// The runs' in order.
void add_facts(const Combine& a, View<const ProblemFacts> of_runs) {
  const int64_t heads = a.q.shape[1], runs = of_runs.shape[1];
  for (int64_t t = 0; t < of_runs.numel(); ++t) {
    const ProblemFacts& own = of_runs[t];
    const int64_t h = t / runs % heads;
    a.facts.direct_weight[h] += own.direct_weight;
    a.facts.region_entropy[h] += own.region_entropy;
    a.facts.queries[h] += own.queries;
    a.facts.with_regions[h] += own.with_regions;
  }
}

/// Gradients of regions: where queries come in runs, a part of each, added at last.
class RegionGradients {
 public:
  RegionGradients(Arena& scratch, const CombineBackward& a, int64_t runs)
      : results_{a.dregion_key.floats(), a.dregion_value.floats()}, runs_(runs) {
    const Shape& shape = a.dregion_key.shape;
    problems_ = shape[0] * shape[1];
    numel_ = shape[2] * shape[3];
    if (runs_ == 1) return;
    for (View<float>& parts : parts_) parts = scratch.alloc<float>({problems_, runs_, numel_});
  }
  float* key(int64_t task) const { return at(0, task); }
  float* value(int64_t task) const { return at(1, task); }
  void add(const Stream& stream) const {
    if (runs_ == 1 || numel_ == 0) return;
    for (size_t x = 0; x < 2; ++x)
      add_partials(stream, results_[x].reshape({problems_, numel_}), parts_[x], 0.0f);
  }

 private:
  float* at(size_t which, int64_t task) const {
    return (runs_ == 1 ? results_[which].data : parts_[which].data) + task * numel_;
  }

  std::array<View<float>, 2> results_, parts_;
  int64_t runs_, problems_ = 0, numel_ = 0;
};

}  // namespace

void summarize_regions(const Stream& stream, const SummarizeRegions& a) {
  const Arena::Scope scope(*a.scratch);
  const int64_t longest = a.partition.longest_region(), dim = a.k.shape[3], heads = a.k.shape[1];
  const int64_t bytes = bytes_of(cut_summaries, longest, dim);
  std::byte* scratch = a.scratch->alloc<std::byte>({stream.threads(), bytes}).data;
  const CombineBodies& body = combine_bodies();
  const int64_t regions = a.partition.num_regions();
  const int64_t run_length = region_run(a.partition, false);
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
  const int64_t regions = a.partition.num_regions();
  const int64_t run_length = region_run(a.partition, true);
  const int64_t tasks = num_runs(regions, run_length);
  stream.parallel_for(a.k.shape[0] * a.k.shape[1] * tasks, [&](int64_t t, int worker) {
    const int64_t p = t / tasks;
    SummaryProblem x = summary_problem(a, a.saved, p);
    x.dq = rows_at(a.dq, p);
    x.dk = rows_at(a.dk, p);
    x.dv = rows_at(a.dv, p);
    x.dpooled_k = a.dpooled_k.empty() ? x.dk : rows_at(a.dpooled_k, p);
    x.dkey = rows_at(a.dkey, p);
    x.dvalue = rows_at(a.dvalue, p);
    Cutter cutter(scratch + worker * bytes);
    const Range run = nth_run(t % tasks, regions, run_length);
    body.summarize_backward(x, cut_summaries(cutter, longest, dim), run.begin, run.end);
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
  const QueryRuns runs(a.partition, /*may_share_keys=*/true);
  const View<ProblemFacts> facts = a.scratch->alloc<ProblemFacts>({problems, runs.count});
  const int64_t bytes = bytes_of(cut_combine, a.partition, a.q.shape[3], false);
  std::byte* scratch = a.scratch->alloc<std::byte>({stream.threads(), bytes}).data;
  const CombineBodies& body = combine_bodies();
  stream.parallel_for(problems * runs.count, [&](int64_t t, int worker) {
    const int64_t p = t / runs.count;
    CombineProblem x = combine_problem(a, p, runs[t % runs.count]);
    x.o = rows_at(a.o, p);
    x.lse = of_problem(a.lse, p);
    if (!a.facts.empty()) x.facts = &(facts[t] = {});
    Cutter cutter(scratch + worker * bytes);
    body.forward(x, cut_combine(cutter, a.partition, x.dim, false));
  });
  if (!a.facts.empty() && !stream.is_plan()) add_facts(a, facts);
}

void combine_backward(const Stream& stream, const CombineBackward& a) {
  const Arena::Scope scope(*a.scratch);
  const int64_t problems = a.q.shape[0] * a.q.shape[1];
  const QueryRuns runs(a.partition, /*may_share_keys=*/false);
  const View<double> dmass = a.scratch->alloc<double>({problems, runs.count});
  const RegionGradients of_regions(*a.scratch, a, runs.count);
  const View<float> delta = a.scratch->alloc<float>(a.lse.shape);
  const int64_t bytes = bytes_of(cut_combine, a.partition, a.q.shape[3], true);
  std::byte* scratch = a.scratch->alloc<std::byte>({stream.threads(), bytes}).data;
  const CombineBodies& body = combine_bodies();
  attend_delta(stream, {.delta = delta, .dout = a.dout, .o = a.o});
  stream.parallel_for(problems * runs.count, [&](int64_t t, int worker) {
    const int64_t p = t / runs.count;
    CombineProblem x = combine_problem(a, p, runs[t % runs.count]);
    x.final_lse = of_problem(a.lse, p);
    x.delta = of_problem(View<const float>(delta), p);
    x.dout = rows_at(a.dout, p);
    x.dq = rows_at(a.dq, p);
    x.dregion_q = a.dregion_q.empty() ? x.dq : rows_at(a.dregion_q, p);
    x.dk = rows_at(a.dk, p);
    x.dv = rows_at(a.dv, p);
    x.dregion_key = of_regions.key(t);
    x.dregion_value = of_regions.value(t);
    if (!a.dhead_factor.empty()) x.dmass = &dmass[t];
    Cutter cutter(scratch + worker * bytes);
    body.backward(x, cut_combine(cutter, a.partition, x.dim, true));
  });
  of_regions.add(stream);
  if (!a.dhead_factor.empty() && !stream.is_plan()) add_head_factors(a, dmass);
}

}  // namespace stipple::kernels::cpu
