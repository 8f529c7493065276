// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation.h"

#include "core/dispatch.h"

namespace stipple::kernels {
namespace {

void check_equal_sizes(const char* op, int64_t y, int64_t a, int64_t b) {
  STIPPLE_CHECK_AS(ShapeError, y == a && y == b, op, ": arrays of different sizes ", y, ", ", a,
                   ", ", b);
}

}  // namespace

void activation(const Stream& stream, const Activation& args) {
  check_equal_sizes("activation", args.y.numel(), args.x.numel(), args.x.numel());
  check_same_storage("activation", {args.y, args.x});
  STIPPLE_DISPATCH(stream, activation, args);
}

void activation_backward(const Stream& stream, const ActivationBackward& args) {
  check_equal_sizes("activation_backward", args.dx.numel(), args.dy.numel(), args.saved.numel());
  check_same_storage("activation_backward", {args.dx, args.saved});
  STIPPLE_DISPATCH(stream, activation_backward, args);
}

void add(const Stream& stream, const Add& args) {
  check_equal_sizes("add", args.y.numel(), args.a.numel(), args.b.numel());
  check_same_storage("add", {args.y, args.a});
  STIPPLE_CHECK(args.y.precision == Precision::kFp32 || args.b.precision == Precision::kBf16,
                "add: b is stored as fp32, y as bf16");
  STIPPLE_DISPATCH(stream, add, args);
}

void mask_rows(const Stream& stream, const MaskRows& args) {
  STIPPLE_CHECK_AS(ShapeError, args.x.shape.rank() == 3, "mask_rows: x is ", args.x.shape.str(),
                   ", expected [B, N, C]");
  STIPPLE_CHECK_SHAPE("mask_rows", args.mask, {args.x.shape[0], args.x.shape[1]});
  STIPPLE_DISPATCH(stream, mask_rows, args);
}

}  // namespace stipple::kernels
