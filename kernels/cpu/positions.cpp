// SPDX-License-Identifier: Apache-2.0
#include "kernels/positions.h"

#include <cmath>

#include "kernels/cpu/vectorize.h"
#include "kernels/math/positions.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

/// Calls write(n, i, angle) for the positions of one run and all pairs.
template <class Write>
void for_angles(const Stream& stream, int64_t tokens, int64_t pairs, int64_t width,
                const Write& write) {
  stream.parallel_for(num_runs(tokens, kCopyRowRun), [&](int64_t r, int) {
    const Range run = nth_run(r, tokens, kCopyRowRun);
    for (int64_t i = 0; i < pairs; ++i) {
      const double turn = math::turn_per_position(i, width);
      for (int64_t n = run.begin; n < run.end; ++n) write(n, i, static_cast<double>(n) * turn);
    }
  });
}

/// y may be x: a pair of channels depends on no other (ivdep).
STIPPLE_VECTOR_BODY void rotate_row(float* y, const float* x, const float* cosines,
                                    const float* sines, float sign, int64_t half) {
#pragma GCC ivdep
  for (int64_t i = 0; i < half; ++i) {
    const float first = x[i], second = x[i + half], sine = sign * sines[i];
    y[i] = first * cosines[i] - second * sine;
    y[i + half] = first * sine + second * cosines[i];
  }
}

STIPPLE_VECTOR_BODY void rotate_rows(const Rotate* args, Range rows) {
  const int64_t tokens = args->x.shape[2], channels = args->x.shape[3], half = channels / 2;
  const float* x = static_cast<const float*>(args->x.data);
  float* y = static_cast<float*>(args->y.data);
  const float sign = args->inverse ? -1.0f : 1.0f;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t angle = row % tokens * half;
    rotate_row(y + row * channels, x + row * channels, args->cosines.data + angle,
               args->sines.data + angle, sign, half);
  }
}

}  // namespace

void sinusoidal_positions(const Stream& stream, const SinusoidalPositions& args) {
  const int64_t tokens = args.y.shape[0], channels = args.y.shape[1], pairs = (channels + 1) / 2;
  for_angles(stream, tokens, pairs, 2 * pairs, [&](int64_t n, int64_t i, double angle) {
    float* y = args.y.data + n * channels + 2 * i;
    y[0] = static_cast<float>(std::sin(angle));
    if (2 * i + 1 < channels) y[1] = static_cast<float>(std::cos(angle));
  });
}

void rotary_angles(const Stream& stream, const RotaryAngles& args) {
  const int64_t tokens = args.cosines.shape[0], half = args.cosines.shape[1];
  for_angles(stream, tokens, half, 2 * half, [&](int64_t n, int64_t i, double angle) {
    args.cosines[n * half + i] = static_cast<float>(std::cos(angle));
    args.sines[n * half + i] = static_cast<float>(std::sin(angle));
  });
}

void rotate(const Stream& stream, const Rotate& args) {
  const int64_t rows = args.x.shape[0] * args.x.shape[1] * args.x.shape[2];
  STIPPLE_CHECK(args.x.precision == Precision::kFp32, "rotate: the CPU stores fp32");
  stream.parallel_for(num_runs(rows, kCopyRowRun), [&](int64_t i, int) {
    vectorized<rotate_rows>(&args, nth_run(i, rows, kCopyRowRun));
  });
}

}  // namespace stipple::kernels::cpu
