// SPDX-License-Identifier: Apache-2.0
// Entmax on one thread. `rows`: tau and support of rows in the second-level cache; `per_score`.
// `step`: forward and backward of attention of one head beside softmax's (attend_dense), measured in
// turn within one run; `speedup` is softmax's time by entmax's, `of_1.5` the time by that of alpha
// 1.5 on the same numbers, `bytes/token` what entmax takes beyond inputs and results, `support` the
// mean number of keys with weight. Scores are normal, of deviation sigma: 2.45 as in trained models,
// 0.1 as at their start.
//
//   bench_entmax --benchmark_filter='step/.*N:4096'
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/cpu/isa.h"
#include "core/stream.h"
#include "kernels/attend.h"
#include "kernels/attend_entmax.h"
#include "kernels/entmax.h"

namespace {

using namespace stipple;
using namespace stipple::kernels;

constexpr float kSharpSigma = 2.45f;
constexpr float kFlatSigma = 0.1f;

void fill_normal(View<float> view, double deviation, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal(0.0, deviation);
  for (float& x : view.span()) x = static_cast<float>(normal(generator));
}

void label(benchmark::State& state) {
  state.SetLabel(std::string(stipple::cpu::isa_name(stipple::cpu::isa())));
}

// --- rows ----------------------------------------------------------------------------------------

void rows(benchmark::State& state, float alpha, float sigma, int64_t length) {
  constexpr int64_t kScores = 1 << 17;  // half a megabyte
  const int64_t count = kScores / length;
  Arena memory("bench", kCpuDevice, size_t{1} << 26);
  const Stream stream(kCpuDevice);
  const View<float> z = memory.alloc<float>({count, length});
  fill_normal(z, double{sigma}, 3);
  const View<float> alphas = memory.alloc<float>({1});
  alphas[0] = alpha;
  const Entmax args = {.tau = memory.alloc<float>({count}),
                       .support = {.size = memory.alloc<int32_t>({count}),
                                   .columns = memory.alloc<uint32_t>({count, kEntmaxRoom})},
                       .z = z,
                       .alpha = alphas,
                       .scratch = &memory};
  for (auto _ : state) {
    entmax(stream, args);
    benchmark::ClobberMemory();
  }
  state.counters["per_score"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * kScores,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  label(state);
}

// --- attention -----------------------------------------------------------------------------------

struct Case {
  float alpha = 1.5f;
  float sigma = kSharpSigma;
  int64_t dim = 64;
  int64_t tokens = 1024;
};

/// Everything that forward and backward of one problem read and write.
class Problem {
 public:
  explicit Problem(const Case& c)
      : memory_("bench", kCpuDevice, size_t{1} << 29),
        stream_(kCpuDevice),
        scale_(1.0f / std::sqrt(static_cast<float>(c.dim))) {
    const Shape shape = {1, 1, c.tokens, c.dim};
    const double deviation = std::sqrt(double{c.sigma});  // of q and of k: that of scores is sigma
    for (auto* view : {&q_, &k_})
      fill_normal(*view = memory_.alloc<float>(shape), deviation, seed_++);
    for (auto* view : {&v_, &dout_}) fill_normal(*view = memory_.alloc<float>(shape), 1.0, seed_++);
    for (auto* view : {&o_, &dq_, &dk_, &dv_}) *view = memory_.alloc<float>(shape);
    lse_ = memory_.alloc<float>({1, 1, c.tokens});
    alpha_ = memory_.alloc<float>({1});
    alpha_[0] = c.alpha;
    const Arena::Mark before = memory_.mark();
    o2_ = memory_.alloc<float>(shape);
    support_ = alloc_entmax_support(memory_, 1, 1, c.tokens);
    entmax_step();
    bytes_ = memory_.peak() - before;
  }

  void softmax_step() {
    attend_dense(
        stream_,
        {.o = o_, .lse = lse_, .q = q_, .k = k_, .v = v_, .scale = scale_, .scratch = &memory_});
    attend_dense_backward(stream_, {.dq = dq_,
                                    .dk = dk_,
                                    .dv = dv_,
                                    .q = q_,
                                    .k = k_,
                                    .v = v_,
                                    .o = o_,
                                    .dout = dout_,
                                    .lse = lse_,
                                    .scale = scale_,
                                    .scratch = &memory_});
  }

  void entmax_forward() {
    attend_entmax(stream_, {.o = o_,
                            .o2 = o2_,
                            .tau = lse_,
                            .support = support_,
                            .q = q_,
                            .k = k_,
                            .v = v_,
                            .heads = {.alpha = alpha_},
                            .scale = scale_,
                            .scratch = &memory_});
  }
  void entmax_step() {
    entmax_forward();
    attend_entmax_backward(stream_, {.dq = dq_,
                                     .dk = dk_,
                                     .dv = dv_,
                                     .q = q_,
                                     .k = k_,
                                     .v = v_,
                                     .o2 = o2_,
                                     .dout = dout_,
                                     .tau = lse_,
                                     .support = support_,
                                     .heads = {.alpha = alpha_},
                                     .scale = scale_,
                                     .scratch = &memory_});
  }

  void set_alpha(float alpha) { alpha_[0] = alpha; }
  size_t bytes() const { return bytes_; }
  double mean_support() const {
    double sum = 0;
    for (const int32_t size : support_.size.span()) sum += size;
    return sum / static_cast<double>(support_.size.numel());
  }

 private:
  Arena memory_;
  Stream stream_;
  float scale_;
  uint64_t seed_ = 7;
  View<float> q_, k_, v_, dout_, o_, o2_, dq_, dk_, dv_, lse_, alpha_;
  EntmaxSupport support_;
  size_t bytes_ = 0;
};

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double seconds_of(const std::function<void()>& work) {
  const double begin = thread_seconds();
  work();
  return thread_seconds() - begin;
}

double median(std::vector<double> times) {
  std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 2),
                   times.end());
  return times[times.size() / 2];
}

