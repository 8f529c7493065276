// SPDX-License-Identifier: Apache-2.0
// Summaries of regions. Forward: a warp owns a region and reads its tokens' rows twice, to pool and
// to weigh them. Backward: a warp owns a region and finds what all its tokens share (the mean of
// their gradients, the pooled query's gradient); then a warp owns a token and adds what each of its
// regions gives it, so that no sum needs atomics. Rows are read through the caches; three
// dot products a pair of region and token in backward, one in forward.
#include "kernels/combine.h"
#include "kernels/cuda/combine/rows.cuh"
#include "kernels/cuda/masks.cuh"
#include "kernels/partition_places.h"

namespace stipple::kernels::cuda {
namespace {

template <class T>
struct SummaryArrays {
  Partition partition;
  int64_t heads = 0;
  int64_t problems = 0;
  int64_t regions = 0;
  int dim = 0;
  float scale = 1.0f;
  RegionPool pool = RegionPool::kMax;
  bool is_weighted = false;
  WeightDropout dropout;
  const uint8_t* mask = nullptr;
  const T *q = nullptr, *k = nullptr, *v = nullptr, *pooled_k = nullptr;
  T *query = nullptr, *key = nullptr, *value = nullptr;
  int32_t *query_from = nullptr, *key_from = nullptr;  ///< null: not kept
  float* lse = nullptr;
  int32_t* tokens = nullptr;
  // Backward only.
  const T *dkey = nullptr, *dvalue = nullptr;
  T *dq = nullptr, *dk = nullptr, *dv = nullptr, *dpooled_k = nullptr;
  float* dquery = nullptr;  ///< [B, H, R, D]
  float* mean = nullptr;    ///< [B, H, R]  of da under a

