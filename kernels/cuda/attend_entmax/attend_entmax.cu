// SPDX-License-Identifier: Apache-2.0
// Attention with alpha-entmax. Forward first lists the keys that may have a weight by tiles
// (candidates.cu), unless the pairs are a graph's. Then, and in backward's gradients by queries, a
// warp owns a query. It scores its candidates, or all of its keys where there are too many, 32 at a
// time, a lane a key, into a list, solves that (entmax/solve.cuh) and walks over the support with
// channels over lanes. Backward solves once more, over the support alone where it was kept: the same
// bits as forward. Gradients by keys: a warp owns a key, scores the queries that may have it in their
// support, by tiles again, or all that meet it, and walks over those that have. So every sum has one
// owner and one order, without atomics that could show, and nobody asks the host.
//
// Warps are as many as there is room for lists, 8 bytes a key each, and go from row to row.
//
// Shared memory: rows of the warp in fp32, 4 D bytes each: q; q and dout; k and v.
//
// A pair that a lane scores costs D multiply-adds and its key's row read through the caches: forward
// does so over a graph and over rows with too many candidates, backward by keys over the same and by
// queries where supports are longer than what is kept of them.
#include "kernels/attend_entmax.h"
#include "kernels/cuda/attend_entmax/candidates.cuh"
#include "kernels/cuda/attend_entmax/pairs.cuh"
#include "kernels/cuda/combine/rows.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/entmax/gradient.cuh"
#include "kernels/cuda/entmax/solve.cuh"

namespace stipple::kernels::cuda {
namespace {

/// What backward by keys knows of a query: its weights are the bits that backward by queries saw.
struct QueryRoot {
  float highest, tau, mass;
  float delta;
};

template <class T>
struct AttendEntmaxArrays {
  EntmaxPairs pairs;
  int64_t problems = 0;
  int dim = 0;
  float scale = 1.0f;
  const T *q = nullptr, *k = nullptr, *v = nullptr;
  const float* alpha = nullptr;
  const float* temperature = nullptr;  ///< null: 1
  WeightDropout dropout;
  float* tau = nullptr;
  int32_t* size = nullptr;
  uint32_t* columns = nullptr;
  int64_t room = 0;
  bool has_candidates = false;  ///< forward: they stand where the support is to stand
  EntmaxLists lists{};
  T *o = nullptr, *o2 = nullptr;
  // Backward only.
  const T* dout = nullptr;
  QueryRoot* roots = nullptr;            // [B, H, N]
  const int32_t* longest_key = nullptr;  ///< [B, H]; null: no tiles
  float* bounds = nullptr;               // [B, H, N]  of list_queries; null: no tiles
  EntmaxCandidates queries{};            ///< of keys
  float *dalpha = nullptr, *dtemperature = nullptr;
  T *dq = nullptr, *dk = nullptr, *dv = nullptr;

  __device__ Partners listed(int64_t row) const {
    return {.list = columns + row * room, .count = size[row]};
  }
};

/// One problem's head.
template <class T>
struct EntmaxProblem {
  int64_t number;
  EntmaxMap map;
  float temperature;
  float factor;     ///< of q . k, in x
  float to_score;   ///< of q . k, in temperature * score
  int64_t queries;  ///< rows before the problem's own
  int64_t keys;
  ProblemDropout dropout;

