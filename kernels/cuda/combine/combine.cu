// SPDX-License-Identifier: Apache-2.0
// Combiner attention over tokens and summaries, any partition. Forward, and backward's gradients by
// queries: a warp owns a query and walks the keys of its passes. Gradients by keys: a warp owns a
// token, or a region, and walks the queries that see it, so that every sum has one owner and one
// order, without atomics.
//
// A pair costs two rows read, through the caches, and a dot product with its five shuffles: some 90
// instructions, 2,900 for 32 of them (launch/kernel_report.sh), where tiles of tensor cores need 13. Linear
// in the pairs that a Partition has. Blocks that are whole go to those tiles (blocks.cu).
#include "kernels/combine.h"
#include "kernels/cuda/combine/blocks.h"
#include "kernels/cuda/combine/rows.cuh"
#include "kernels/cuda/masks.cuh"
#include "kernels/partition_places.h"

namespace stipple::kernels::cuda {
namespace {

template <class T>
struct CombineArrays {
  Partition partition;
  int64_t heads = 0;
  int64_t problems = 0;
  int64_t regions = 0;
  int dim = 0;
  float scale = 1.0f;
  const T *q = nullptr, *k = nullptr, *v = nullptr;
  const T *region_q = nullptr, *region_key = nullptr, *region_value = nullptr;
  const int32_t* region_tokens = nullptr;
  const uint8_t* mask = nullptr;
  float mass = 0.0f;
  const float* head_factor = nullptr;
  WeightDropout dropout, region_dropout;
  T* o = nullptr;
  float* lse = nullptr;
  QueryFacts facts;
  // Backward only.
  const T* dout = nullptr;
  const float* delta = nullptr;
  T *dq = nullptr, *dregion_q = nullptr, *dk = nullptr, *dv = nullptr;
  T *dregion_key = nullptr, *dregion_value = nullptr;
  float* dmass = nullptr;  ///< [B, H, N]  of each query's regions; null: not wanted
};

/// Tokens or regions of one problem, as keys.
template <class T>
struct KeySide {
  const T *q, *k, *v;
  ProblemDropout dropout;
  int64_t first_number;  ///< dropout counts regions behind all tokens

  __device__ float keep_factor(int64_t i, int64_t key) const {
    return dropout.factor(static_cast<int>(i), static_cast<int>(first_number + key));
  }
};

template <class T>
struct CombineProblem {
  KeySide<T> tokens, regions;
  const uint8_t* mask;
  const int32_t* region_tokens;
  float mass;
  int64_t first_query;  ///< row of the problem's first token

  __device__ CombineProblem(const CombineArrays<T>& a, int64_t p) {
    first_query = p * a.partition.length;
    const int64_t at = first_query * a.dim, region = p * a.regions * a.dim;
    tokens = {a.q + at, a.k + at, a.v + at, problem_dropout(a.dropout, a.heads, p), 0};
    regions = {a.region_q + at, a.region_key + region, a.region_value + region,
               problem_dropout(a.region_dropout, a.heads, p), a.partition.length};
    mask = a.mask == nullptr ? nullptr : a.mask + p / a.heads * a.partition.length;
    region_tokens = a.region_tokens + p / a.heads * a.regions;
    mass = a.mass * (a.head_factor == nullptr ? 1.0f : a.head_factor[p % a.heads]);
  }

