// SPDX-License-Identifier: Apache-2.0
// The samplers' hot loops, plain: what the vector versions must reproduce bit by bit.
#include <bit>
#include <cmath>

#include "kernels/cpu/sample/sample.h"
#include "kernels/math/poisson.h"
#include "kernels/math/thinning.h"

namespace stipple::kernels::cpu {
namespace {

float dot(const float* a, const float* b, int64_t n) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes] = {};
  for (int64_t k = 0; k < n; ++k) lanes[k % kLanes] = std::fma(a[k], b[k], lanes[k % kLanes]);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

bool draw_pair(const SampleProblem& problem, int64_t i, int64_t j) {
  const float* mu = problem.mu + i * problem.num_clusters;
  const float* z = problem.z + j * problem.num_clusters;
  float p = problem.delta;
  for (int64_t k = 0; k < problem.num_clusters; ++k) p = std::fma(mu[k], z[k], p);
  if (problem.law != MaskLaw::kBernoulli) p = math::positive_probability(std::fmax(p, 0.0f));
  const PhiloxCounter counter = rng_counter(static_cast<uint32_t>(j / 4), static_cast<uint32_t>(i),
                                            problem.sample, problem.stream(Purpose::kEdgeTile));
  const uint32_t word = philox4x32(counter, problem.key)[static_cast<size_t>(j % 4)];
  return word >> 1 < math::keep_threshold(p);
}

void tile_rows(const SampleProblem& problem, Range rows, const TileScratch&, uint32_t* bits) {
  const int64_t words = (problem.num_keys + 31) / 32;
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    uint32_t* row = bits + (i - rows.begin) * words;
    for (int64_t w = 0; w < words; ++w) row[w] = 0;
    if (!problem.is_real_query(i)) continue;
    for (int64_t j = 0; j < problem.num_keys; ++j) {
      if (problem.is_real_key(j) && draw_pair(problem, i, j)) row[j / 32] |= 1u << (j % 32);
    }
  }
}

int32_t count_bits(const uint32_t* bits, int64_t words) {
  int32_t count = 0;
  for (int64_t w = 0; w < words; ++w) count += std::popcount(bits[w]);
  return count;
}

uint64_t packed_item(uint32_t weight, int64_t item) {
  return uint64_t{weight} << 32 | static_cast<uint64_t>(item);
}

// Light and heavy items are in order; every entry is full.
void sweep(uint64_t total, uint64_t size, const uint64_t* light, const uint64_t* heavy,
           int64_t steps, AliasEntry* entries) {
  const double scale = math::threshold_scale(total);
  const auto filled = [scale](uint64_t part, uint32_t alias) -> AliasEntry {
    return {alias, math::alias_threshold(static_cast<double>(part), scale)};
  };
  auto current = static_cast<uint32_t>(*heavy);
  uint64_t left = (*heavy >> 32) * size;
  for (int64_t step = 0; step < steps; ++step) {
    const bool fills = left > total;
    const uint64_t packed = fills ? *light++ : *++heavy;
    const auto item = static_cast<uint32_t>(packed);
    const uint64_t weight = (packed >> 32) * size;
    if (fills) {
      entries[item] = filled(weight, current);
    } else {
      if (left < total) entries[current] = filled(left, item);
      current = item;
    }
    left += weight - total;
  }
}

void build_alias_table(const AliasBuild& build, int64_t column) {
  const auto size = static_cast<uint64_t>(build.num_keys);
  const uint64_t total = build.totals[column];
  const uint32_t* weights = build.weights + column * build.stride();
  AliasEntry* entries = build.entries + column * build.num_keys;
  uint64_t* light = build.items;
  uint64_t* heavy = build.items + build.stride();
  int64_t num_light = 0;
  int64_t num_heavy = 0;
  for (int64_t j = 0; j < build.num_keys; ++j) {
    entries[j] = math::full_entry(j);
    if (weights[j] * size < total) light[num_light++] = packed_item(weights[j], j);
    if (weights[j] * size > total) heavy[num_heavy++] = packed_item(weights[j], j);
  }
  if (num_heavy > 0) sweep(total, size, light, heavy, num_light + num_heavy - 1, entries);
}

void build_alias_tables(const AliasBuild& build) {
  for (int64_t column = 0; column < build.num_columns; ++column) build_alias_table(build, column);
}

void draw_keys(const RowDraws& row, int64_t count, uint32_t* keys) {
  PhiloxCounter counter = row.counter;
  for (int64_t e = 0; e < count; ++e, ++counter[0]) {
    keys[e] = math::draw_key(*row.tables, row.rate_tree, row.rates, philox4x32(counter, row.key));
  }
}

bool is_kept(const RowThinning& row, uint32_t j, uint32_t word) {
  if (word < row.certain) return true;
  const float sum = dot(row.mu, row.z + int64_t{j} * row.num_clusters, row.num_clusters);
  return word < math::acceptance(sum + row.delta, row.oversampling) * 0x1p32;
}

int64_t thin(const RowThinning& row, uint32_t* keys, int64_t count) {
  int64_t kept = 0;
  PhiloxCounter counter = row.counter;
  for (int64_t e = 0; e < count; ++e) {
    counter[0] = keys[e];
    if (is_kept(row, keys[e], philox4x32(counter, row.key)[0])) keys[kept++] = keys[e];
  }
  return kept;
}

}  // namespace

const SampleKernels kSampleScalar{dot, tile_rows, count_bits, build_alias_tables, draw_keys, thin};

}  // namespace stipple::kernels::cpu
