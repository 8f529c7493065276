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

template <float (*f)(float)>
STIPPLE_VECTOR_BODY void map_run(float* y, const float* x, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = f(x[i]);
}

template <float (*derivative)(float)>
STIPPLE_VECTOR_BODY void map_gradient_run(float* dx, const float* dy, const float* saved,
                                          int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) dx[i] = dy[i] * derivative(saved[i]);
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

template <float (*f)(float)>
void map(const Stream& stream, const Activation& args) {
  for_runs(stream, args.x.numel(), [&](int64_t begin, int64_t n) {
    vectorized<map_run<f>>(args.y.data + begin, args.x.data + begin, n);
  });
}

template <float (*derivative)(float)>
void map_gradient(const Stream& stream, const ActivationBackward& args) {
  for_runs(stream, args.dx.numel(), [&](int64_t begin, int64_t n) {
    vectorized<map_gradient_run<derivative>>(args.dx.data + begin, args.dy.data + begin,
                                             args.saved.data + begin, n);
  });
}

}  // namespace

void activation(const Stream& stream, const Activation& args) {
  switch (args.kind) {
    case ActivationKind::kGelu:
      return map<math::gelu>(stream, args);
    case ActivationKind::kRelu:
      return map<math::relu>(stream, args);
    case ActivationKind::kSigmoid:
      return map<math::sigmoid>(stream, args);
    case ActivationKind::kTanh:
      return map<math::hyperbolic_tangent>(stream, args);
  }
}

void activation_backward(const Stream& stream, const ActivationBackward& args) {
  switch (args.kind) {
    case ActivationKind::kGelu:
      return map_gradient<math::gelu_derivative>(stream, args);
    case ActivationKind::kRelu:
      return map_gradient<math::relu_derivative_from_output>(stream, args);
    case ActivationKind::kSigmoid:
      return map_gradient<math::sigmoid_derivative_from_output>(stream, args);
    case ActivationKind::kTanh:
      return map_gradient<math::hyperbolic_tangent_derivative_from_output>(stream, args);
  }
}

void add(const Stream& stream, const Add& args) {
  for_runs(stream, args.y.numel(), [&](int64_t begin, int64_t n) {
    vectorized<add_run>(args.y.data + begin, args.a.data + begin, args.b.data + begin, n);
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