  __device__ EntmaxProblem(const AttendEntmaxArrays<T>& a, int64_t problem)
      : number(problem),
        map(a.alpha[problem % a.pairs.heads]),
        temperature(a.temperature == nullptr ? 1.0f : a.temperature[problem % a.pairs.heads]),
        queries(problem * a.pairs.num_queries),
        keys(problem * a.pairs.num_keys),
        dropout(problem_dropout(a.dropout, a.pairs.heads, problem)) {
    to_score = temperature * a.scale;
    factor = (map.alpha - 1.0f) * to_score;
  }
};

/// A row in shared memory, of this warp.
template <class T>
__device__ float* stage_row(int number, const T* row, int dim) {
  auto* shared = reinterpret_cast<float*>(shared_memory());
  float* mine = shared + (static_cast<int64_t>(number) * kRowWarps + warp_index()) * dim;
  sync_warp();
  for (int c = lane_index(); c < dim; c += kWarpSize) mine[c] = to_float(row[c]);
  sync_warp();
  return mine;
}

/// One lane's product, in the order of channels: the same bits whoever computes it.
template <int kWidth, class T>
__device__ float lane_dot(const float* staged, const T* row, int dim) {
  float sum = 0.0f;
  for (int c = 0; c < dim; c += kWidth) {
    const Pack<kWidth> x = load<kWidth>(row + c);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum = fmaf(staged[c + i], x.at[i], sum);
  }
  return sum;
}

/// The list of query i, solved. `q` is staged; only keys of `partners` are asked, which
/// all count where they are listed.
template <int kWidth, class T>
__device__ EntmaxRoot solve_query(const AttendEntmaxArrays<T>& a, const EntmaxProblem<T>& problem,
                                  int64_t i, const float* q, const Partners& partners,
                                  bool is_listed, EntmaxScan& scan) {
  for (int64_t first = 0; first < partners.count; first += kWarpSize) {
    const int64_t j = partners.at(first + lane_index());
    const bool counts =
        is_listed ? j >= 0
                  : a.pairs.has(problem.number, i, j) && a.pairs.is_key_real(problem.number, j);
    const float x =
        counts ? problem.factor * lane_dot<kWidth>(q, a.k + (problem.keys + j) * a.dim, a.dim)
               : -kInfinity;
    scan.add(x, static_cast<uint32_t>(j));
  }
  if (scan.is_bad) scan.list.count = 0;
  return solve(scan.list, problem.map, scan.highest);
}

/// What one key of a support weighs; a lane's own.
struct KeyWeight {
  uint32_t key = 0;
  float y = 0.0f;
  float p = 0.0f, u = 0.0f;
  float keep = 0.0f;

