// SPDX-License-Identifier: Apache-2.0
// What simple operations share: arrays of either storage, work over elements and over rows of
// channels, 16 bytes a thread where addresses and widths allow it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "core/real_view.h"
#include "kernels/cuda/device.cuh"

namespace stipple::kernels::cuda {

inline constexpr int kBlockThreads = 256;
inline constexpr int kPackWidth = 4;  ///< floats in 16 bytes

/// Elements that a thread moves at once, where arrays are stored as T...: 16 bytes of each, or 8 of
/// bf16 beside 16 of fp32.
template <class... T>
inline constexpr int kPackWidthOf = ((sizeof(T) == sizeof(bf16)) && ...) ? 8 : kPackWidth;

/// Calls body(a, b) with a float{} or bf16{} for each of two storages.
template <class Body>
void with_real_types(Precision first, Precision second, const Body& body) {
  with_real_type(first, [&](auto a) { with_real_type(second, [&](auto b) { body(a, b); }); });
}

/// What one instruction moves.
template <class Word, int kWords>
struct alignas(kWords * sizeof(Word)) Words {
  Word at[kWords];
};

/// Numbers to compute with, loaded from either storage and stored to either.
template <int kWidth>
using Pack = Words<float, kWidth>;

template <int kWidth>
__device__ inline Pack<kWidth> load(const float* p) {
  return *reinterpret_cast<const Pack<kWidth>*>(p);
}
template <int kWidth>
__device__ inline Pack<kWidth> load(const bf16* p) {
  if constexpr (kWidth == 1) {
    return {to_float(*p)};
  } else {
    const auto pairs = *reinterpret_cast<const Words<uint32_t, kWidth / 2>*>(p);
    Pack<kWidth> values;
    for (int i = 0; i < kWidth / 2; ++i) {
      values.at[2 * i] = std::bit_cast<float>(pairs.at[i] << 16);
      values.at[2 * i + 1] = std::bit_cast<float>(pairs.at[i] & 0xFFFF0000u);
    }
    return values;
  }
}
template <int kWidth>
__device__ inline void store(float* p, const Pack<kWidth>& values) {
  *reinterpret_cast<Pack<kWidth>*>(p) = values;
}
/// Rounded to nearest, ties to even.
template <int kWidth>
__device__ inline void store(bf16* p, const Pack<kWidth>& values) {
  if constexpr (kWidth == 1) {
    *p = to_bf16(values.at[0]);
  } else {
    Words<uint32_t, kWidth / 2> pairs;
    for (int i = 0; i < kWidth / 2; ++i) {
      pairs.at[i] = pack_bf16(values.at[2 * i], values.at[2 * i + 1]);
    }
    *reinterpret_cast<Words<uint32_t, kWidth / 2>*>(p) = pairs;
  }
}

/// All addresses are multiples of 16 bytes.
template <class... Pointers>
bool are_aligned(const Pointers*... pointers) {
  constexpr uintptr_t kBytes = 16;
  return ((reinterpret_cast<uintptr_t>(pointers) % kBytes == 0) && ...);
}

template <int kWidth, class Operation>
__global__ void elements_kernel(Operation operation, int64_t packs, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
  if (i < packs) operation.template run<kWidth>(i * kWidth);
  const int64_t behind = packs * kWidth + i;
  if (behind < count) operation.template run<1>(behind);
}

/// Calls operation.run<kWidth>(first), or run<1>, so that every element of [0, count) is in one
/// [first, first + width).
template <int kWidth = kPackWidth, class Operation>
void for_each_element(const Stream& stream, int64_t count, bool is_aligned,
                      const Operation& operation) {
  const int64_t packs = is_aligned ? count / kWidth : 0;
  const int64_t threads = std::max(packs, count - packs * kWidth);
  launch(stream, {.grid = blocks_for(threads, kBlockThreads), .block = kBlockThreads},
         elements_kernel<kWidth, Operation>, operation, packs, count);
}

/// How the threads of a block stand over rows: 2^lane_bits side by side in each row.
struct RowLanes {
  int64_t units;  ///< of a row; a lane takes every 2^lane_bits-th
  int lane_bits;

  __device__ int lanes() const { return 1 << lane_bits; }
  __device__ int lane() const { return static_cast<int>(threadIdx.x) & (lanes() - 1); }
  /// Which of the block's rows this thread is in.
  __device__ int row() const { return static_cast<int>(threadIdx.x) >> lane_bits; }
};

/// As few lanes as one pass over the units of a row needs, at most `most`, a power of two.
inline RowLanes row_lanes(int64_t units, int most) {
  const auto wanted =
      static_cast<uint32_t>(std::clamp<int64_t>(units, 1, static_cast<int64_t>(most)));
  return {units, std::countr_zero(std::bit_ceil(wanted))};
}

template <int kWidth, class Operation>
__global__ void rows_kernel(Operation operation, int64_t rows, RowLanes map) {
  const int64_t row = int64_t{blockIdx.x} * (kBlockThreads >> map.lane_bits) + map.row();
  if (row >= rows) return;
  for (int64_t unit = map.lane(); unit < map.units; unit += map.lanes()) {
    operation.template run<kWidth>(row, unit * kWidth);
  }
}

template <int kWidth, class Operation>
void launch_rows(const Stream& stream, int64_t rows, int64_t channels, const Operation& operation) {
  const RowLanes map = row_lanes(channels / kWidth, kBlockThreads);
  launch(stream, {.grid = blocks_for(rows, kBlockThreads >> map.lane_bits), .block = kBlockThreads},
         rows_kernel<kWidth, Operation>, operation, rows, map);
}

/// Calls operation.run<width>(row, first), with width kWidth or 1, for every row and all of its
/// channels.
template <int kWidth = kPackWidth, class Operation>
void for_each_row(const Stream& stream, int64_t rows, int64_t channels, bool is_aligned,
                  const Operation& operation) {
  if (is_aligned && channels % kWidth == 0) {
    launch_rows<kWidth>(stream, rows, channels, operation);
  } else {
    launch_rows<1>(stream, rows, channels, operation);
  }
}

}  // namespace stipple::kernels::cuda
