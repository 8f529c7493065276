// SPDX-License-Identifier: Apache-2.0
#include "trainer/commands/exact_run.h"

#include "model/attention/registry.h"
#include "trainer/commands/load_parameters.h"
#include "trainer/loop/memory_check.h"
#include "trainer/loop/open_split.h"

namespace stipple::trainer {
void require_alone(comm::Communicator& communicator, const char* command) {
  comm::agree(communicator, [&] {
    STIPPLE_CHECK_AS(ConfigError, communicator.size() == 1, "stipple sparsefinder ", command,
                     " runs in one process; start it without mpirun");
  });
}

void require_entmax(const Config& config, const std::string& run_dir) {
  using model::AttentionKind;
  const AttentionKind kind = config.attention.kind;
  const bool is_entmax = kind == AttentionKind::kEntmax || kind == AttentionKind::kSparsefinder;
  STIPPLE_CHECK_AS(ConfigError, is_entmax && !config.attention.entmax.is_softmax(), run_dir,
                   ": attention.kind=", model::attention_row(kind).name,
                   ", of which no support can be predicted; sparsefinder wants a run with "
                   "attention.kind=entmax or sparsefinder and alpha above 1");
}

Config with_attention(Config config, model::AttentionKind kind) {
  config.attention.kind = kind;
  config.attention.sparsefinder.fitted.clear();
  return config;
}

ExactSupports supports_of(comm::Communicator& communicator, const OpenedRun& run,
                          int64_t examples) {
  const Config config = with_attention(run.config, model::AttentionKind::kEntmax);
  const data::TaskInfo& info = run.task->info();
  const auto dataset = open_split(communicator, *run.task, data::Split::kTrain);
  const int threads = threads_per_rank(config, 1);
  const Device device = choose_device(config, communicator);
  const MemoryPlan plan = plan_memory(config, info, threads, 0, 1, PlanFor::kEvaluation);
  require_memory(plan, config, info, threads, device, communicator, PlanFor::kEvaluation);
  Replica replica(config, info, device, threads, 1, plan);
  load_parameters(run.directory.path(), communicator, config, replica.stream(),
                  replica.parameters());
  return exact_supports(replica, *dataset, info, config, examples);
}

}  // namespace stipple::trainer
