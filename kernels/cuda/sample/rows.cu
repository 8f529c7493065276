// SPDX-License-Identifier: Apache-2.0
// The row sampler: the CPU's method and integers (kernels/cpu/sample/rows.cpp), a warp per row. The
// set of drawn keys is a string of bits in shared memory (global memory beyond half a million
// keys): atomic OR deduplicates, and reading it back sorts. One bit per 1,024 keys tells which
// parts are in use, so a row costs its edges, not its keys.
//   rows: warp w of all takes rows w, w + W, ... of the wave. Lanes take clusters while rates are
//   summed, terms of the Poisson count, then draws; half-warps take candidates while products are
//   formed, which are the CPU's sums of 16 lanes.
// Rows are drawn once. Their offsets are known only when all degrees are, so a row first goes to
// space taken from by_key, which is free until the transpose is made, and is copied from there: 4
// bytes an edge written and read once more. Which space depends on the order of the warps, what is
// copied does not. Rows for which the space did not suffice are drawn again.
// Shared memory a warp that draws: rates 8 K 8 / 7 bytes, string M / 8 bytes, 2.2 KB for lists. A draw
// reads one entry of a table, a sector of 32 bytes.
#include <map>
#include <mutex>

#include "core/buffer.h"
#include "core/copy.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/sample/key_tables.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/math/thinning.h"

namespace stipple::kernels::cuda {
namespace {

using math::KeyTables;
using math::PoissonTerms;
using math::SumTree;

constexpr uint32_t kNowhere = ~uint32_t{0};
constexpr int kLanes = kWarpSize;
constexpr int kGroupWords = RowWorkspace::kGroup / 32;
static_assert(kGroupWords == kLanes);

/// What row kernels know: the wave's tables and where rows go.
struct RowInputs {
  SampleInputs in;
  WritableGraph graph;
  Wave wave;
  bool draws_pairs = false;  ///< every pair by its own uniform (kTiles with law poisson_multi)
  WaveTables tables;
  SumTree rate_tree;
  PoissonTerms poisson;
  uint32_t* long_string = nullptr;
  uint64_t* drawn = nullptr;
  uint32_t* row_begin = nullptr;
  RowWorkspace workspace{0, 0};
};

// --- inside a warp

/// The upper levels of a tree whose level 0 is complete.
__device__ void build_tree(const SumTree& tree, uint64_t* sums) {
  for (int64_t e = tree.count + lane_index(); e < tree.level_size(0); e += kLanes) {
    sums[e] = SumTree::kBeyond;
  }
  uint64_t* below = sums;
  for (int64_t level = 1; level < tree.num_levels; ++level) {
    sync_warp();
    uint64_t* here = below + tree.level_size(level - 1);
    const int64_t nodes = tree.level_size(level - 1) / SumTree::kFan;
    for (int64_t e = lane_index(); e < tree.level_size(level); e += kLanes) {
      here[e] = e < nodes ? below[e * SumTree::kFan + SumTree::kFan - 1] : SumTree::kBeyond;
    }
    below = here;
  }
  sync_warp();
}

/// a . b for the two halves of the warp, each with its own a or b; every lane of a half gets its
/// half's. The CPU's order: product k goes to lane k % 16, lanes are added as a tree.
template <class A, class B>
__device__ float half_warp_dot(const A* a, const B* b, int64_t n) {
  float sum = 0.0f;
  for (int64_t k = lane_index() % 16; k < n; k += 16) {
    sum = fmaf(to_float(a[k]), to_float(b[k]), sum);
  }
  for (int width = 8; width > 0; width /= 2) sum += shuffle_xor(sum, width);
  return sum;
}

// --- rows

/// The set of keys drawn for one row, by one warp. Empty between rows.
class DrawnKeys {
 public:
  __device__ DrawnKeys(uint32_t* string, int64_t groups)
      : bits_(string), used_(string + groups * kGroupWords), groups_(groups) {
    const int64_t words = groups * kGroupWords + (groups + 31) / 32;
    for (int64_t w = lane_index(); w < words; w += kLanes) bits_[w] = 0;
    sync_warp();
  }

