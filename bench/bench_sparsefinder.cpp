// SPDX-License-Identifier: Apache-2.0
// Entmax over predicted clusters beside exact entmax: forward and backward of one head of 64
// channels on one thread, 1,024 to 16,384 tokens, alpha 1.5. Queries and keys belong to sqrt(N)
// topics, which the clusters know: what prediction saves where it is right. Both in turn within one
// run: `step` is predicting (projections, clusters, the graph), forward and backward; `speedup` the
// exact ones' time by that, `predict_of_saved` predicting's by what attention saves. `degree` is edges
// a query, `support` keys with weight, `occupancy` the entropy of tokens over clusters by that of
// equal ones.
//
//   bench_sparsefinder --benchmark_filter='N:4096'
#include <benchmark/benchmark.h>

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "bench/attention_problem.h"
#include "bench/log_log_slope.h"
#include "kernels/attend_entmax.h"
#include "kernels/group_edges.h"
#include "kernels/predict.h"

namespace {

using namespace stipple;
using namespace stipple::kernels;
using namespace stipple::bench;

constexpr int64_t kDim = 64;
constexpr int64_t kProjectedDim = 4;

/// Everything that prediction, forward and backward of one problem read and write.
class Problem {
 public:
  explicit Problem(int64_t n)
      : n_(n), topics_(near_root(n)), stream_(kCpuDevice), a_(memory_, generator_, n, kDim) {
    o2_ = memory_.alloc<float>(a_.q.shape);
    weight_ = memory_.alloc<float>({1, kDim, kProjectedDim});
    fill_normal(weight_, generator_, 0.5f);
    centroids_ = memory_.alloc<float>({1, topics_, kProjectedDim});
    make_topics();
    support_ = alloc_entmax_support(memory_, 1, 1, n);
    alpha_ = memory_.alloc<float>({1});
    alpha_[0] = 1.5f;
    projected_ = memory_.alloc<float>({1, 1, n, kProjectedDim});
    for (auto* view : {&query_groups_, &key_groups_}) *view = memory_.alloc<int32_t>({1, 1, n, 1});
    // Above any density: no bits. An eighth of all pairs is more than topics of like size have.
    edges_ = alloc_edges(memory_, 1, n, n, {.tile_density = 2.0, .max_density = 0.125});
    edges_.groups = alloc_edge_groups(memory_, edges_, topics_);
    predict();
    for (const bool is_exact : {true, false}) {
      forward(is_exact);
      backward(is_exact);
    }
  }

  void predict() {
    for (const auto& [x, groups] : {std::pair{a_.q, query_groups_}, {a_.k, key_groups_}}) {
      project_tokens(stream_, {.y = projected_, .x = x, .weight = weight_});
      nearest_groups(stream_, {.groups = groups, .x = projected_, .centroids = centroids_});
    }
    write_group_edges(stream_, {.edges = edges_,
                                .query_groups = query_groups_,
                                .key_groups = key_groups_,
                                .num_groups = topics_,
                                .always = {.radius = 0},
                                .scratch = &memory_});
  }
  void forward(bool is_exact) {
    attend_entmax(stream_, {.o = a_.o,
                            .o2 = o2_,
                            .tau = a_.lse,
                            .support = support_,
                            .q = a_.q,
                            .k = a_.k,
                            .v = a_.v,
                            .heads = {.alpha = alpha_},
                            .edges = is_exact ? EdgeSet{} : edges_,
                            .scale = a_.scale,
                            .scratch = &memory_});
  }
  void backward(bool is_exact) {
    attend_entmax_backward(stream_, {.dq = a_.dq,
                                     .dk = a_.dk,
                                     .dv = a_.dv,
                                     .q = a_.q,
                                     .k = a_.k,
                                     .v = a_.v,
                                     .o2 = o2_,
                                     .dout = a_.dout,
                                     .tau = a_.lse,
                                     .support = support_,
                                     .heads = {.alpha = alpha_},
                                     .edges = is_exact ? EdgeSet{} : edges_,
                                     .scale = a_.scale,
                                     .scratch = &memory_});
  }
  double degree() const {
    return static_cast<double>(edges_.num_edges(0)) / static_cast<double>(n_);
  }
  double support() const {
    double sum = 0;
    for (const int32_t size : support_.size.span()) sum += size;
    return sum / static_cast<double>(n_);
  }
  double occupancy() const {
    double entropy = 0;
    for (int64_t g = 0; g < topics_; ++g) {
      for (const View<int32_t>& ptr : {edges_.groups.query_ptr, edges_.groups.key_ptr}) {
        const double share = (ptr[g + 1] - ptr[g]) / static_cast<double>(n_);
        if (share > 0) entropy -= share * std::log(share) / 2;
      }
    }
    return entropy / std::log(static_cast<double>(topics_));
  }

