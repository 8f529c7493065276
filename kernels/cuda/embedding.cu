// SPDX-License-Identifier: Apache-2.0
// Table lookup, and its gradient without atomics on floats: a stable counting sort puts the tokens
// of an id side by side, then they are added in fixed runs.
//   count: a thread per token; scan_chunks: a warp per id; scan_ids: one block of 1024 threads;
//   place: a warp per chunk of tokens; add_runs: as many threads side by side as channels need, per
//   run of 32 tokens of an id that has more; add_ids: a block of 256 threads per id, over the runs
//   or the few tokens of it.
// Shared memory of add_ids: 4 KiB.
#include "core/copy.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/embedding.h"
#include "kernels/runs.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kScanThreads = 1024;
constexpr int kScanWarps = kScanThreads / kWarpSize;

struct LookUp {
  float* y;
  const int32_t* ids;
  const float *table, *positions;
  int64_t tokens, channels;

  template <int kWidth>
  __device__ void run(int64_t row, int64_t c) const {
    Pack<kWidth> sum = load<kWidth>(table + ids[row] * channels + c);
    const Pack<kWidth> position = load<kWidth>(positions + row % tokens * channels + c);
    for (int j = 0; j < kWidth; ++j) sum.at[j] += position.at[j];
    store(y + row * channels + c, sum);
  }
};

struct AddPositions {
  float* dpositions;
  const float* dy;
  int64_t batch, tokens, channels;

  /// Row n is a position.
  template <int kWidth>
  __device__ void run(int64_t n, int64_t c) const {
    Pack<kWidth> sum = load<kWidth>(dpositions + n * channels + c);
#pragma unroll 4
    for (int64_t b = 0; b < batch; ++b) {
      const Pack<kWidth> d = load<kWidth>(dy + (b * tokens + n) * channels + c);
      for (int j = 0; j < kWidth; ++j) sum.at[j] += d.at[j];
    }
    store(dpositions + n * channels + c, sum);
  }
};

// --- the sort

struct Sort {
  int32_t *counts, *first, *first_run, *order;
  const int32_t* ids;
  int64_t tokens, chunk, chunks, vocabulary;
};

/// The sum over the lower lanes and this one.
__device__ int32_t scan_lanes(int32_t value) {
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const int32_t below = shuffle_up(value, delta);
    if (lane_index() >= delta) value += below;
  }
  return value;
}

/// Integers: the order in which they are counted does not show.
__global__ void count_kernel(Sort f) {
  const int64_t i = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
  if (i < f.tokens) atomic_add(&f.counts[f.ids[i] * f.chunks + i / f.chunk], 1);
}

/// counts becomes the tokens in earlier chunks; first gets the tokens of the id.
__global__ void scan_chunks_kernel(Sort f) {
  const int64_t id = int64_t{blockIdx.x} * (kBlockThreads / kWarpSize) + warp_index();
  if (id >= f.vocabulary) return;
  int32_t* counts = f.counts + id * f.chunks;
  int32_t before = 0;
  for (int64_t begin = 0; begin < f.chunks; begin += kWarpSize) {
    const int64_t chunk = begin + lane_index();
    const int32_t count = chunk < f.chunks ? counts[chunk] : 0;
    const int32_t up_to = scan_lanes(count);
    if (chunk < f.chunks) counts[chunk] = before + up_to - count;
    before += shuffle(up_to, kWarpSize - 1);
  }
  if (lane_index() == 0) f.first[id] = before;
}

struct ScanStep {
  int32_t before;  ///< of the threads below
  int32_t all;
};

__device__ ScanStep scan_block(int32_t value, int32_t* shared) {
  const int32_t up_to = scan_lanes(value);
  if (lane_index() == kWarpSize - 1) shared[warp_index()] = up_to;
  sync_threads();
  const int32_t warps = scan_lanes(lane_index() < kScanWarps ? shared[lane_index()] : 0);
  sync_threads();
  const int32_t lower_warps = warp_index() == 0 ? 0 : shuffle(warps, warp_index() - 1);
  return {lower_warps + up_to - value, shuffle(warps, kScanWarps - 1)};
}