  template <class T>
  __device__ KeyWeight(const EntmaxProblem<T>& problem, const EntmaxRoot& root,
                       const EntmaxList& list, int64_t i, int e) {
    if (e >= list.count) return;
    key = list.key[e];
    y = list.score[e];
    p = problem.map.mass(y - root.tau) / root.mass;
    u = problem.map.slope(p);
    keep = problem.dropout.factor(static_cast<int>(i), static_cast<int>(key));
  }
};

template <class T, int kPerLane>
__device__ void fill_row(T* row, int dim, float value) {
  LaneRow<kPerLane> all;
  for (float& x : all.at) x = value;
  store_row(row, dim, all);
}

template <class T, int kPerLane, int kWidth>
__global__ void __launch_bounds__(kRowWarps* kWarpSize)
    attend_entmax_kernel(AttendEntmaxArrays<T> a) {
  const int64_t worker = row_of_warp(), rows = a.problems * a.pairs.num_queries;
  if (worker >= a.lists.workers) return;
  for (int64_t row = worker; row < rows; row += a.lists.workers) {
    const EntmaxProblem<T> problem(a, row / a.pairs.num_queries);
    const int64_t i = row % a.pairs.num_queries;
    const float* q = stage_row(0, a.q + row * a.dim, a.dim);
    EntmaxScan scan{.list = a.lists.of(worker)};
    const bool is_listed = a.has_candidates && a.size[row] <= a.room;
    const EntmaxRoot root = solve_query<kWidth>(
        a, problem, i, q, is_listed ? a.listed(row) : a.pairs.keys_of(problem.number, i), is_listed,
        scan);
    const EntmaxList& list = scan.list;
    LaneRow<kPerLane> o, o2;
    float slopes = 0.0f;
    for (int first = 0; first < list.count; first += kWarpSize) {
      const KeyWeight of_lane(problem, root, list, i, first + lane_index());
      slopes += of_lane.u;
      for (int t = 0; t < kWarpSize && first + t < list.count; ++t) {
        const float keep = shuffle(of_lane.keep, t);
        const auto v =
            load_row<kPerLane>(a.v + (problem.keys + shuffle(of_lane.key, t)) * a.dim, a.dim);
        add_scaled(o, keep * shuffle(of_lane.p, t), v);
        add_scaled(o2, keep * shuffle(of_lane.u, t), v);
      }
    }
    slopes = lanes_sum(slopes);
    scale_by(o2, slopes > 0.0f ? 1.0f / slopes : 0.0f);
    const float bad = kInfinity - kInfinity;
    if (scan.is_bad) {
      for (float& x : o.at) x = bad;
      for (float& x : o2.at) x = bad;
    }
    store_row(a.o + row * a.dim, a.dim, o);
    if (a.o2 != nullptr) store_row(a.o2 + row * a.dim, a.dim, o2);
    if (a.size != nullptr && list.count <= a.room) {
      for (int e = lane_index(); e < list.count; e += kWarpSize)
        a.columns[row * a.room + e] = list.key[e];
    }
    if (lane_index() != 0) continue;
    a.tau[row] = scan.is_bad ? bad : root.highest + root.tau;
    if (a.size != nullptr) a.size[row] = list.count;
  }
}

/// What a key's x must exceed to be in the support, as tiles see it. Warp-wide; q is staged.
template <class T>
__device__ float query_bound(const AttendEntmaxArrays<T>& a, const EntmaxProblem<T>& problem,
                             const EntmaxRoot& root, const float* q) {
  float sum = 0.0f;
  for (int c = lane_index(); c < a.dim; c += kWarpSize) sum += q[c] * q[c];
  const float slack =
      entmax_slack(problem.factor, sqrtf(lanes_sum(sum)), a.longest_key[problem.number], a.dim);
  if (root.tau == kInfinity) return kInfinity;
  return slack < kInfinity ? root.highest + root.tau - slack : -kInfinity;
}

template <class T, int kPerLane, int kWidth>
__global__ void __launch_bounds__(kRowWarps* kWarpSize)
    attend_entmax_by_query_kernel(AttendEntmaxArrays<T> a) {
  const int64_t worker = row_of_warp(), rows = a.problems * a.pairs.num_queries;
  if (worker >= a.lists.workers) return;
  for (int64_t row = worker; row < rows; row += a.lists.workers) {
    const EntmaxProblem<T> problem(a, row / a.pairs.num_queries);
    const int64_t i = row % a.pairs.num_queries;
    const float* q = stage_row(0, a.q + row * a.dim, a.dim);
    const float* dout = stage_row(1, a.dout + row * a.dim, a.dim);
    const bool is_kept = a.size[row] <= a.room;
    EntmaxScan scan{.list = a.lists.of(worker)};
    const EntmaxRoot root = solve_query<kWidth>(
        a, problem, i, q, is_kept ? a.listed(row) : a.pairs.keys_of(problem.number, i), is_kept,
        scan);
    const EntmaxList& list = scan.list;
    // As dp is summed, so that a key alone has no gradient at all.
    const float delta = lane_dot<kWidth>(dout, a.o2 + row * a.dim, a.dim);
    LaneRow<kPerLane> dq;
    AlphaGradient dalpha;
    float dtemperature = 0.0f;
    for (int first = 0; first < list.count; first += kWarpSize) {
      const KeyWeight w(problem, root, list, i, first + lane_index());
      float ds = 0.0f;
      if (first + lane_index() < list.count) {
        const float dp =
            w.keep == 0.0f
                ? 0.0f
                : w.keep * lane_dot<kWidth>(dout, a.v + (problem.keys + w.key) * a.dim, a.dim);
        ds = w.u * (dp - delta);
        if (a.dalpha != nullptr) dalpha.add(w.p, w.u, dp);
        dtemperature += ds * w.y;  // ds sums to 0
      }
      for (int t = 0; t < kWarpSize && first + t < list.count; ++t) {
        const auto k = load_row<kPerLane>(a.k + (problem.keys + shuffle(w.key, t)) * a.dim, a.dim);
        add_scaled(dq, problem.to_score * shuffle(ds, t), k);
      }
    }
    const float none = a.tau[row] == a.tau[row] ? 0.0f : a.tau[row];  // NaN of such a row
    for (float& x : dq.at) x += none;
    store_row(a.dq + row * a.dim, a.dim, dq);
    dtemperature = lanes_sum(dtemperature);
    const float of_alpha = a.dalpha == nullptr ? 0.0f : dalpha.total(problem.map.alpha);
    const float bound = a.bounds == nullptr ? 0.0f : query_bound(a, problem, root, q);
    if (lane_index() != 0) continue;
    if (a.bounds != nullptr) a.bounds[row] = bound;
    a.roots[row] = {root.highest, root.tau, root.mass, delta};
    if (a.dalpha != nullptr) a.dalpha[row] = of_alpha + none;
    if (a.dtemperature != nullptr)
      a.dtemperature[row] =
          none + dtemperature / ((problem.map.alpha - 1.0f) * problem.temperature);
  }
}

template <class T, int kPerLane, int kWidth>
__global__ void __launch_bounds__(kRowWarps* kWarpSize)
    attend_entmax_by_key_kernel(AttendEntmaxArrays<T> a) {
  const int64_t row = row_of_warp();
  if (row >= a.problems * a.pairs.num_keys) return;
  const EntmaxProblem<T> problem(a, row / a.pairs.num_keys);
  const int64_t j = row % a.pairs.num_keys;
  LaneRow<kPerLane> dk, dv;
  if (a.pairs.is_key_real(problem.number, j)) {
    const float* k = stage_row(0, a.k + row * a.dim, a.dim);
    const float* v = stage_row(1, a.v + row * a.dim, a.dim);
    const bool is_listed = a.queries.count != nullptr && a.queries.count[row] <= a.queries.room;
    const Partners partners = is_listed ? Partners{.list = a.queries.columns + row * a.queries.room,
                                                   .count = a.queries.count[row]}
                                        : a.pairs.queries_of(problem.number, j);
    for (int64_t first = 0; first < partners.count; first += kWarpSize) {
      const int64_t i = partners.at(first + lane_index());
      const int64_t query = problem.queries + i;
      float ds = 0.0f, weight = 0.0f;
      bool is_active = false;
      if (is_listed ? i >= 0 : a.pairs.has(problem.number, i, j)) {
        const QueryRoot root = a.roots[query];
        const float x = problem.factor * lane_dot<kWidth>(k, a.q + query * a.dim, a.dim);
        const float u = x - root.highest - root.tau;
        is_active = u > 0.0f;
        if (is_active) {
          const float p = problem.map.mass(u) / root.mass;
          const float keep = problem.dropout.factor(static_cast<int>(i), static_cast<int>(j));
          const float dp =
              keep == 0.0f ? 0.0f : keep * lane_dot<kWidth>(v, a.dout + query * a.dim, a.dim);
          ds = problem.map.slope(p) * (dp - root.delta);
          weight = p * keep;
        }
      }
      for (uint32_t left = ballot(is_active); left != 0; left &= left - 1) {
        const int t = lowest_bit(left);
        const int64_t at = shuffle(query, t) * a.dim;
        add_scaled(dk, problem.to_score * shuffle(ds, t), load_row<kPerLane>(a.q + at, a.dim));
        add_scaled(dv, shuffle(weight, t), load_row<kPerLane>(a.dout + at, a.dim));
      }
    }
  }
  store_row(a.dk + row * a.dim, a.dim, dk);
  store_row(a.dv + row * a.dim, a.dim, dv);
}

template <class T, class Args>
AttendEntmaxArrays<T> arrays_of(const Args& x) {
  AttendEntmaxArrays<T> a;
  a.pairs.heads = x.q.shape[1];
  a.pairs.num_queries = x.q.shape[2];
  a.pairs.num_keys = x.k.shape[2];
  a.pairs.key_mask = x.key_mask.data;
  a.pairs.rule = math::pattern_rule(x.pattern);
  if (!x.edges.form.empty()) a.pairs.graph = writable_graph(x.edges);
  a.problems = x.q.shape[0] * a.pairs.heads;
  a.dim = static_cast<int>(x.q.shape[3]);
  a.scale = x.scale;
  a.q = x.q.template as<T>().data;
  a.k = x.k.template as<T>().data;
  a.v = x.v.template as<T>().data;
  a.alpha = x.heads.alpha.data;
  a.temperature = x.heads.temperature.data;
  a.dropout = weight_dropout(x.dropout);
  a.lists = alloc_entmax_lists(*x.scratch, a.problems * a.pairs.num_queries, a.pairs.num_keys);
  return a;
}

/// Calls body<kPerLane, kWidth>(): rows are read in packs where all of them start on one.
template <class T, class Body>
void with_row_widths(int64_t dim, bool is_aligned, const Body& body) {
  with_channels_per_lane(dim, [&]<int kPerLane>() {
    if (is_aligned && dim % kPackWidth == 0)
      return body.template operator()<kPerLane, kPackWidth>();
    body.template operator()<kPerLane, 1>();
  });
}

LaunchShape workers_with_rows(int64_t workers, int staged, int dim) {
  LaunchShape shape = a_warp_each(workers);
  shape.shared_bytes = static_cast<size_t>(staged * kRowWarps * dim) * sizeof(float);
  return shape;
}

/// For pairs of a pattern.
template <class Args>
EntmaxTiles tiles_of(const Stream& stream, const Args& x) {
  AttendArrays a;
  a.batch = x.q.shape[0];
  a.heads = x.q.shape[1];
  a.num_queries = x.q.shape[2];
  a.num_keys = x.k.shape[2];
  a.dim = x.q.shape[3];
  a.storage = x.q.precision;
  a.q = x.q.data;
  a.k = x.k.data;
  a.key_mask = x.key_mask.data;
  a.scale = x.scale;
  a.pattern = math::pattern_rule(x.pattern);
  int32_t* longest = x.scratch->template alloc<int32_t>({a.problems()}).data;
  find_longest_keys(stream, a, longest);
  return {a, x.heads.alpha.data, x.heads.temperature.data, longest};
}

}  // namespace

void attend_entmax(const Stream& stream, const AttendEntmax& args) {
  const Arena::Scope scope(*args.scratch);
  const bool has_candidates = !args.support.empty() && args.edges.form.empty();
  if (has_candidates) {  // where the support is to stand
    list_keys(stream, tiles_of(stream, args),
              {.count = args.support.size.data,
               .columns = args.support.columns.data,
               .room = args.support.columns.shape[3]},
              *args.scratch);
  }
  with_real_type(args.q.precision, [&](auto zero) {
    using T = decltype(zero);
    AttendEntmaxArrays<T> a = arrays_of<T>(args);
    a.has_candidates = has_candidates;
    a.tau = args.tau.data;
    if (!args.support.empty()) {
      a.size = args.support.size.data;
      a.columns = args.support.columns.data;
      a.room = args.support.columns.shape[3];
    }
    a.o = args.o.as<T>().data;
    if (!args.o2.empty()) a.o2 = args.o2.as<T>().data;
    with_row_widths<T>(a.dim, are_aligned(a.k), [&]<int kPerLane, int kWidth>() {
      launch(stream, workers_with_rows(a.lists.workers, 1, a.dim),
             attend_entmax_kernel<T, kPerLane, kWidth>, a);
    });
  });
}

void attend_entmax_backward(const Stream& stream, const AttendEntmaxBackward& args) {
  const Arena::Scope scope(*args.scratch);
  Arena& scratch = *args.scratch;
  const Shape& k = args.k.shape;
  const View<float> roots =
      scratch.alloc<float>({args.tau.numel(), sizeof(QueryRoot) / sizeof(float)});
  const bool has_tiles = args.edges.form.empty();
  EntmaxTiles tiles{};
  View<float> bounds;
  EntmaxCandidates queries;
  if (has_tiles) {
    tiles = tiles_of(stream, args);
    bounds = scratch.alloc<float>(args.tau.shape);
    queries = {.count = scratch.alloc<int32_t>({k[0], k[1], k[2]}).data,
               .columns = scratch.alloc<uint32_t>({k[0], k[1], k[2], kEntmaxRoom}).data,
               .room = kEntmaxRoom};
  }
  with_real_type(args.q.precision, [&](auto zero) {
    using T = decltype(zero);
    AttendEntmaxArrays<T> a = arrays_of<T>(args);
    // Only forward writes these.
    a.tau = const_cast<float*>(args.tau.data);
    a.o2 = const_cast<T*>(args.o2.as<T>().data);
    a.size = args.support.size.data;
    a.columns = args.support.columns.data;
    a.room = args.support.columns.shape[3];
    a.dout = args.dout.as<T>().data;
    a.roots = reinterpret_cast<QueryRoot*>(roots.data);
    a.longest_key = tiles.longest_key;
    a.bounds = bounds.data;
    a.queries = queries;
    a.dalpha = args.dalpha.data;
    a.dtemperature = args.dtemperature.data;
    a.dq = args.dq.as<T>().data;
    a.dk = args.dk.as<T>().data;
    a.dv = args.dv.as<T>().data;
    with_row_widths<T>(a.dim, are_aligned(a.q, a.k, a.v, a.o2, a.dout),
                       [&]<int kPerLane, int kWidth>() {
                         launch(stream, workers_with_rows(a.lists.workers, 2, a.dim),
                                attend_entmax_by_query_kernel<T, kPerLane, kWidth>, a);
                         if (has_tiles) list_queries(stream, tiles, bounds.data, queries, scratch);
                         launch(stream, workers_with_rows(a.problems * a.pairs.num_keys, 2, a.dim),
                                attend_entmax_by_key_kernel<T, kPerLane, kWidth>, a);
                       });
  });
}

}  // namespace stipple::kernels::cuda