  /// By any lane on its own.
  __device__ void insert(uint32_t key) {
    atomic_or(bits_ + key / 32, 1u << key % 32);
    mark(key / RowWorkspace::kGroup);
  }

  __device__ int64_t num_groups() const { return groups_; }
  /// This lane's word of a group of keys; by all lanes.
  __device__ uint32_t& word(int64_t group) { return bits_[group * kGroupWords + lane_index()]; }
  /// Notes that a group has keys.
  __device__ void mark(int64_t group) {
    const uint32_t flag = 1u << group % 32;
    // Seldom wrong, and then only for nothing: most draws find the flag set.
    if ((used_[group / 32] & flag) == 0) atomic_or(used_ + group / 32, flag);
  }

  /// body(group) for every group that has keys, ascending; by all lanes.
  template <class Body>
  __device__ void for_each_group(const Body& body) {
    for (int64_t w = 0; w * 32 < groups_; ++w) {
      for (uint32_t rest = used_[w]; rest != 0; rest &= rest - 1) body(w * 32 + lowest_bit(rest));
    }
    sync_warp();  // all have seen which groups there are
  }
  __device__ void forget_groups() {
    for (int64_t w = lane_index(); w * 32 < groups_; w += kLanes) used_[w] = 0;
    sync_warp();
  }

 private:
  uint32_t* bits_;
  uint32_t* used_;
  int64_t groups_;
};

/// Where the edges of a row go.
struct RowOutput {
  uint32_t* columns = nullptr;       // null: nowhere
  uint16_t* multiplicity = nullptr;  // null: not kept
  int64_t offset = 0;                // of the row, in both
  int64_t room = 0;
};

/// Draws rows, one warp all of them. T: how mu and z are stored.
template <class T>
class RowSampler {
 public:
  __device__ RowSampler(const RowInputs& rows, uint64_t* rates, uint32_t* kept, uint16_t* offsets,
                        uint32_t* string)
      : rows_(rows),
        in_(rows.in),
        rates_(rates),
        kept_(kept),
        offsets_(offsets),
        drawn_(string, rows.workspace.groups) {}

  /// Leaves the row's keys in the set; returns their number.
  __device__ int32_t draw(int64_t w, int64_t i) {
    problem_ = in_.problem(rows_.wave.first + w);
    w_ = w;
    i_ = i;
    draws_ = 0;
    mu_ = problem_.template as<T>(problem_.mu) + i * in_.num_clusters;
    if (problem_.is_real_query(i)) draw_edges();
    insert_window();
    sync_warp();
    int32_t degree = 0;
    drawn_.for_each_group([&](int64_t group) { degree += popcount(drawn_.word(group)); });
    return lanes_sum(degree);
  }

  /// Writes the keys that fit, ascending, and empties the set.
  __device__ void take(const RowOutput& out) {
    int64_t written = 0;
    drawn_.for_each_group([&](int64_t group) {
      const int32_t count = list_offsets(drawn_.word(group));
      drawn_.word(group) = 0;
      for (int32_t e = lane_index(); e < count && out.columns != nullptr; e += kLanes) {
        if (written + e < out.room) {
          out.columns[out.offset + written + e] =
              static_cast<uint32_t>(group * RowWorkspace::kGroup) + offsets_[e];
        }
      }
      written += count;
      sync_warp();
    });
    drawn_.forget_groups();
    if (out.multiplicity == nullptr || out.columns == nullptr) return;
    const int64_t edges = written < out.room ? written : out.room;
    if (rows_.draws_pairs) {
      count_pairs(out, edges);
    } else {
      count_draws(out, edges);
    }
  }

