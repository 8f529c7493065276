// SPDX-License-Identifier: Apache-2.0
// Alias tables of the keys' weights in every cluster, the CPU's integers
// (kernels/cpu/sample/key_tables.cpp).
//   key_maxima: (p, 32 clusters, 1,024 keys) a block; key_weights: (p, 32 clusters, 32
//   keys) a block, transposed through shared memory into the entries of the alias tables to be;
//   alias_tables: (p, cluster) a block: its warps list the light and heavy keys of a run each with
//   running sums of deficits and surpluses, then a thread makes an entry by one search in the other
//   list (kernels/math/alias_table.h).
// Shared memory of a block that makes an alias table: 12 bytes a key (global memory beyond 8,192
// keys).
// What the tables cost on an H200, by count, not measured: a key and cluster is read twice (8 bytes
// in fp32), written as a weight and read back three times, twice from L2, and written as an entry:
// 32 bytes of HBM; 50 instructions of a lane for its list and 8 for each step of its search. For P
// = 256 problems of 4,096 keys and 128 clusters, 134 million entries: 4.3 GB or 1.0 ms of HBM and
// 0.6 ms of instructions, which overlap in part: 1.0 to 1.6 ms.
#include "core/copy.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/sample/key_tables.cuh"
#include "kernels/cuda/sums.h"

