// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <dnnl.h>
#include <omp.h>

#include <algorithm>

#include "core/bytes_text.h"
#include "core/cpu/memory.h"
#include "core/error.h"
#include "kernels/cpu/sums.h"
#include "kernels/matmul_plan.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

/// One factor as oneDNN wants it: where it starts and how far apart its stored rows are.
struct Factor {
  const float* data;
  int64_t stride;
  bool transposed;

  /// The factor without its first `row` rows and `col` columns, counted after transposition.
  Factor from(int64_t row, int64_t col) const {
    const int64_t offset = transposed ? col * stride + row : row * stride + col;
    return {data + offset, stride, transposed};
  }
};

/// oneDNN makes code when it meets the first product of a kind, and writes it to memory that it may
/// not have got. Where the address space is limited, all of it is made at once, if there is room.
bool make_code() {
  // Of oneDNN 2.6: 18 MB with AVX-512, 10 with AVX, and some for the heap.
  constexpr size_t kCodeBytes = 24 * kMegabyte;
  const size_t room = stipple::cpu::available_address_space();
  if (room == stipple::cpu::kUnlimited) return true;
  STIPPLE_CHECK_AS(MemoryError, room >= kCodeBytes, "out of memory: oneDNN takes ",
                   kCodeBytes / kMegabyte, " MB of address space for its code, and ",
                   room / kMegabyte, " MB are left (ulimit -v)");
  const float ones[] = {1.0f, 1.0f};
  float product[4];
  // By a vector, into few columns, any.
  dnnl_sgemm('N', 'N', 1, 1, 1, 1.0f, ones, 1, ones, 1, 0.0f, product, 1);
  dnnl_sgemm('N', 'T', 2, 1, 1, 1.0f, ones, 1, ones, 1, 0.0f, product, 1);
  dnnl_sgemm('N', 'N', 2, 2, 1, 1.0f, ones, 1, ones, 2, 0.0f, product, 2);
  return true;
}

/// c [m, n] = alpha a b + beta c on the calling thread; with beta = 0 c is not read.
void multiply(int64_t m, int64_t n, int64_t k, float alpha, Factor a, Factor b, float beta,
              float* c) {
  // Our pieces already occupy the threads we were given; oneDNN would start as many again for each
  // of them. The setting is the calling thread's own and costs nothing next to a product.
  omp_set_num_threads(1);
  [[maybe_unused]] static const bool is_ready = make_code();  // by one thread; others wait for it
  const dnnl_status_t status = dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n,
                                          k, alpha, a.data, a.stride, b.data, b.stride, beta, c, n);
  STIPPLE_CHECK_AS(MemoryError, status != dnnl_out_of_memory, "out of memory: a product of ", m,
                   " x ", n, " x ", k, " has no room to work");
  STIPPLE_CHECK(status == dnnl_success, "matmul: oneDNN returned status ", int{status}, " for ", m,
                " x ", n, " x ", k);
}

/// Rows `rows` of partial sum `part` of result `result`.
void multiply_part(const Matmul& args, const MatmulPlan& plan, int64_t result, Range rows,
                   int64_t part, float beta, float* to) {
  const Range inner =
      nth_run(part % plan.inner_runs, plan.k, plan.inner_runs == 1 ? plan.k : kMatmulInnerRun);
  const Range terms = nth_run(part / plan.inner_runs, plan.terms, plan.group);
  for (int64_t j = terms.begin; j < terms.end; ++j) {
    const int64_t p = result + j * plan.results;
    const Factor a{args.a.floats().data + p % plan.a_count * plan.m * plan.k,
                   args.transpose_a ? plan.m : plan.k, args.transpose_a};
    const Factor b{args.b.floats().data + p % plan.b_count * plan.k * plan.n,
                   args.transpose_b ? plan.k : plan.n, args.transpose_b};
    multiply(rows.size(), plan.n, inner.size(), args.alpha, a.from(rows.begin, inner.begin),
             b.from(inner.begin, 0), j == terms.begin ? beta : 1.0f, to + rows.begin * plan.n);
  }
}

