// SPDX-License-Identifier: Apache-2.0
// Dropout by recomputable bits: every thread turns one Philox counter into the keep bits of 4
// channels.
//   A block of 256 threads over rows of tokens: as many threads side by side in a row as it has
//   counters (at most 256), the rest over further rows; 4 such groups of rows, one after another.
#include <cmath>

#include "kernels/convert.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/dropout.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kUnitBits = 24;  // of to_unit_float

/// Y and X are storages.
template <class Y, class X>
struct Drop {
  Y* y;
  const X* x;
  const uint32_t* samples;
  int64_t tokens, channels;
  RngKey rng;
  uint32_t stream;
  uint32_t first_kept;
  float factor;
  bool is_aligned;

  /// One counter: channels [c, c + 4) of a row, where they exist.
  __device__ void run(PhiloxKey key, int64_t row, int64_t c) const {
    const int64_t sample = row / tokens;
    const auto token = static_cast<uint32_t>(row - sample * tokens);
    const PhiloxCounter words = philox4x32(
        rng_counter(static_cast<uint32_t>(c / kPackWidth), token, samples[sample], stream), key);
    const int64_t at = row * channels + c;
    if (is_aligned) {
      Pack<kPackWidth> values = load<kPackWidth>(x + at);
      for (int w = 0; w < kPackWidth; ++w) values.at[w] = dropped(words, w, values.at[w]);
      store(y + at, values);
    } else {
      for (int w = 0; w < kPackWidth && c + w < channels; ++w) {
        y[at + w] = from_float<Y>(dropped(words, w, to_float(x[at + w])));
      }
    }
  }

  /// to_unit_float(word) >= rate, compared as integers.
  __device__ float dropped(const PhiloxCounter& words, int w, float value) const {
    return words[static_cast<size_t>(w)] >> (32 - kUnitBits) >= first_kept ? value * factor : 0.0f;
  }
};

/// Deriving the key costs about as much as a counter's words: a thread uses it for several rows.
constexpr int kRowsOfThread = 4;

template <class Y, class X>
__global__ void drop_kernel(Drop<Y, X> drop, int64_t rows, RowLanes map) {
  const PhiloxKey key = drop.rng.philox();
  const int stride = kBlockThreads >> map.lane_bits;
  const int64_t first = int64_t{blockIdx.x} * stride * kRowsOfThread + map.row();
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int64_t row = first + r * stride;
    if (row >= rows) return;
    for (int64_t unit = map.lane(); unit < map.units; unit += map.lanes()) {
      drop.run(key, row, unit * kPackWidth);
    }
  }
}

template <class Y, class X>
void drop(const Stream& stream, const Dropout& args) {
  const int64_t tokens = args.x.shape[1], channels = args.x.shape[2];
  const View<Y> y = args.y.as<Y>();
  const View<const X> x = args.x.as<X>();
  const Drop<Y, X> drop{
      .y = y.data,
      .x = x.data,
      .samples = args.samples.data,
      .tokens = tokens,
      .channels = channels,
      .rng = args.rng,
      .stream = stream_word(args.layer, args.site, Purpose::kDropout),
      .first_kept = static_cast<uint32_t>(std::ceil(std::ldexp(args.rate, kUnitBits))),
      .factor = 1.0f / (1.0f - args.rate),
      .is_aligned = are_aligned(y.data, x.data) && channels % kPackWidth == 0};
  const int64_t rows = args.x.shape[0] * tokens;
  const RowLanes map = row_lanes((channels + kPackWidth - 1) / kPackWidth, kBlockThreads);
  launch(stream,
         {.grid = blocks_for(rows, (kBlockThreads >> map.lane_bits) * kRowsOfThread),
          .block = kBlockThreads},
         drop_kernel<Y, X>, drop, rows, map);
}

}  // namespace

void dropout(const Stream& stream, const Dropout& args) {
  if (args.rate == 0.0f) {
    if (args.y.data != args.x.data) convert(stream, {.y = args.y, .x = args.x});
    return;
  }
  with_real_types(args.y.precision, args.x.precision, [&](auto written, auto read) {
    drop<decltype(written), decltype(read)>(stream, args);
  });
}

}  // namespace stipple::kernels::cuda
