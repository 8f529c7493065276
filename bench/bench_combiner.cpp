// SPDX-License-Identifier: Apache-2.0
// Combiner attention beside softmax: forward and backward of one head of 64 channels on one thread,
// 1,024 to 16,384 tokens; by blocks of 64 also on two, which share the head. `exact` is softmax by
// attend_dense. `per_token` is CPU time of the measuring thread, `bytes/token` what an operation takes
// beyond its inputs and results.
//
// At the end, of Combiner by blocks near the root of the length, the slopes of log CPU time and of log
// bytes (all that a step reads and writes) over log length.
//
//   bench_combiner --benchmark_filter='step/.*/N:4096'
//   bench_combiner --benchmark_filter='fixed_root/|slope'
#include <benchmark/benchmark.h>

#include <cmath>
#include <map>
#include <random>
#include <string>

#include "bench/attention_problem.h"
#include "bench/log_log_slope.h"
#include "kernels/combine.h"

namespace {

using namespace stipple;
using namespace stipple::kernels;
using namespace stipple::bench;

constexpr int64_t kDim = 64;
constexpr const char* kRootName = "fixed_root";

struct Case {
  std::string name;
  bool is_exact = false;
  Partition partition;
  int threads = 1;
};

/// Everything that forward and backward of one problem read and write.
class Problem {
 public:
  explicit Problem(const Case& c)
      : case_(c),
        memory_("bench", kCpuDevice, size_t{1} << 29),
        stream_(kCpuDevice, {.threads = c.threads}),
        a_(memory_, generator_, c.partition.length, kDim) {
    const Arena::Mark before = memory_.mark();
    if (!c.is_exact) {
      summaries_ = alloc_summaries(memory_, Precision::kFp32, 1, 1, kDim, c.partition,
                                   RegionPool::kMax, RegionKey::kPooled);
      dkey_ = memory_.alloc<float>(summaries_.key.shape);
      dvalue_ = memory_.alloc<float>(summaries_.key.shape);
    }
    forward();
    backward();
    bytes_ = memory_.peak() - before;
  }

  void forward() {
    if (case_.is_exact) return softmax_forward(stream_, memory_, a_, pattern());
    summarize_regions(stream_, {.out = summaries_,
                                .q = a_.q,
                                .k = a_.k,
                                .v = a_.v,
                                .partition = case_.partition,
                                .scale = a_.scale,
                                .scratch = &memory_});
    combine(stream_, {.o = a_.o,
                      .lse = a_.lse,
                      .q = a_.q,
                      .k = a_.k,
                      .v = a_.v,
                      .region_key = summaries_.key,
                      .region_value = summaries_.value,
                      .region_tokens = summaries_.tokens,
                      .partition = case_.partition,
                      .scale = a_.scale,
                      .scratch = &memory_});
  }

  void backward() {
    if (case_.is_exact) return softmax_backward(stream_, memory_, a_, pattern());
    combine_backward(stream_, {.dq = a_.dq,
                               .dk = a_.dk,
                               .dv = a_.dv,
                               .dregion_key = dkey_,
                               .dregion_value = dvalue_,
                               .q = a_.q,
                               .k = a_.k,
                               .v = a_.v,
                               .region_key = summaries_.key,
                               .region_value = summaries_.value,
                               .region_tokens = summaries_.tokens,
                               .o = a_.o,
                               .dout = a_.dout,
                               .lse = a_.lse,
                               .partition = case_.partition,
                               .scale = a_.scale,
                               .scratch = &memory_});
    summarize_regions_backward(stream_, {.dq = a_.dq,
                                         .dk = a_.dk,
                                         .dv = a_.dv,
                                         .dkey = dkey_,
                                         .dvalue = dvalue_,
                                         .saved = summaries_,
                                         .k = a_.k,
                                         .v = a_.v,
                                         .partition = case_.partition,
                                         .scale = a_.scale,
                                         .scratch = &memory_});
  }

  size_t bytes() const { return bytes_; }
  size_t all_bytes() const { return memory_.peak(); }

 private:
  Pattern pattern() const { return {.is_causal = case_.partition.is_causal}; }

  Case case_;
  Arena memory_;
  Stream stream_;
  std::mt19937 generator_{7};
  AttentionArrays a_;
  View<float> dkey_, dvalue_;
  Summaries summaries_;
  size_t bytes_ = 0;
};

/// Of steps of `fixed_root`, by length.
struct Costs {
  std::map<int64_t, double> seconds, bytes;
};
Costs& costs() {
  static Costs all;
  return all;
}

void log_log_slopes(benchmark::State& state) {
  if (costs().seconds.size() < 2) state.SkipWithError("needs step/fixed_root at several lengths");
  for (auto _ : state) benchmark::DoNotOptimize(costs());
  state.counters["time_slope"] = stipple::log_log_slope(costs().seconds);
  state.counters["bytes_slope"] = stipple::log_log_slope(costs().bytes);
}

void measure(benchmark::State& state, const Case& c, bool forward, bool backward) {
  Problem problem(c);
  const double begin = thread_seconds();
  for (auto _ : state) {
    if (forward) problem.forward();
    if (backward) problem.backward();
    benchmark::ClobberMemory();
  }
  const double cpu_seconds = thread_seconds() - begin;
  if (forward && backward && c.name == kRootName) {
    costs().seconds[c.partition.length] = cpu_seconds / static_cast<double>(state.iterations());
    costs().bytes[c.partition.length] = static_cast<double>(problem.all_bytes());
  }
  const auto tokens = static_cast<double>(c.partition.length);
  state.counters["per_token"] = seconds_per(state, tokens);
  state.counters["bytes/token"] = static_cast<double>(problem.bytes()) / tokens;
  label_with_isa(state);
}

void add(const Case& c) {
  for (const char* pass : {"forward", "backward", "step"}) {
    const std::string which = pass;
    const std::string threads = c.threads > 1 ? "/threads:" + std::to_string(c.threads) : "";
    const std::string name =
        which + "/" + c.name + threads + "/N:" + std::to_string(c.partition.length);
    auto* own = benchmark::RegisterBenchmark(name.c_str(), [which, c](benchmark::State& state) {
      measure(state, c, which != "backward", which != "forward");
    });
    own->Unit(benchmark::kMillisecond);
    if (c.threads > 1) own->UseRealTime();
  }
}

void add_all() {
  for (int64_t n = 1024; n <= 16384; n *= 2) {
    add({.name = "exact", .is_exact = true, .partition = {.length = n}});
    for (const bool causal : {false, true}) {
      const std::string suffix = causal ? "_causal" : "";
      const auto add_partition = [&](const std::string& name, Partition p) {
        p.length = n;
        p.is_causal = causal;
        add({.name = name + suffix, .partition = p});
      };
      add_partition("fixed_64", {.block = 64});
      add({.name = "fixed_64" + suffix,
           .partition = {.is_causal = causal, .length = n, .block = 64},
           .threads = 2});
      add_partition(kRootName, {.block = near_root(n)});
      add_partition("logsparse", {.kind = PartitionKind::kLogsparse});
      add_partition("vertical", {.kind = PartitionKind::kVertical, .columns = near_root(n)});
      add_partition("axial", {.kind = PartitionKind::kRowMajor, .columns = near_root(n)});
      add_partition("mixture", {.kind = PartitionKind::kMixture, .columns = near_root(n)});
    }
  }
  benchmark::RegisterBenchmark("log_log_slope", log_log_slopes)->Iterations(1);
}

}  // namespace

int main(int argc, char** argv) { return stipple::bench::run_benchmarks(argc, argv, add_all); }
