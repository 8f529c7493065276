// SPDX-License-Identifier: Apache-2.0
// The two layouts of heads, bound by memory: a thread per 16 bytes.
#include "kernels/cuda/elements.cuh"
#include "kernels/heads.h"

namespace stipple::kernels::cuda {
namespace {

/// Copies between [B, N, H * D] and [B, H, N, D].
template <bool kIsSplit, class T>
struct MoveHeads {
  T* y;
  const T* x;
  int64_t heads, tokens, width;

  /// Channels [c, c + kWidth) of a token.
  template <int kWidth>
  __device__ void run(int64_t row, int64_t c) const {
    const int64_t b = row / tokens, n = row - b * tokens;
    const int64_t h = c / width, d = c - h * width;
    const int64_t joined = row * heads * width + c;
    const int64_t split = ((b * heads + h) * tokens + n) * width + d;
    store(y + (kIsSplit ? split : joined), load<kWidth>(x + (kIsSplit ? joined : split)));
  }
};

template <bool kIsSplit>
void move_heads(const Stream& stream, RealView y, ConstRealView x, const Shape& split) {
  const int64_t heads = split[1], tokens = split[2], width = split[3];
  with_real_type(y.precision, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kWidth = kPackWidthOf<T>;
    const MoveHeads<kIsSplit, T> move{y.as<T>().data, x.as<T>().data, heads, tokens, width};
    for_each_row<kWidth>(stream, split[0] * tokens, heads * width,
                         are_aligned(move.y, move.x) && width % kWidth == 0, move);
  });
}

}  // namespace

void split_heads(const Stream& stream, const SplitHeads& args) {
  move_heads<true>(stream, args.y, args.x, args.y.shape);
}

void merge_heads(const Stream& stream, const MergeHeads& args) {
  move_heads<false>(stream, args.y, args.x, args.x.shape);
}

}  // namespace stipple::kernels::cuda
