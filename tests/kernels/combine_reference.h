// SPDX-License-Identifier: Apache-2.0
// Calls of Combiner attention and of its double-precision oracle on the same numbers.
#pragma once

#include <cmath>
#include <ostream>
#include <string>
#include <vector>

#include "core/cpu/isa.h"
#include "kernels/combine.h"
#include "kernels/combine_reference.h"
#include "tests/support/arrays.h"

namespace stipple::test {

using kernels::Partition;
using kernels::PartitionKind;
using kernels::RegionKey;
using kernels::RegionPool;
using kernels::reference::Doubles;

inline constexpr PartitionKind kPartitionKinds[] = {
    PartitionKind::kFixed,      PartitionKind::kLogsparse, PartitionKind::kVertical,
    PartitionKind::kHorizontal, PartitionKind::kRowMajor,  PartitionKind::kMixture};

inline std::string describe(const Partition& p) {
  static const char* names[] = {"fixed",      "logsparse", "vertical",
                                "horizontal", "row-major", "mixture"};
  return std::string(names[static_cast<int>(p.kind)]) + (p.is_causal ? ", causal" : "") + ", N " +
         std::to_string(p.length) + ", globals " + std::to_string(p.globals) + ", block " +
         std::to_string(p.block) + " shift " + std::to_string(p.shift) + ", columns " +
         std::to_string(p.columns) + (p.overlaps_own ? ", overlapping" : "");
}

/// Every kind of cut of n tokens, causal and not.
inline std::vector<Partition> partitions_of(int64_t n, int64_t block = 4, int64_t columns = 4) {
  std::vector<Partition> all;
  for (const PartitionKind kind : kPartitionKinds) {
    for (const bool is_causal : {false, true}) {
      all.push_back(
          {.kind = kind, .is_causal = is_causal, .length = n, .block = block, .columns = columns});
    }
  }
  return all;
}

template <class T>
bool is_given(const Array<T>& x) {
  return x.shape().rank() > 0;
}

struct CombineSetup {
  Partition partition;
  int64_t batch = 2, heads = 2, d = 5;
  Array<float> q, k, v, dout;
  Array<float> region_q = Array<float>();  ///< not given: q
  Array<float> pooled_k = Array<float>();  ///< not given: k
  Array<uint8_t> mask = Array<uint8_t>();  ///< not given: all
  RegionPool pool = RegionPool::kMax;
  RegionKey key = RegionKey::kPooled;
  float scale = 0.6f;
  float mass = 0.0f;
  Array<float> head_mass = Array<float>();
  float dropout = 0.0f, region_dropout = 0.0f, token_dropout = 0.0f;
  Array<uint32_t> samples = Array<uint32_t>();

  int64_t n() const { return partition.length; }
  Shape tokens() const { return {batch, heads, n(), d}; }
  kernels::AttentionDropout drop(float rate) const {
    return {.rate = rate, .rng = {11, 12}, .layer = 3, .samples = samples.view()};
  }
};

inline CombineSetup make_combine(const Partition& partition, uint64_t seed, int64_t d = 5,
                                 int64_t batch = 2, int64_t heads = 2) {
  const Shape shape = {batch, heads, partition.length, d};
  CombineSetup s{.partition = partition,
                 .batch = batch,
                 .heads = heads,
                 .d = d,
                 .q = random_normal(shape, seed),
                 .k = random_normal(shape, seed + 1),
                 .v = random_normal(shape, seed + 2),
                 .dout = random_normal(shape, seed + 3)};
  s.samples = Array<uint32_t>({batch});
  for (int64_t b = 0; b < batch; ++b) s.samples[b] = static_cast<uint32_t>(7 + 5 * b);
  return s;
}

/// Padding at the end, in the middle and at the front; the last sample of several is all padding but
/// one token.
inline void add_padding(CombineSetup& s) {
  s.mask = Array<uint8_t>({s.batch, s.n()});
  s.mask.fill(1);
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t j = 0; j < s.n(); ++j) {
      const bool alone = b > 0 && b + 1 == s.batch;
      const bool padded = alone ? j != s.n() / 2 : j >= s.n() - 2 - b || j % 7 == 3 || j == 0;
      if (padded) s.mask[b * s.n() + j] = 0;
    }
  }
}