 private:
  __device__ void insert_window() {
    if (in_.window_radius < 0 || !problem_.is_real_query(i_)) return;
    const int64_t begin = i_ > in_.window_radius ? i_ - in_.window_radius : 0;
    const int64_t reach = i_ + in_.window_radius + 1;
    const int64_t end = reach < in_.num_keys ? reach : in_.num_keys;
    for (int64_t j = begin + lane_index(); j < end; j += kLanes)
      if (problem_.is_real_key(j)) drawn_.insert(static_cast<uint32_t>(j));
  }
  __device__ PhiloxCounter counter(Purpose purpose) const {
    return in_.counter(problem_, static_cast<uint32_t>(i_), purpose);
  }
  __device__ const T* key_row(int64_t j) const {
    return problem_.template as<T>(problem_.z) + j * in_.num_clusters;
  }

  __device__ void draw_edges() {
    if (rows_.draws_pairs) return draw_pairs();
    if (rows_.tables.num_real[w_] == 0) return;
    if (in_.law != MaskLaw::kBernoulli) return draw_keys(sum_rates());
    // Bounds every p of the row, rounding included: the sum is the same sequence of monotone
    // operations.
    const float largest =
        half_warp_dot(mu_, rows_.tables.zmax + w_ * in_.num_clusters, in_.num_clusters) + in_.delta;
    if (!(largest > 0.0f)) return;
    if (largest > math::kLargestThinnedProbability) return thin_all();
    const math::FixedOversampling oversampling(largest);
    draw_keys(oversampling.scale(sum_rates()));
    drawn_.for_each_group(
        [&](int64_t group) { thin_group(group, drawn_.word(group), oversampling.factor()); });
  }

  // The running sums of the clusters' rates, exploration last; returns the row's rate.
  __device__ uint64_t sum_rates() {
    const double* zeta = rows_.tables.zeta + w_ * in_.num_clusters;
    uint64_t sum = 0;
    sync_warp();  // others may still search the last row's rates
    for (int64_t first = 0; first < in_.num_clusters; first += kLanes) {
      const int64_t v = first + lane_index();
      const bool exists = v < in_.num_clusters;
      const uint64_t rate =
          exists ? math::fixed_rate(static_cast<double>(to_float(mu_[v])) * zeta[v]) : uint64_t{0};
      const uint64_t running = sum + running_sum(rate);
      if (exists) rates_[v] = running;
      sum = shuffle(running, kLanes - 1);
    }
    sum += math::exploration_rate(in_.delta, rows_.tables.num_real[w_]);
    if (lane_index() == 0) rates_[in_.num_clusters] = sum;
    build_tree(rows_.rate_tree, rates_);
    return sum;
  }

  // Lanes take the terms of the sum, each with the uniform that its number among those that are
  // there gives it.
  __device__ int64_t draw_count(uint64_t rate) const {
    const PhiloxCounter first = counter(Purpose::kEdgeCount);
    const math::UniformSequence uniforms(problem_.key, first[1], first[2], first[3]);
    const int64_t terms = PoissonTerms::num_terms(rate);
    int64_t total = 0;
    uint32_t before = 0;
    for (int64_t begin = 0; begin < terms; begin += kLanes) {
      const int64_t term = begin + lane_index();
      const bool is_there = term < terms && PoissonTerms::has_term(rate, term);
      const uint32_t there = ballot(is_there);
      if (is_there) {
        const auto index = before + popcount(there & ((1u << lane_index()) - 1));
        total += rows_.poisson.draw(rate, term, uniforms.at(index));
      }
      before += popcount(there);
    }
    return lanes_sum(total);
  }

  __device__ uint32_t draw_key(const KeyTables& tables, PhiloxCounter counter, int64_t e) const {
    counter[0] = static_cast<uint32_t>(e);
    return math::draw_key(tables, rows_.rate_tree, rates_, philox4x32(counter, problem_.key));
  }

