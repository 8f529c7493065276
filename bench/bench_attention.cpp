// SPDX-License-Identifier: Apache-2.0
// Attention over all pairs, bits and CSR: forward and backward of one head on one thread. N = M =
// 2048 unless the name says otherwise. Gpair/s counts all N M pairs, Medge/s the stored edges, both
// per second of CPU time of the measuring thread.
//
//   bench_attention --benchmark_filter='backward/.*/d:32' --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "bench/attention_problem.h"

namespace {

using namespace stipple;
using namespace stipple::kernels;
using namespace stipple::bench;

struct Case {
  EdgeForm form = EdgeForm::kBits;
  bool dense = false;
  bool causal = false;  ///< of dense
  int64_t n = 2048;
  int64_t d = 32;
  int64_t clusters = 0;
  double density = 0.25;
  float dropout = 0.0f;
};

/// Everything that forward and backward of one problem read and write.
class Problem {
 public:
  explicit Problem(const Case& c)
      : case_(c),
        memory_("bench", kCpuDevice, size_t{256} << 20),
        stream_(kCpuDevice),
        a_(memory_, generator_, c.n, c.d) {
    const Shape memberships = {1, 1, c.n, c.clusters};
    samples_ = memory_.alloc<uint32_t>({1});
    samples_[0] = 5;
    if (c.clusters > 0) {
      for (auto* view : {&y_, &z_})
        fill_normal(*view = memory_.alloc<float>(memberships), generator_);
      row_grad_ = memory_.alloc<float>(memberships);
      column_grad_ = memory_.alloc<float>(memberships);
    }
    if (!c.dense) make_edges();
    if (c.dropout > 0) {
      kept_ = c.dense ? alloc_kept(memory_, 1, c.n, c.n) : alloc_kept(memory_, edges_);
    }
    forward();
  }

  void forward() {
    if (case_.dense) return softmax_forward(stream_, memory_, a_, pattern(), dropout());
    attend_edges(stream_, {.o = a_.o,
                           .lse = a_.lse,
                           .q = a_.q,
                           .k = a_.k,
                           .v = a_.v,
                           .edges = edges_,
                           .scale = a_.scale,
                           .dropout = dropout(),
                           .scratch = &memory_});
  }

  void backward() {
    if (case_.dense) return softmax_backward(stream_, memory_, a_, pattern(), dropout());
    StraightThrough ste;
    if (case_.clusters > 0) {
      ste = {.row_grad = row_grad_, .column_grad = column_grad_, .y = y_, .z = z_};
    }
    attend_edges_backward(stream_, {.dq = a_.dq,
                                    .dk = a_.dk,
                                    .dv = a_.dv,
                                    .q = a_.q,
                                    .k = a_.k,
                                    .v = a_.v,
                                    .o = a_.o,
                                    .dout = a_.dout,
                                    .lse = a_.lse,
                                    .edges = edges_,
                                    .scale = a_.scale,
                                    .dropout = dropout(),
                                    .ste = ste,
                                    .scratch = &memory_});
  }

  int64_t num_edges() const { return case_.dense ? case_.n * case_.n : edges_.num_edges(0); }

 private:
  Pattern pattern() const { return {.is_causal = case_.causal}; }
  AttentionDropout dropout() const {
    return {.rate = case_.dropout, .rng = {1, 2}, .samples = samples_, .kept = kept_};
  }

  void make_edges() {
    const EdgeCapacity capacity = {.tile_density = case_.form == EdgeForm::kBits ? 0.0 : 1.0,
                                   .max_density = 1.0};
    edges_ = alloc_edges(memory_, 1, case_.n, case_.n, capacity);
    std::vector<uint8_t> dense(static_cast<size_t>(case_.n * case_.n));
    std::bernoulli_distribution edge(case_.density);
    for (uint8_t& x : dense) x = edge(generator_) ? 1 : 0;
    set_edges(edges_, 0, case_.form, {dense.data(), {case_.n, case_.n}});
  }

