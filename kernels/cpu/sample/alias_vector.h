// SPDX-License-Identifier: Apache-2.0
// Alias tables on the vectors of kernels/cpu/simd_longs.h, included once per instruction set: a
// lane sweeps over a table, two vectors side by side, because each step of a table waits for the
// one before. Must give the tables of scalar.cpp.
#pragma once

#include "kernels/cpu/sample/sample.h"
#include "kernels/cpu/simd_longs.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

inline constexpr int kSweeps = 2;  // vectors
inline constexpr int kSweptTables = kSweeps * kLongWidth;
static_assert(kSweptTables <= kAliasColumns);

/// Light and heavy items of the tables of a sweep, their weight above their number.
struct SweptTables {
  double total[kSweptTables] = {};    // W
  double scale[kSweptTables] = {};    // of thresholds
  uint64_t light[kSweptTables] = {};  // first item in AliasBuild::items
  uint64_t heavy[kSweptTables] = {};
  uint64_t output[kSweptTables] = {};  // first entry
  uint64_t steps[kSweptTables] = {};   // entries that are not full
};

/// Where the two lists of a table end.
struct ItemLists {
  uint64_t* light;
  uint64_t* heavy;
};

// Moves items to the lists; all entries become full.
#if defined(__AVX512F__)
inline ItemLists split_items(const uint32_t* weights, int64_t n, uint64_t total, ItemLists lists,
                             AliasEntry* entries) {
  const auto size = static_cast<uint64_t>(n);
  const Longs floor = splat_longs(static_cast<int64_t>(total / size));
  const Longs ceiling = splat_longs(static_cast<int64_t>((total + size - 1) / size));
  const Longs certain = splat_longs(static_cast<int64_t>(~uint64_t{0} << 32));
  Longs item = long_iota();
  for (int64_t j = 0; j < n; j += kLongWidth, item = item + splat_longs(kLongWidth)) {
    const LongMask some{static_cast<__mmask8>(n - j >= kLongWidth ? 0xFF : (1 << (n - j)) - 1)};
    const Longs weight = widen(weights + j);
    const Longs packed = weight << 32 | item;
    _mm512_mask_storeu_epi64(entries + j, some.m, (item | certain).v);
    const LongMask is_light = less(weight, ceiling) & some;
    const LongMask is_heavy = less(floor, weight) & some;
    store(lists.light, {_mm512_maskz_compress_epi64(is_light.m, packed.v)});
    store(lists.heavy, {_mm512_maskz_compress_epi64(is_heavy.m, packed.v)});
    lists.light += __builtin_popcount(mask_bits(is_light));
    lists.heavy += __builtin_popcount(mask_bits(is_heavy));
  }
  return lists;
}
#else
inline ItemLists split_items(const uint32_t* weights, int64_t n, uint64_t total, ItemLists lists,
                             AliasEntry* entries) {
  const auto size = static_cast<uint64_t>(n);
  for (int64_t j = 0; j < n; ++j) {
    const uint64_t packed = uint64_t{weights[j]} << 32 | static_cast<uint64_t>(j);
    entries[j] = math::full_entry(j);
    *lists.light = packed;
    *lists.heavy = packed;
    lists.light += weights[j] * size < total ? 1 : 0;
    lists.heavy += weights[j] * size > total ? 1 : 0;
  }
  return lists;
}
#endif

inline SweptTables split_tables(const AliasBuild& build, int64_t first, int64_t count) {
  SweptTables tables;
  for (int64_t t = 0; t < count; ++t) {
    const int64_t column = first + t;
    const uint64_t total = build.totals[column];
    const int64_t light = 2 * t * build.stride();
    const int64_t heavy = light + build.stride();
    const ItemLists begin{build.items + light, build.items + heavy};
    const ItemLists end = split_items(build.weights + column * build.stride(), build.num_keys,
                                      total, begin, build.entries + column * build.num_keys);
    const int64_t items = end.light - begin.light + (end.heavy - begin.heavy);
    tables.total[t] = static_cast<double>(total);
    tables.scale[t] = math::threshold_scale(total);
    tables.light[t] = static_cast<uint64_t>(light);
    tables.heavy[t] = static_cast<uint64_t>(heavy);
    tables.output[t] = static_cast<uint64_t>(column * build.num_keys);
    tables.steps[t] = static_cast<uint64_t>(items == 0 ? 0 : items - 1);  // the last stays full
  }
  return tables;
}

/// A vector of tables while they are made: each has a current heavy item, what is left of it, and
/// the next item of either list. Lanes that are through read on, within AliasBuild::items, and
/// write nothing.
struct Sweep {
  Doubles total, scale, left;
  Longs light, heavy, current, steps, output;

  Sweep() = default;
  Sweep(const SweptTables& tables, int first, const AliasBuild& build)
      : total(load(tables.total + first)),
        scale(load(tables.scale + first)),
        light(load(tables.light + first)),
        heavy(load(tables.heavy + first)),
        steps(load(tables.steps + first)),
        output(load(tables.output + first)) {
    const Longs item = gather(build.items, heavy);
    left = to_doubles(item >> 32) * splat_doubles(static_cast<double>(build.num_keys));
    current = item & splat_longs(0xFFFFFFFF);
    heavy = heavy + splat_longs(1);
  }

  /// Makes an entry: of the next light item, where more than a bucket is left, or of the current
  /// heavy one.
  void step(const AliasBuild& build, Longs number, Doubles size) {
    const LongMask fills = less(total, left);
    const Longs packed = gather(build.items, select(fills, light, heavy));
    const Doubles weight = to_doubles(packed >> 32) * size;
    const Longs item = packed & splat_longs(0xFFFFFFFF);
    const Longs own = select(fills, item, current);
    const Longs other = select(fills, current, item);
    const Doubles part = select(fills, weight, left);
    const Longs threshold = truncate(part * scale);
    scatter(build.entries, output + own, threshold << 32 | other,
            less(number, steps) & less(part, total));
    left = left + (weight - total);
    current = other;
    light = select(fills, light + splat_longs(1), light);
    heavy = select(fills, heavy, heavy + splat_longs(1));
  }
};

inline void build_alias_tables(const AliasBuild& build) {
  const Doubles size = splat_doubles(static_cast<double>(build.num_keys));
  for (int64_t first = 0; first < build.num_columns; first += kSweptTables) {
    const int64_t rest = build.num_columns - first;
    const SweptTables tables =
        split_tables(build, first, rest < kSweptTables ? rest : kSweptTables);
    Sweep sweeps[kSweeps];
    for (int s = 0; s < kSweeps; ++s) sweeps[s] = Sweep(tables, s * kLongWidth, build);
    uint64_t most = 0;
    for (uint64_t steps : tables.steps) most = steps > most ? steps : most;
    Longs number = splat_longs(0);
    for (uint64_t step = 0; step < most; ++step, number = number + splat_longs(1)) {
      for (Sweep& sweep : sweeps) sweep.step(build, number, size);
    }
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
