// SPDX-License-Identifier: Apache-2.0
// The stable sort by some bits of integer keys, with CUB's names.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#include "cuda_on_cpu/cub.h"

namespace cub {

struct DeviceRadixSort {
  template <std::integral Key, class Value>
  static cudaError_t SortPairs(void* storage, size_t& bytes, const Key* keys_in, Key* keys_out,
                               const Value* values_in, Value* values_out, int count,
                               int begin_bit = 0, int end_bit = sizeof(Key) * 8,
                               cudaStream_t stream = nullptr) {
    if (begin_bit < 0 || end_bit > static_cast<int>(sizeof(Key) * 8) || begin_bit > end_bit) {
      return cudaErrorInvalidValue;
    }
    const size_t needed = needed_bytes(static_cast<size_t>(count), sizeof(Key), sizeof(Value),
                                       static_cast<size_t>(end_bit - begin_bit));
    return cuda_on_cpu::run_with_storage(storage, bytes, needed, stream, [=] {
      const auto order = stable_order(keys_in, count, begin_bit, end_bit);
      for (int i = 0; i < count; ++i) {
        const int32_t from = order[static_cast<size_t>(i)];
        keys_out[i] = keys_in[from];
        values_out[i] = values_in[from];
      }
    });
  }

 private:
  /// CUB's sum for an H100, also where it would sort in one block and need nothing.
  static size_t needed_bytes(size_t count, size_t key_bytes, size_t value_bytes, size_t bits) {
    constexpr size_t kDigitBits = 8, kCountsBytes = 256 * sizeof(int32_t), kTile = 384 * 23;
    const size_t passes = (bits + kDigitBits - 1) / kDigitBits;
    const size_t tiles = (count + kTile - 1) / kTile;
    const bool has_copies = passes > 1;
    return cuda_on_cpu::aligned_bytes(passes * kCountsBytes) +
           cuda_on_cpu::aligned_bytes(tiles * kCountsBytes) +
           cuda_on_cpu::aligned_bytes(has_copies ? count * key_bytes : 0) +
           cuda_on_cpu::aligned_bytes(has_copies ? count * value_bytes : 0) +
           cuda_on_cpu::aligned_bytes(passes * sizeof(int32_t)) + 255;
  }

  template <class Key>
  static std::vector<int32_t> stable_order(const Key* keys, int count, int begin_bit, int end_bit) {
    using Bits = std::make_unsigned_t<Key>;
    constexpr Bits kSign = std::is_signed_v<Key> ? Bits{1} << (sizeof(Key) * 8 - 1) : Bits{0};
    const int num_bits = end_bit - begin_bit;
    const Bits mask = num_bits == 0 ? Bits{0}
                                    : static_cast<Bits>(std::numeric_limits<Bits>::max() >>
                                                        (sizeof(Key) * 8 - size_t(num_bits)));
    const auto digits = [=](int32_t i) {
      return static_cast<Bits>((static_cast<Bits>(keys[i]) ^ kSign) >> begin_bit & mask);
    };
    std::vector<int32_t> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return digits(a) < digits(b); });
    return order;
  }
};

}  // namespace cub
