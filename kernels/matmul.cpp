// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <algorithm>

#include "core/dispatch.h"
#include "kernels/matmul_plan.h"
#include "kernels/runs.h"

namespace stipple::kernels {
namespace {

struct Matrices {
  int64_t count, rows, cols;
};

template <class T>
Matrices matrices(const char* name, const View<T>& view, bool transposed) {
  const Shape& shape = view.shape;
  STIPPLE_CHECK_AS(ShapeError, shape.rank() == 2 || shape.rank() == 3, "matmul: ", name,
                   " has shape ", shape.str(), ", expected [rows, cols] or [P, rows, cols]");
  const int first = shape.rank() - 2;
  const int64_t rows = shape[first + (transposed ? 1 : 0)];
  const int64_t cols = shape[first + (transposed ? 0 : 1)];
  return {shape.rank() == 3 ? shape[0] : 1, rows, cols};
}

bool is_matrix(const View<const float>& view) {
  return view.shape.rank() == 2 && view.shape[1] > 0;
}

}  // namespace

MatmulPlan plan_matmul(const Matmul& args, DeviceType backend) {
  const Matrices a = matrices("a", args.a, args.transpose_a);
  const Matrices b = matrices("b", args.b, args.transpose_b);
  const Matrices c = matrices("c", args.c, false);
  STIPPLE_CHECK_AS(ShapeError, a.cols == b.rows && c.rows == a.rows && c.cols == b.cols,
                   "matmul: c ", args.c.shape.str(), " is not the product of a ",
                   args.a.shape.str(), args.transpose_a ? " transposed" : "", " and b ",
                   args.b.shape.str(), args.transpose_b ? " transposed" : "");
  STIPPLE_CHECK_AS(ShapeError, a.cols > 0, "matmul: a ", args.a.shape.str(),
                   " has no inner dimension");
  const int64_t products = std::max({a.count, b.count, c.count});
  for (int64_t count : {a.count, b.count, c.count}) {
    STIPPLE_CHECK_AS(ShapeError, count > 0 && products % count == 0, "matmul: the matrices of c ",
                     args.c.shape.str(), ", a ", args.a.shape.str(), ", b ", args.b.shape.str(),
                     " do not repeat evenly");
  }
  MatmulPlan plan{.m = c.rows,
                  .n = c.cols,
                  .k = a.cols,
                  .a_count = a.count,
                  .b_count = b.count,
                  .results = c.count,
                  .terms = products / c.count,
                  .group = 1,
                  .inner_runs = 1};
  if (backend == DeviceType::kCuda) return plan;
  if (plan.k > kMatmulInnerRun) {
    plan.inner_runs = num_runs(plan.k, kMatmulInnerRun);
  } else {
    plan.group = std::min(plan.terms, kMatmulInnerRun / plan.k);
  }
  return plan;
}

void matmul(const Stream& stream, const Matmul& args) {
  const MatmulPlan plan = plan_matmul(args, stream.device().backend());
  if (plan.partials() == 1) {
    STIPPLE_DISPATCH(stream, matmul, args, plan, {});
    return;
  }
  STIPPLE_CHECK(args.scratch != nullptr, "matmul: an inner dimension of ", plan.k, " summed over ",
                plan.terms, " products needs scratch");
  const Arena::Scope scope(*args.scratch);
  const View<float> partials =
      args.scratch->alloc<float>({plan.results, plan.partials(), plan.m * plan.n});
  STIPPLE_DISPATCH(stream, matmul, args, plan, partials);
}

void linear(const Stream& stream, const Linear& args) {
  STIPPLE_CHECK_AS(ShapeError, is_matrix(args.x) && is_matrix(args.weight), "linear: x ",
                   args.x.shape.str(), " and weight ", args.weight.shape.str(),
                   " must be matrices with columns");
  const int64_t rows = args.x.shape[0], inputs = args.x.shape[1], outputs = args.weight.shape[0];
  STIPPLE_CHECK_SHAPE("linear", args.weight, {outputs, inputs});
  STIPPLE_CHECK_SHAPE("linear", args.y, {rows, outputs});
  STIPPLE_CHECK_SHAPE("linear", args.bias, {outputs});
  STIPPLE_DISPATCH(stream, linear, args);
}

void linear_backward(const Stream& stream, const LinearBackward& args) {
  STIPPLE_CHECK_AS(ShapeError, is_matrix(args.x) && is_matrix(args.weight), "linear_backward: x ",
                   args.x.shape.str(), " and weight ", args.weight.shape.str(),
                   " must be matrices with columns");
  const int64_t rows = args.x.shape[0], inputs = args.x.shape[1], outputs = args.weight.shape[0];
  STIPPLE_CHECK_SHAPE("linear_backward", args.weight, {outputs, inputs});
  STIPPLE_CHECK_SHAPE("linear_backward", args.dy, {rows, outputs});
  STIPPLE_CHECK_SHAPE("linear_backward", args.dweight, {outputs, inputs});
  STIPPLE_CHECK_SHAPE("linear_backward", args.dbias, {outputs});
  if (!args.dx.empty()) STIPPLE_CHECK_SHAPE("linear_backward", args.dx, {rows, inputs});
  STIPPLE_CHECK(args.scratch != nullptr, "linear_backward: needs scratch");
  if (rows == 0) return;
  const Arena::Scope scope(*args.scratch);
  const int64_t runs = num_runs(rows, kMatmulInnerRun);
  View<float> dweight;
  if (stream.device().backend() == DeviceType::kCpu) {
    dweight = args.scratch->alloc<float>({1, runs, outputs * inputs});
  }
  const View<float> dbias = args.scratch->alloc<float>({1, runs, outputs});
  STIPPLE_DISPATCH(stream, linear_backward, args, dweight, dbias);
}

}  // namespace stipple::kernels
