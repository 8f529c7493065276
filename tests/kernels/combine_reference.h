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
#include "tests/support/devices.h"

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

/// Operands lie in `memory`, stored as `storage`; where the stream only plans, nothing comes back.
inline Combined run_combine(const CombineSetup& s, DeviceMemory& memory, const Stream& stream,
                            Arena& scratch, const CombineMutant& mutant = {},
                            Precision storage = Precision::kFp32) {
  using namespace kernels;
  const Arena::Scope scope(scratch);
  const auto put = [&](const Array<float>& x) {
    return is_given(x) ? memory.put(x, storage) : RealView{};
  };
  const RealView q = put(s.q), k = put(s.k), v = put(s.v), dout = put(s.dout);
  const RealView region_q = put(s.region_q), pooled_k = put(s.pooled_k);
  const auto zeros = [&] { return memory.put(Array<float>(s.tokens()), storage); };
  const RealView o = memory.fresh(s.tokens(), storage), dq = memory.fresh(s.tokens(), storage),
                 dk = memory.fresh(s.tokens(), storage), dv = memory.fresh(s.tokens(), storage);
  const RealView dregion_q = is_given(s.region_q) ? zeros() : RealView{};
  const RealView dpooled_k = is_given(s.pooled_k) ? zeros() : RealView{};
  const View<float> lse = memory.fresh<float>({s.batch, s.heads, s.n()});
  const View<float> dhead_mass = memory.zeros<float>({s.heads});
  const View<double> direct_weight = memory.zeros<double>({s.heads}),
                     region_entropy = memory.zeros<double>({s.heads});
  const View<int64_t> queries = memory.zeros<int64_t>({s.heads}),
                      with_regions = memory.zeros<int64_t>({s.heads});
  const View<const uint8_t> mask = is_given(s.mask) ? memory.put(s.mask) : View<uint8_t>{};
  const View<const uint8_t> region_mask = mutant.masks_regions ? mask : View<const uint8_t>{};
  const View<const uint32_t> samples = memory.put(s.samples);
  const Summaries summaries =
      alloc_summaries(scratch, storage, s.batch, s.heads, s.d, s.partition, s.pool, s.key);
  const RealView dkey = scratch.alloc(storage, summaries.key.shape);
  const RealView dvalue = scratch.alloc(storage, summaries.key.shape);
  const auto drop = [&](float rate) {
    AttentionDropout dropout = s.drop(rate);
    dropout.samples = samples;
    return dropout;
  };
  const RegionMass mass = {s.mass,
                           is_given(s.head_mass) ? memory.put(s.head_mass) : View<const float>{}};
  summarize_regions(stream, {.out = summaries,
                             .q = q,
                             .k = k,
                             .v = v,
                             .pooled_k = pooled_k,
                             .mask = region_mask,
                             .partition = s.partition,
                             .pool = s.pool,
                             .key = s.key,
                             .scale = s.scale * mutant.query_scale,
                             .dropout = drop(s.token_dropout),
                             .scratch = &scratch});
  combine(stream, {.o = o,
                   .lse = lse,
                   .q = q,
                   .k = k,
                   .v = v,
                   .region_q = region_q,
                   .region_key = summaries.key,
                   .region_value = summaries.value,
                   .region_tokens = summaries.tokens,
                   .mask = mask,
                   .partition = s.partition,
                   .mass = mass,
                   .scale = s.scale,
                   .dropout = drop(s.dropout),
                   .region_dropout = drop(s.region_dropout),
                   .facts = {direct_weight, region_entropy, queries, with_regions},
                   .scratch = &scratch});
  combine_backward(stream, {.dq = dq,
                            .dk = dk,
                            .dv = dv,
                            .dregion_q = dregion_q,
                            .dregion_key = dkey,
                            .dregion_value = dvalue,
                            .dhead_factor = dhead_mass,
                            .q = q,
                            .k = k,
                            .v = v,
                            .region_q = region_q,
                            .region_key = summaries.key,
                            .region_value = summaries.value,
                            .region_tokens = summaries.tokens,
                            .o = o,
                            .dout = dout,
                            .lse = lse,
                            .mask = mask,
                            .partition = s.partition,
                            .mass = mass,
                            .scale = s.scale,
                            .dropout = drop(s.dropout),
                            .region_dropout = drop(s.region_dropout),
                            .scratch = &scratch});
  Combined out;
  if (!summaries.key_from.empty() && !stream.is_plan()) {
    out.key_from = memory.get(summaries.key_from);
    const Array<int32_t> tokens = memory.get(summaries.tokens);
    const int64_t regions = summaries.tokens.shape[1];
    for (int64_t x = 0; x < out.key_from.numel(); ++x) {
      const int64_t row = x / s.d, b = row / regions / s.heads;
      if (tokens[b * regions + row % regions] == 0) out.key_from[x] = -1;  // not written
    }
    Array<int32_t> wrong = out.key_from;
    for (int32_t& from : wrong.values()) from -= from > 0 ? mutant.shift_from : 0;
    upload(stream, summaries.key_from, std::span<const int32_t>(wrong.values()));
  }
  summarize_regions_backward(stream, {.dq = dq,
                                      .dk = dk,
                                      .dv = dv,
                                      .dpooled_k = dpooled_k,
                                      .dkey = dkey,
                                      .dvalue = dvalue,
                                      .saved = summaries,
                                      .k = k,
                                      .v = v,
                                      .mask = region_mask,
                                      .partition = s.partition,
                                      .pool = s.pool,
                                      .key = s.key,
                                      .scale = s.scale * mutant.query_scale,
                                      .dropout = drop(s.token_dropout),
                                      .scratch = &scratch});
  if (stream.is_plan()) return out;
  out.o = memory.get(o);
  out.lse = memory.get(lse);
  out.dq = memory.get(dq);
  out.dk = memory.get(dk);
  out.dv = memory.get(dv);
  out.dhead_mass = memory.get(dhead_mass);
  out.direct_weight = memory.get(direct_weight);
  out.region_entropy = memory.get(region_entropy);
  out.queries = memory.get(queries);
  out.with_regions = memory.get(with_regions);
  if (is_given(s.region_q)) out.dregion_q = memory.get(dregion_q);
  if (is_given(s.pooled_k)) out.dpooled_k = memory.get(dpooled_k);
  return out;
}

/// Where run_combine computes when it is not told (with_every_backend).
inline Device& combine_device() {
  static Device device = kCpuDevice;
  return device;
}

inline Combined run_combine(const CombineSetup& s, const CombineMutant& mutant = {},
                            Precision storage = Precision::kFp32) {
  DeviceMemory memory(combine_device(), {}, size_t{2} << 20);
  return run_combine(s, memory, memory.stream(), memory.scratch(), mutant, storage);
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

/// Runs body() with each instruction set of this machine, and on its CUDA device.
template <class Body>
void with_every_backend(const Body& body) {
  const cpu::Isa before = cpu::isa();
  for (const cpu::Isa isa : cpu::available_isas()) {
    SCOPED_TRACE(cpu::isa_name(isa));
    cpu::set_isa(isa);
    body();
  }
  cpu::set_isa(before);
  for (const Device device : test_devices()) {
    if (device == kCpuDevice) continue;
    SCOPED_TRACE(name_of(device));
    combine_device() = device;
    body();
  }
  combine_device() = kCpuDevice;
}

}  // namespace stipple::test