void step(benchmark::State& state, const Case& c) {
  Problem problem(c);
  std::vector<double> own, softmax, forward, of_1_5;
  for (auto _ : state) {
    own.push_back(seconds_of([&] { problem.entmax_step(); }));
    state.SetIterationTime(own.back());
    forward.push_back(seconds_of([&] { problem.entmax_forward(); }));
    softmax.push_back(seconds_of([&] { problem.softmax_step(); }));
    if (c.alpha == 1.5f) continue;
    problem.set_alpha(1.5f);
    of_1_5.push_back(seconds_of([&] { problem.entmax_step(); }));
    problem.set_alpha(c.alpha);
  }
  problem.entmax_forward();
  state.counters["support"] = problem.mean_support();
  state.counters["forward_share"] = median(forward) / median(own);
  state.counters["speedup"] = median(softmax) / median(own);
  if (!of_1_5.empty()) state.counters["of_1.5"] = median(own) / median(of_1_5);
  state.counters["bytes/token"] =
      static_cast<double>(problem.bytes()) / static_cast<double>(c.tokens);
  label(state);
}

std::string text_of(float x) {
  std::string text = std::to_string(x);
  return text.substr(0, text.find_last_not_of('0') + 1);
}

void add_step(const Case& c) {
  const std::string name = "step/alpha:" + text_of(c.alpha) + "/sigma:" + text_of(c.sigma) +
                           "/d:" + std::to_string(c.dim) + "/N:" + std::to_string(c.tokens);
  benchmark::RegisterBenchmark(name.c_str(), [c](benchmark::State& state) { step(state, c); })
      ->Unit(benchmark::kMillisecond)
      ->UseManualTime();
}

void add_all() {
  for (const float alpha : {1.5f, 1.33f, 1.7f, 2.0f}) {
    for (const int64_t length : {512, 2048, 8192, 32768}) {
      const std::string name = "rows/alpha:" + text_of(alpha) + "/n:" + std::to_string(length);
      benchmark::RegisterBenchmark(name.c_str(), [alpha, length](benchmark::State& state) {
        rows(state, alpha, kSharpSigma, length);
      });
    }
  }
  for (const float sigma : {kSharpSigma, kFlatSigma}) {
    for (const int64_t dim : {32, 64}) {
      for (int64_t tokens = 1024; tokens <= 8192; tokens *= 2) {
        for (const float alpha : {1.5f, 1.33f, 1.7f}) {
          add_step({.alpha = alpha, .sigma = sigma, .dim = dim, .tokens = tokens});
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
