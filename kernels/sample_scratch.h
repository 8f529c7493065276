// SPDX-License-Identifier: Apache-2.0
// The memory `sample_edges` works in, sized by shapes and the number of threads alone. First
// dimension everywhere: the worker.
#pragma once

#include "core/arena.h"
#include "core/view.h"
#include "kernels/sbm.h"

namespace stipple::kernels {

struct SampleScratch {
  // Tiles.
  View<float> panel;  // [T, K, 64]              packed keys
  View<uint32_t>
      bits;  // [T, 64, ceil(M / 32)]   tile rows on their way to CSR; law poisson_multi only
  // Rows.
  View<int32_t> within;       // [T, blocks, K, 16]  see KeyTables
  View<uint64_t> blocks;      // [T, K, SumTree size]
  View<double> zeta;          // [T, K]              column sums of z
  View<float> zmax;           // [T, K]              column maxima of z
  View<float> scale;          // [T, K]              of the quantised weights
  View<uint32_t> real_keys;   // [T, M]
  View<uint64_t> rates;       // [T, SumTree size]
  View<uint64_t> drawn;       // [T, words]          the set of drawn keys and its summaries
  View<uint16_t> counts;      // [T, M]              law poisson_multi only
  View<uint32_t> candidates;  // [T, M]
};

SampleScratch alloc_sample_scratch(Arena&, const SampleEdges&, int threads);

}  // namespace stipple::kernels
