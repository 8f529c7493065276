// SPDX-License-Identifier: Apache-2.0
#include "trainer/commands/exact_run.h"

#include "model/attention/registry.h"
#include "trainer/commands/load_parameters.h"
#include "trainer/loop/memory_check.h"
#include "trainer/loop/open_split.h"

namespace stipple::trainer {
namespace {

void require_support(const model::AttentionConfig& attention, const std::string& run_dir) {
  using model::AttentionKind;
  const bool is_entmax =
      attention.kind == AttentionKind::kEntmax || attention.kind == AttentionKind::kSparsefinder;
  STIPPLE_CHECK_AS(
      ConfigError, is_entmax, run_dir,
      " was trained with attention.kind=", model::attention_row(attention.kind).name,
      ", of which no support can be predicted; take a run with entmax or sparsefinder");
  STIPPLE_CHECK_AS(
      ConfigError, !attention.entmax.is_softmax(), run_dir,
      " was trained with attention.entmax.alpha=1, which is softmax: every key has some "
      "weight; take a run with alpha above 1");
}

/// Before any of it is taken.
void require_memory_to_fit(comm::Communicator& communicator, const OpenedRun& run, Config config,
                           int64_t examples) {
  config.attention.sparsefinder.refresh_examples = examples;
  const data::TaskInfo& info = run.task->info();
  const int threads = threads_per_rank(config, communicator.local_size());
  const MemoryPlan plan =
      plan_memory(config, info, threads, /*rank=*/0, /*num_ranks=*/1, PlanFor::kFitting);
  require_memory(plan, config, info, threads, choose_device(config, communicator), communicator,
                 PlanFor::kFitting);
}

}  // namespace

OpenedRun open_exact_run(comm::Communicator& communicator, const char* command,
                         const std::string& run_dir, const std::vector<std::string>& overrides) {
  comm::agree(communicator, [&] {
    STIPPLE_CHECK_AS(ConfigError, communicator.size() == 1, "stipple sparsefinder ", command,
                     " runs in one process; start it without mpirun");
  });
  OpenedRun run = open_run(communicator, run_dir, overrides);
  require_support(run.trained.attention, run_dir);
  return run;
}

Config with_attention(Config config, model::AttentionKind kind) {
  config.attention.kind = kind;
  config.attention.sparsefinder.fitted.clear();
  return config;
}

ExactSupports supports_of(comm::Communicator& communicator, const OpenedRun& run,
                          int64_t examples) {
  const Config config = with_attention(run.config, model::AttentionKind::kEntmax);
  require_memory_to_fit(communicator, run, config, examples);
  const auto dataset = open_split(communicator, *run.task, data::Split::kTrain);
  const auto [replica, meta] = load_model(communicator, run, config);
  require_same_data(meta, run, data::Split::kTrain, *dataset);
  return exact_supports(*replica, *dataset, run.task->info(), config,
                        leaves_of_examples(config, examples));
}

}  // namespace stipple::trainer
