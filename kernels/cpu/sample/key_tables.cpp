// SPDX-License-Identifier: Apache-2.0
// Maxima, integer weights, alias tables. Against running sums to be searched, tables cost more to
// make and less to draw from: with AVX-512, one thread, 2,048 keys and 128 clusters a graph of 2 %
// takes 2 to 15 % longer, depending on the law, one of 1 % 10 to 27 %; they break even between 2
// and 5 %.
#include "kernels/cpu/sample/key_tables.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/vectorize.h"

namespace stipple::kernels::cpu {
namespace {

constexpr int64_t kBlock = 16;  // keys that are transposed together with kAliasColumns clusters

STIPPLE_VECTOR_BODY void max_columns(const SampleProblem* problem, float* zmax) {
  std::fill(zmax, zmax + problem->num_clusters, 0.0f);
  for (int64_t j = 0; j < problem->num_keys; ++j) {
    if (!problem->is_real_key(j)) continue;
    const float* z = problem->z + j * problem->num_clusters;
    for (int64_t v = 0; v < problem->num_clusters; ++v) zmax[v] = z[v] > zmax[v] ? z[v] : zmax[v];
  }
}

/// The weights of at most kAliasColumns clusters, a row a cluster.
struct WeightColumns {
  const SampleProblem* problem;
  int64_t first_cluster;
  int64_t count;
  float scale[kAliasColumns];
  int64_t stride;
  uint32_t* weights;  // [count, stride]
  uint64_t* totals;   // [count]
};

// Sixteen keys by sixteen clusters; a vector of the widest instruction set.
using WeightRow [[gnu::vector_size(kAliasColumns * sizeof(int32_t))]] = int32_t;
using FloatRow [[gnu::vector_size(kAliasColumns * sizeof(float))]] = float;
static_assert(kBlock == kAliasColumns);

// Each step interleaves the upper half of the rows with the lower one, which rotates the eight bits
// of an element's place by one; four steps exchange its row and its column.
STIPPLE_VECTOR_BODY void transpose(WeightRow (&rows)[kBlock]) {
  constexpr WeightRow kLow{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  constexpr WeightRow kHigh{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  for (int step = 0; step < 4; ++step) {
    WeightRow mixed[kBlock];
    for (int i = 0; i < kBlock / 2; ++i) {
      mixed[2 * i] = __builtin_shuffle(rows[i], rows[i + kBlock / 2], kLow);
      mixed[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + kBlock / 2], kHigh);
    }
    for (int i = 0; i < kBlock; ++i) rows[i] = mixed[i];
  }
}

// math::fixed_weight of a row; the last clusters may be fewer than a row.
STIPPLE_VECTOR_BODY void fix_weights(const float* z, int64_t count, const FloatRow& scale,
                                     float largest, WeightRow& row) {
  FloatRow x = {};
  if (count == kAliasColumns) {
    std::memcpy(&x, z, sizeof(x));
  } else {
    for (int64_t c = 0; c < count; ++c) x[c] = z[c];
  }
  x = (x > 0.0f ? x : FloatRow{}) * scale + 0.5f;
  x = x < largest ? x : FloatRow{} + largest;
  row = __builtin_convertvector(x, WeightRow);
}

STIPPLE_VECTOR_BODY void fill_block(const WeightColumns& columns, int64_t first_key) {
  constexpr int64_t kAhead = 2 * kBlock;  // keys: their rows are too far apart to be foreseen
  const SampleProblem& problem = *columns.problem;
  const auto largest = static_cast<float>(int32_t{1} << math::weight_bits(problem.num_keys));
  FloatRow scale;
  std::memcpy(&scale, columns.scale, sizeof(scale));
  WeightRow rows[kBlock] = {};
  WeightRow sums = {};
  for (int64_t t = 0; t < kBlock; ++t) {
    const int64_t j = first_key + t;
    if (j >= problem.num_keys || !problem.is_real_key(j)) continue;
    const float* z = problem.z + j * problem.num_clusters + columns.first_cluster;
    __builtin_prefetch(z + kAhead * problem.num_clusters);
    fix_weights(z, columns.count, scale, largest, rows[t]);
    sums += rows[t];
  }
  transpose(rows);
  for (int64_t c = 0; c < columns.count; ++c) {
    std::memcpy(columns.weights + c * columns.stride + first_key, &rows[c], sizeof(rows[c]));
    columns.totals[c] += static_cast<uint64_t>(sums[c]);
  }
}

STIPPLE_VECTOR_BODY void fill_weights(const WeightColumns* columns) {
  std::fill(columns->totals, columns->totals + columns->count, uint64_t{0});
  for (int64_t j = 0; j < columns->problem->num_keys; j += kBlock) fill_block(*columns, j);
}

int64_t list_real_keys(const SampleProblem& problem, uint32_t* list) {
  int64_t count = 0;
  for (int64_t j = 0; j < problem.num_keys; ++j) {
    list[count] = static_cast<uint32_t>(j);
    count += problem.is_real_key(j) ? 1 : 0;
  }
  return count;
}

/// Makes tables in one worker's memory.
class TableBuilder {
 public:
  TableBuilder(const SampleProblem& problem, const SampleKernels& kernels,
               const SampleScratch& scratch, int worker)
      : problem_(problem),
        kernels_(kernels),
        zmax_(scratch.zmax.at(worker).data),
        zeta_(scratch.zeta.at(worker).data),
        weights_(scratch.weights.at(worker).data),
        items_(scratch.items.at(worker).data),
        entries_(scratch.entries.at(worker).data) {}

  void build_clusters() {
    vectorized<max_columns>(&problem_, zmax_);
    for (int64_t v = 0; v < problem_.num_clusters; v += kAliasColumns) {
      build_columns(v, std::min(kAliasColumns, problem_.num_clusters - v));
    }
  }

  void build_exploration(int64_t num_real_keys) {
    for (int64_t j = 0; j < problem_.num_keys; ++j) weights_[j] = problem_.is_real_key(j) ? 1 : 0;
    totals_[0] = static_cast<uint64_t>(num_real_keys);
    build_tables(problem_.num_clusters, 1);
  }

 private:
  void build_columns(int64_t first_cluster, int64_t count) {
    const int bits = math::weight_bits(problem_.num_keys);
    const float* zmax = zmax_ + first_cluster;
    WeightColumns columns{.problem = &problem_,
                          .first_cluster = first_cluster,
                          .count = count,
                          .scale = {},
                          .stride = AliasBuild::stride_of(problem_.num_keys),
                          .weights = weights_,
                          .totals = totals_};
    for (int64_t c = 0; c < count; ++c) columns.scale[c] = math::weight_scale(zmax[c], bits);
    vectorized<fill_weights>(static_cast<const WeightColumns*>(&columns));
    for (int64_t c = 0; c < count; ++c) {
      zeta_[first_cluster + c] = math::cluster_rate(totals_[c], zmax[c], bits);
    }
    build_tables(first_cluster, count);
  }

  void build_tables(int64_t first_cluster, int64_t count) {
    kernels_.build_alias_tables({.weights = weights_,
                                 .totals = totals_,
                                 .items = items_,
                                 .entries = entries_ + first_cluster * problem_.num_keys,
                                 .num_columns = count,
                                 .num_keys = problem_.num_keys});
  }

  const SampleProblem& problem_;
  const SampleKernels& kernels_;
  float* zmax_;
  double* zeta_;
  uint32_t* weights_;
  uint64_t* items_;
  AliasEntry* entries_;
  uint64_t totals_[kAliasColumns] = {};
};

}  // namespace

PreparedKeys prepare_keys(const SampleProblem& problem, const SampleKernels& kernels,
                          const SampleScratch& scratch, int worker) {
  PreparedKeys keys{
      .tables = {.num_clusters = problem.num_clusters, .entries = scratch.entries.at(worker).data},
      .zeta = scratch.zeta.at(worker).data,
      .zmax = scratch.zmax.at(worker).data,
      .real_keys = scratch.real_keys.at(worker).data};
  keys.num_real_keys = list_real_keys(problem, scratch.real_keys.at(worker).data);
  if (keys.num_real_keys == 0) return keys;
  SampleProblem without_padding = problem;
  without_padding.num_keys = keys.real_keys[keys.num_real_keys - 1] + 1;
  keys.tables.num_keys = without_padding.num_keys;
  TableBuilder builder(without_padding, kernels, scratch, worker);
  builder.build_clusters();
  if (problem.delta > 0.0f) builder.build_exploration(keys.num_real_keys);
  return keys;
}

}  // namespace stipple::kernels::cpu