  __device__ const KeySide<T>& side(bool of_regions) const { return of_regions ? regions : tokens; }
  __device__ bool counts(bool of_regions, int64_t key) const {
    return of_regions ? region_tokens[key] > 0 : is_real(mask, key);
  }
  __device__ float log_tokens(int64_t region) const {
    return logf(static_cast<float>(region_tokens[region]));
  }
  __device__ float bias(bool of_regions, int64_t key) const {
    return of_regions && mass != 0.0f ? mass * log_tokens(key) : 0.0f;
  }
};

/// Calls visit(of_regions, key) for every key of query i that counts.
template <class T, class Visit>
__device__ void for_each_key(const Partition& partition, const CombineProblem<T>& problem,
                             int64_t i, const Visit& visit) {
  const int places = num_query_places(partition);
  for (int t = 0; t < places; ++t) {
    const PassPlace at = query_place(partition, i, t);
    if (at.place < 0) continue;
    const int64_t end = at.pass.key_end(at.place);
    for (int64_t b = 0; b < end; ++b) {
      const int64_t key = at.pass.keys[b];
      if (at.pass.has(at.place, b) && problem.counts(at.pass.of_regions, key))
        visit(at.pass.of_regions, key);
    }
  }
}

/// Calls visit(i) for every query that sees the key which stands there.
template <class Visit>
__device__ void for_each_query(const PassPlace& at, const Visit& visit) {
  if (at.place < 0) return;
  for (int64_t a = 0; a < at.pass.queries.count; ++a) {
    if (at.pass.has(a, at.place)) visit(at.pass.queries[a]);
  }
}

/// What of a running softmax is regions'.
struct RegionShare {
  float sum = 0.0f;
  float tilt = 0.0f;  ///< the sum of weight * (score - highest)