struct Combined {
  Array<float> o, lse, dq, dk, dv, dregion_q, dpooled_k, dhead_mass;
  Array<double> direct_weight, region_entropy;
  Array<int64_t> queries, with_regions;
  Array<int32_t> key_from;
  bool operator==(const Combined& other) const {
    return o.values() == other.o.values() && lse.values() == other.lse.values() &&
           dq.values() == other.dq.values() && dk.values() == other.dk.values() &&
           dv.values() == other.dv.values() && dhead_mass.values() == other.dhead_mass.values() &&
           direct_weight.values() == other.direct_weight.values() &&
           region_entropy.values() == other.region_entropy.values();
  }
};

/// What a wrong implementation would do otherwise; the default changes nothing.
struct CombineMutant {
  bool masks_regions = true;  ///< padding takes no part in summaries
  float query_scale = 1.0f;   ///< of scores within a region
  int32_t shift_from = 0;     ///< tokens by which the gradient of a maximum goes astray
  bool regions_are_causal = true;
};

inline Combined run_combine(const CombineSetup& s, const Stream& stream, Arena& scratch,
                            const CombineMutant& mutant = {}) {
  using namespace kernels;
  const Arena::Scope scope(scratch);
  Combined out;
  out.o = Array<float>(s.tokens());
  out.lse = Array<float>({s.batch, s.heads, s.n()});
  out.dq = out.dk = out.dv = out.dregion_q = out.dpooled_k = out.o;
  out.dhead_mass = Array<float>({s.heads});
  out.direct_weight = out.region_entropy = Array<double>({s.heads});
  out.queries = out.with_regions = Array<int64_t>({s.heads});
  const View<const uint8_t> mask = s.mask;
  const View<const uint8_t> region_mask = mutant.masks_regions ? mask : View<const uint8_t>{};
  Summaries summaries =
      alloc_summaries(scratch, Precision::kFp32, s.batch, s.heads, s.d, s.partition, s.pool, s.key);
  const RealView dkey = scratch.alloc(Precision::kFp32, summaries.key.shape);
  const RealView dvalue = scratch.alloc(Precision::kFp32, summaries.key.shape);
  const AttentionDropout drop = s.drop(s.dropout), drop_region = s.drop(s.region_dropout),
                         drop_token = s.drop(s.token_dropout);
  const RegionMass mass = {s.mass, s.head_mass};
  summarize_regions(stream, {.out = summaries,
                             .q = s.q,
                             .k = s.k,
                             .v = s.v,
                             .pooled_k = s.pooled_k,
                             .mask = region_mask,
                             .partition = s.partition,
                             .pool = s.pool,
                             .key = s.key,
                             .scale = s.scale * mutant.query_scale,
                             .dropout = drop_token,
                             .scratch = &scratch});
  combine(stream, {.o = out.o,
                   .lse = out.lse,
                   .q = s.q,
                   .k = s.k,
                   .v = s.v,
                   .region_q = s.region_q,
                   .region_key = summaries.key,
                   .region_value = summaries.value,
                   .region_tokens = summaries.tokens,
                   .mask = mask,
                   .partition = s.partition,
                   .mass = mass,
                   .scale = s.scale,
                   .dropout = drop,
                   .region_dropout = drop_region,
                   .facts = {out.direct_weight, out.region_entropy, out.queries, out.with_regions},
                   .scratch = &scratch});
  const bool apart = is_given(s.region_q);
  combine_backward(stream, {.dq = out.dq,
                            .dk = out.dk,
                            .dv = out.dv,
                            .dregion_q = apart ? RealView(out.dregion_q) : RealView{},
                            .dregion_key = dkey,
                            .dregion_value = dvalue,
                            .dhead_factor = out.dhead_mass,
                            .q = s.q,
                            .k = s.k,
                            .v = s.v,
                            .region_q = s.region_q,
                            .region_key = summaries.key,
                            .region_value = summaries.value,
                            .region_tokens = summaries.tokens,
                            .o = out.o,
                            .dout = s.dout,
                            .lse = out.lse,
                            .mask = mask,
                            .partition = s.partition,
                            .mass = mass,
                            .scale = s.scale,
                            .dropout = drop,
                            .region_dropout = drop_region,
                            .scratch = &scratch});
  if (!summaries.key_from.empty() && !stream.is_plan()) {
    out.key_from = Array<int32_t>(summaries.key_from.shape);
    for (int64_t x = 0; x < summaries.key_from.numel(); ++x) {
      int32_t& from = summaries.key_from[x];
      out.key_from[x] = from;
      if (mutant.shift_from != 0 && from > 0) from -= mutant.shift_from;
    }
  }
  summarize_regions_backward(
      stream, {.dq = out.dq,
               .dk = out.dk,
               .dv = out.dv,
               .dpooled_k = is_given(s.pooled_k) ? RealView(out.dpooled_k) : RealView{},
               .dkey = dkey,
               .dvalue = dvalue,
               .saved = summaries,
               .k = s.k,
               .v = s.v,
               .mask = region_mask,
               .partition = s.partition,
               .pool = s.pool,
               .key = s.key,
               .scale = s.scale * mutant.query_scale,
               .dropout = drop_token,
               .scratch = &scratch});
  return out;
}

