// SPDX-License-Identifier: Apache-2.0
// `stipple sparsefinder fit`: projections and centroids for a trained model with entmax attention.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "model/attention/registry.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/load_parameters.h"
#include "trainer/commands/open_run.h"
#include "trainer/exit_code.h"
#include "trainer/loop/fitted.h"
#include "trainer/loop/memory_check.h"
#include "trainer/loop/open_split.h"
#include "trainer/loop/predictor_fit.h"

namespace stipple::trainer {
namespace {

using model::AttentionKind;

/// The run's configuration with this attention in place of its own; what entmax means is the same in
/// both.
Config with_attention(Config config, AttentionKind kind) {
  config.attention.kind = kind;
  config.attention.sparsefinder.fitted.clear();
  return config;
}

void require_entmax(const Config& config, const std::string& run_dir) {
  const AttentionKind kind = config.attention.kind;
  const bool is_entmax = kind == AttentionKind::kEntmax || kind == AttentionKind::kSparsefinder;
  STIPPLE_CHECK_AS(ConfigError, is_entmax && !config.attention.entmax.is_softmax(), run_dir,
                   ": attention.kind=", model::attention_row(kind).name,
                   ", of which no support can be predicted; sparsefinder fit wants a run with "
                   "attention.kind=entmax or sparsefinder and alpha above 1");
}

/// `count` of `size`, spread evenly.
std::vector<int64_t> spread_examples(int64_t size, int64_t count) {
  std::vector<int64_t> examples;
  for (int64_t i = 0; i < count; ++i) examples.push_back(i * size / count);
  return examples;
}

/// The exact supports of examples of the training split, by the newest checkpoint.
ExactSupports supports_of(comm::Communicator& communicator, const OpenedRun& run,
                          int64_t examples) {
  const Config config = with_attention(run.config, AttentionKind::kEntmax);
  const data::TaskInfo& info = run.task->info();
  const auto dataset = open_split(communicator, *run.task, data::Split::kTrain);
  const int threads = threads_per_rank(config, 1);
  const Device device = choose_device(config, communicator);
  const MemoryPlan plan = plan_memory(config, info, threads, 0, 1, PlanFor::kEvaluation);
  require_memory(plan, config, info, threads, device, communicator, PlanFor::kEvaluation);
  Replica replica(config, info, device, threads, 1, plan);
  load_parameters(run.directory.path(), communicator, config, replica.stream(),
                  replica.parameters());
  const int64_t count = std::min(examples, dataset->size());
  return exact_supports(replica, *dataset, info, config, spread_examples(dataset->size(), count));
}

}  // namespace

int sparsefinder_fit(comm::Communicator& communicator, const std::string& run_dir,
                     const std::vector<std::string>& overrides, const FitOptions& options) {
  comm::agree(communicator, [&] {
    STIPPLE_CHECK_AS(ConfigError, communicator.size() == 1,
                     "stipple sparsefinder fit runs in one process; start it without mpirun");
  });
  const OpenedRun run = open_run(communicator, run_dir, overrides);
  require_entmax(run.config, run_dir);
  const Config config = with_attention(run.config, AttentionKind::kSparsefinder);
  model::attention_row(AttentionKind::kSparsefinder).validate(config.attention);
  PredictorFit fit(config, run.task->info());
  const ExactSupports supports = supports_of(communicator, run, options.examples);
  const auto losses = fit.fit_projections(
      supports,
      {.epochs = options.epochs, .batch = options.batch, .learning_rate = options.learning_rate});
  fit.fit_centroids(supports);
  for (size_t layer = 0; layer < losses.size(); ++layer)
    fmt::print("layer {:<6} loss by head {:.3f}\n", layer, fmt::join(losses[layer], " "));
  const std::string path = run.directory.path() + "/sparsefinder.safetensors";
  write_fitted(path, fit.parameters(), {{"examples", std::to_string(options.examples)}});
  fmt::print("written      {}\n", path);
  return kDone;
}

}  // namespace stipple::trainer
