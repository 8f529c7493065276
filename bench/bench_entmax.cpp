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

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "bench/attention_problem.h"
#include "kernels/attend_entmax.h"
#include "kernels/entmax.h"

namespace {

using namespace stipple;
using namespace stipple::kernels;
using namespace stipple::bench;

constexpr float kSharpSigma = 2.45f;
constexpr float kFlatSigma = 0.1f;

// --- rows ----------------------------------------------------------------------------------------

void rows(benchmark::State& state, float alpha, float sigma, int64_t length) {
  constexpr int64_t kScores = 1 << 17;  // half a megabyte
  const int64_t count = kScores / length;
  Arena memory("bench", kCpuDevice, size_t{1} << 26);
  const Stream stream(kCpuDevice);
  const View<float> z = memory.alloc<float>({count, length});
  std::mt19937 generator(3);
  fill_normal(z, generator, sigma);
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
  state.counters["per_score"] = seconds_per(state, kScores);
  label_with_isa(state);
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
        a_(memory_, generator_, c.tokens, c.dim, std::sqrt(c.sigma)) {  // scores have sigma
    alpha_ = memory_.alloc<float>({1});
    alpha_[0] = c.alpha;
    const Arena::Mark before = memory_.mark();
    o2_ = memory_.alloc<float>(a_.q.shape);
    support_ = alloc_entmax_support(memory_, 1, 1, c.tokens);
    entmax_step();
    bytes_ = memory_.peak() - before;
  }

  void softmax_step() {
    softmax_forward(stream_, memory_, a_);
    softmax_backward(stream_, memory_, a_);
  }

  void entmax_forward() {
    attend_entmax(stream_, {.o = a_.o,
                            .o2 = o2_,
                            .tau = a_.lse,
                            .support = support_,
                            .q = a_.q,
                            .k = a_.k,
                            .v = a_.v,
                            .heads = {.alpha = alpha_},
                            .scale = a_.scale,
                            .scratch = &memory_});
  }
  void entmax_step() {
    entmax_forward();
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
                                     .scale = a_.scale,
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
  std::mt19937 generator_{7};
  AttentionArrays a_;
  View<float> o2_, alpha_;
  EntmaxSupport support_;
  size_t bytes_ = 0;
};

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
  label_with_isa(state);
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

int main(int argc, char** argv) { return stipple::bench::run_benchmarks(argc, argv, add_all); }