inline Combined run_combine(const CombineSetup& s, const CombineMutant& mutant = {}) {
  Arena scratch("scratch", kCpuDevice, size_t{2} << 20);
  return run_combine(s, Stream(kCpuDevice), scratch, mutant);
}

/// Dropout's factors of problem (b, h) for these rows and columns of pairs.
inline Doubles combine_factors(const CombineSetup& s, float rate, int64_t b, int64_t h,
                               kernels::Line rows, kernels::Line columns) {
  if (rate == 0.0f) return {};
  const Doubles all = kernels::reference::dropout_factors(
      s.drop(rate), b, static_cast<int>(h), rows.first + rows.count, columns.first + columns.count);
  Doubles factors;
  for (int64_t i = rows.first; i < rows.first + rows.count; ++i) {
    const auto row = all.begin() + i * (columns.first + columns.count) + columns.first;
    factors.insert(factors.end(), row, row + columns.count);
  }
  return factors;
}

/// The oracle of problem (b, h), with q, k, v as given.
inline kernels::reference::Combiner combine_oracle(const CombineSetup& s, int64_t b, int64_t h) {
  const auto part = [&](const Array<float>& x) {
    if (!is_given(x)) return Doubles{};
    const auto first = x.values().begin() + (b * s.heads + h) * s.n() * s.d;
    return Doubles(first, first + s.n() * s.d);
  };
  kernels::reference::Combiner c{.partition = s.partition,
                                 .d = s.d,
                                 .scale = static_cast<double>(s.scale),
                                 .q = part(s.q),
                                 .k = part(s.k),
                                 .v = part(s.v)};
  c.region_q = part(s.region_q);
  c.pooled_k = part(s.pooled_k);
  if (is_given(s.mask)) {
    const auto row = s.mask.values().begin() + b * s.n();
    c.mask = {row, row + s.n()};
  }
  c.pool = s.pool;
  c.key = s.key;
  c.mass = static_cast<double>(s.mass);
  if (is_given(s.head_mass)) c.mass *= static_cast<double>(s.head_mass[h]);
  const kernels::Line tokens{0, 1, s.n()}, regions{s.n(), 1, s.partition.num_regions()};
  c.keep = combine_factors(s, s.dropout, b, h, tokens, tokens);
  c.keep_region = combine_factors(s, s.region_dropout, b, h, tokens, regions);
  c.keep_local = combine_factors(s, s.token_dropout, b, h, regions, tokens);
  return c;
}

/// Runs body() with each instruction set of this machine.
template <class Body>
void with_every_isa(const Body& body) {
  const cpu::Isa before = cpu::isa();
  for (const cpu::Isa isa : cpu::available_isas()) {
    SCOPED_TRACE(cpu::isa_name(isa));
    cpu::set_isa(isa);
    body();
  }
  cpu::set_isa(before);
}

}  // namespace stipple::test
