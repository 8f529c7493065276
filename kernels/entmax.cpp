// SPDX-License-Identifier: Apache-2.0
#include "kernels/entmax.h"

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {
namespace {

/// Every operation has rows, and alpha for one or for each.
void check_rows(const char* op, const char* name, const Shape& rows, const Shape& alpha) {
  STIPPLE_CHECK_AS(ShapeError, rows.rank() == 2, op, ": ", name, " has shape ", rows.str(),
                   ", expected [R, L]");
  STIPPLE_CHECK_AS(ShapeError, alpha == Shape({1}) || alpha == Shape({rows[0]}), op,
                   ": alpha has shape ", alpha.str(), ", expected [1] or ", Shape({rows[0]}).str());
}

}  // namespace

void entmax(const Stream& stream, const Entmax& args) {
  const char* op = "entmax";
  const Shape& z = args.z.shape;
  check_rows(op, "z", z, args.alpha.shape);
  if (!args.p.empty()) expect_shape(op, "p", args.p.shape, z);
  expect_shape(op, "tau", args.tau.shape, {z[0]});
  if (!args.support.empty()) {
    expect_shape(op, "support.size", args.support.size.shape, {z[0]});
    const Shape& columns = args.support.columns.shape;
    STIPPLE_CHECK_AS(ShapeError, columns.rank() == 2 && columns[0] == z[0], op,
                     ": support.columns has shape ", columns.str(), ", expected [", z[0],
                     ", room]");
  }
  STIPPLE_CHECK(args.scratch != nullptr, op, ": needs a scratch arena");
  STIPPLE_DISPATCH(stream, entmax, args);
}

void entmax_backward(const Stream& stream, const EntmaxBackward& args) {
  const char* op = "entmax_backward";
  const Shape& p = args.p.shape;
  check_rows(op, "p", p, args.alpha.shape);
  expect_shape(op, "dp", args.dp.shape, p);
  expect_shape(op, "dz", args.dz.shape, p);
  if (!args.dalpha.empty()) expect_shape(op, "dalpha", args.dalpha.shape, {p[0]});
  STIPPLE_CHECK(args.scratch != nullptr, op, ": needs a scratch arena");
  STIPPLE_DISPATCH(stream, entmax_backward, args);
}

}  // namespace stipple::kernels
