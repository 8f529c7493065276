// SPDX-License-Identifier: Apache-2.0
// What the row sampler draws keys from, of the problems of a wave: the CPU's tables
// (kernels/math/key_tables.h), made on the device.
#pragma once

#include "kernels/cuda/sample/parts.h"
#include "kernels/math/key_tables.h"

namespace stipple::kernels::cuda {

/// First dimension: the problem within the wave.
struct WaveTables {
  int64_t num_clusters = 0;             ///< K
  int64_t num_keys = 0;                 ///< M
  math::AliasEntry* entries = nullptr;  // [W, K + 1, M]
  float* zmax = nullptr;                // [W, K]  largest z of a cluster
  double* zeta = nullptr;               // [W, K]  rate of a cluster
  int32_t* num_real = nullptr;          // [W]
  int32_t* num_items = nullptr;         // [W]  of a table: keys up to the last real one

  /// Of cluster v of the w-th problem of the wave; cluster number K is exploration.
  __device__ math::AliasEntry* table(int64_t w, int64_t v) const {
    return entries + w * (num_clusters + 1) * num_keys + v * num_items[w];
  }
  __device__ math::KeyTables of(int64_t w) const {
    return {.num_clusters = num_clusters, .num_keys = num_items[w], .entries = table(w, 0)};
  }
};

WaveTables wave_tables(const SampleCall&);

/// Of the problems of the wave that are stored as CSR.
void build_key_tables(const SampleCall&, const Wave&);

}  // namespace stipple::kernels::cuda