  __device__ void add(float weight, float below_highest) {
    sum += weight;
    tilt += weight * below_highest;
  }
  __device__ void rescale(float factor, float rise) {
    if (sum > 0.0f) tilt = factor * (tilt - rise * sum);
    sum *= factor;
  }
  /// Of the weights among regions, in nats; never below 0.
  __device__ float entropy() const { return fmaxf(logf(sum) - tilt / sum, 0.0f); }
};

template <class T, int kPerLane>
__global__ void __launch_bounds__(kRowWarps* kWarpSize) combine_kernel(CombineArrays<T> a) {
  const int64_t row = row_of_warp();
  if (row >= a.problems * a.partition.length) return;
  const CombineProblem<T> problem(a, row / a.partition.length);
  const int64_t i = row % a.partition.length;
  const auto q = load_row<kPerLane>(problem.tokens.q + i * a.dim, a.dim);
  const auto region_q = load_row<kPerLane>(problem.regions.q + i * a.dim, a.dim);
  RunningSoftmax softmax;
  RegionShare share;
  LaneRow<kPerLane> o;
  for_each_key(a.partition, problem, i, [&](bool of_regions, int64_t key) {
    const KeySide<T>& side = problem.side(of_regions);
    const auto k = load_row<kPerLane>(side.k + key * a.dim, a.dim);
    const float score = a.scale * dot(of_regions ? region_q : q, k) + problem.bias(of_regions, key);
    const float weight = softmax.add(score, [&](float factor, float rise) {
      scale_by(o, factor);
      share.rescale(factor, rise);
    });
    if (of_regions) share.add(weight, score - softmax.highest);
    const float keep = side.keep_factor(i, key);
    add_scaled(o, weight * keep, load_row<kPerLane>(side.v + key * a.dim, a.dim));
  });
  scale_by(o, softmax.sum == 0.0f ? 0.0f : 1.0f / softmax.sum);
  store_row(a.o + row * a.dim, a.dim, o);
  if (lane_index() != 0) return;
  a.lse[row] = softmax.lse();
  if (a.facts.direct_weight == nullptr) return;
  const bool is_told = is_real(problem.mask, i);
  a.facts.direct_weight[row] = is_told ? 1.0f - share.sum / softmax.sum : -1.0f;
  a.facts.region_entropy[row] = is_told && share.sum > 0.0f ? share.entropy() : -1.0f;
}

/// What one pair gives back.
struct PairGradient {
  float value;  ///< of dout in dv
  float score;  ///< by q . k, before the scale
};

template <class T, int kPerLane>
__device__ PairGradient pair_gradient(const CombineArrays<T>& a, const CombineProblem<T>& problem,
                                      bool of_regions, int64_t i, int64_t key,
                                      const LaneRow<kPerLane>& q, const LaneRow<kPerLane>& k,
                                      const LaneRow<kPerLane>& v, const LaneRow<kPerLane>& dout) {
  const float score = a.scale * dot(q, k) + problem.bias(of_regions, key);
  const float weight = exp2_fast((score - a.lse[problem.first_query + i]) * kLog2E);
  const float keep = problem.side(of_regions).keep_factor(i, key);
  return {weight * keep, weight * (keep * dot(dout, v) - a.delta[problem.first_query + i])};
}

template <class T, int kPerLane>
__global__ void __launch_bounds__(kRowWarps* kWarpSize)
    combine_by_query_kernel(CombineArrays<T> a) {
  const int64_t row = row_of_warp();
  if (row >= a.problems * a.partition.length) return;
  const CombineProblem<T> problem(a, row / a.partition.length);
  const int64_t i = row % a.partition.length;
  const auto q = load_row<kPerLane>(problem.tokens.q + i * a.dim, a.dim);
  const auto region_q = load_row<kPerLane>(problem.regions.q + i * a.dim, a.dim);
  const auto dout = load_row<kPerLane>(a.dout + row * a.dim, a.dim);
  LaneRow<kPerLane> dq, dregion_q;
  float dmass = 0.0f;
  for_each_key(a.partition, problem, i, [&](bool of_regions, int64_t key) {
    const KeySide<T>& side = problem.side(of_regions);
    const auto k = load_row<kPerLane>(side.k + key * a.dim, a.dim);
    const auto v = load_row<kPerLane>(side.v + key * a.dim, a.dim);
    const PairGradient g =
        pair_gradient(a, problem, of_regions, i, key, of_regions ? region_q : q, k, v, dout);
    add_scaled(of_regions ? dregion_q : dq, a.scale * g.score, k);
    if (of_regions && a.dmass != nullptr) dmass += g.score * problem.log_tokens(key);
  });
  store_row(a.dq + row * a.dim, a.dim, dq);
  add_to_row(a.dregion_q + row * a.dim, a.dim, dregion_q);
  if (a.dmass != nullptr && lane_index() == 0) a.dmass[row] = dmass;
}

/// Gradients by the key that stands in places at(0), at(1), ... of passes.
template <class T, int kPerLane, class At>
__device__ void write_key_gradients(const CombineArrays<T>& a, const CombineProblem<T>& problem,
                                    bool of_regions, int64_t key, int places, const At& at, T* dk,
                                    T* dv) {
  const KeySide<T>& side = problem.side(of_regions);
  LaneRow<kPerLane> dk_sum, dv_sum;
  if (problem.counts(of_regions, key)) {
    const auto k = load_row<kPerLane>(side.k + key * a.dim, a.dim);
    const auto v = load_row<kPerLane>(side.v + key * a.dim, a.dim);
    for (int t = 0; t < places; ++t) {
      for_each_query(at(t), [&](int64_t i) {
        const auto q = load_row<kPerLane>(side.q + i * a.dim, a.dim);
        const auto dout = load_row<kPerLane>(a.dout + (problem.first_query + i) * a.dim, a.dim);
        const PairGradient g = pair_gradient(a, problem, of_regions, i, key, q, k, v, dout);
        add_scaled(dk_sum, a.scale * g.score, q);
        add_scaled(dv_sum, g.value, dout);
      });
    }
  }
  store_row(dk, a.dim, dk_sum);
  store_row(dv, a.dim, dv_sum);
}

template <class T, int kPerLane>
__global__ void __launch_bounds__(kRowWarps* kWarpSize)
    combine_by_token_kernel(CombineArrays<T> a) {
  const int64_t row = row_of_warp();
  if (row >= a.problems * a.partition.length) return;
  const CombineProblem<T> problem(a, row / a.partition.length);
  const int64_t j = row % a.partition.length;
  write_key_gradients<T, kPerLane>(
      a, problem, false, j, num_key_places(a.partition),
      [&](int t) { return key_place(a.partition, j, t); }, a.dk + row * a.dim, a.dv + row * a.dim);
}

template <class T, int kPerLane>
__global__ void __launch_bounds__(kRowWarps* kWarpSize)
    combine_by_region_kernel(CombineArrays<T> a) {
  const int64_t row = row_of_warp();
  if (row >= a.problems * a.regions) return;
  const CombineProblem<T> problem(a, row / a.regions);
  const int64_t r = row % a.regions;
  write_key_gradients<T, kPerLane>(
      a, problem, true, r, 1, [&](int) { return region_place(a.partition, r); },
      a.dregion_key + row * a.dim, a.dregion_value + row * a.dim);
}

constexpr int kHeadThreads = 256;

/// dhead_factor[h] += factor * the sum of dmass over samples and queries; a block a head.
__global__ void __launch_bounds__(kHeadThreads)
    head_factors_kernel(float* dhead_factor, const float* dmass, float factor, int64_t batch,
                        int64_t heads, int64_t length) {
  auto* sums = reinterpret_cast<double*>(shared_memory());
  double sum = 0.0;
  for (int64_t b = 0; b < batch; ++b) {
    const float* row = dmass + (b * heads + blockIdx.x) * length;
    for (int64_t i = threadIdx.x; i < length; i += kHeadThreads) sum += static_cast<double>(row[i]);
  }
  sum = block_sum<kHeadThreads>(sum, sums);
  if (threadIdx.x == 0)
    dhead_factor[blockIdx.x] += static_cast<float>(sum * static_cast<double>(factor));
}

/// CombineFacts of a head are the sums of its queries'; a block a head.
__global__ void __launch_bounds__(kHeadThreads)
    facts_kernel(CombineFacts facts, QueryFacts of_queries, int64_t batch, int64_t heads,
                 int64_t length) {
  auto* sums = reinterpret_cast<double*>(shared_memory());
  double direct = 0.0, entropy = 0.0;
  double queries = 0.0, with_regions = 0.0;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t row = (b * heads + blockIdx.x) * length;
    for (int64_t i = threadIdx.x; i < length; i += kHeadThreads) {
      const float weight = of_queries.direct_weight[row + i];
      const float spread = of_queries.region_entropy[row + i];
      if (weight >= 0.0f) direct += static_cast<double>(weight), queries += 1.0;
      if (spread >= 0.0f) entropy += static_cast<double>(spread), with_regions += 1.0;
    }
  }
  direct = block_sum<kHeadThreads>(direct, sums);
  entropy = block_sum<kHeadThreads>(entropy, sums);
  queries = block_sum<kHeadThreads>(queries, sums);
  with_regions = block_sum<kHeadThreads>(with_regions, sums);
  if (threadIdx.x != 0) return;
  facts.direct_weight.data[blockIdx.x] += direct;
  facts.region_entropy.data[blockIdx.x] += entropy;
  facts.queries.data[blockIdx.x] += static_cast<int64_t>(queries);
  facts.with_regions.data[blockIdx.x] += static_cast<int64_t>(with_regions);
}

/// A block for each head, which adds its queries' numbers.
LaunchShape a_block_a_head(int64_t heads) {
  return {.grid = blocks_for(heads, 1),
          .block = kHeadThreads,
          .shared_bytes = kHeadThreads / kWarpSize * sizeof(double)};
}

template <class T, class Args>
CombineArrays<T> arrays(const Args& x) {
  CombineArrays<T> a;
  a.partition = x.partition;
  a.heads = x.q.shape[1];
  a.problems = x.q.shape[0] * a.heads;
  a.regions = x.partition.num_regions();
  a.dim = static_cast<int>(x.q.shape[3]);
  a.scale = x.scale;
  a.q = x.q.template as<T>().data;
  a.k = x.k.template as<T>().data;
  a.v = x.v.template as<T>().data;
  a.region_q = x.region_q.empty() ? a.q : x.region_q.template as<T>().data;
  a.region_key = x.region_key.template as<T>().data;
  a.region_value = x.region_value.template as<T>().data;
  a.region_tokens = x.region_tokens.data;
  a.mask = x.mask.data;
  a.mass = x.mass.factor;
  a.head_factor = x.mass.head_factor.data;
  a.dropout = weight_dropout(x.dropout);
  a.region_dropout = weight_dropout(x.region_dropout);
  return a;
}

/// Any partition, a warp a query.
void combine_rows(const Stream& stream, const Combine& args, const QueryFacts& facts) {
  with_real_type(args.q.precision, [&](auto zero) {
    using T = decltype(zero);
    CombineArrays<T> a = arrays<T>(args);
    a.o = args.o.as<T>().data;
    a.lse = args.lse.data;
    a.facts = facts;
    with_channels_per_lane(a.dim, [&]<int kPerLane>() {
      launch(stream, a_warp_each(a.problems * a.partition.length), combine_kernel<T, kPerLane>, a);
    });
  });
}

}  // namespace

