// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/sample/scratch.h"

#include <algorithm>

#include "kernels/cuda/edges.h"
#include "kernels/math/edge_form.h"
#include "kernels/math/key_tables.h"

namespace stipple::kernels::cuda {
namespace {

// Bytes of scratch that the problems of one wave may take; fewer problems take what they need.
// Every wave ends with a round of blocks that leaves part of the GPU idle, so there should be few.
constexpr int64_t kWaveBytes = 512 << 20;

// Allocates for waves of the given number of problems.
SampleScratch alloc_wave(Arena& arena, const SampleEdges& args, Precision precision, int64_t wave) {
  const int64_t n = args.edges.num_queries;
  const int64_t m = args.edges.num_keys;
  const int64_t k = args.mu.shape[3];
  const math::EdgeFormRule rule(args);
  SampleScratch scratch;
  scratch.wave = wave;
  constexpr int64_t kProduct = 16;
  const int64_t padded = (k + kProduct - 1) / kProduct * kProduct;
  const bool is_stored_rounded = args.mu.precision == Precision::kBf16;
  const bool is_rounded = is_stored_rounded || precision == Precision::kBf16;
  const bool is_ready = is_stored_rounded && padded == k;
  if (rule.may_be_bits() && is_rounded && !is_ready) {
    scratch.mu = arena.alloc<bf16>({wave, n, padded});
    scratch.z = arena.alloc<bf16>({wave, m, padded});
  }
  if (rule.may_draw_rows()) {
    scratch.entries = arena.alloc<math::AliasEntry>({wave, k + 1, m});
    scratch.zmax = arena.alloc<float>({wave, k});
    scratch.zeta = arena.alloc<double>({wave, k});
    scratch.num_real = arena.alloc<int32_t>({wave});
    scratch.num_items = arena.alloc<int32_t>({wave});
  }
  if (rule.may_draw_rows() || rule.draws_counted_tiles()) {
    scratch.drawn = arena.alloc<uint64_t>({wave});
    scratch.row_begin = arena.alloc<uint32_t>({wave, n});
    scratch.cursors = arena.alloc<int32_t>({wave, transpose_chunks(n), m});
  }
  return scratch;
}

}  // namespace

SampleScratch alloc_sample_scratch(Arena& arena, const SampleEdges& args, Precision precision) {
  Arena one("one problem");
  alloc_wave(one, args, precision, 1);
  const auto bytes = std::max<int64_t>(1, static_cast<int64_t>(one.used()));
  const int64_t problems = std::max<int64_t>(1, args.edges.num_problems());
  const int64_t most = std::clamp<int64_t>(kWaveBytes / bytes, 1, problems);
  // Waves of nearly equal size.
  const int64_t waves = (problems + most - 1) / most;
  const auto before = static_cast<int64_t>(arena.used());
  SampleScratch scratch = alloc_wave(arena, args, precision, (problems + waves - 1) / waves);
  // Fewer or shorter problems may go into fewer, larger waves; a plan for the most must serve them.
  const int64_t enough = std::max(bytes, std::min(kWaveBytes, problems * bytes));
  const int64_t used = static_cast<int64_t>(arena.used()) - before;
  arena.alloc<std::byte>({std::max<int64_t>(0, enough - used)});
  const int64_t k = args.mu.shape[3];
  const int64_t m = args.edges.num_keys;
  if (math::EdgeFormRule(args).may_draw_rows() && AliasWorkspace(m).is_long) {
    const int64_t blocks = std::min(AliasWorkspace::kLongBlocks, problems * (k + 1));
    scratch.long_sums = arena.alloc<uint64_t>({blocks, m});
    scratch.long_items = arena.alloc<uint32_t>({blocks, m});
  }
  const RowWorkspace workspace(m, math::SumTree(k + 1).size);
  if (!scratch.drawn.empty() && workspace.has_long_string) {
    scratch.long_string =
        arena.alloc<uint32_t>({RowWorkspace::kLongWarps, workspace.string_words()});
  }
  return scratch;
}

}  // namespace stipple::kernels::cuda
