// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <algorithm>
#include <initializer_list>
#include <optional>

#include "core/dispatch.h"
#include "kernels/convert.h"
#include "kernels/matmul_plan.h"
#include "kernels/runs.h"

namespace stipple::kernels {
namespace {

struct Matrices {
  int64_t count, rows, cols;
};

Matrices matrices(const char* name, const Shape& shape, bool transposed) {
  STIPPLE_CHECK_AS(ShapeError, shape.rank() == 2 || shape.rank() == 3, "matmul: ", name,
                   " has shape ", shape.str(), ", expected [rows, cols] or [P, rows, cols]");
  const int first = shape.rank() - 2;
  const int64_t rows = shape[first + (transposed ? 1 : 0)];
  const int64_t cols = shape[first + (transposed ? 0 : 1)];
  return {shape.rank() == 3 ? shape[0] : 1, rows, cols};
}

bool is_matrix(const Shape& shape) { return shape.rank() == 2 && shape[1] > 0; }

/// How the factors are stored once they agree with each other and with the result. (cuBLASLt has
/// products of fp32 into fp32, and of bf16 into both.)
Precision common_storage(std::initializer_list<ConstRealView> arrays) {
  Precision storage = Precision::kFp32;
  for (const ConstRealView& array : arrays) storage = std::max(storage, array.precision);
  return storage;
}

/// x itself, or a copy in scratch.
ConstRealView stored_as(Precision storage, ConstRealView x, const Stream& stream, Arena* scratch) {
  if (x.precision == storage) return x;
  STIPPLE_CHECK(scratch != nullptr, "matmul: arrays of both storages need scratch");
  const RealView copy = scratch->alloc(storage, x.shape);
  convert(stream, {.y = copy, .x = x});
  return copy;
}

/// Rewinds `scratch`, if there is one, at the end of its scope.
class OptionalScope {
 public:
  explicit OptionalScope(Arena* arena) {
    if (arena != nullptr) scope_.emplace(*arena);
  }

 private:
  std::optional<Arena::Scope> scope_;
};

}  // namespace

MatmulPlan plan_matmul(const Matmul& args, DeviceType backend) {
  const Matrices a = matrices("a", args.a.shape, args.transpose_a);
  const Matrices b = matrices("b", args.b.shape, args.transpose_b);
  const Matrices c = matrices("c", args.c.shape, false);
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

void matmul(const Stream& stream, const Matmul& given) {
  Matmul args = given;
  const MatmulPlan plan = plan_matmul(args, stream.device().backend());
  const OptionalScope rounded(args.scratch);
  const Precision storage = common_storage({given.a, given.b, given.c});
  args.a = stored_as(storage, given.a, stream, args.scratch);
  args.b = stored_as(storage, given.b, stream, args.scratch);
  STIPPLE_CHECK(plan.partials() == 1 || args.scratch != nullptr, "matmul: an inner dimension of ",
                plan.k, " summed over ", plan.terms, " products needs scratch");
  STIPPLE_DISPATCH(stream, matmul, args);
}

void linear(const Stream& stream, const Linear& given) {
  Linear args = given;
  STIPPLE_CHECK_AS(ShapeError, is_matrix(args.x.shape) && is_matrix(args.weight.shape),
                   "linear: x ", args.x.shape.str(), " and weight ", args.weight.shape.str(),
                   " must be matrices with columns");
  const int64_t rows = args.x.shape[0], inputs = args.x.shape[1], outputs = args.weight.shape[0];
  STIPPLE_CHECK_SHAPE("linear", args.weight, {outputs, inputs});
  STIPPLE_CHECK_SHAPE("linear", args.y, {rows, outputs});
  STIPPLE_CHECK_SHAPE("linear", args.bias, {outputs});
  const OptionalScope rounded(args.scratch);
  const Precision storage = common_storage({given.x, given.weight, given.y});
  args.x = stored_as(storage, given.x, stream, args.scratch);
  args.weight = stored_as(storage, given.weight, stream, args.scratch);
  args.bias = stored_as(given.y.precision, given.bias, stream, args.scratch);
  STIPPLE_DISPATCH(stream, linear, args);
}

void linear_backward(const Stream& stream, const LinearBackward& given) {
  LinearBackward args = given;
  STIPPLE_CHECK_AS(ShapeError, is_matrix(args.x.shape) && is_matrix(args.weight.shape),
                   "linear_backward: x ", args.x.shape.str(), " and weight ",
                   args.weight.shape.str(), " must be matrices with columns");
  const int64_t rows = args.x.shape[0], inputs = args.x.shape[1], outputs = args.weight.shape[0];
  STIPPLE_CHECK_SHAPE("linear_backward", args.weight, {outputs, inputs});
  STIPPLE_CHECK_SHAPE("linear_backward", args.dy, {rows, outputs});
  STIPPLE_CHECK_SHAPE("linear_backward", args.dweight, {outputs, inputs});
  STIPPLE_CHECK_SHAPE("linear_backward", args.dbias, {outputs});
  if (!args.dx.empty()) STIPPLE_CHECK_SHAPE("linear_backward", args.dx, {rows, inputs});
  STIPPLE_CHECK(args.scratch != nullptr, "linear_backward: needs scratch");
  if (rows == 0) return;
  const Arena::Scope scope(*args.scratch);
  const Precision storage = common_storage(
      {given.dy, given.x, given.dx, given.dx.empty() ? ConstRealView{} : given.weight});
  args.dy = stored_as(storage, given.dy, stream, args.scratch);
  args.x = stored_as(storage, given.x, stream, args.scratch);
  if (!given.dx.empty()) args.weight = stored_as(storage, given.weight, stream, args.scratch);
  STIPPLE_DISPATCH(stream, linear_backward, args);
}

}  // namespace stipple::kernels