  __device__ void draw_keys(uint64_t rate) {
    draws_ = draw_count(rate);
    const KeyTables tables = rows_.tables.of(w_);
    const PhiloxCounter first = counter(Purpose::kEdgeDraw);
    for (int64_t e = lane_index(); e < draws_; e += kLanes) {
      drawn_.insert(draw_key(tables, first, e));
    }
    sync_warp();
  }

  // offsets_[0, count) = the places of the bits of all lanes' words, ascending; returns count.
  __device__ int32_t list_offsets(uint32_t word) {
    const int32_t end = running_sum(popcount(word));
    int32_t at = end - popcount(word);
    sync_warp();  // others may still read the last list
    for (; word != 0; word &= word - 1) {
      offsets_[at++] = static_cast<uint16_t>(lane_index() * 32 + lowest_bit(word));
    }
    sync_warp();
    return shuffle(end, kLanes - 1);
  }

  __device__ uint32_t real_word(int64_t group) const {
    uint32_t mine = 0;
    for (int t = 0; t < kGroupWords; ++t) {
      const int64_t j = group * RowWorkspace::kGroup + t * 32 + lane_index();
      const uint32_t real = ballot(j < in_.num_keys && problem_.is_real_key(j));
      if (t == lane_index()) mine = real;
    }
    return mine;
  }

  __device__ void thin_all() {
    for (int64_t group = 0; group < drawn_.num_groups(); ++group) {
      thin_group(group, real_word(group), 0.0);
      if (lane_index() == 0) drawn_.mark(group);
    }
    sync_warp();
  }

  // Replaces a group's keys by those of the candidates that are accepted.
  __device__ void thin_group(int64_t group, uint32_t candidates, double oversampling) {
    kept_[lane_index()] = 0;
    const int32_t count = list_offsets(candidates);
    const uint32_t certain = math::certain_word(oversampling);
    PhiloxCounter words = counter(Purpose::kEdgeThin);
    for (int32_t first = 0; first < count; first += kLanes) {
      const int32_t e = first + lane_index();
      const uint32_t offset = e < count ? offsets_[e] : 0;
      words[0] = static_cast<uint32_t>(group * RowWorkspace::kGroup) + offset;
      const uint32_t word = philox4x32(words, problem_.key)[0];
      const bool is_open = e < count && word >= certain;
      const float q = open_probability(ballot(is_open), words[0]);
      const bool is_kept = is_open ? word < math::acceptance(q, oversampling) * 0x1p32 : e < count;
      if (is_kept) atomic_or(kept_ + offset / 32, 1u << offset % 32);
    }
    sync_warp();
    drawn_.word(group) = kept_[lane_index()];
    sync_warp();
  }

  // mu . z[key] + delta for the lanes in `open`, two at a time.
  __device__ float open_probability(uint32_t open, uint32_t key) const {
    float mine = 0.0f;
    while (open != 0) {
      const int first = lowest_bit(open);
      open &= open - 1;
      const int second = open != 0 ? lowest_bit(open) : first;
      open &= open - 1;
      const uint32_t j = shuffle(key, lane_index() < 16 ? first : second);
      const float q = half_warp_dot(mu_, key_row(j), in_.num_clusters) + in_.delta;
      const float q_first = shuffle(q, 0);
      const float q_second = shuffle(q, 16);
      if (lane_index() == first) mine = q_first;
      if (lane_index() == second) mine = q_second;
    }
    return mine;
  }

  __device__ uint32_t tile_word(uint32_t j) const {
    PhiloxCounter words = counter(Purpose::kEdgeTile);
    words[0] = j / 4;
    return philox4x32(words, problem_.key)[j % 4];
  }

  __device__ bool draws_pair(int64_t j) const {
    if (j >= in_.num_keys || !problem_.is_real_key(j)) return false;
    float p = in_.delta;
    const T* z = key_row(j);
    for (int64_t k = 0; k < in_.num_clusters; ++k) p = fmaf(to_float(mu_[k]), to_float(z[k]), p);
    p = math::positive_probability(fmaxf(p, 0.0f));
    return tile_word(static_cast<uint32_t>(j)) >> 1 < math::keep_threshold(p);
  }

