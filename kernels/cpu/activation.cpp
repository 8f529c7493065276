// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation.h"

#include <algorithm>

#include "kernels/cpu/vectorize.h"
#include "kernels/math/activation.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

// Outputs may be the inputs themselves, never a shifted part of them: no element depends on another
// (ivdep).

template <class Formula>
STIPPLE_VECTOR_BODY void map_run(float* y, const float* x, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = Formula::value(x[i]);
}

template <class Formula>
STIPPLE_VECTOR_BODY void map_gradient_run(float* dx, const float* dy, const float* saved,
                                          int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) dx[i] = dy[i] * Formula::derivative(saved[i]);
}

STIPPLE_VECTOR_BODY void add_run(float* y, const float* a, const float* b, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
}

template <class Body>
void for_runs(const Stream& stream, int64_t count, const Body& body) {
  stream.parallel_for(num_runs(count, kElementRun), [&](int64_t i, int) {
    const Range run = nth_run(i, count, kElementRun);
    body(run.begin, run.size());
  });
}

}  // namespace

void activation(const Stream& stream, const Activation& args) {
  float* y = args.y.floats().data;
  const float* x = args.x.floats().data;
  math::with_activation(args.kind, [&](auto formula) {
    for_runs(stream, args.x.numel(), [&](int64_t begin, int64_t n) {
      vectorized<map_run<decltype(formula)>>(y + begin, x + begin, n);
    });
  });
}

void activation_backward(const Stream& stream, const ActivationBackward& args) {
  float* dx = args.dx.floats().data;
  const float *dy = args.dy.floats().data, *saved = args.saved.floats().data;
  math::with_activation(args.kind, [&](auto formula) {
    for_runs(stream, args.dx.numel(), [&](int64_t begin, int64_t n) {
      vectorized<map_gradient_run<decltype(formula)>>(dx + begin, dy + begin, saved + begin, n);
    });
  });
}

void add(const Stream& stream, const Add& args) {
  float* y = args.y.floats().data;
  const float *a = args.a.floats().data, *b = args.b.floats().data;
  for_runs(stream, args.y.numel(), [&](int64_t begin, int64_t n) {
    vectorized<add_run>(y + begin, a + begin, b + begin, n);
  });
}

void mask_rows(const Stream& stream, const MaskRows& args) {
  const int64_t rows = args.mask.numel(), channels = args.x.shape[2];
  stream.parallel_for(num_runs(rows, kCopyRowRun), [&](int64_t i, int) {
    const Range run = nth_run(i, rows, kCopyRowRun);
    for (int64_t row = run.begin; row < run.end; ++row) {
      if (args.mask[row] == 0) std::fill_n(args.x.data + row * channels, channels, 0.0f);
    }
  });
}

}  // namespace stipple::kernels::cpu