 private:
  /// A direction for each topic, of which queries and keys are noisy copies, in any order; its
  /// centroid is where it is projected to.
  void make_topics() {
    const View<float> topics = memory_.alloc<float>({1, 1, topics_, kDim});
    fill_normal(topics, generator_);
    project_tokens(
        stream_,
        {.y = centroids_.reshape({1, 1, topics_, kProjectedDim}), .x = topics, .weight = weight_});
    std::normal_distribution<float> noise(0.0f, 0.1f);
    for (const View<float>& x : {a_.q, a_.k}) {
      for (int64_t i = 0; i < n_; ++i) {
        const auto topic = static_cast<int64_t>(generator_() % static_cast<uint64_t>(topics_));
        for (int64_t c = 0; c < kDim; ++c)
          x[i * kDim + c] = topics[topic * kDim + c] + noise(generator_);
      }
    }
  }

  int64_t n_, topics_;
  Arena memory_{"bench", kCpuDevice, size_t{1} << 29};
  Stream stream_;
  std::mt19937 generator_{7};
  AttentionArrays a_;
  View<float> o2_, weight_, centroids_, projected_, alpha_;
  View<int32_t> query_groups_, key_groups_;
  EntmaxSupport support_;
  EdgeSet edges_;
};

/// Seconds of a step by number of tokens.
std::map<int64_t, double>& step_seconds() {
  static std::map<int64_t, double> seconds;
  return seconds;
}

void step(benchmark::State& state, int64_t n) {
  Problem problem(n);
  std::vector<double> predict, forward, backward, all, exact;
  for (auto _ : state) {
    predict.push_back(seconds_of([&] { problem.predict(); }));
    forward.push_back(seconds_of([&] { problem.forward(false); }));
    backward.push_back(seconds_of([&] { problem.backward(false); }));
    all.push_back(predict.back() + forward.back() + backward.back());
    state.SetIterationTime(all.back());
    state.counters["support"] = problem.support();
    exact.push_back(seconds_of([&] {
      problem.forward(true);
      problem.backward(true);
    }));
  }
  constexpr double kMilliseconds = 1e3;
  step_seconds()[n] = median(all);
  state.counters["exact_ms"] = kMilliseconds * median(exact);
  state.counters["predict_ms"] = kMilliseconds * median(predict);
  state.counters["forward_ms"] = kMilliseconds * median(forward);
  state.counters["backward_ms"] = kMilliseconds * median(backward);
  state.counters["speedup"] = median(exact) / median(all);
  state.counters["predict_of_saved"] =
      median(predict) / (median(exact) - median(forward) - median(backward));
  state.counters["degree"] = problem.degree();
  state.counters["occupancy"] = problem.occupancy();
  label_with_isa(state);
}

/// Of the steps that were measured.
void log_log_slope_of_steps(benchmark::State& state) {
  for (auto _ : state) benchmark::ClobberMemory();
  if (step_seconds().size() > 1) state.counters["slope"] = log_log_slope(step_seconds());
}

void add_all() {
  for (int64_t n = 1024; n <= 16384; n *= 2) {
    benchmark::RegisterBenchmark(("step/N:" + std::to_string(n)).c_str(),
                                 [n](benchmark::State& state) { step(state, n); })
        ->Unit(benchmark::kMillisecond)
        ->UseManualTime();
  }
  benchmark::RegisterBenchmark("log_log_slope", log_log_slope_of_steps)->Iterations(1);
}

}  // namespace

int main(int argc, char** argv) { return stipple::bench::run_benchmarks(argc, argv, add_all); }