/// first goes from the tokens of an id to those of lower ids; first_run counts the runs of ids that
/// have more than one.
__global__ void __launch_bounds__(kScanThreads) scan_ids_kernel(Sort f) {
  auto* shared = reinterpret_cast<int32_t*>(shared_memory());
  constexpr auto kRun = static_cast<int32_t>(kTokenRun);
  int32_t tokens = 0, runs = 0;
  for (int64_t begin = 0; begin < f.vocabulary; begin += kScanThreads) {
    const int64_t id = begin + threadIdx.x;
    const int32_t count = id < f.vocabulary ? f.first[id] : 0;
    const ScanStep of_tokens = scan_block(count, shared);
    const ScanStep of_runs = scan_block(count > kRun ? (count + kRun - 1) / kRun : 0, shared);
    if (id < f.vocabulary) {
      f.first[id] = tokens + of_tokens.before;
      f.first_run[id] = runs + of_runs.before;
    }
    tokens += of_tokens.all;
    runs += of_runs.all;
  }
  if (threadIdx.x != 0) return;
  f.first[f.vocabulary] = tokens;
  f.first_run[f.vocabulary] = runs;
}

/// The lanes that hold the same id as this one.
__device__ uint32_t lanes_with(int32_t id, bool is_token, int id_bits) {
  uint32_t same = ballot(is_token);
  for (int bit = 0; bit < id_bits; ++bit) {
    const bool is_set = (id >> bit & 1) != 0;
    const uint32_t set = ballot(is_set);
    same &= is_set ? set : ~set;
  }
  return same;
}

__global__ void place_kernel(Sort f, int id_bits) {
  const int64_t chunk = blockIdx.x;
  const int64_t end = std::min(f.tokens, (chunk + 1) * f.chunk);
  for (int64_t begin = chunk * f.chunk; begin < end; begin += kWarpSize) {
    const int64_t token = begin + lane_index();
    const bool is_token = token < end;
    const int32_t id = is_token ? f.ids[token] : 0;
    const uint32_t same = lanes_with(id, is_token, id_bits);
    int32_t* placed = &f.counts[id * f.chunks + chunk];
    const int32_t already = *placed;
    const int32_t rank = popcount(same & ((1u << lane_index()) - 1));
    sync_warp();
    if (is_token) f.order[f.first[id] + already + rank] = static_cast<int32_t>(token);
    if (is_token && rank == 0) *placed = already + popcount(same);
    sync_warp();
  }
}

// --- the sums

struct AddTokens {
  float *dtable, *partials;
  const float* dy;
  const int32_t *first, *first_run, *order;
  int64_t channels, vocabulary;
};

/// The id that run number `run` belongs to: the last whose first run is not behind it.
__device__ int64_t id_of_run(const AddTokens& f, int32_t run) {
  int64_t low = 0, high = f.vocabulary;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (f.first_run[middle] <= run ? low : high) = middle;
  }
  return low;
}

template <int kWidth>
__device__ void add_to(Pack<kWidth>& sum, const Pack<kWidth>& other) {
  for (int j = 0; j < kWidth; ++j) sum.at[j] += other.at[j];
}

struct AddRun {
  AddTokens f;

  template <int kWidth>
  __device__ void run(int64_t number, int64_t c) const {
    const auto run = static_cast<int32_t>(number);
    if (run >= f.first_run[f.vocabulary]) return;
    const int64_t id = id_of_run(f, run);
    const int32_t begin = f.first[id] + (run - f.first_run[id]) * static_cast<int32_t>(kTokenRun);
    const int32_t end = std::min(f.first[id + 1], begin + static_cast<int32_t>(kTokenRun));
    Pack<kWidth> sum{};
#pragma unroll 4
    for (int32_t i = begin; i < end; ++i) {
      add_to(sum, load<kWidth>(f.dy + f.order[i] * f.channels + c));
    }
    store(f.partials + number * f.channels + c, sum);
  }
};

/// The runs of an id, or its tokens where they make no more than one run.
template <int kWidth>
__device__ Pack<kWidth> sum_rows(const AddTokens& f, int64_t id, int64_t c, RowLanes map) {
  const int stride = kBlockThreads >> map.lane_bits;
  const int32_t run_end = f.first_run[id + 1];
  Pack<kWidth> sum{};
  int32_t i = f.first_run[id] + map.row();
  if (f.first_run[id] < run_end) {
#pragma unroll 4
    for (; i < run_end; i += stride) add_to(sum, load<kWidth>(f.partials + i * f.channels + c));
    return sum;
  }
  for (i = f.first[id] + map.row(); i < f.first[id + 1]; i += stride) {
    add_to(sum, load<kWidth>(f.dy + f.order[i] * f.channels + c));
  }
  return sum;
}

