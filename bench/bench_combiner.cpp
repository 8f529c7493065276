// SPDX-License-Identifier: Apache-2.0
// Combiner attention beside softmax: forward and backward of one head of 64 channels on one thread,
// 1,024 to 16,384 tokens. `exact` is softmax by attend_dense. `per_token` is CPU time of the
// measuring thread, `bytes/token` what an operation takes beyond its inputs and results.
//
// At the end, of Combiner by blocks near the root of the length, the slopes of log CPU time and of log bytes
// (all that a step reads and writes) over log length.
//
//   bench_combiner --benchmark_filter='step/.*/N:4096'
//   bench_combiner --benchmark_filter='fixed_root/|slope'
#include <benchmark/benchmark.h>

#include <cmath>
#include <ctime>
#include <map>
#include <random>
#include <string>

#include "bench/log_log_slope.h"
#include "core/cpu/isa.h"
#include "core/stream.h"
#include "kernels/attend.h"
#include "kernels/combine.h"

namespace {

using namespace stipple;
using namespace stipple::kernels;

constexpr int64_t kDim = 64;
constexpr const char* kRootName = "fixed_root";

struct Case {
  std::string name;
  bool is_exact = false;
  Partition partition;
};

/// Everything that forward and backward of one problem read and write.
class Problem {
 public:
  explicit Problem(const Case& c)
      : case_(c), memory_("bench", kCpuDevice, size_t{1} << 29), stream_(kCpuDevice) {
    const Shape rows = {1, 1, c.partition.length, kDim};
    for (auto* view : {&q_, &k_, &v_, &dout_}) *view = random(rows);
    for (auto* view : {&o_, &dq_, &dk_, &dv_}) *view = memory_.alloc<float>(rows);
    lse_ = memory_.alloc<float>({1, 1, c.partition.length});
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
    if (case_.is_exact) {
      attend_dense(stream_, {.o = o_,
                             .lse = lse_,
                             .q = q_,
                             .k = k_,
                             .v = v_,
                             .pattern = {.is_causal = case_.partition.is_causal},
                             .scale = kScale,
                             .scratch = &memory_});
      return;
    }
    summarize_regions(stream_, {.out = summaries_,
                                .q = q_,
                                .k = k_,
                                .v = v_,
                                .partition = case_.partition,
                                .scale = kScale,
                                .scratch = &memory_});
    combine(stream_, {.o = o_,
                      .lse = lse_,
                      .q = q_,
                      .k = k_,
                      .v = v_,
                      .region_key = summaries_.key,
                      .region_value = summaries_.value,
                      .region_tokens = summaries_.tokens,
                      .partition = case_.partition,
                      .scale = kScale,
                      .scratch = &memory_});
  }

  void backward() {
    if (case_.is_exact) {
      attend_dense_backward(stream_, {.dq = dq_,
                                      .dk = dk_,
                                      .dv = dv_,
                                      .q = q_,
                                      .k = k_,
                                      .v = v_,
                                      .o = o_,
                                      .dout = dout_,
                                      .lse = lse_,
                                      .pattern = {.is_causal = case_.partition.is_causal},
                                      .scale = kScale,
                                      .scratch = &memory_});
      return;
    }
    combine_backward(stream_, {.dq = dq_,
                               .dk = dk_,
                               .dv = dv_,
                               .dregion_key = dkey_,
                               .dregion_value = dvalue_,
                               .q = q_,
                               .k = k_,
                               .v = v_,
                               .region_key = summaries_.key,
                               .region_value = summaries_.value,
                               .region_tokens = summaries_.tokens,
                               .o = o_,
                               .dout = dout_,
                               .lse = lse_,
                               .partition = case_.partition,
                               .scale = kScale,
                               .scratch = &memory_});
    summarize_regions_backward(stream_, {.dq = dq_,
                                         .dk = dk_,
                                         .dv = dv_,
                                         .dkey = dkey_,
                                         .dvalue = dvalue_,
                                         .saved = summaries_,
                                         .k = k_,
                                         .v = v_,
                                         .partition = case_.partition,
                                         .scale = kScale,
                                         .scratch = &memory_});
  }

  size_t bytes() const { return bytes_; }
  size_t all_bytes() const { return memory_.peak(); }

 private:
  static constexpr float kScale = 0.125f;  // 1 / sqrt(kDim)

  View<float> random(Shape shape) {
    const View<float> view = memory_.alloc<float>(shape);
    std::normal_distribution<float> normal;
    for (float& x : view.span()) x = normal(generator_);
    return view;
  }

  Case case_;
  Arena memory_;
  Stream stream_;
  std::mt19937 generator_{7};
  View<float> q_, k_, v_, dout_, o_, dq_, dk_, dv_, lse_, dkey_, dvalue_;
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
  const std::clock_t begin = std::clock();
  for (auto _ : state) {
    if (forward) problem.forward();
    if (backward) problem.backward();
    benchmark::ClobberMemory();
  }
  const double cpu_seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  if (forward && backward && c.name == kRootName) {
    costs().seconds[c.partition.length] = cpu_seconds / static_cast<double>(state.iterations());
    costs().bytes[c.partition.length] = static_cast<double>(problem.all_bytes());
  }
  const auto tokens = static_cast<double>(c.partition.length);
  state.counters["per_token"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * tokens,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["bytes/token"] = static_cast<double>(problem.bytes()) / tokens;
  state.SetLabel(std::string(stipple::cpu::isa_name(stipple::cpu::isa())));
}

void add(const Case& c) {
  for (const char* pass : {"forward", "backward", "step"}) {
    const std::string which = pass;
    const std::string name = which + "/" + c.name + "/N:" + std::to_string(c.partition.length);
    benchmark::RegisterBenchmark(name.c_str(), [which, c](benchmark::State& state) {
      measure(state, c, which != "backward", which != "forward");
    })->Unit(benchmark::kMillisecond);
  }
}

int64_t near_root(int64_t n) {
  return static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(n))));
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

int main(int argc, char** argv) {
  add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
