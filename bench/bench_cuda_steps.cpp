// SPDX-License-Identifier: Apache-2.0
// Whole training steps on a GPU, by the clock of the host: the recipe of --recipe on made-up
// ListOps, and one long sequence with 64 edges a query, whose time and memory must grow linearly.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <vector>

#include "bench/bench_cuda.h"
#include "comm/communicator.h"
#include "core/copy.h"
#include "core/stopwatch.h"
#include "data/listops.h"
#include "trainer/loop/trainer.h"

namespace stipple::bench {
namespace {

struct Step {
  std::string title;
  std::vector<std::string> overrides;
  int64_t length = 2048;
  double degree = 0;  ///< where not 0, parameters are set so that every query has about this many
                      ///< edges
  int rounds = 20;
};

class TemporaryFolder {
 public:
  TemporaryFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("stipple-bench-cuda-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string file(const char* leaf) const { return (path_ / leaf).string(); }

 private:
  std::filesystem::path path_;
};

/// As in bench_step: equal clusters make S uniform, and a bias in phi makes every membership
/// sqrt(degree / N).
void set_degree(trainer::Replica& replica, const trainer::Config& config, const Step& step) {
  model::ParameterStore& parameters = replica.parameters();
  const double membership = std::sqrt(step.degree / static_cast<double>(step.length));
  const double logit = std::log(membership / (1 - membership));
  const double head_dim = static_cast<double>(config.model.width / config.model.heads);
  const auto fill = [&](const std::string& leaf, double value) {
    const View<float> view = parameters.value(parameters.find(leaf).value());
    upload(replica.stream(), view,
           std::vector<float>(static_cast<size_t>(view.numel()), static_cast<float>(value)));
  };
  for (int64_t layer = 0; layer < config.model.layers; ++layer) {
    const std::string attention = "encoder." + std::to_string(layer) + ".attention";
    fill(attention + ".clusters", 1.0);
    fill(attention + ".phi.out.weight", 0.0);
    fill(attention + ".phi.out.bias", logit / head_dim);
  }
}

trainer::Config config_of(const Step& step, const TemporaryFolder& folder) {
  std::vector<std::string> overrides = {"device=cuda",
                                        "run.dir=" + folder.file("run"),
                                        "data.dir=" + folder.file("listops"),
                                        "data.max_length=" + std::to_string(step.length),
                                        "train.steps=1000000",
                                        "eval.every=0",
                                        "checkpoint.every=0",
                                        "log.every=1000000"};
  overrides.insert(overrides.end(), step.overrides.begin(), step.overrides.end());
  const trainer::Config config = trainer::Config::load({settings().recipe}, overrides);
  trainer::validate(config);
  return config;
}

void write_data(const trainer::Config& config) {
  if (config.data.task != data::TaskKind::kListops) return;
  data::listops::generate(config.data.dir, {.train = 256,
                                            .val = 1,
                                            .test = 1,
                                            .min_length = config.data.max_length / 4,
                                            .max_length = config.data.max_length});
}

void measure_step(benchmark::State& state, const Step& step) {
  JsonLine line;
  line.add("name", "step/" + step.title).add("implementation", "trainer").add("op", "step");
  line.add("n", static_cast<double>(step.length));
  or_say_why_not(state, line, [&] {
    const TemporaryFolder folder;
    const trainer::Config config = config_of(step, folder);
    write_data(config);
    const auto communicator = comm::make_single_communicator();
    trainer::Trainer trainer(config, *communicator);
    if (step.degree > 0) set_degree(trainer.replica(), config, step);
    for (int i = 0; i < 3; ++i) trainer.train_step();  // tables, caches, and a captured graph
    Stopwatch watch;
    double seconds = 0;
    for (auto _ : state) {
      trainer.train_step();
      const double lap = watch.lap();
      state.SetIterationTime(lap);
      seconds += lap;
    }
    const double ms = seconds * 1e3 / static_cast<double>(state.iterations());
    const double bytes = static_cast<double>(trainer.plan().total());
    line.add("precision", name_of(config.precision));
    tell(state, line, "batch", static_cast<double>(config.train.batch));
    tell(state, line, "ms", ms);
    tell(state, line, "plan_mb", bytes * 1e-6);
    tell(state, line, "percent", 100 * trainer.figure("density"));
    line.append_to_file();
  });
}

void add(const Step& step) {
  benchmark::RegisterBenchmark(("step/" + step.title).c_str(),
                               [step](benchmark::State& state) { measure_step(state, step); })
      ->UseManualTime()
      ->Iterations(step.rounds)
      ->Unit(benchmark::kMillisecond);
}

void add_listops_steps() {
  for (const char* precision : {"bf16", "fp32"}) {
    for (const char* kind : {"sbm", "softmax"}) {
      for (const char* graph : {"false", "true"}) {
        add(Step{.title = std::string("lra_listops/") + kind + "/micro_batch:32/graph:" + graph +
                          "/" + precision,
                 .overrides = {std::string("precision=") + precision, "train.micro_batch=32",
                               std::string("attention.kind=") + kind,
                               std::string("step.graph=") + graph}});
      }
    }
  }
  add(Step{.title = "lra_listops/sbm/micro_batch:128/graph:true/bf16",
           .overrides = {"precision=bf16", "train.micro_batch=128", "step.graph=true"}});
}

/// One sequence, 64 edges a query: time and memory must grow with the length.
void add_long_step(int64_t length, int rounds) {
  constexpr double kDegree = 64;
  std::ostringstream bound;
  bound << "attention.sbm.max_density="
        << std::min(1.0, 1.5 * kDegree / static_cast<double>(length));
  add(Step{.title = "degree_64/N:" + std::to_string(length),
           .overrides = {"precision=bf16", "train.batch=1", "train.micro_batch=1",
                         "data.task=repeated_token", "optimizer.learning_rate=1e-12",
                         "data.repeated_token.sequence=" + std::to_string(length),
                         "data.repeated_token.eval_examples=1", "attention.sbm.compat=none",
                         "attention.sbm.exploration=fixed", "attention.sbm.delta=0",
                         "attention.sbm.tile_density=1", bound.str()},
           .length = length,
           .degree = kDegree,
           .rounds = rounds});
}

}  // namespace

void add_steps() {
  add_listops_steps();
  for (const int64_t length : {4096, 8192, 16384, 32768}) add_long_step(length, 10);
}

void add_smoke_steps() {
  add(Step{.title = "lra_listops/smoke",
           .overrides = {"train.batch=2", "train.micro_batch=1", "attention.sbm.clusters=16"},
           .length = 64,
           .rounds = 1});
  add_long_step(256, 1);
}

}  // namespace stipple::bench