  Case case_;
  Arena memory_;
  Stream stream_;
  std::mt19937 generator_{7};
  AttentionArrays a_;
  View<float> y_, z_, row_grad_, column_grad_;
  View<uint32_t> samples_, kept_;
  EdgeSet edges_;
};

void measure(benchmark::State& state, const Case& c, bool forward, bool backward) {
  Problem problem(c);
  for (auto _ : state) {
    if (forward) problem.forward();
    if (backward) problem.backward();
    benchmark::ClobberMemory();
  }
  const auto runs = static_cast<double>(state.iterations());
  state.counters["Gpair/s"] =
      benchmark::Counter(runs * static_cast<double>(c.n * c.n) * 1e-9, benchmark::Counter::kIsRate);
  state.counters["Medge/s"] = benchmark::Counter(
      runs * static_cast<double>(problem.num_edges()) * 1e-6, benchmark::Counter::kIsRate);
  label_with_isa(state);
}

void add(const std::string& pass, const Case& c) {
  std::string name = pass + "/" +
                     (c.causal                    ? "causal"
                      : c.dense                   ? "dense"
                      : c.form == EdgeForm::kBits ? "bits"
                                                  : "csr") +
                     "/d:" + std::to_string(c.d) + "/N:" + std::to_string(c.n);
  if (!c.dense) name += "/percent:" + std::to_string(std::lround(c.density * 100));
  if (c.clusters > 0) name += "/k:" + std::to_string(c.clusters);
  if (c.dropout > 0) name += "/dropout";
  benchmark::RegisterBenchmark(name.c_str(), [pass, c](benchmark::State& state) {
    measure(state, c, pass != "backward", pass != "forward");
  })->Unit(benchmark::kMillisecond);
}

void add_all() {
  for (int64_t d : {32, 64}) {
    add("forward", {.dense = true, .d = d});
    add("backward", {.dense = true, .d = d});
    add("forward", {.dense = true, .causal = true, .d = d});
    add("backward", {.dense = true, .causal = true, .d = d});
    for (double density : {0.05, 0.25, 1.0}) add("forward", {.d = d, .density = density});
    for (double density : {0.01, 0.02, 0.05, 0.10}) {
      add("forward", {.form = EdgeForm::kCsr, .d = d, .density = density});
    }
    for (double density : {0.20, 0.25, 0.26, 0.30, 0.35, 0.50, 1.0}) {
      add("backward", {.d = d, .clusters = 128, .density = density});
      if (density < 1.0) {
        add("backward", {.d = d, .clusters = 128, .density = density, .dropout = 0.1f});
      }
    }
    add("backward", {.form = EdgeForm::kCsr, .d = d, .clusters = 128, .density = 0.02});
    // What dropout costs: beside the same without it.
    for (float dropout : {0.0f, 0.1f}) {
      add("step", {.dense = true, .d = d, .dropout = dropout});
      add("step", {.dense = true, .causal = true, .d = d, .dropout = dropout});
      add("step", {.d = d, .clusters = 128, .density = 0.26, .dropout = dropout});
    }
  }
  // Where dense tiles overtake the walk over set bits: what a pair costs that way is linear in the
  // density, so that two densities tell where it meets the tiles, which 100 % are.
  for (int64_t d : {16, 32, 64, 128}) {
    for (int64_t clusters : {0, 32, 64, 128, 256}) {
      if (clusters == 128 && (d == 32 || d == 64)) continue;  // above
      for (double density : {0.20, 0.50, 1.0}) {
        add("backward", {.n = 1024, .d = d, .clusters = clusters, .density = density});
      }
    }
  }
  add("forward", {.density = 0.25, .dropout = 0.1f});
  add("forward", {.dense = true, .dropout = 0.1f});
  add("step", {.clusters = 128, .density = 0.05, .dropout = 0.1f});
  add("step", {.form = EdgeForm::kCsr, .clusters = 128, .density = 0.02, .dropout = 0.1f});
  // Where bits overtake CSR over a training step: the default of attention.sbm.tile_density.
  for (double density : {0.01, 0.02, 0.05, 0.10, 0.20, 0.25, 0.30, 0.40}) {
    for (EdgeForm form : {EdgeForm::kBits, EdgeForm::kCsr}) {
      add("step", {.form = form, .clusters = 128, .density = density});
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return stipple::bench::run_benchmarks(argc, argv, add_all); }