template <int kWidth>
__global__ void add_ids_kernel(AddTokens f, RowLanes map) {
  auto* shared = reinterpret_cast<Pack<kWidth>*>(shared_memory());
  const int64_t id = blockIdx.x;
  const auto thread = static_cast<int>(threadIdx.x);
  if (f.first[id] == f.first[id + 1]) return;
  for (int64_t begin = 0; begin < map.units; begin += map.lanes()) {
    const int64_t unit = begin + map.lane(), c = unit * kWidth;
    shared[thread] = unit < map.units ? sum_rows<kWidth>(f, id, c, map) : Pack<kWidth>{};
    sync_threads();
    for (int half = kBlockThreads / 2; half >= map.lanes(); half /= 2) {
      if (thread < half) add_to(shared[thread], shared[thread + half]);
      sync_threads();
    }
    if (map.row() == 0 && unit < map.units) {
      float* dtable = f.dtable + id * f.channels + c;
      Pack<kWidth> sum = load<kWidth>(dtable);
      add_to(sum, shared[thread]);
      store(dtable, sum);
    }
    sync_threads();
  }
}

void sort_tokens(const Stream& stream, const EmbeddingBackward& args, const TokensById& to) {
  const Sort sort{.counts = to.counts.data,
                  .first = to.first.data,
                  .first_run = to.first_run.data,
                  .order = to.order.data,
                  .ids = args.ids.data,
                  .tokens = args.ids.numel(),
                  .chunk = to.chunk,
                  .chunks = to.counts.shape[1],
                  .vocabulary = args.dtable.shape[0]};
  const int id_bits = std::bit_width(static_cast<uint64_t>(sort.vocabulary));
  fill_zero(stream, to.counts);
  launch(stream, {.grid = blocks_for(sort.tokens, kBlockThreads), .block = kBlockThreads},
         count_kernel, sort);
  launch(stream,
         {.grid = blocks_for(sort.vocabulary, kBlockThreads / kWarpSize), .block = kBlockThreads},
         scan_chunks_kernel, sort);
  launch(stream, {.grid = 1, .block = kScanThreads, .shared_bytes = kScanWarps * sizeof(int32_t)},
         scan_ids_kernel, sort);
  launch(stream, {.grid = dim3(static_cast<unsigned>(sort.chunks)), .block = kWarpSize},
         place_kernel, sort, id_bits);
}

template <int kWidth>
void launch_add_ids(const Stream& stream, const AddTokens& add) {
  launch(stream,
         {.grid = dim3(static_cast<unsigned>(add.vocabulary)),
          .block = kBlockThreads,
          .shared_bytes = kBlockThreads * sizeof(Pack<kWidth>)},
         add_ids_kernel<kWidth>, add, row_lanes(add.channels / kWidth, kBlockThreads));
}

}  // namespace

void embedding(const Stream& stream, const Embedding& args) {
  const int64_t tokens = args.y.shape[1], channels = args.y.shape[2];
  for_each_row(stream, args.ids.numel(), channels,
               are_aligned(args.y.data, args.table.data, args.positions.data),
               LookUp{.y = args.y.data,
                      .ids = args.ids.data,
                      .table = args.table.data,
                      .positions = args.positions.data,
                      .tokens = tokens,
                      .channels = channels});
}

void embedding_backward(const Stream& stream, const EmbeddingBackward& args,
                        const TokensById& by_id) {
  const int64_t batch = args.dy.shape[0], tokens = args.dy.shape[1], channels = args.dy.shape[2];
  if (args.dy.numel() == 0) return;
  for_each_row(stream, tokens, channels, are_aligned(args.dpositions.data, args.dy.data),
               AddPositions{.dpositions = args.dpositions.data,
                            .dy = args.dy.data,
                            .batch = batch,
                            .tokens = tokens,
                            .channels = channels});
  sort_tokens(stream, args, by_id);
  const AddTokens add{.dtable = args.dtable.data,
                      .partials = by_id.partials.data,
                      .dy = args.dy.data,
                      .first = by_id.first.data,
                      .first_run = by_id.first_run.data,
                      .order = by_id.order.data,
                      .channels = channels,
                      .vocabulary = args.dtable.shape[0]};
  const bool is_aligned = are_aligned(add.dtable, add.dy, add.partials);
  for_each_row(stream, by_id.partials.shape[0], channels, is_aligned, AddRun{add});
  is_aligned&& channels % kPackWidth == 0 ? launch_add_ids<kPackWidth>(stream, add)
                                          : launch_add_ids<1>(stream, add);
}

}  // namespace stipple::kernels::cuda
