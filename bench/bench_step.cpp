// SPDX-License-Identifier: Apache-2.0
// A whole training step (data, forward, sampling, backward, reduction, AdamW) against sequence
// length at a fixed mean degree of 64 edges per query: time and planned bytes must grow linearly.
// The last lines give the slopes of log time and log bytes over log length.
//
// Degree 64 is arranged by parameters: equal clusters make S uniform, a bias in phi makes every
// membership sqrt(64 / N).
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "bench/log_log_slope.h"
#include "comm/communicator.h"
#include "core/cpu/isa.h"
#include "core/log.h"
#include "core/stopwatch.h"
#include "trainer/loop/trainer.h"

namespace stipple::trainer {
namespace {

constexpr double kDegree = 64;

Config config_for(int64_t length) {
  Config config;
  config.run.dir =
      (std::filesystem::temp_directory_path() / ("stipple-bench-step-" + std::to_string(getpid())))
          .string();
  config.threads = 1;
  config.train = {.steps = 1'000'000, .batch = 1, .micro_batch = 1};
  config.eval.every = 0;
  config.data.task = data::TaskKind::kRepeatedToken;
  config.data.repeated_token.sequence = length;
  config.data.repeated_token.eval_examples = 1;
  config.data.max_length = length;
  config.optimizer.learning_rate = 1e-12;
  config.attention.sbm.exploration = model::Exploration::kFixed;
  config.attention.sbm.delta = 0;
  config.attention.sbm.tile_density = 0.25;
  config.attention.sbm.max_density = 1.5 * kDegree / static_cast<double>(length);
  return config;
}

void set_degree(Replica& replica, const Config& config, int64_t length) {
  model::ParameterStore& parameters = replica.parameters();
  const double membership = std::sqrt(kDegree / static_cast<double>(length));
  const double logit = std::log(membership / (1 - membership));
  const double head_dim = static_cast<double>(config.model.width / config.model.heads);
  const auto fill = [&](const std::string& name, double value) {
    for (float& x : parameters.value(parameters.find(name).value()).span())
      x = static_cast<float>(value);
  };
  for (int64_t layer = 0; layer < config.model.layers; ++layer) {
    const std::string attention = "encoder." + std::to_string(layer) + ".attention";
    fill(attention + ".clusters", 1.0);
    fill(attention + ".phi.out.weight", 0.0);
    fill(attention + ".phi.out.bias", logit / head_dim);
  }
}

/// By length.
struct Costs {
  std::map<int64_t, double> seconds, bytes;
};
Costs& costs() {
  static Costs all;
  return all;
}

void training_step(benchmark::State& state) {
  const int64_t length = state.range(0);
  const Config config = config_for(length);
  std::filesystem::remove_all(config.run.dir);
  const auto communicator = comm::make_single_communicator();
  Trainer trainer(config, *communicator);
  set_degree(trainer.replica(), config, length);
  trainer.train_step();

  double best = 1e30;
  double density = 0;
  StepSeconds parts;
  for (auto _ : state) {
    Stopwatch watch;
    const StepResult result = trainer.train_step();
    const double seconds = watch.lap();
    if (seconds < best) parts = result.seconds;
    best = std::min(best, seconds);
    density = trainer.figure("density");
  }
  const double bytes = static_cast<double>(trainer.plan().saved + trainer.plan().scratch);
  costs().seconds[length] = best;
  costs().bytes[length] = bytes;
  state.SetLabel(std::string(cpu::isa_name(cpu::isa())));
  state.counters["degree"] = density * static_cast<double>(length);
  state.counters["bytes"] =
      benchmark::Counter(bytes, benchmark::Counter::kDefaults, benchmark::Counter::kIs1000);
  state.counters["forward_ms"] = parts.forward * 1e3;
  state.counters["sampling_ms"] = parts.sampling * 1e3;
  state.counters["backward_ms"] = parts.backward * 1e3;
  state.counters["tokens/s"] = static_cast<double>(length) / best;
}

void slopes(benchmark::State& state) {
  if (costs().seconds.size() < 2) state.SkipWithError("needs training_step at several lengths");
  for (auto _ : state) benchmark::DoNotOptimize(costs());
  state.counters["time_slope"] = log_log_slope(costs().seconds);
  state.counters["bytes_slope"] = log_log_slope(costs().bytes);
}

BENCHMARK(training_step)
    ->RangeMultiplier(2)
    ->Range(1024, 16384)
    ->Unit(benchmark::kMillisecond)
    ->MinTime(2.0);
BENCHMARK(slopes)->Name("log_log_slope")->Iterations(1);

}  // namespace
}  // namespace stipple::trainer

BENCHMARK_MAIN();
