// SPDX-License-Identifier: Apache-2.0
// Table lookup, and its gradient without atomics on floats: a stable sort puts the tokens of an id
// side by side, then they are added in fixed runs.
//   find_ids: a thread per id; add_runs: as many threads side by side as channels need, per run of
//   32 tokens of an id that has more; add_ids: a block of 256 threads per id, over the runs or the
//   few tokens of it.
// Shared memory of add_ids: 4 KiB.
//
// CUB sorts by the bits that ids have, 8 at a time, so in two passes for 257 to 65,536 ids. Up to
// 4,864 tokens that is one launch of one block; above, four kernels and four memsets that move 36
// bytes a token: 36 MB for a million. The scan of the runs is two small launches more. A sort of
// our own that counts ids in chunks of tokens would need four launches fewer, but a count for each
// id and chunk: 200 MB moved for a million tokens of 30,000 ids.
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <limits>

#include "core/error.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/embedding.h"
#include "kernels/embedding.h"
#include "kernels/runs.h"

namespace stipple::kernels::cuda {
namespace {

template <int kWidth>
__device__ void add_to(Pack<kWidth>& sum, const Pack<kWidth>& other) {
  for (int j = 0; j < kWidth; ++j) sum.at[j] += other.at[j];
}

/// positions and segments: may be null.
struct LookUp {
  float* y;
  const int32_t *ids, *segments;
  const float *table, *positions, *segment_table;
  int64_t tokens, channels;

