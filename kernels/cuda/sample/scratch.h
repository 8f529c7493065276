// SPDX-License-Identifier: Apache-2.0
// The memory in which `sample_edges` works on CUDA, sized by shapes and the precision alone.
#pragma once

#include <cstdint>

#include "core/arena.h"
#include "core/bf16.h"
#include "core/host_device.h"
#include "core/stream.h"
#include "core/view.h"
#include "kernels/math/alias_table.h"
#include "kernels/sbm.h"

namespace stipple::kernels::cuda {

/// How the shared memory of a warp that draws rows on CUDA is cut.
struct RowWorkspace {
  static constexpr int64_t kGroup = 1024;  ///< keys that a warp looks at in one step
  static constexpr int64_t kMostSharedBytes = 64 << 10;
  static constexpr int64_t kLongWarps = 256;  ///< that have a string in global memory

  /// rate_entries: size of the SumTree of a row's rates.
  RowWorkspace(int64_t num_keys, int64_t rate_entries)
      : groups((num_keys + kGroup - 1) / kGroup), rates(rate_entries) {
    has_long_string = bytes() > kMostSharedBytes;
  }

  /// One bit a key, then one bit a group.
  STIPPLE_HD int64_t string_words() const { return groups * (kGroup / 32) + (groups + 31) / 32; }
  /// Of shared memory a warp: rates, the string unless it is long, 32 words, a group's offsets.
  STIPPLE_HD int64_t bytes() const {
    const int64_t string = has_long_string ? 0 : string_words();
    return (rates * 8 + 32 * 4 + kGroup * 2 + string * 4 + 15) / 16 * 16;
  }

  int64_t groups;
  int64_t rates;
  bool has_long_string = false;  ///< the string of drawn keys lies in global memory
};

/// The lists of a block that makes an alias table on CUDA: a running sum and a key for each key.
struct AliasWorkspace {
  static constexpr int64_t kMostThreads = 1024;
  static constexpr int64_t kMostSharedBytes = 96 << 10;
  static constexpr int64_t kLongBlocks = 264;  ///< that have their lists in global memory

  explicit AliasWorkspace(int64_t num_keys)
      : bytes(num_keys * static_cast<int64_t>(sizeof(uint64_t) + sizeof(uint32_t))),
        is_long(bytes > kMostSharedBytes) {}

  int64_t bytes;
  bool is_long;
};

/// Problems are worked on in waves of W, so that memory does not grow with their number.
/// First dimension, unless said otherwise: the problem within the wave.
struct SampleScratch {
  int64_t wave = 1;  ///< W
  // Tiles, precision bf16: factors rounded, K padded to whole products of 16. Empty where they are
  // stored like that.
  View<bf16> mu;  // [W, N, Kp]
  View<bf16> z;   // [W, M, Kp]
  // Rows.
  View<math::AliasEntry> entries;  // [W, K + 1, M]  see math::KeyTables
  View<float> zmax;                // [W, K]
  View<double> zeta;               // [W, K]
  View<int32_t> num_real;          // [W]
  View<int32_t> num_items;         // [W]            keys up to the last real one
  // First dimension: the block or warp. Only where shared memory does not suffice.
  View<uint64_t> long_sums;    // [blocks, M]     lists of an alias table
  View<uint32_t> long_items;   // [blocks, M]
  View<uint32_t> long_string;  // [warps, words]  drawn keys of a row
  // CSR.
  View<uint64_t> drawn;      // [W]            words of by_key that hold drawn rows
  View<uint32_t> row_begin;  // [W, N]         where a drawn row lies there
  View<int32_t> cursors;     // [W, chunks, M] edges of a key in chunks of rows
};

SampleScratch alloc_sample_scratch(Arena&, const SampleEdges&, Precision);

/// With scratch that is given: how a test chooses the size of waves.
void sample_edges(const Stream&, const SampleEdges&, const SampleScratch&);

}  // namespace stipple::kernels::cuda
