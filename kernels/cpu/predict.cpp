// SPDX-License-Identifier: Apache-2.0
#include "kernels/predict.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "kernels/cpu/masks.h"
#include "kernels/cpu/vectorize.h"
#include "kernels/math/predict.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

constexpr size_t kTokenBlock = 8;      ///< tokens whose sums run side by side, to hide latency
constexpr size_t kDimensionBlock = 4;  ///< dimensions of one vector
constexpr int64_t kProjectRun = 256;   ///< tokens of one piece of work

/// A head's projection: W [D, R].
struct HeadProjection {
  const float* weight;
  size_t d, r;
};

using Dimensions [[gnu::vector_size(kDimensionBlock * sizeof(float))]] = float;

/// Dimensions [c, c + kDimensionBlock) of kTokens tokens.
template <size_t kTokens>
STIPPLE_VECTOR_BODY void project_block(const HeadProjection& head, size_t c, const float* x,
                                       float* y) {
  Dimensions sum[kTokens] = {};
  for (size_t k = 0; k < head.d; ++k) {
    Dimensions w;
    std::memcpy(&w, head.weight + k * head.r + c, sizeof w);
    for (size_t t = 0; t < kTokens; ++t) sum[t] += x[t * head.d + k] * w;
  }
  for (size_t t = 0; t < kTokens; ++t) std::memcpy(y + t * head.r + c, &sum[t], sizeof sum[t]);
}

template <size_t kTokens>
STIPPLE_VECTOR_BODY void project_rows(const HeadProjection& head, const float* x, float* y) {
  size_t c = 0;
  for (; c + kDimensionBlock <= head.r; c += kDimensionBlock) project_block<kTokens>(head, c, x, y);
  for (; c < head.r; ++c) {
    for (size_t t = 0; t < kTokens; ++t) {
      float sum = 0.0f;
      for (size_t k = 0; k < head.d; ++k) sum += x[t * head.d + k] * head.weight[k * head.r + c];
      y[t * head.r + c] = sum;
    }
  }
}

STIPPLE_VECTOR_BODY void project_run(const HeadProjection* head, size_t tokens, const float* x,
                                     float* y) {
  size_t i = 0;
  for (; i + kTokenBlock <= tokens; i += kTokenBlock)
    project_rows<kTokenBlock>(*head, x + i * head->d, y + i * head->r);
  for (; i < tokens; ++i) project_rows<1>(*head, x + i * head->d, y + i * head->r);
}

constexpr int64_t kCentroidBlock = 64;  ///< centroids that a token is compared with at once
constexpr int64_t kNearestRun = 64;     ///< tokens of one piece of work

/// Some of a head's centroids [C, R], for loops over all of them.
struct CentroidBlock {
  int64_t first, count;
  float coordinates[kMostProjected * kCentroidBlock];  // [R, kCentroidBlock]
  float norms[kCentroidBlock];                         // NaN, which comes last, behind `count`

  CentroidBlock(const float* centroids, int64_t c, int64_t r, int64_t begin)
      : first(begin), count(std::min(c - begin, kCentroidBlock)) {
    for (int64_t g = 0; g < kCentroidBlock; ++g) {
      norms[g] = g < count ? 0.0f : std::numeric_limits<float>::quiet_NaN();
      for (int64_t e = 0; e < r; ++e) {
        const float x = g < count ? centroids[(first + g) * r + e] : 0.0f;
        coordinates[e * kCentroidBlock + g] = x;
        norms[g] += x * x;
      }
    }
  }
};

/// How near the centroids of a block are to some tokens.
struct CentroidOrders {
  uint32_t of[kNearestRun * kCentroidBlock];  // [tokens, kCentroidBlock]
  uint32_t least[kNearestRun];
};
STIPPLE_VECTOR_BODY void order_centroids(const float* x, int64_t tokens, int64_t r,
                                         const CentroidBlock* block, CentroidOrders* orders) {
  for (int64_t i = 0; i < tokens; ++i) {
    float dot[kCentroidBlock] = {};
    for (int64_t e = 0; e < r; ++e) {
      const float* c = block->coordinates + e * kCentroidBlock;
      for (int64_t g = 0; g < kCentroidBlock; ++g) dot[g] += x[i * r + e] * c[g];
    }
    uint32_t* own = orders->of + i * kCentroidBlock;
    uint32_t least = std::numeric_limits<uint32_t>::max();
    for (int64_t g = 0; g < kCentroidBlock; ++g) {
      own[g] = math::centroid_order(block->norms[g], dot[g]);
      least = own[g] < least ? own[g] : least;
    }
    orders->least[i] = least;
  }
}

/// Puts those of a block's centroids that are nearer into the keys of token i's `top` nearest, which
/// ascend.
void keep_nearest(const CentroidBlock& block, const CentroidOrders& all, int64_t i, int64_t top,
                  uint64_t* nearest) {
  const uint32_t* orders = all.of + i * kCentroidBlock;
  const uint32_t least = all.least[i];
  if (math::centroid_key(least, block.first) >= nearest[top - 1]) return;
  if (top == 1) {
    *nearest = math::centroid_key(
        least, block.first + (std::find(orders, orders + block.count, least) - orders));
    return;
  }
  for (int64_t g = 0; g < block.count; ++g) {
    const uint64_t key = math::centroid_key(orders[g], block.first + g);
    if (key >= nearest[top - 1]) continue;
    int64_t at = top - 1;
    for (; at > 0 && nearest[at - 1] > key; --at) nearest[at] = nearest[at - 1];
    nearest[at] = key;
  }
}

}  // namespace