  template <int kWidth>
  __device__ void run(int64_t row, int64_t c) const {
    Pack<kWidth> sum = load<kWidth>(table + ids[row] * channels + c);
    if (positions != nullptr) add_to(sum, load<kWidth>(positions + row % tokens * channels + c));
    if (segments != nullptr) {
      add_to(sum, load<kWidth>(segment_table + segments[row] * channels + c));
    }
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

/// No less than CUB's sort and scan ask for on any GPU: they tell only where there is one, and
/// plans are made without. The sort copies ids and numbers once, 8 bytes a token, and keeps 1 KiB
/// of counts for each of its tiles, which have 8,064 tokens or more (sm_80 to sm_100, CUDA 13.0),
/// and for each of at most 4 passes over each 2^28 tokens: so 10 bytes a token and 64 KiB. The scan
/// keeps 8 bytes for each tile of hundreds of ids.
int64_t temporary_bytes(int64_t tokens, int64_t vocabulary) {
  constexpr int64_t kOfToken = 10, kOfId = 1, kAtLeast = 64 << 10;
  return kAtLeast + kOfToken * tokens + kOfId * vocabulary;
}

TokensById scratch_of_sort(const EmbeddingBackward& args) {
  const int64_t tokens = args.ids.numel(), vocabulary = args.dtable.shape[0];
  STIPPLE_CHECK(tokens <= std::numeric_limits<int32_t>::max(), "embedding_backward: ", tokens,
                " tokens are too many for one call; use smaller micro-batches");
  // An id of n > kTokenRun tokens has fewer than 2 n / kTokenRun runs.
  const int64_t runs = 2 * num_runs(tokens, kTokenRun);
  Arena& scratch = *args.scratch;
  return {.numbers = scratch.alloc<int32_t>({tokens}),
          .sorted_ids = scratch.alloc<int32_t>({tokens}),
          .order = scratch.alloc<int32_t>({tokens}),
          .first = scratch.alloc<int32_t>({vocabulary + 1}),
          .first_run = scratch.alloc<int32_t>({vocabulary + 1}),
          .temporary = scratch.alloc<std::byte>({temporary_bytes(tokens, vocabulary)}),
          .partials = scratch.alloc<float>({runs, args.dy.shape[2]})};
}

struct NumberTokens {
  int32_t* numbers;

  template <int kWidth>
  __device__ void run(int64_t first) const {
    for (int64_t i = first; i < first + kWidth; ++i) numbers[i] = static_cast<int32_t>(i);
  }
};

struct FindIds {
  int32_t *first, *runs;
  const int32_t* sorted_ids;
  int64_t tokens, vocabulary;
};

/// The first of tokens [begin, tokens) in order whose id is not below `id`.
__device__ int64_t first_token(const FindIds& f, int64_t begin, int64_t id) {
  int64_t end = f.tokens;
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (f.sorted_ids[middle] < id) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

/// Where ids begin, and how many runs the tokens make of an id that has more than one.
__global__ void find_ids_kernel(FindIds f) {
  const int64_t id = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
  if (id > f.vocabulary) return;
  const int64_t begin = first_token(f, 0, id);
  const int64_t count = first_token(f, begin, id + 1) - begin;
  f.first[id] = static_cast<int32_t>(begin);
  f.runs[id] = count > kTokenRun ? static_cast<int32_t>((count + kTokenRun - 1) / kTokenRun) : 0;
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

/// Calls CUB twice, as it wants: it alone knows how much memory it needs, and only where there is a
/// GPU. It takes the thread's last error for its own, even one that somebody else made and handled.
template <class Call>
void call_cub(View<std::byte> temporary, const Call& call) {
  static_cast<void>(cudaGetLastError());
  size_t needed = 0;
  CUDA_CHECK(call(nullptr, needed));
  size_t planned = temporary.bytes();
  STIPPLE_CHECK(needed <= planned, "embedding_backward: CUB asks for ", needed,
                " bytes of scratch, and ", planned,
                " are planned; build with a version of the CUDA toolkit that has been tested");
  CUDA_CHECK(call(temporary.data, planned));
}

void sort_tokens(const Stream& stream, const EmbeddingBackward& args, const TokensById& to) {
  const int64_t tokens = args.ids.numel(), vocabulary = args.dtable.shape[0];
  const auto last_id = static_cast<uint64_t>(std::max(vocabulary - 1, int64_t{1}));
  const auto native = static_cast<cudaStream_t>(stream.native());
  for_each_element(stream, tokens, true, NumberTokens{to.numbers.data});
  call_cub(to.temporary, [&](void* storage, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(storage, bytes, args.ids.data, to.sorted_ids.data,
                                           to.numbers.data, to.order.data, static_cast<int>(tokens),
                                           0, static_cast<int>(std::bit_width(last_id)), native);
  });
  launch(stream, {.grid = blocks_for(vocabulary + 1, kBlockThreads), .block = kBlockThreads},
         find_ids_kernel,
         FindIds{.first = to.first.data,
                 .runs = to.first_run.data,
                 .sorted_ids = to.sorted_ids.data,
                 .tokens = tokens,
                 .vocabulary = vocabulary});
  call_cub(to.temporary, [&](void* storage, size_t& bytes) {
    return cub::DeviceScan::ExclusiveSum(storage, bytes, to.first_run.data, to.first_run.data,
                                         static_cast<int>(vocabulary + 1), native);
  });
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
  for_each_row(
      stream, args.ids.numel(), channels,
      are_aligned(args.y.data, args.table.data, args.positions.data, args.segment_table.data),
      LookUp{.y = args.y.data,
             .ids = args.ids.data,
             .segments = args.segments.data,
             .table = args.table.data,
             .positions = args.positions.data,
             .segment_table = args.segment_table.data,
             .tokens = tokens,
             .channels = channels});
}

void embedding_backward(const Stream& stream, const EmbeddingBackward& args) {
  const Arena::Scope scope(*args.scratch);
  embedding_backward(stream, args, scratch_of_sort(args));
}

void embedding_backward(const Stream& stream, const EmbeddingBackward& args,
                        const TokensById& by_id) {
  if (stream.is_plan()) return;
  const int64_t batch = args.dy.shape[0], tokens = args.dy.shape[1], channels = args.dy.shape[2];
  if (args.dy.numel() == 0) return;
  if (!args.dpositions.empty()) {
    for_each_row(stream, tokens, channels, are_aligned(args.dpositions.data, args.dy.data),
                 AddPositions{.dpositions = args.dpositions.data,
                              .dy = args.dy.data,
                              .batch = batch,
                              .tokens = tokens,
                              .channels = channels});
  }
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