void combine(const Stream& stream, const Combine& args) {
  const Arena::Scope scope(*args.scratch);
  QueryFacts facts;
  if (!args.facts.empty())
    facts = {args.scratch->alloc<float>(args.lse.shape).data,
             args.scratch->alloc<float>(args.lse.shape).data};
  if (stream.is_plan()) plan_blocks(stream, args, facts, !args.facts.empty());
  if (are_blocks_for_tiles(args)) {
    combine_blocks(stream, args, facts, !args.facts.empty());
  } else {
    combine_rows(stream, args, facts);
  }
  if (args.facts.empty()) return;
  const Shape& shape = args.q.shape;
  launch(stream, a_block_a_head(shape[1]), facts_kernel, args.facts, facts, shape[0], shape[1],
         shape[2]);
}

void combine_backward(const Stream& stream, const CombineBackward& args) {
  if (stream.is_plan()) plan_blocks(stream, args);
  if (are_blocks_for_tiles(args)) return combine_blocks_backward(stream, args);
  const Arena::Scope scope(*args.scratch);
  const View<float> delta = args.scratch->alloc<float>(args.lse.shape);
  const bool wants_mass = !args.dhead_factor.empty();
  const View<float> dmass = wants_mass ? args.scratch->alloc<float>(args.lse.shape) : View<float>{};
  attend_delta(stream, {.delta = delta, .dout = args.dout, .o = args.o});
  with_real_type(args.q.precision, [&](auto zero) {
    using T = decltype(zero);
    CombineArrays<T> a = arrays<T>(args);
    a.lse = const_cast<float*>(args.lse.data);  // only forward writes it
    a.dout = args.dout.as<T>().data;
    a.delta = delta.data;
    a.dq = args.dq.as<T>().data;
    a.dregion_q = args.dregion_q.empty() ? a.dq : args.dregion_q.as<T>().data;
    a.dk = args.dk.as<T>().data;
    a.dv = args.dv.as<T>().data;
    a.dregion_key = args.dregion_key.as<T>().data;
    a.dregion_value = args.dregion_value.as<T>().data;
    a.dmass = dmass.data;
    const int64_t tokens = a.problems * a.partition.length;
    with_channels_per_lane(a.dim, [&]<int kPerLane>() {
      launch(stream, a_warp_each(tokens), combine_by_query_kernel<T, kPerLane>, a);
      launch(stream, a_warp_each(tokens), combine_by_token_kernel<T, kPerLane>, a);
      launch(stream, a_warp_each(a.problems * a.regions), combine_by_region_kernel<T, kPerLane>, a);
    });
  });
  if (!wants_mass) return;
  const Shape& shape = args.q.shape;
  launch(stream, a_block_a_head(shape[1]), head_factors_kernel, args.dhead_factor.data,
         static_cast<const float*>(dmass.data), args.mass.factor, shape[0], shape[1], shape[2]);
}

}  // namespace stipple::kernels::cuda
