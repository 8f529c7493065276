// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/vectorize.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

/// A worker owns these channels of all tables and walks the tokens in order, so no two workers add
/// to the same element and the order of the sum is the tokens' own. One cache line of floats.
constexpr int64_t kChannelsOfWorker = 16;

STIPPLE_VECTOR_BODY void look_up(const Embedding* args, Range rows) {
  const int64_t tokens = args->y.shape[1], channels = args->y.shape[2];
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    float* __restrict y = args->y.data + row * channels;
    const float* __restrict word = args->table.data + args->ids[row] * channels;
    if (args->positions.empty()) {
      std::copy_n(word, channels, y);
      continue;
    }
    const float* __restrict position = args->positions.data + row % tokens * channels;
    for (int64_t c = 0; c < channels; ++c) y[c] = word[c] + position[c];
  }
}

STIPPLE_VECTOR_BODY void add_segments(const Embedding* args, Range rows) {
  const int64_t channels = args->y.shape[2];
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    float* __restrict y = args->y.data + row * channels;
    const float* __restrict segment = args->segment_table.data + args->segments[row] * channels;
    for (int64_t c = 0; c < channels; ++c) y[c] += segment[c];
  }
}

STIPPLE_VECTOR_BODY void scatter_add(const EmbeddingBackward* args, Range slice) {
  const int64_t batch = args->dy.shape[0], tokens = args->dy.shape[1], channels = args->dy.shape[2];
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t n = 0; n < tokens; ++n) {
      const int64_t row = b * tokens + n;
      const float* __restrict dy = args->dy.data + row * channels;
      float* __restrict word = args->dtable.data + args->ids[row] * channels;
      for (int64_t c = slice.begin; c < slice.end; ++c) word[c] += dy[c];
      if (args->dpositions.empty()) continue;
      float* __restrict position = args->dpositions.data + n * channels;
      for (int64_t c = slice.begin; c < slice.end; ++c) position[c] += dy[c];
    }
  }
}

void check_ids(View<const int32_t> ids, Range rows, int64_t vocabulary) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    STIPPLE_CHECK(ids[row] >= 0 && ids[row] < vocabulary, "embedding: token id ", ids[row],
                  " at position ", row, " is outside the vocabulary of ", vocabulary);
  }
}

}  // namespace

void embedding(const Stream& stream, const Embedding& args) {
  const int64_t rows = args.ids.numel();
  stream.parallel_for(num_runs(rows, kCopyRowRun), [&](int64_t i, int) {
    const Range run = nth_run(i, rows, kCopyRowRun);
    check_ids(args.ids, run, args.table.shape[0]);
    vectorized<look_up>(&args, run);
    if (args.segments.empty()) return;
    check_ids(args.segments, run, args.segment_table.shape[0]);
    vectorized<add_segments>(&args, run);
  });
}

void embedding_backward(const Stream& stream, const EmbeddingBackward& args) {
  if (stream.is_plan()) return;
  const int64_t channels = args.dy.shape[2];
  check_ids(args.ids, {0, args.ids.numel()}, args.dtable.shape[0]);
  stream.parallel_for(num_runs(channels, kChannelsOfWorker), [&](int64_t i, int) {
    vectorized<scatter_add>(&args, nth_run(i, channels, kChannelsOfWorker));
  });
}

}  // namespace stipple::kernels::cpu
