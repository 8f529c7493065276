// SPDX-License-Identifier: Apache-2.0
// The memory in which `sample_edges` works on the CPU, sized by shapes and the number of threads
// alone.
#pragma once

#include "core/arena.h"
#include "core/view.h"
#include "kernels/cpu/sample/sample.h"
#include "kernels/math/alias_table.h"
#include "kernels/sbm.h"

namespace stipple::kernels::cpu {

struct SampleScratch {
  // First dimension everywhere: the worker.
  // Tiles.
  View<float> panel;         // these as in TileScratch
  View<int8_t> query_codes;  //
  View<uint8_t> key_codes;   //
  View<float> query_facts;   //
  View<uint32_t> bits;  // [T, 256, ceil(M / 32)] rows on their way to CSR; law poisson_multi only
  // Rows.
  View<math::AliasEntry> entries;  // [T, K + 1, M]           see KeyTables
  View<uint32_t> weights;          // [T, columns, stride]    see AliasBuild
  View<uint64_t> items;            // [T, columns, 2, stride]
  View<double> zeta;               // [T, K]                  column sums of z
  View<float> zmax;                // [T, K]                  column maxima of z
  View<uint32_t> real_keys;        // [T, M]
  View<uint64_t> rates;            // [T, SumTree size]
  View<uint64_t> drawn;            // [T, words]              drawn keys as a set, its summaries
  View<uint16_t> counts;           // [T, M]                  law poisson_multi only
  View<uint32_t> candidates;       // [T, M]

  TileScratch tiles(int worker) const {
    return {.panel = panel.at(worker).data,
            .query_codes = query_codes.at(worker).data,
            .key_codes = key_codes.at(worker).data,
            .query_facts = query_facts.at(worker).data};
  }
};

SampleScratch alloc_sample_scratch(Arena&, const SampleEdges&, int threads);

}  // namespace stipple::kernels::cpu
