// SPDX-License-Identifier: Apache-2.0
// What the benchmarks of attention share: the arrays of one head with random contents, softmax over
// all pairs to compare with, times of the measuring thread, and how a benchmark program runs.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/cpu/isa.h"
#include "core/stream.h"
#include "kernels/attend.h"

namespace stipple::bench {

inline void fill_normal(View<float> view, std::mt19937& generator, float deviation = 1.0f) {
  std::normal_distribution<float> normal(0.0f, deviation);
  for (float& x : view.span()) x = normal(generator);
}

/// What forward and backward of attention of one head read, normal numbers, and write.
struct AttentionArrays {
  View<float> q, k, v, dout;  // [1, 1, N, D]
  View<float> o, dq, dk, dv;  // [1, 1, N, D]
  View<float> lse;            // [1, 1, N]
  float scale = 1.0f;         ///< 1 / sqrt(D)

  AttentionArrays(Arena& memory, std::mt19937& generator, int64_t tokens, int64_t dim,
                  float deviation_of_qk = 1.0f)
      : scale(1.0f / std::sqrt(static_cast<float>(dim))) {
    const Shape rows = {1, 1, tokens, dim};
    for (auto* view : {&q, &k, &v, &dout, &o, &dq, &dk, &dv}) *view = memory.alloc<float>(rows);
    for (const View<float>& view : {q, k}) fill_normal(view, generator, deviation_of_qk);
    for (const View<float>& view : {v, dout}) fill_normal(view, generator);
    lse = memory.alloc<float>({1, 1, tokens});
  }
};

inline void softmax_forward(const Stream& stream, Arena& scratch, const AttentionArrays& a,
                            const kernels::Pattern& pattern = {},
                            const kernels::AttentionDropout& dropout = {}) {
  kernels::attend_dense(stream, {.o = a.o,
                                 .lse = a.lse,
                                 .q = a.q,
                                 .k = a.k,
                                 .v = a.v,
                                 .pattern = pattern,
                                 .scale = a.scale,
                                 .dropout = dropout,
                                 .scratch = &scratch});
}

inline void softmax_backward(const Stream& stream, Arena& scratch, const AttentionArrays& a,
                             const kernels::Pattern& pattern = {},
                             const kernels::AttentionDropout& dropout = {}) {
  kernels::attend_dense_backward(stream, {.dq = a.dq,
                                          .dk = a.dk,
                                          .dv = a.dv,
                                          .q = a.q,
                                          .k = a.k,
                                          .v = a.v,
                                          .o = a.o,
                                          .dout = a.dout,
                                          .lse = a.lse,
                                          .pattern = pattern,
                                          .scale = a.scale,
                                          .dropout = dropout,
                                          .scratch = &scratch});
}

/// A block, or a number of columns, for which a cut of n tokens costs least.
inline int64_t near_root(int64_t n) {
  return static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(n))));
}

/// CPU time of the calling thread.
inline double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

inline double seconds_of(const std::function<void()>& work) {
  const double begin = thread_seconds();
  work();
  return thread_seconds() - begin;
}

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Seconds for each of the `count` things that an iteration does.
inline benchmark::Counter seconds_per(const benchmark::State& state, double count) {
  return {static_cast<double>(state.iterations()) * count,
          benchmark::Counter::kIsRate | benchmark::Counter::kInvert};
}

inline void label_with_isa(benchmark::State& state) {
  state.SetLabel(std::string(cpu::isa_name(cpu::isa())));
}

/// The body of main.
inline int run_benchmarks(int argc, char** argv, void (*add_all)()) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  add_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace stipple::bench