namespace stipple::kernels::cuda {
namespace {

using math::AliasEntry;
using math::AliasLists;

struct TableInputs {
  SampleInputs in;
  const EdgeForm* form = nullptr;  // [P]
  Wave wave;
  WaveTables tables;
  uint64_t* long_sums = nullptr;
  uint32_t* long_items = nullptr;
};

constexpr int kMaximaKeys = 1024;
constexpr int kMaximaWarps = 8;

// zmax and num_items start as zeros. Positive floats are ordered as their bits are.
template <class T>
__global__ void __launch_bounds__(kMaximaWarps* kWarpSize) key_maxima_kernel(TableInputs inputs) {
  const SampleInputs& in = inputs.in;
  const int64_t groups = (in.num_clusters + kWarpSize - 1) / kWarpSize;
  const int64_t runs = (in.num_keys + kMaximaKeys - 1) / kMaximaKeys;
  const int64_t w = int64_t{blockIdx.x} / runs / groups;
  const int64_t p = inputs.wave.first + w;
  if (inputs.form[p] != EdgeForm::kCsr) return;
  const SampleProblem problem = in.problem(p);
  const int64_t v = int64_t{blockIdx.x} / runs % groups * kWarpSize + lane_index();
  const int64_t begin = int64_t{blockIdx.x} % runs * kMaximaKeys;
  const int64_t end = begin + kMaximaKeys < in.num_keys ? begin + kMaximaKeys : in.num_keys;
  if (v >= in.num_clusters) return;
  const T* column = problem.as<T>(problem.z) + v;
  float largest = 0.0f;
  int64_t num_items = 0;
  for (int64_t j = begin + warp_index(); j < end; j += kMaximaWarps) {
    if (!problem.is_real_key(j)) continue;
    const float z = to_float(column[j * in.num_clusters]);
    largest = z > largest ? z : largest;
    num_items = j + 1;
  }
  if (v == 0) atomic_max(inputs.tables.num_items + w, static_cast<int32_t>(num_items));
  auto* zmax = reinterpret_cast<int32_t*>(inputs.tables.zmax + w * in.num_clusters);
  atomic_max(zmax + v, std::bit_cast<int32_t>(largest));
}

constexpr int kWeightWarps = 8;
constexpr int kWeightPitch = kWarpSize + 1;  // words, so that columns lie in different banks

// Leaves each weight where its entry will be, as the alias.
template <class T>
__global__ void __launch_bounds__(kWeightWarps* kWarpSize) key_weights_kernel(TableInputs inputs) {
  const SampleInputs& in = inputs.in;
  const int64_t groups = (in.num_clusters + kWarpSize - 1) / kWarpSize;
  const int64_t runs = (in.num_keys + kWarpSize - 1) / kWarpSize;
  const int64_t w = int64_t{blockIdx.x} / runs / groups;
  const int64_t p = inputs.wave.first + w;
  if (inputs.form[p] != EdgeForm::kCsr) return;
  const SampleProblem problem = in.problem(p);
  const int64_t first_cluster = int64_t{blockIdx.x} / runs % groups * kWarpSize;
  const int64_t first_key = int64_t{blockIdx.x} % runs * kWarpSize;
  auto* tile = reinterpret_cast<uint32_t*>(shared_memory());
  const int64_t num_items = inputs.tables.num_items[w];
  const int bits = math::weight_bits(num_items);
  const int64_t v = first_cluster + lane_index();
  const bool has_cluster = v < in.num_clusters;
  const float zmax = has_cluster ? inputs.tables.zmax[w * in.num_clusters + v] : 0.0f;
  const float scale = math::weight_scale(zmax, bits);
  for (int t = warp_index(); t < kWarpSize; t += kWeightWarps) {
    const int64_t j = first_key + t;
    int32_t weight = 0;
    if (has_cluster && j < num_items && problem.is_real_key(j)) {
      const T* z = problem.as<T>(problem.z) + j * in.num_clusters;
      weight = math::fixed_weight(to_float(z[v]), scale, bits);
    }
    tile[lane_index() * kWeightPitch + t] = static_cast<uint32_t>(weight);
  }
  sync_threads();
  const int64_t j = first_key + lane_index();
  for (int t = warp_index(); t < kWarpSize && j < num_items; t += kWeightWarps) {
    if (first_cluster + t >= in.num_clusters) break;
    inputs.tables.table(w, first_cluster + t)[j] = {tile[t * kWeightPitch + lane_index()], 0};
  }
}

/// Sums over light and heavy keys, of their weights and of 1.
struct KeySums {
  uint64_t light_weight = 0;
  uint64_t heavy_weight = 0;
  int64_t num_light = 0;
  int64_t num_heavy = 0;
};
__device__ KeySums operator+(const KeySums& a, const KeySums& b) {
  return {a.light_weight + b.light_weight, a.heavy_weight + b.heavy_weight,
          a.num_light + b.num_light, a.num_heavy + b.num_heavy};
}

/// Makes one alias table, by a block. Weights lie in the entries that they will be overwritten by.
class AliasTableBuilder {
 public:
  __device__ AliasTableBuilder(const TableInputs& inputs, int64_t w, int64_t v, KeySums* partial,
                               uint64_t* sums, uint32_t* items)
      : problem_(inputs.in.problem(inputs.wave.first + w)),
        entries_(inputs.tables.table(w, v)),
        n_(inputs.tables.num_items[w]),
        is_exploration_(v == inputs.in.num_clusters),
        partial_(partial),
        sums_(sums),
        items_(items) {
    const int64_t warps = blockDim.x / kWarpSize;
    const int64_t run = (n_ + warps * kWarpSize - 1) / (warps * kWarpSize) * kWarpSize;
    begin_ = run * warp_index();
    end_ = begin_ + run < n_ ? begin_ + run : n_;
  }

  /// The sum of all weights.
  __device__ uint64_t sum_weights() {
    KeySums mine;
    for (int64_t j = begin_ + lane_index(); j < end_; j += kWarpSize)
      mine.light_weight += weight(j);
    mine.light_weight = lanes_sum(mine.light_weight);
    exchange(mine);
    total_ = all_.light_weight;
    return total_;
  }

  __device__ void build() {
    KeySums mine;
    for (int64_t j = begin_ + lane_index(); j < end_; j += kWarpSize)
      mine = mine + sums_of(weight(j));
    mine = {lanes_sum(mine.light_weight), lanes_sum(mine.heavy_weight), lanes_sum(mine.num_light),
            lanes_sum(mine.num_heavy)};
    exchange(mine);
    list_items();
    sync_threads();
    make_entries();
  }

