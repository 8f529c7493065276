// SPDX-License-Identifier: Apache-2.0
#include "kernels/predict.h"

#include <algorithm>

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {
namespace {

constexpr int64_t kMostGroups = int64_t{1} << 31;

/// [B, H, N, C] of tokens.
void check_tokens(const char* op, const char* name, const Shape& shape) {
  STIPPLE_CHECK_AS(ShapeError, shape.rank() == 4 && shape[1] > 0 && shape[3] > 0, op, ": ", name,
                   " has shape ", shape.str(), ", expected [B, H, tokens, channels]");
}

}  // namespace

void project_tokens(const Stream& stream, const ProjectTokens& args) {
  constexpr const char* kOp = "project_tokens";
  check_tokens(kOp, "x", args.x.shape);
  check_tokens(kOp, "y", args.y.shape);
  const Shape& x = args.x.shape;
  const int64_t r = args.y.shape[3];
  STIPPLE_CHECK_SHAPE("project_tokens", args.y, ({x[0], x[1], x[2], r}));
  STIPPLE_CHECK_SHAPE("project_tokens", args.weight, ({x[1], x[3], r}));
  STIPPLE_CHECK(r <= kMostProjected, kOp, ": to ", r, " dimensions; at most ", kMostProjected);
  STIPPLE_DISPATCH(stream, project_tokens, args);
}

void nearest_groups(const Stream& stream, const NearestGroups& args) {
  constexpr const char* kOp = "nearest_groups";
  check_tokens(kOp, "x", args.x.shape);
  check_tokens(kOp, "groups", args.groups.shape);
  const Shape& x = args.x.shape;
  STIPPLE_CHECK_AS(ShapeError, args.centroids.shape.rank() == 3, kOp, ": centroids has shape ",
                   args.centroids.shape.str(), ", expected [H, C, R]");
  const int64_t c = args.centroids.shape[1];
  STIPPLE_CHECK_SHAPE("nearest_groups", args.centroids, ({x[1], c, x[3]}));
  STIPPLE_CHECK_SHAPE("nearest_groups", args.groups, ({x[0], x[1], x[2], args.groups.shape[3]}));
  STIPPLE_CHECK(args.top >= 1 && args.top <= std::min(c, kMostNearest), kOp, ": the nearest ",
                args.top, " of ", c, " centroids");
  STIPPLE_CHECK(args.first_slot >= 0 && args.first_slot + args.top <= args.groups.shape[3], kOp,
                ": slots ", args.first_slot, " to ", args.first_slot + args.top, " of ",
                args.groups.shape[3]);
  STIPPLE_CHECK(args.first_group >= 0 && args.first_group + c * args.top < kMostGroups, kOp,
                ": more than 2^31 groups");
  check_mask(kOp, "mask", args.mask, x[0], x[2]);
  STIPPLE_DISPATCH(stream, nearest_groups, args);
}

void quantise_tokens(const Stream& stream, const QuantiseTokens& args) {
  constexpr const char* kOp = "quantise_tokens";
  check_tokens(kOp, "x", args.x.shape);
  const Shape& x = args.x.shape;
  STIPPLE_CHECK_SHAPE("quantise_tokens", args.groups, ({x[0], x[1], x[2], x[3]}));
  STIPPLE_CHECK(args.buckets >= 1 && args.buckets * x[3] < kMostGroups, kOp, ": ", args.buckets,
                " buckets in ", x[3], " dimensions");
  STIPPLE_CHECK(args.temperature > 0.0f, kOp, ": temperature ", args.temperature,
                " must be positive");
  check_mask(kOp, "mask", args.mask, x[0], x[2]);
  STIPPLE_CHECK(args.scratch != nullptr, kOp, ": scratch is missing");
  STIPPLE_DISPATCH(stream, quantise_tokens, args);
}

}  // namespace stipple::kernels
