// SPDX-License-Identifier: Apache-2.0
#include "kernels/dropout.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/vectorize.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

/// Counters whose words are computed side by side: one vector register per word on AVX-512.
constexpr int kLanes = 16;
constexpr int kWords = 4;      // of one counter
constexpr int kUnitBits = 24;  // of to_unit_float

/// Walks the counters in memory order: the blocks of a token, the tokens of a sample, the samples.
class CounterWalk {
 public:
  CounterWalk(const Dropout& args, int64_t row)
      : blocks_(static_cast<uint32_t>((args.x.shape[2] + kWords - 1) / kWords)),
        tokens_(static_cast<uint32_t>(args.x.shape[1])),
        token_(static_cast<uint32_t>(row % args.x.shape[1])),
        sample_(args.samples.data + row / args.x.shape[1]),
        last_(args.samples.data + args.samples.numel() - 1) {}

  uint32_t block() const { return block_; }
  uint32_t token() const { return token_; }
  uint32_t sample() const { return *sample_; }

  void next() {
    if (++block_ < blocks_) return;
    block_ = 0;
    if (++token_ < tokens_) return;
    token_ = 0;
    // The last group of lanes may reach past the batch; nobody reads those words.
    if (sample_ != last_) ++sample_;
  }

 private:
  uint32_t blocks_, tokens_;
  uint32_t block_ = 0;
  uint32_t token_;
  const uint32_t* sample_;
  const uint32_t* last_;
};

/// words[4 * lane + w]: word w of the walk's next counters.
STIPPLE_VECTOR_BODY void next_words(CounterWalk& walk, uint32_t stream, PhiloxKey key,
                                    uint32_t* words) {
  uint32_t block[kLanes], token[kLanes], sample[kLanes];
  for (int lane = 0; lane < kLanes; ++lane, walk.next()) {
    block[lane] = walk.block();
    token[lane] = walk.token();
    sample[lane] = walk.sample();
  }
  // Unrolled, the loop would no longer be one for the vectoriser.
#pragma GCC unroll 1
  for (int lane = 0; lane < kLanes; ++lane) {
    const PhiloxCounter bits =
        philox4x32(rng_counter(block[lane], token[lane], sample[lane], stream), key);
    for (int w = 0; w < kWords; ++w) words[kWords * lane + w] = bits[static_cast<size_t>(w)];
  }
}

/// Elements [0, n) from the start of `row`, whose counters follow each other without gaps.
STIPPLE_VECTOR_BODY void drop_span(const Dropout* args, int64_t row, int64_t n) {
  const uint32_t stream = stream_word(args->layer, args->site, Purpose::kDropout);
  const PhiloxKey key = args->rng.philox();
  const float factor = 1.0f / (1.0f - args->rate);
  // to_unit_float(word) >= rate, compared as integers.
  const auto first_kept = static_cast<uint32_t>(std::ceil(std::ldexp(args->rate, kUnitBits)));
  const float* x = args->x.floats().data + row * args->x.shape[2];
  float* y = args->y.floats().data + row * args->x.shape[2];
  CounterWalk walk(*args, row);
  uint32_t words[kLanes * kWords];
  for (int64_t begin = 0; begin < n; begin += kLanes * kWords) {
    next_words(walk, stream, key, words);
    const int64_t count = std::min<int64_t>(kLanes * kWords, n - begin);
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const bool is_kept = words[i] >> (32 - kUnitBits) >= first_kept;
      y[begin + i] = is_kept ? x[begin + i] * factor : 0.0f;
    }
  }
}

STIPPLE_VECTOR_BODY void drop_rows(const Dropout* args, Range rows) {
  const int64_t channels = args->x.shape[2];
  if (channels % kWords == 0) return drop_span(args, rows.begin, rows.size() * channels);
  // The last counter of each token has words that belong to no channel.
  for (int64_t row = rows.begin; row < rows.end; ++row) drop_span(args, row, channels);
}

}  // namespace

void dropout(const Stream& stream, const Dropout& args) {
  if (args.rate == 0.0f && args.y.data == args.x.data) return;
  const int64_t rows = args.x.shape[0] * args.x.shape[1], channels = args.x.shape[2];
  stream.parallel_for(num_runs(rows, kCopyRowRun), [&](int64_t i, int) {
    const Range run = nth_run(i, rows, kCopyRowRun);
    if (args.rate == 0.0f) {
      std::copy_n(args.x.floats().data + run.begin * channels, run.size() * channels,
                  args.y.floats().data + run.begin * channels);
    } else {
      vectorized<drop_rows>(&args, run);
    }
  });
}

}  // namespace stipple::kernels::cpu