  __device__ void draw_pairs() {
    for (int64_t group = 0; group < drawn_.num_groups(); ++group) {
      uint32_t mine = 0;
      for (int t = 0; t < kGroupWords; ++t) {
        const int64_t j = group * RowWorkspace::kGroup + t * 32 + lane_index();
        const uint32_t drawn = ballot(draws_pair(j));
        if (t == lane_index()) mine = drawn;
      }
      drawn_.word(group) = mine;
      if (mine != 0) drawn_.mark(group);
    }
    sync_warp();
  }

  // The same uniforms as of the bits, further down. A self-loop that was not drawn counts once.
  __device__ void count_pairs(const RowOutput& out, int64_t edges) const {
    for (int64_t first = 0; first < edges; first += 2) {
      const int64_t mine = first + lane_index() / 16;
      const uint32_t j = out.columns[out.offset + (mine < edges ? mine : first)];
      const float rate = half_warp_dot(mu_, key_row(j), in_.num_clusters) + in_.delta;
      if (lane_index() % 16 != 0 || mine >= edges) continue;
      const int64_t count = math::positive_poisson(static_cast<double>(rate),
                                                   static_cast<double>(tile_word(j)) * 0x1p-32);
      out.multiplicity[out.offset + mine] = static_cast<uint16_t>(count);
    }
  }

  // Replays the draws. Counts stop at the largest; so their order does not show.
  __device__ void count_draws(const RowOutput& out, int64_t edges) const {
    sync_warp();
    const uint32_t* columns = out.columns + out.offset;
    uint16_t* counts = out.multiplicity + out.offset;
    for (int64_t e = lane_index(); e < edges; e += kLanes) counts[e] = 0;
    sync_warp();
    const KeyTables tables = rows_.tables.of(w_);
    const PhiloxCounter first = counter(Purpose::kEdgeDraw);
    for (int64_t e = lane_index(); e < draws_; e += kLanes) {
      const uint32_t key = draw_key(tables, first, e);
      const uint32_t* at = std::lower_bound(columns, columns + edges, key);
      if (at != columns + edges && *at == key) increment(counts + (at - columns));
    }
    sync_warp();
    for (int64_t e = lane_index(); e < edges; e += kLanes) {
      if (counts[e] == 0) counts[e] = 1;  // of the window, and not drawn
    }
  }

  __device__ static void increment(uint16_t* count) {
    const auto address = reinterpret_cast<uintptr_t>(count);
    auto* word = reinterpret_cast<uint32_t*>(address & ~uintptr_t{3});
    const int shift = address % 4 == 0 ? 0 : 16;
    uint32_t seen = *word;
    while ((seen >> shift & 0xFFFFu) != 0xFFFFu) {
      const uint32_t found = atomic_exchange_if(word, seen, seen + (1u << shift));
      if (found == seen) return;
      seen = found;
    }
  }

