// SPDX-License-Identifier: Apache-2.0
// From queries and keys to the groups by which Sparsefinder (Treviso et al., ACL 2022, arXiv
// 2109.12188) predicts who attends to whom: every head projects its tokens to a few dimensions, and
// there they are put into clusters or buckets. Who shares a group is an edge: kernels/group_edges.h.
// No gradient passes here.
//
// Groups are numbers below `num_groups` of whoever asks; a token that is not real has kNoGroup in
// all its slots. The same bits on every device: sums run over one dimension after the other, in
// float, and ties go to the lower number.
#pragma once

#include "core/arena.h"
#include "core/real_view.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

inline constexpr int32_t kNoGroup = -1;
inline constexpr int64_t kMostProjected = 32;  ///< dimensions R that tokens may be projected to
inline constexpr int64_t kMostNearest = 32;    ///< centroids that a token may be near to

/// y = x W, per head. O(N D R)
struct ProjectTokens {
  View<float> y;                // [B, H, N, R]  written
  ConstRealView x;              // [B, H, N, D]
  View<const float> weight;     // [H, D, R]
  bool to_unit_length = false;  ///< then y / |y|, 0 where y is 0
};
void project_tokens(const Stream&, const ProjectTokens&);

/// groups[t] = first_group + the (t + 1)-nearest of a head's centroids: those with the smallest
/// |c|^2 - 2 x.c. With `is_ranked`, + t C, so that tokens share a group only where it is as near to
/// both. O(N C R)
struct NearestGroups {
  View<int32_t> groups;         // [B, H, N, slots]  slots [first_slot, first_slot + top) written
  View<const float> x;          // [B, H, N, R]
  View<const float> centroids;  // [H, C, R]
  View<const uint8_t> mask{};   // [B, N]; empty: all real
  int64_t first_slot = 0;
  int64_t top = 1;  ///< 1 to C, at most kMostNearest
  int32_t first_group = 0;
  bool is_ranked = false;
};
void nearest_groups(const Stream&, const NearestGroups&);

/// groups[r] = r * buckets + the bucket of x[r]: dimensions share no groups. O(N R log N)
enum class Quantisation : uint8_t {
  kEqual,     ///< by rank among the real tokens, ceil(real / buckets) of them in each
  kInterval,  ///< equal parts of (-1, 1), of tanh(temperature x)
  kLowest,    ///< of the equal ones the first, and no group for who is in another
};
struct QuantiseTokens {
  View<int32_t> groups;        // [B, H, N, R]  written
  View<const float> x;         // [B, H, N, R]
  View<const uint8_t> mask{};  // [B, N]; empty: all real
  Quantisation kind = Quantisation::kEqual;
  int64_t buckets = 8;
  float temperature = 1.0f;  ///< kInterval
  Arena* scratch = nullptr;
};
void quantise_tokens(const Stream&, const QuantiseTokens&);

namespace cpu {
void project_tokens(const Stream&, const ProjectTokens&);
void nearest_groups(const Stream&, const NearestGroups&);
void quantise_tokens(const Stream&, const QuantiseTokens&);
}  // namespace cpu
namespace cuda {
void project_tokens(const Stream&, const ProjectTokens&);
void nearest_groups(const Stream&, const NearestGroups&);
void quantise_tokens(const Stream&, const QuantiseTokens&);
}  // namespace cuda

}  // namespace stipple::kernels
