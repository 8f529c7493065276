// SPDX-License-Identifier: Apache-2.0
#include "kernels/token_features.h"

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {
namespace {

void check_features(const char* op, const char* name, const Shape& shape) {
  STIPPLE_CHECK_AS(ShapeError, shape.rank() == 4 && shape[1] > 0 && shape[3] > 0, op, ": ", name,
                   " has shape ", shape.str(), ", expected [B, H, N, channels]");
}

}  // namespace

void hidden_tokens(const Stream& stream, const HiddenTokens& args) {
  const Shape& x = args.x.shape;
  check_features("hidden_tokens", "x", x);
  check_features("hidden_tokens", "y", args.y.shape);
  const int64_t f = args.y.shape[3];
  STIPPLE_CHECK_SHAPE("hidden_tokens", args.y, ({x[0], x[1], x[2], f}));
  STIPPLE_CHECK_SHAPE("hidden_tokens", args.weight, ({x[1], x[3], f}));
  STIPPLE_CHECK_SHAPE("hidden_tokens", args.bias, ({x[1], f}));
  STIPPLE_DISPATCH(stream, hidden_tokens, args);
}

void join_tokens(const Stream& stream, const JoinTokens& args) {
  const Shape &first = args.first.shape, &second = args.second.shape;
  check_features("join_tokens", "first", first);
  check_features("join_tokens", "second", second);
  STIPPLE_CHECK_SHAPE("join_tokens", args.second, ({first[0], first[1], first[2], second[3]}));
  STIPPLE_CHECK_SHAPE("join_tokens", args.y,
                      ({first[0], first[1], first[2], first[3] + second[3]}));
  check_same_storage("join_tokens", {args.first, args.second});
  STIPPLE_DISPATCH(stream, join_tokens, args);
}

}  // namespace stipple::kernels
