// SPDX-License-Identifier: Apache-2.0
// Sines and cosines of positions, and the rotation by them.
//   tables: a thread per pair of channels, in double; small beside anything of a leaf.
//   rotate: a thread per 16 bytes of angles, and the two halves of a row's channels that they turn
//   (for odd halves, and arrays that start at odd addresses, per element). Bound by memory.
#include <cmath>

#include "kernels/cuda/elements.cuh"
#include "kernels/math/positions.h"
#include "kernels/positions.h"

namespace stipple::kernels::cuda {
namespace {

struct FillSinusoids {
  float* y;
  int64_t channels;

  /// i is a pair of channels.
  template <int kWidth>
  __device__ void run(int64_t n, int64_t i) const {
    const int64_t width = channels + channels % 2;
    const double angle = static_cast<double>(n) * math::turn_per_position(i, width);
    float* pair = y + n * channels + 2 * i;
    pair[0] = static_cast<float>(std::sin(angle));
    if (2 * i + 1 < channels) pair[1] = static_cast<float>(std::cos(angle));
  }
};

struct FillAngles {
  float *cosines, *sines;
  int64_t half;

  template <int kWidth>
  __device__ void run(int64_t n, int64_t i) const {
    const double angle = static_cast<double>(n) * math::turn_per_position(i, 2 * half);
    cosines[n * half + i] = static_cast<float>(std::cos(angle));
    sines[n * half + i] = static_cast<float>(std::sin(angle));
  }
};

/// T is a storage.
template <class T>
struct Turn {
  T* y;
  const T* x;
  const float *cosines, *sines;
  int64_t tokens, half;
  float sign;

  template <int kWidth>
  __device__ void run(int64_t row, int64_t i) const {
    const int64_t angle = row % tokens * half + i, at = row * 2 * half + i;
    const Pack<kWidth> cosine = load<kWidth>(cosines + angle), sine = load<kWidth>(sines + angle);
    const Pack<kWidth> first = load<kWidth>(x + at), second = load<kWidth>(x + at + half);
    Pack<kWidth> low, high;
    for (int j = 0; j < kWidth; ++j) {
      const float s = sign * sine.at[j];
      low.at[j] = first.at[j] * cosine.at[j] - second.at[j] * s;
      high.at[j] = first.at[j] * s + second.at[j] * cosine.at[j];
    }
    store(y + at, low);
    store(y + at + half, high);
  }
};

}  // namespace

void sinusoidal_positions(const Stream& stream, const SinusoidalPositions& args) {
  const int64_t channels = args.y.shape[1];
  launch_rows<1>(stream, args.y.shape[0], (channels + 1) / 2,
                 FillSinusoids{.y = args.y.data, .channels = channels});
}

void rotary_angles(const Stream& stream, const RotaryAngles& args) {
  const int64_t half = args.cosines.shape[1];
  launch_rows<1>(stream, args.cosines.shape[0], half,
                 FillAngles{.cosines = args.cosines.data, .sines = args.sines.data, .half = half});
}

void rotate(const Stream& stream, const Rotate& args) {
  const int64_t half = args.cosines.shape[1], tokens = args.x.shape[2];
  const int64_t rows = args.x.shape[0] * args.x.shape[1] * tokens;
  with_real_type(args.y.precision, [&](auto zero) {
    using T = decltype(zero);
    const Turn<T> turn{.y = args.y.as<T>().data,
                       .x = args.x.as<T>().data,
                       .cosines = args.cosines.data,
                       .sines = args.sines.data,
                       .tokens = tokens,
                       .half = half,
                       .sign = args.inverse ? -1.0f : 1.0f};
    for_each_row<kPackWidthOf<T, float>>(
        stream, rows, half, are_aligned(turn.y, turn.x, turn.cosines, turn.sines), turn);
  });
}

}  // namespace stipple::kernels::cuda
