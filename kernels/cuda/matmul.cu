// SPDX-License-Identifier: Apache-2.0
// Dense products through cuBLASLt (gemm.h). Repeated factors are strided batches; where the
// repetition is no single stride, one batched call serves each residue. A result that sums several
// products gets each of them as a partial result, added in the order of the products.
//
// Thread maps: add_products and add_bias, one thread an element of the results. Column sums: sums.h.
#include <algorithm>
#include <cstddef>
#include <numeric>
#include <type_traits>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/sums.h"
#include "kernels/matmul.h"
#include "kernels/matmul_plan.h"

namespace stipple::kernels::cuda {
namespace {

/// The products p = 0, 1, ... cut into `calls` evenly spaced batches: batch i is first(i),
/// first(i) + step, ...
struct Batches {
  int64_t calls, step, batch;
  int64_t first(int64_t i) const { return step == 1 ? i * batch : i; }
};

/// An array of `count` matrices advances evenly along a batch when it has one matrix a product, or
/// when the step is a multiple of its count; neighbours, where a batch stays within its matrices.
Batches cut_batches(int64_t products, std::initializer_list<int64_t> counts) {
  int64_t step = 1;    // apart: every repeated array stands still
  int64_t length = 0;  // neighbours: no repeated array wraps around
  for (int64_t count : counts) {
    if (count < products) step = std::lcm(step, count);
    if (count > 1) length = std::gcd(length, count);
  }
  if (length > 0 && products / length < step) {
    return {.calls = products / length, .step = 1, .batch = length};
  }
  return {.calls = step, .step = step, .batch = products / step};
}

struct Operand {
  int64_t count, size;

  int64_t offset(int64_t product) const { return product % count * size; }
  /// Between neighbours of a batch.
  int64_t stride(const Batches& batches) const {
    return batches.batch == 1 ? 0 : batches.step % count * size;
  }
};

/// Where element `at` of an array stands.
template <class Memory>
Memory* address(const BasicRealView<Memory>& x, int64_t at) {
  using Byte = std::conditional_t<std::is_const_v<Memory>, const std::byte, std::byte>;
  return static_cast<Byte*>(x.data) + static_cast<size_t>(at) * bytes_of(x.precision);
}

/// T is the storage of c.
template <class T>
struct AddProducts {
  T* c;                   // [elements]
  const float* partials;  // [terms, elements]
  int64_t elements, terms;
  float beta;
};

template <class T>
__global__ void add_products_kernel(AddProducts<T> args) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= args.elements) return;
  double sum = 0.0;
#pragma unroll 4
  for (int64_t j = 0; j < args.terms; ++j) {
    sum += static_cast<double>(args.partials[j * args.elements + i]);
  }
  if (args.beta != 0.0f) {
    sum += static_cast<double>(args.beta) * static_cast<double>(to_float(args.c[i]));
  }
  args.c[i] = from_float<T>(static_cast<float>(sum));
}

void add_products(const Stream& stream, RealView c, View<const float> partials, int64_t terms,
                  float beta) {
  constexpr int kThreads = 256;
  const LaunchShape shape{.grid = blocks_for(c.numel(), kThreads), .block = kThreads};
  with_real_type(c.precision, [&](auto zero) {
    using T = decltype(zero);
    launch(stream, shape, add_products_kernel<T>,
           AddProducts<T>{c.as<T>().data, partials.data, c.numel(), terms, beta});
  });
}

template <class T>
__global__ void add_bias_kernel(T* c, const T* bias, int64_t columns, int64_t elements) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= elements) return;
  c[i] = from_float<T>(to_float(c[i]) + to_float(bias[i % columns]));
}

}  // namespace

void add_bias(const Stream& stream, const Gemm& gemm) {
  constexpr int kThreads = 256;
  const int64_t elements = gemm.m * gemm.n;
  const LaunchShape shape{.grid = blocks_for(elements, kThreads), .block = kThreads};
  with_real_type(gemm.result, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t i = 0; i < gemm.batch; ++i) {
      launch(stream, shape, add_bias_kernel<T>, static_cast<T*>(gemm.c) + i * gemm.c_stride,
             static_cast<const T*>(gemm.bias), gemm.n, elements);
    }
  });
}

void matmul(const Stream& stream, const Matmul& args) {
  const MatmulPlan plan = plan_matmul(args, DeviceType::kCuda);
  if (plan.m == 0 || plan.n == 0) return;
  const bool sums = plan.terms > 1;
  View<float> partials;  // [products, M * N] in the order of p
  if (sums) partials = args.scratch->alloc<float>({plan.results, plan.terms, plan.m * plan.n});
  const int64_t products = plan.results * plan.terms;
  const Operand a{plan.a_count, plan.m * plan.k};
  const Operand b{plan.b_count, plan.k * plan.n};
  const Operand c{products, plan.m * plan.n};
  const RealView result = sums ? RealView(partials) : args.c;
  const Batches batches = cut_batches(products, {a.count, b.count, c.count});
  for (int64_t call = 0; call < batches.calls; ++call) {
    const int64_t p = batches.first(call);
    multiply(stream, {.m = plan.m,
                      .n = plan.n,
                      .k = plan.k,
                      .c = address(result, c.offset(p)),
                      .a = address(args.a, a.offset(p)),
                      .b = address(args.b, b.offset(p)),
                      .factors = args.a.precision,
                      .result = result.precision,
                      .transpose_a = args.transpose_a,
                      .transpose_b = args.transpose_b,
                      .alpha = args.alpha,
                      .beta = sums ? 0.0f : args.beta,
                      .batch = batches.batch,
                      .c_stride = c.stride(batches),
                      .a_stride = a.stride(batches),
                      .b_stride = b.stride(batches)});
  }
  if (sums) add_products(stream, args.c, partials, plan.terms, args.beta);
}

void linear(const Stream& stream, const Linear& args) {
  if (args.y.numel() == 0) return;
  multiply(stream, {.m = args.x.shape[0],
                    .n = args.weight.shape[0],
                    .k = args.x.shape[1],
                    .c = args.y.data,
                    .a = args.x.data,
                    .b = args.weight.data,
                    .bias = args.bias.data,
                    .factors = args.x.precision,
                    .result = args.y.precision,
                    .transpose_b = true});
}

void linear_backward(const Stream& stream, const LinearBackward& args) {
  const int64_t rows = args.x.shape[0], inputs = args.x.shape[1], outputs = args.weight.shape[0];
  const View<float> dbias =
      args.scratch->alloc<float>({1, num_runs(rows, kMatmulInnerRun), outputs});
  multiply(stream, {.m = outputs,
                    .n = inputs,
                    .k = rows,
                    .c = args.dweight.data,
                    .a = args.dy.data,
                    .b = args.x.data,
                    .factors = args.dy.precision,
                    .transpose_a = true,
                    .beta = 1.0f});
  with_real_type(args.dy.precision, [&](auto zero) {
    using T = decltype(zero);
    column_sums<T, float>(stream, 1,
                          {.sums = dbias.data,
                           .x = args.dy.as<T>().data,
                           .rows = rows,
                           .cols = outputs,
                           .run = kMatmulInnerRun});
  });
  add_partial_sums(stream, args.dbias.data, dbias.data, dbias.shape[1], outputs);
  if (args.dx.empty()) return;
  multiply(stream, {.m = rows,
                    .n = inputs,
                    .k = outputs,
                    .c = args.dx.data,
                    .a = args.dy.data,
                    .b = args.weight.data,
                    .factors = args.dy.precision,
                    .result = args.dx.precision});
}

}  // namespace stipple::kernels::cuda