  const RowInputs& rows_;
  const SampleInputs& in_;
  uint64_t* rates_;
  uint32_t* kept_;     // [32]
  uint16_t* offsets_;  // [1024]
  DrawnKeys drawn_;
  SampleProblem problem_;
  const T* mu_ = nullptr;
  int64_t w_ = 0;
  int64_t i_ = 0;
  int64_t draws_ = 0;
};

/// This warp's sampler, in its part of shared memory.
template <class T>
__device__ RowSampler<T> make_row_sampler(const RowInputs& rows) {
  const RowWorkspace& workspace = rows.workspace;
  std::byte* bytes = shared_memory() + warp_index() * workspace.bytes();
  auto* rates = reinterpret_cast<uint64_t*>(bytes);
  auto* kept = reinterpret_cast<uint32_t*>(rates + workspace.rates);
  auto* offsets = reinterpret_cast<uint16_t*>(kept + kLanes);
  auto* string = reinterpret_cast<uint32_t*>(offsets + RowWorkspace::kGroup);
  if (workspace.has_long_string) {
    string = rows.long_string + int64_t{blockIdx.x} * workspace.string_words();
  }
  return RowSampler<T>(rows, rates, kept, offsets, string);
}

__device__ int64_t first_row() {
  return int64_t{blockIdx.x} * (blockDim.x / kLanes) + warp_index();
}
__device__ int64_t row_step() { return int64_t{gridDim.x} * (blockDim.x / kLanes); }

// Space for `degree` edges of problem p in by_key, or kNowhere. By lane 0.
__device__ uint32_t take_space(const RowInputs& rows, int64_t w, int32_t degree) {
  if (degree == 0) return 0;
  const auto room = static_cast<uint64_t>(rows.graph.room());
  const uint64_t begin = atomic_add(rows.drawn + w, static_cast<uint64_t>(degree));
  return begin + static_cast<uint64_t>(degree) <= room ? static_cast<uint32_t>(begin) : kNowhere;
}

template <class T>
__global__ void __launch_bounds__(256) draw_rows_kernel(RowInputs rows) {
  const int64_t n = rows.in.num_queries;
  RowSampler<T> sampler = make_row_sampler<T>(rows);
  for (int64_t row = first_row(); row < rows.wave.count * n; row += row_step()) {
    const int64_t w = row / n;
    const int64_t i = row % n;
    const int64_t p = rows.wave.first + w;
    if (rows.graph.form[p] != EdgeForm::kCsr) continue;
    const int32_t degree = sampler.draw(w, i);
    uint32_t begin = 0;
    if (lane_index() == 0) {
      begin = take_space(rows, w, degree);
      rows.graph.row_ptr[p * (n + 1) + i + 1] = degree;
      rows.row_begin[row] = begin;
    }
    begin = shuffle(begin, 0);
    const WritableGraph& graph = rows.graph;
    RowOutput out{.offset = begin, .room = degree};
    if (begin != kNowhere) {
      out.columns = graph.by_key + p * graph.key_stride;
      if (graph.key_multiplicity != nullptr) {
        out.multiplicity = graph.key_multiplicity + p * graph.key_stride;
      }
    }
    sampler.take(out);
  }
}

__device__ void copy_row(const WritableGraph& graph, int64_t p, const RowOutput& out,
                         uint32_t begin) {
  const uint32_t* columns = graph.by_key + p * graph.key_stride + begin;
  const uint16_t* counts = graph.key_multiplicity == nullptr
                               ? nullptr
                               : graph.key_multiplicity + p * graph.key_stride + begin;
  for (int64_t e = lane_index(); e < out.room; e += kLanes) {
    out.columns[out.offset + e] = columns[e];
    if (counts != nullptr) out.multiplicity[out.offset + e] = counts[e];
  }
}

template <class T>
__global__ void __launch_bounds__(256) place_rows_kernel(RowInputs rows) {
  const int64_t n = rows.in.num_queries;
  const WritableGraph& graph = rows.graph;
  RowSampler<T> sampler = make_row_sampler<T>(rows);
  for (int64_t row = first_row(); row < rows.wave.count * n; row += row_step()) {
    const int64_t w = row / n;
    const int64_t i = row % n;
    const int64_t p = rows.wave.first + w;
    if (graph.form[p] != EdgeForm::kCsr) continue;
    const int32_t* row_ptr = graph.row_ptr + p * (n + 1);
    RowOutput out{.columns = graph.by_query + p * graph.query_stride,
                  .offset = row_ptr[i],
                  .room = row_ptr[i + 1] - row_ptr[i]};
    if (graph.query_multiplicity != nullptr) {
      out.multiplicity = graph.query_multiplicity + p * graph.query_stride;
    }
    if (out.room == 0) continue;
    if (rows.row_begin[row] != kNowhere) {
      copy_row(graph, p, out, rows.row_begin[row]);
      continue;
    }
    sampler.draw(w, i);
    sampler.take(out);
  }
}

// --- host

/// The Poisson tables in the memory of every device that has drawn rows. They are constants: made
/// at the first draw on a device, which must not be captured, and kept until the program ends.
PoissonTerms poisson_terms(const Stream& stream) {
  static std::mutex mutex;
  // Never destroyed: at exit the driver may be gone before this.
  static auto& of_device = *new std::map<int, Buffer>;
  const math::PoissonTables& tables = math::PoissonTables::shared();
  const size_t table_bytes = tables.tables().size() * sizeof(PoissonTerms::Table);
  const size_t threshold_bytes = tables.thresholds().size() * sizeof(uint64_t);
  const std::lock_guard lock(mutex);
  Buffer& buffer = of_device[stream.device().index];
  if (buffer.data() == nullptr) {
    buffer = Buffer(stream.device(), table_bytes + threshold_bytes);
    copy_bytes(stream, buffer.data(), tables.tables().data(), table_bytes);
    copy_bytes(stream, buffer.data() + table_bytes, tables.thresholds().data(), threshold_bytes);
    stream.synchronize();
  }
  return {reinterpret_cast<const PoissonTerms::Table*>(buffer.data()),
          reinterpret_cast<const uint64_t*>(buffer.data() + table_bytes)};
}

RowInputs row_inputs(const SampleCall& call, const Wave& wave) {
  const SampleScratch& scratch = call.scratch;
  const SampleInputs& in = call.inputs;
  const SumTree rate_tree(in.num_clusters + 1);
  RowInputs rows{.in = in,
                 .graph = call.graph,
                 .wave = wave,
                 .draws_pairs = scratch.entries.empty(),
                 .tables = wave_tables(call),
                 .rate_tree = rate_tree,
                 .poisson = poisson_terms(call.stream),
                 .long_string = scratch.long_string.data,
                 .drawn = scratch.drawn.data,
                 .row_begin = scratch.row_begin.data,
                 .workspace = RowWorkspace(in.num_keys, rate_tree.size)};
  return rows;
}

LaunchShape row_launch(const RowInputs& rows) {
  constexpr int64_t kBlockBytes = 48 << 10;
  constexpr int64_t kMostWarps = 8;
  constexpr int64_t kMostBlocks = 2048;
  const int64_t bytes = rows.workspace.bytes();
  const bool is_long = rows.workspace.has_long_string;
  const int64_t warps = is_long ? 1 : std::clamp<int64_t>(kBlockBytes / bytes, 1, kMostWarps);
  const int64_t needed = (rows.wave.count * rows.in.num_queries + warps - 1) / warps;
  const int64_t blocks = std::min(needed, is_long ? RowWorkspace::kLongWarps : kMostBlocks);
  return {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(static_cast<unsigned>(warps * kLanes)),
          .shared_bytes = static_cast<size_t>(warps * bytes)};
}

}  // namespace

void draw_rows(const SampleCall& call, const Wave& wave) {
  const RowInputs rows = row_inputs(call, wave);
  fill_zero(call.stream, call.scratch.drawn);
  if (!rows.draws_pairs) build_key_tables(call, wave);
  with_real_type(call.inputs.storage, [&](auto zero) {
    launch(call.stream, row_launch(rows), draw_rows_kernel<decltype(zero)>, rows);
  });
}

void place_rows(const SampleCall& call, const Wave& wave) {
  const RowInputs rows = row_inputs(call, wave);
  with_real_type(call.inputs.storage, [&](auto zero) {
    launch(call.stream, row_launch(rows), place_rows_kernel<decltype(zero)>, rows);
  });
}

}  // namespace stipple::kernels::cuda