 private:
  __device__ uint32_t weight(int64_t j) const {
    return is_exploration_ ? uint32_t{problem_.is_real_key(j)} : entries_[j].alias;
  }
  __device__ bool is_light(uint64_t weight) const {
    return weight * static_cast<uint64_t>(n_) < total_;
  }
  __device__ bool is_heavy(uint64_t weight) const {
    return weight * static_cast<uint64_t>(n_) > total_;
  }
  __device__ KeySums sums_of(uint64_t weight) const {
    if (is_light(weight)) return {weight, 0, 1, 0};
    if (is_heavy(weight)) return {0, weight, 0, 1};
    return {};
  }

  // From what each warp has: what the warps below this one have, and all.
  __device__ void exchange(const KeySums& mine) {
    sync_threads();  // the last exchange has been read
    if (lane_index() == 0) partial_[warp_index()] = mine;
    sync_threads();
    before_ = {};
    all_ = {};
    for (int warp = 0; warp < static_cast<int>(blockDim.x / kWarpSize); ++warp) {
      if (warp == warp_index()) before_ = all_;
      all_ = all_ + partial_[warp];
    }
  }

  // Light keys first, then heavy ones, each with its running sum. Average keys are done here.
  __device__ void list_items() {
    const auto size = static_cast<uint64_t>(n_);
    const uint32_t below = (1u << lane_index()) - 1;
    for (int64_t first = begin_; first < end_; first += kWarpSize) {
      const int64_t j = first + lane_index();
      const uint64_t w = j < end_ ? weight(j) : 0;
      const bool light = j < end_ && is_light(w);
      const bool heavy = j < end_ && is_heavy(w);
      // Both sums at once: those of a warp have 32 bits.
      const uint64_t running = running_sum(heavy ? w << 32 : light ? w : 0);
      const uint64_t light_weight = before_.light_weight + static_cast<uint32_t>(running);
      const uint64_t heavy_weight = before_.heavy_weight + (running >> 32);
      const uint32_t lights = ballot(light);
      const uint32_t heavies = ballot(heavy);
      if (light) {
        const int64_t at = before_.num_light + popcount(lights & below);
        sums_[at] = static_cast<uint64_t>(at + 1) * total_ - size * light_weight;
        items_[at] = static_cast<uint32_t>(j);
      } else if (heavy) {
        const int64_t at = before_.num_heavy + popcount(heavies & below);
        sums_[all_.num_light + at] = size * heavy_weight - static_cast<uint64_t>(at + 1) * total_;
        items_[all_.num_light + at] = static_cast<uint32_t>(j);
      } else if (j < end_) {
        entries_[j] = math::full_entry(j);
      }
      const uint64_t last = shuffle(running, kWarpSize - 1);
      before_ = before_ + KeySums{static_cast<uint32_t>(last), last >> 32, popcount(lights),
                                  popcount(heavies)};
    }
  }

  __device__ void make_entries() const {
    const int64_t num_light = all_.num_light;
    const AliasLists lists{.total = total_,
                           .scale = math::threshold_scale(total_),
                           .num_light = num_light,
                           .num_heavy = all_.num_heavy,
                           .light = items_,
                           .heavy = items_ + num_light,
                           .deficits = sums_,
                           .surpluses = sums_ + num_light};
    for (int64_t e = threadIdx.x; e < num_light + all_.num_heavy; e += blockDim.x) {
      entries_[items_[e]] = e < num_light ? lists.light_entry(e) : lists.heavy_entry(e - num_light);
    }
  }

