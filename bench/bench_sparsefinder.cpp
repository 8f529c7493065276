// SPDX-License-Identifier: Apache-2.0
// Entmax over predicted clusters beside exact entmax: forward and backward of one head of 64
// channels on one thread, 1,024 to 16,384 tokens, alpha 1.5. Queries and keys belong to sqrt(N)
// topics, which the clusters know: what prediction saves where it is right. `predict` is what comes
// before attention: projections, clusters, the graph. `degree` is edges per query.
//
//   bench_sparsefinder --benchmark_filter='step/.*/N:4096'
#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <string>

#include "bench/attention_problem.h"
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
  Problem(int64_t n, bool is_exact)
      : n_(n),
        topics_(near_root(n)),
        is_exact_(is_exact),
        stream_(kCpuDevice),
        a_(memory_, generator_, n, kDim) {
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
    forward();
    backward();
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
  void forward() {
    attend_entmax(stream_, {.o = a_.o,
                            .o2 = o2_,
                            .tau = a_.lse,
                            .support = support_,
                            .q = a_.q,
                            .k = a_.k,
                            .v = a_.v,
                            .heads = {.alpha = alpha_},
                            .edges = is_exact_ ? EdgeSet{} : edges_,
                            .scale = a_.scale,
                            .scratch = &memory_});
  }
  void backward() {
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
                                     .edges = is_exact_ ? EdgeSet{} : edges_,
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
  bool is_exact_;
  Arena memory_{"bench", kCpuDevice, size_t{1} << 29};
  Stream stream_;
  std::mt19937 generator_{7};
  AttentionArrays a_;
  View<float> o2_, weight_, centroids_, projected_, alpha_;
  View<int32_t> query_groups_, key_groups_;
  EntmaxSupport support_;
  EdgeSet edges_;
};

void measure(benchmark::State& state, const std::string& pass, int64_t n, bool is_exact) {
  Problem problem(n, is_exact);
  for (auto _ : state) {
    if (!is_exact && (pass == "predict" || pass == "step")) problem.predict();
    if (pass == "forward" || pass == "step") problem.forward();
    if (pass == "backward" || pass == "step") problem.backward();
    benchmark::ClobberMemory();
  }
  state.counters["degree"] = problem.degree();
  state.counters["support"] = problem.support();
  label_with_isa(state);
}

void add_all() {
  for (int64_t n = 1024; n <= 16384; n *= 2) {
    for (const bool is_exact : {true, false}) {
      for (const std::string pass : {"predict", "forward", "backward", "step"}) {
        if (is_exact && pass == "predict") continue;
        const std::string name =
            pass + (is_exact ? "/exact/N:" : "/predicted/N:") + std::to_string(n);
        benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
          measure(state, pass, n, is_exact);
        })->Unit(benchmark::kMillisecond);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return stipple::bench::run_benchmarks(argc, argv, add_all); }