  __device__ const uint8_t* mask_of(int64_t p) const {
    return mask == nullptr ? nullptr : mask + p / heads * partition.length;
  }
  /// Dropout counts regions as queries behind all tokens.
  __device__ float keep_factor(const ProblemDropout& dropout_of_problem, int64_t r,
                               int64_t j) const {
    return dropout_of_problem.factor(static_cast<int>(partition.length + r), static_cast<int>(j));
  }
  __device__ ProblemDropout dropout_of(int64_t p) const {
    return problem_dropout(dropout, heads, p);
  }
};

/// Calls visit(token) for the region's tokens that are real.
template <class Visit>
__device__ void for_each_token(const Region& region, const uint8_t* mask, const Visit& visit) {
  for (int64_t e = 0; e < region.tokens.count; ++e) {
    if (is_real(mask, region.tokens[e])) visit(region.tokens[e]);
  }
}

struct Members {
  int32_t count = 0;
  int64_t asks = -1;  ///< whose query and key stand for the region, where a token asks
};

/// Where the token that asks is padding, the last one's before it, else the first one's behind it.
__device__ inline Members members_of(const Region& region, const uint8_t* mask) {
  Members m;
  for_each_token(region, mask, [&](int64_t j) {
    if (m.count == 0 || j <= region.asks) m.asks = j;
    ++m.count;
  });
  return m;
}

/// Pools rows of the region's tokens into `out`, and writes which token each channel is of.
template <class T, int kPerLane>
__device__ void pool_rows(const SummaryArrays<T>& a, const Region& region, const uint8_t* mask,
                          const Members& members, const T* rows, T* out, int32_t* from) {
  LaneRow<kPerLane> pooled;
  int32_t best[kPerLane] = {};
  if (region.asks >= 0) {
    pooled = load_row<kPerLane>(rows + members.asks * a.dim, a.dim);
    for (int32_t& token : best) token = static_cast<int32_t>(members.asks);
  } else {
    bool is_first = true;
    for_each_token(region, mask, [&](int64_t j) {
      const auto row = load_row<kPerLane>(rows + j * a.dim, a.dim);
#pragma unroll
      for (int x = 0; x < kPerLane; ++x) {
        if (a.pool != RegionPool::kMax) {
          pooled.at[x] += row.at[x];
        } else if (is_first || row.at[x] > pooled.at[x]) {
          pooled.at[x] = row.at[x];
          best[x] = static_cast<int32_t>(j);
        }
      }
      is_first = false;
    });
    if (a.pool == RegionPool::kMean) scale_by(pooled, 1.0f / static_cast<float>(members.count));
  }
  store_row(out, a.dim, pooled);
  if (from != nullptr)
    for_each_channel<kPerLane>(a.dim, [&](int x, int channel) { from[channel] = best[x]; });
}

template <class T, int kPerLane>
__global__ void __launch_bounds__(kRowWarps* kWarpSize) summarize_kernel(SummaryArrays<T> a) {
  const int64_t row = row_of_warp();
  if (row >= a.problems * a.regions) return;
  const int64_t p = row / a.regions, r = row % a.regions;
  const int64_t rows = p * a.partition.length * a.dim, at = row * a.dim;
  const uint8_t* mask = a.mask_of(p);
  const Region region = a.partition.region(r);
  const Members members = members_of(region, mask);
  if (p % a.heads == 0 && lane_index() == 0) a.tokens[p / a.heads * a.regions + r] = members.count;
  LaneRow<kPerLane> key, value;
  RunningSoftmax softmax;
  if (members.count == 0) {
    store_row(a.query + at, a.dim, key);
    store_row(a.key + at, a.dim, key);
    store_row(a.value + at, a.dim, value);
    if (lane_index() == 0) a.lse[row] = -kInfinity;
    return;
  }
  pool_rows<T, kPerLane>(a, region, mask, members, a.q + rows, a.query + at,
                         a.query_from == nullptr ? nullptr : a.query_from + at);
  if (!a.is_weighted) {
    pool_rows<T, kPerLane>(a, region, mask, members, a.pooled_k + rows, a.key + at,
                           a.key_from == nullptr ? nullptr : a.key_from + at);
  }
  const auto query = load_row<kPerLane>(a.query + at, a.dim);  // as it is stored
  const ProblemDropout dropout = a.dropout_of(p);
  for_each_token(region, mask, [&](int64_t j) {
    const auto k = load_row<kPerLane>(a.k + rows + j * a.dim, a.dim);
    const float weight = softmax.add(a.scale * dot(query, k), [&](float factor, float) {
      scale_by(key, factor);
      scale_by(value, factor);
    });
    const float keep = a.keep_factor(dropout, r, j);
    add_scaled(value, weight * keep, load_row<kPerLane>(a.v + rows + j * a.dim, a.dim));
    if (a.is_weighted) add_scaled(key, weight, k);
  });
  scale_by(value, 1.0f / softmax.sum);
  store_row(a.value + at, a.dim, value);
  if (a.is_weighted) {
    scale_by(key, 1.0f / softmax.sum);
    store_row(a.key + at, a.dim, key);
  }
  if (lane_index() == 0) a.lse[row] = softmax.lse();
}

/// What a token weighs in a region, and the gradient by that weight.
struct Weighed {
  float weight;
  float keep;
  float dweight;
};

template <class T, int kPerLane>
__device__ Weighed weigh_token(const SummaryArrays<T>& a, const ProblemDropout& dropout,
                               int64_t region_row, int64_t r, int64_t j,
                               const LaneRow<kPerLane>& query, const LaneRow<kPerLane>& dkey,
                               const LaneRow<kPerLane>& dvalue, const LaneRow<kPerLane>& k,
                               const LaneRow<kPerLane>& v) {
  Weighed w;
  w.weight = exp2_fast((a.scale * dot(query, k) - a.lse[region_row]) * kLog2E);
  w.keep = a.keep_factor(dropout, r, j);
  w.dweight = w.keep * dot(dvalue, v) + (a.is_weighted ? dot(dkey, k) : 0.0f);
  return w;
}

template <class T, int kPerLane>
__global__ void __launch_bounds__(kRowWarps* kWarpSize)
    summarize_by_region_kernel(SummaryArrays<T> a) {
  const int64_t row = row_of_warp();
  if (row >= a.problems * a.regions) return;
  const int64_t p = row / a.regions, r = row % a.regions;
  const int64_t rows = p * a.partition.length * a.dim, at = row * a.dim;
  const uint8_t* mask = a.mask_of(p);
  const Region region = a.partition.region(r);
  const ProblemDropout dropout = a.dropout_of(p);
  const auto query = load_row<kPerLane>(a.query + at, a.dim);
  const auto dkey = load_row<kPerLane>(a.dkey + at, a.dim);
  const auto dvalue = load_row<kPerLane>(a.dvalue + at, a.dim);
  const auto weigh = [&](int64_t j, const LaneRow<kPerLane>& k) {
    const auto v = load_row<kPerLane>(a.v + rows + j * a.dim, a.dim);
    return weigh_token(a, dropout, row, r, j, query, dkey, dvalue, k, v);
  };
  float mean = 0.0f;
  for_each_token(region, mask, [&](int64_t j) {
    const Weighed w = weigh(j, load_row<kPerLane>(a.k + rows + j * a.dim, a.dim));
    mean += w.weight * w.dweight;
  });
  LaneRow<kPerLane> dquery;
  for_each_token(region, mask, [&](int64_t j) {
    const auto k = load_row<kPerLane>(a.k + rows + j * a.dim, a.dim);
    const Weighed w = weigh(j, k);
    add_scaled(dquery, a.scale * w.weight * (w.dweight - mean), k);
  });
  store_row(a.dquery + at, a.dim, dquery);
  if (lane_index() == 0) a.mean[row] = mean;
}

/// Adds what token j gets of a pooled row's gradient.
template <int kPerLane>
__device__ void add_pooled(LaneRow<kPerLane>& sum, const LaneRow<kPerLane>& dpooled,
                           const int32_t* from, int64_t j, float share, int dim) {
  for_each_channel<kPerLane>(dim, [&](int x, int channel) {
    if (from == nullptr || from[channel] == j) sum.at[x] += share * dpooled.at[x];
  });
}

template <class T, int kPerLane>
__global__ void __launch_bounds__(kRowWarps* kWarpSize)
    summarize_by_token_kernel(SummaryArrays<T> a) {
  const int64_t row = row_of_warp();
  if (row >= a.problems * a.partition.length) return;
  const int64_t p = row / a.partition.length, j = row % a.partition.length;
  if (!is_real(a.mask_of(p), j)) return;
  const ProblemDropout dropout = a.dropout_of(p);
  const auto k = load_row<kPerLane>(a.k + row * a.dim, a.dim);
  const auto v = load_row<kPerLane>(a.v + row * a.dim, a.dim);
  LaneRow<kPerLane> dq, dk, dv, dpooled_k;
  const int lines = num_region_lines(a.partition);
  for (int t = 0; t < lines; ++t) {
    const Line regions = regions_of(a.partition, j, t);
    for (int64_t e = 0; e < regions.count; ++e) {
      const int64_t r = regions[e], region_row = p * a.regions + r, at = region_row * a.dim;
      const auto query = load_row<kPerLane>(a.query + at, a.dim);
      const auto dkey = load_row<kPerLane>(a.dkey + at, a.dim);
      const auto dvalue = load_row<kPerLane>(a.dvalue + at, a.dim);
      const Weighed w = weigh_token(a, dropout, region_row, r, j, query, dkey, dvalue, k, v);
      add_scaled(dv, w.weight * w.keep, dvalue);
      add_scaled(dk, a.scale * w.weight * (w.dweight - a.mean[region_row]), query);
      const auto count = static_cast<float>(a.tokens[p / a.heads * a.regions + r]);
      const float share =
          a.query_from == nullptr && a.pool == RegionPool::kMean ? 1.0f / count : 1.0f;
      const auto dquery = load_row<kPerLane>(a.dquery + at, a.dim);
      add_pooled(dq, dquery, a.query_from == nullptr ? nullptr : a.query_from + at, j, share,
                 a.dim);
      if (a.is_weighted) {
        add_scaled(dk, w.weight, dkey);
      } else {
        add_pooled(dpooled_k, dkey, a.key_from == nullptr ? nullptr : a.key_from + at, j, share,
                   a.dim);
      }
    }
  }
  add_to_row(a.dq + row * a.dim, a.dim, dq);
  add_to_row(a.dk + row * a.dim, a.dim, dk);
  add_to_row(a.dv + row * a.dim, a.dim, dv);
  add_to_row(a.dpooled_k + row * a.dim, a.dim, dpooled_k);
}

template <class T, class Args>
SummaryArrays<T> arrays(const Args& x, const Summaries& s) {
  SummaryArrays<T> a;
  a.partition = x.partition;
  a.heads = x.k.shape[1];
  a.problems = x.k.shape[0] * a.heads;
  a.regions = x.partition.num_regions();
  a.dim = static_cast<int>(x.k.shape[3]);
  a.scale = x.scale;
  a.pool = x.pool;
  a.is_weighted = x.key == RegionKey::kWeighted;
  a.dropout = weight_dropout(x.dropout);
  a.mask = x.mask.data;
  a.k = x.k.template as<T>().data;
  a.v = x.v.template as<T>().data;
  a.query = s.query.as<T>().data;
  a.key = s.key.as<T>().data;
  a.value = s.value.as<T>().data;
  a.query_from = s.query_from.data;
  a.key_from = s.key_from.data;
  a.lse = s.lse.data;
  a.tokens = s.tokens.data;
  return a;
}

}  // namespace

void summarize_regions(const Stream& stream, const SummarizeRegions& args) {
  with_real_type(args.k.precision, [&](auto zero) {
    using T = decltype(zero);
    SummaryArrays<T> a = arrays<T>(args, args.out);
    a.q = args.q.as<T>().data;
    a.pooled_k = args.pooled_k.empty() ? a.k : args.pooled_k.as<T>().data;
    with_channels_per_lane(a.dim, [&]<int kPerLane>() {
      launch(stream, a_warp_each(a.problems * a.regions), summarize_kernel<T, kPerLane>, a);
    });
  });
}

void summarize_regions_backward(const Stream& stream, const SummarizeRegionsBackward& args) {
  const Arena::Scope scope(*args.scratch);
  const View<float> dquery = args.scratch->alloc<float>(args.saved.query.shape);
  const View<float> mean = args.scratch->alloc<float>(args.saved.lse.shape);
  with_real_type(args.k.precision, [&](auto zero) {
    using T = decltype(zero);
    SummaryArrays<T> a = arrays<T>(args, args.saved);
    a.dkey = args.dkey.as<T>().data;
    a.dvalue = args.dvalue.as<T>().data;
    a.dq = args.dq.as<T>().data;
    a.dk = args.dk.as<T>().data;
    a.dv = args.dv.as<T>().data;
    a.dpooled_k = args.dpooled_k.empty() ? a.dk : args.dpooled_k.as<T>().data;
    a.dquery = dquery.data;
    a.mean = mean.data;
    with_channels_per_lane(a.dim, [&]<int kPerLane>() {
      launch(stream, a_warp_each(a.problems * a.regions), summarize_by_region_kernel<T, kPerLane>,
             a);
      launch(stream, a_warp_each(a.problems * a.partition.length),
             summarize_by_token_kernel<T, kPerLane>, a);
    });
  });
}

}  // namespace stipple::kernels::cuda
