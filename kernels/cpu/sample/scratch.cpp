// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/sample/scratch.h"

#include <algorithm>

#include "kernels/cpu/sample/rows.h"
#include "kernels/cpu/sample/sample.h"
#include "kernels/math/edge_form.h"

namespace stipple::kernels::cpu {

SampleScratch alloc_sample_scratch(Arena& arena, const SampleEdges& args, int threads) {
  const int64_t m = args.edges.num_keys;
  const int64_t k = args.mu.shape[3];
  const math::EdgeFormRule rule(args);
  SampleScratch scratch;
  if (rule.may_draw_tiles()) {
    const int64_t padded = TileScratch::padded_clusters(k);
    scratch.panel = arena.alloc<float>({threads, k, kMaxPanel});
    scratch.query_codes = arena.alloc<int8_t>({threads, kMaxTileRows, padded});
    scratch.key_codes = arena.alloc<uint8_t>({threads, padded, kMaxPanel});
    scratch.query_facts = arena.alloc<float>({threads, TileScratch::kQueryFacts, kMaxTileRows});
    if (rule.draws_counted_tiles()) {
      scratch.bits = arena.alloc<uint32_t>({threads, kCountedRowRun, args.edges.words_per_row()});
    }
  }
  if (rule.may_draw_rows()) {
    const int64_t columns = std::min(k, kAliasColumns);
    const int64_t stride = AliasBuild::stride_of(m);
    scratch.entries = arena.alloc<AliasEntry>({threads, k + 1, m});
    scratch.weights = arena.alloc<uint32_t>({threads, columns, stride});
    scratch.items = arena.alloc<uint64_t>({threads, columns, 2, stride});
    scratch.zeta = arena.alloc<double>({threads, k});
    scratch.zmax = arena.alloc<float>({threads, k});
    scratch.real_keys = arena.alloc<uint32_t>({threads, m + 1});
    scratch.rates = arena.alloc<uint64_t>({threads, SumTree(k + 1).size});
    scratch.drawn = arena.alloc<uint64_t>({threads, KeySet::num_words(m)});
    scratch.candidates = arena.alloc<uint32_t>({threads, m + 1});
    if (args.law == MaskLaw::kPoissonMulti) scratch.counts = arena.alloc<uint16_t>({threads, m});
  }
  return scratch;
}

}  // namespace stipple::kernels::cpu
