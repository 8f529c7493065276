// SPDX-License-Identifier: Apache-2.0
#include "kernels/predict.h"

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/cpu/masks.h"
#include "kernels/math/predict.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

constexpr size_t kTokenBlock = 4;      ///< tokens whose sums run side by side, to hide latency
constexpr size_t kDimensionBlock = 4;  ///< dimensions in one SSE register
constexpr int64_t kProjectRun = 256;   ///< tokens of one piece of work

/// A head's projection: W [D, R].
struct HeadProjection {
  const float* weight;
  size_t d, r;
};

/// Dimensions [c, c + kWidth) of kTokens tokens.
template <size_t kTokens, size_t kWidth>
void project_block(const HeadProjection& head, size_t c, const float* x, float* y) {
  float sum[kTokens][kWidth] = {};
  for (size_t k = 0; k < head.d; ++k) {
    const float* w = head.weight + k * head.r + c;
    for (size_t t = 0; t < kTokens; ++t)
      for (size_t e = 0; e < kWidth; ++e) sum[t][e] += x[t * head.d + k] * w[e];
  }
  for (size_t t = 0; t < kTokens; ++t) std::copy_n(sum[t], kWidth, y + t * head.r + c);
}

template <size_t kTokens>
void project_rows(const HeadProjection& head, const float* x, float* y) {
  size_t c = 0;
  for (; c + kDimensionBlock <= head.r; c += kDimensionBlock)
    project_block<kTokens, kDimensionBlock>(head, c, x, y);
  for (; c < head.r; ++c) project_block<kTokens, 1>(head, c, x, y);
}

void project_run(const HeadProjection& head, size_t tokens, const float* x, float* y) {
  size_t i = 0;
  for (; i + kTokenBlock <= tokens; i += kTokenBlock)
    project_rows<kTokenBlock>(head, x + i * head.d, y + i * head.r);
  for (; i < tokens; ++i) project_rows<1>(head, x + i * head.d, y + i * head.r);
}

/// The `top` nearest of a head's centroids [C, R] to x [R], nearest first.
void find_nearest(const float* x, const float* centroids, int64_t c, int64_t r, int64_t top,
                  uint64_t* nearest) {
  std::fill_n(nearest, top, std::numeric_limits<uint64_t>::max());
  for (int64_t g = 0; g < c; ++g) {
    const uint64_t key = math::centroid_key(x, centroids + g * r, r, g);
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
    project_run(head, static_cast<size_t>(tokens.size()), x.data + first * d,
                args.y.data + first * r);
    if (!args.to_unit_length) return;
    for (int64_t i = 0; i < tokens.size(); ++i)
      math::to_unit_length(args.y.data + (first + i) * r, r);
  });
}

void nearest_groups(const Stream& stream, const NearestGroups& args) {
  const Shape& shape = args.x.shape;
  const int64_t heads = shape[1], n = shape[2], r = shape[3];
  const int64_t c = args.centroids.shape[1], slots = args.groups.shape[3];
  stream.parallel_for(shape[0] * heads, [&](int64_t p, int) {
    const float* centroids = args.centroids.data + p % heads * c * r;
    const uint8_t* mask = mask_row(args.mask, p / heads);
    std::array<uint64_t, kMostNearest> nearest;
    for (int64_t i = 0; i < n; ++i) {
      int32_t* own = args.groups.data + (p * n + i) * slots + args.first_slot;
      if (!is_real(mask, i)) {
        std::fill_n(own, args.top, kNoGroup);
        continue;
      }
      find_nearest(args.x.data + (p * n + i) * r, centroids, c, r, args.top, nearest.data());
      for (int64_t t = 0; t < args.top; ++t)
        own[t] = args.first_group + math::centroid_of(nearest[static_cast<size_t>(t)]) +
                 static_cast<int32_t>(args.is_ranked ? t * c : 0);
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