STIPPLE_VECTOR_BODY void add_column_sums(float* __restrict sums, const float* __restrict x,
                                         int64_t rows, int64_t cols) {
  for (int64_t col = 0; col < cols; ++col) sums[col] = 0.0f;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) sums[col] += x[row * cols + col];
  }
}

}  // namespace

void matmul(const Stream& stream, const Matmul& args) {
  const MatmulPlan plan = plan_matmul(args, DeviceType::kCpu);
  if (plan.m == 0 || plan.n == 0) return;
  const int64_t parts = plan.partials();
  View<float> partials;  // [Pc, partial sums, M * N]
  if (parts > 1) partials = args.scratch->alloc<float>({plan.results, parts, plan.m * plan.n});
  const int64_t tiles = num_runs(plan.m, kMatmulRowRun);
  stream.parallel_for(plan.results * parts * tiles, [&](int64_t i, int) {
    const Range rows = nth_run(i % tiles, plan.m, kMatmulRowRun);
    const int64_t part = i / tiles % parts;
    const int64_t result = i / tiles / parts;
    const int64_t size = plan.m * plan.n;
    if (parts == 1) {
      multiply_part(args, plan, result, rows, part, args.beta,
                    args.c.floats().data + result * size);
    } else {
      float* partial = partials.data + (result * parts + part) * size;
      multiply_part(args, plan, result, rows, part, 0.0f, partial);
    }
  });
  if (parts > 1) add_partials(stream, args.c.floats(), partials, args.beta);
}

void linear(const Stream& stream, const Linear& args) {
  const int64_t rows = args.x.shape[0], inputs = args.x.shape[1], outputs = args.weight.shape[0];
  stream.parallel_for(num_runs(rows, kMatmulRowRun), [&](int64_t i, int) {
    const Range run = nth_run(i, rows, kMatmulRowRun);
    float* y = args.y.floats().data + run.begin * outputs;
    for (int64_t row = 0; row < run.size(); ++row) {
      std::copy_n(args.bias.floats().data, outputs, y + row * outputs);
    }
    multiply(run.size(), outputs, inputs, 1.0f,
             {args.x.floats().data + run.begin * inputs, inputs, false},
             {args.weight.floats().data, inputs, true}, 1.0f, y);
  });
}

void linear_backward(const Stream& stream, const LinearBackward& args) {
  const int64_t rows = args.x.shape[0], inputs = args.x.shape[1], outputs = args.weight.shape[0];
  const int64_t runs = num_runs(rows, kMatmulInnerRun);
  const View<float> dweight = args.scratch->alloc<float>({1, runs, outputs * inputs});
  const View<float> dbias = args.scratch->alloc<float>({1, runs, outputs});
  // One pass: the rows of dy serve dx, dweight and dbias while they are in the cache.
  stream.parallel_for(runs, [&](int64_t i, int) {
    const Range run = nth_run(i, rows, kMatmulInnerRun);
    const float* dy = args.dy.floats().data + run.begin * outputs;
    const float* x = args.x.floats().data + run.begin * inputs;
    multiply(outputs, inputs, run.size(), 1.0f, {dy, outputs, true}, {x, inputs, false}, 0.0f,
             dweight.data + i * outputs * inputs);
    vectorized<add_column_sums>(dbias.data + i * outputs, dy, run.size(), outputs);
    if (args.dx.empty()) return;
    multiply(run.size(), inputs, outputs, 1.0f, {dy, outputs, false},
             {args.weight.floats().data, inputs, false}, 0.0f,
             args.dx.floats().data + run.begin * inputs);
  });
  add_partials(stream, args.dweight, dweight, 1.0f);
  add_partials(stream, args.dbias, dbias, 1.0f);
}

}  // namespace stipple::kernels::cpu
