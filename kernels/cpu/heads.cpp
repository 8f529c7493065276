// SPDX-License-Identifier: Apache-2.0
#include "kernels/heads.h"

#include <algorithm>

#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

/// Calls copy(joined offset, split offset, D) for every row of every head.
template <class Copy>
void for_each_head_row(const Stream& stream, const Shape& split, const Copy& copy) {
  const int64_t heads = split[1], tokens = split[2], width = split[3];
  const int64_t rows = split[0] * tokens;
  stream.parallel_for(num_runs(rows, kCopyRowRun), [&](int64_t i, int) {
    const Range run = nth_run(i, rows, kCopyRowRun);
    for (int64_t row = run.begin; row < run.end; ++row) {
      const int64_t b = row / tokens, n = row % tokens;
      for (int64_t h = 0; h < heads; ++h) {
        copy((row * heads + h) * width, ((b * heads + h) * tokens + n) * width, width);
      }
    }
  });
}

}  // namespace

void split_heads(const Stream& stream, const SplitHeads& args) {
  for_each_head_row(stream, args.y.shape, [&](int64_t joined, int64_t split, int64_t n) {
    std::copy_n(args.x.floats().data + joined, n, args.y.floats().data + split);
  });
}

void merge_heads(const Stream& stream, const MergeHeads& args) {
  for_each_head_row(stream, args.x.shape, [&](int64_t joined, int64_t split, int64_t n) {
    std::copy_n(args.x.floats().data + split, n, args.y.floats().data + joined);
  });
}

}  // namespace stipple::kernels::cpu