  SampleProblem problem_;
  AliasEntry* entries_;
  int64_t n_;
  bool is_exploration_;
  KeySums* partial_;   // [warps]
  uint64_t* sums_;     // [M]
  uint32_t* items_;    // [M]
  int64_t begin_ = 0;  // of this warp's keys
  int64_t end_ = 0;
  uint64_t total_ = 0;
  KeySums before_;
  KeySums all_;
};

// Also the clusters' rates and the number of real keys, which is what the weights of exploration
// add up to.
__global__ void __launch_bounds__(AliasWorkspace::kMostThreads)
    alias_tables_kernel(TableInputs inputs, AliasWorkspace workspace, int64_t tables) {
  const int64_t num_clusters = inputs.in.num_clusters;
  auto* partial = reinterpret_cast<KeySums*>(shared_memory());
  auto* sums = reinterpret_cast<uint64_t*>(partial + blockDim.x / kWarpSize);
  auto* items = reinterpret_cast<uint32_t*>(sums + inputs.in.num_keys);
  if (workspace.is_long) {
    sums = inputs.long_sums + blockIdx.x * inputs.in.num_keys;
    items = inputs.long_items + blockIdx.x * inputs.in.num_keys;
  }
  for (int64_t table = blockIdx.x; table < tables; table += gridDim.x) {
    const int64_t w = table / (num_clusters + 1);
    const int64_t v = table % (num_clusters + 1);
    if (inputs.form[inputs.wave.first + w] != EdgeForm::kCsr) continue;
    AliasTableBuilder builder(inputs, w, v, partial, sums, items);
    const uint64_t total = builder.sum_weights();
    const int64_t at = w * num_clusters + v;
    if (threadIdx.x == 0 && v == num_clusters)
      inputs.tables.num_real[w] = static_cast<int32_t>(total);
    if (threadIdx.x == 0 && v < num_clusters) {
      const int bits = math::weight_bits(inputs.tables.num_items[w]);
      inputs.tables.zeta[at] = math::cluster_rate(total, inputs.tables.zmax[at], bits);
    }
    builder.build();
  }
}

LaunchShape table_launch(const AliasWorkspace& workspace, int64_t tables) {
  const int64_t threads = workspace.is_long ? AliasWorkspace::kMostThreads : 256;
  const int64_t blocks = workspace.is_long ? std::min(tables, AliasWorkspace::kLongBlocks) : tables;
  const int64_t lists = workspace.is_long ? 0 : workspace.bytes;
  return {.grid = blocks_for(blocks, 1),
          .block = dim3(static_cast<unsigned>(threads)),
          .shared_bytes = static_cast<size_t>(threads / kWarpSize) * sizeof(KeySums) +
                          static_cast<size_t>(lists)};
}

template <class T>
void launch_tables(const Stream& stream, const TableInputs& inputs, const SampleScratch& scratch) {
  const int64_t m = inputs.in.num_keys;
  const int64_t columns =
      inputs.wave.count * ((inputs.in.num_clusters + kWarpSize - 1) / kWarpSize);
  fill_zero(stream, scratch.zmax);
  fill_zero(stream, scratch.num_items);
  launch(stream,
         {.grid = blocks_for(columns * ((m + kMaximaKeys - 1) / kMaximaKeys), 1),
          .block = kMaximaWarps * kWarpSize},
         key_maxima_kernel<T>, inputs);
  launch(stream,
         {.grid = blocks_for(columns * ((m + kWarpSize - 1) / kWarpSize), 1),
          .block = kWeightWarps * kWarpSize,
          .shared_bytes = kWarpSize * kWeightPitch * sizeof(uint32_t)},
         key_weights_kernel<T>, inputs);
  const AliasWorkspace workspace(m);
  const int64_t tables = inputs.wave.count * (inputs.in.num_clusters + 1);
  launch(stream, table_launch(workspace, tables), alias_tables_kernel, inputs, workspace, tables);
}

}  // namespace

WaveTables wave_tables(const SampleCall& call) {
  const SampleScratch& scratch = call.scratch;
  return {.num_clusters = call.inputs.num_clusters,
          .num_keys = call.inputs.num_keys,
          .entries = scratch.entries.data,
          .zmax = scratch.zmax.data,
          .zeta = scratch.zeta.data,
          .num_real = scratch.num_real.data,
          .num_items = scratch.num_items.data};
}

void build_key_tables(const SampleCall& call, const Wave& wave) {
  const TableInputs inputs{.in = call.inputs,
                           .form = call.graph.form,
                           .wave = wave,
                           .tables = wave_tables(call),
                           .long_sums = call.scratch.long_sums.data,
                           .long_items = call.scratch.long_items.data};
  with_real_type(call.inputs.storage, [&](auto zero) {
    launch_tables<decltype(zero)>(call.stream, inputs, call.scratch);
  });
}

}  // namespace stipple::kernels::cuda