void project_tokens(const Stream& stream, const ProjectTokens& args) {
  const Shape& shape = args.x.shape;
  const int64_t heads = shape[1], n = shape[2], d = shape[3], r = args.y.shape[3];
  const int64_t runs = num_runs(n, kProjectRun);
  const View<const float> x = args.x.floats();
  stream.parallel_for(shape[0] * heads * runs, [&](int64_t piece, int) {
    const int64_t p = piece / runs, h = p % heads;
    const Range tokens = nth_run(piece % runs, n, kProjectRun);
    const HeadProjection head{.weight = args.weight.data + h * d * r,
                              .d = static_cast<size_t>(d),
                              .r = static_cast<size_t>(r)};
    const int64_t first = p * n + tokens.begin;
    vectorized<project_run>(&head, static_cast<size_t>(tokens.size()), x.data + first * d,
                            args.y.data + first * r);
    if (!args.to_unit_length) return;
    for (int64_t i = 0; i < tokens.size(); ++i)
      math::to_unit_length(args.y.data + (first + i) * r, r);
  });
}

void nearest_groups(const Stream& stream, const NearestGroups& args) {
  const Shape& shape = args.x.shape;
  const int64_t heads = shape[1], n = shape[2], r = shape[3], top = args.top;
  const int64_t c = args.centroids.shape[1], slots = args.groups.shape[3];
  const int64_t runs = num_runs(n, kNearestRun);
  stream.parallel_for(shape[0] * heads * runs, [&](int64_t piece, int) {
    const int64_t p = piece / runs;
    const Range tokens = nth_run(piece % runs, n, kNearestRun);
    const float* centroids = args.centroids.data + p % heads * c * r;
    const float* x = args.x.data + (p * n + tokens.begin) * r;
    CentroidOrders orders;
    std::array<uint64_t, kNearestRun * kMostNearest> nearest;
    std::fill_n(nearest.data(), tokens.size() * top, std::numeric_limits<uint64_t>::max());
    for (int64_t first = 0; first < c; first += kCentroidBlock) {
      const CentroidBlock block(centroids, c, r, first);
      vectorized<order_centroids>(x, tokens.size(), r, &block, &orders);
      for (int64_t i = 0; i < tokens.size(); ++i)
        keep_nearest(block, orders, i, top, nearest.data() + i * top);
    }
    const uint8_t* mask = mask_row(args.mask, p / heads);
    for (int64_t i = 0; i < tokens.size(); ++i) {
      const int64_t token = tokens.begin + i;
      int32_t* own = args.groups.data + (p * n + token) * slots + args.first_slot;
      for (int64_t t = 0; t < top; ++t) {
        const int32_t group = args.first_group +
                              math::centroid_of(nearest[static_cast<size_t>(i * top + t)]) +
                              static_cast<int32_t>(args.is_ranked ? t * c : 0);
        own[t] = is_real(mask, token) ? group : kNoGroup;
      }
    }
  });
}

void quantise_tokens(const Stream& stream, const QuantiseTokens& args) {
  const Shape& shape = args.x.shape;
  const int64_t heads = shape[1], n = shape[2], r = shape[3];
  const Arena::Scope scope(*args.scratch);
  const View<uint64_t> keys = args.scratch->alloc<uint64_t>(
      {args.kind == Quantisation::kInterval ? 1 : stream.threads(), n});
  const auto group = [&](int64_t p, int64_t i, int64_t e) -> int32_t& {
    return args.groups.data[(p * n + i) * r + e];
  };
  stream.parallel_for(shape[0] * heads * r, [&](int64_t piece, int worker) {
    const int64_t p = piece / r, e = piece % r;
    const uint8_t* mask = mask_row(args.mask, p / heads);
    const auto value = [&](int64_t i) { return args.x.data[(p * n + i) * r + e]; };
    const auto first = static_cast<int32_t>(e * args.buckets);
    if (args.kind == Quantisation::kInterval) {
      for (int64_t i = 0; i < n; ++i)
        group(p, i, e) = is_real(mask, i) ? first + static_cast<int32_t>(math::interval_of(
                                                        value(i), args.temperature, args.buckets))
                                          : kNoGroup;
      return;
    }
    uint64_t* sorted = keys.at(worker).data;
    for (int64_t i = 0; i < n; ++i) sorted[i] = math::rank_key(value(i), is_real(mask, i), i);
    std::sort(sorted, sorted + n);
    const int64_t real = count_real(mask, n);
    const int64_t size = math::bucket_size(real, args.buckets);
    const int64_t last = args.kind == Quantisation::kLowest ? std::min(size, real) : real;
    for (int64_t rank = 0; rank < n; ++rank)
      group(p, math::token_of(sorted[rank]), e) =
          rank < last ? first + static_cast<int32_t>(rank / size) : kNoGroup;
  });
}

}  // namespace stipple::kernels::cpu
