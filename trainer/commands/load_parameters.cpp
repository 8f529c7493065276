// SPDX-License-Identifier: Apache-2.0
#include "trainer/commands/load_parameters.h"

#include <algorithm>

#include "core/error.h"
#include "trainer/checkpoint/host_tensors.h"
#include "trainer/checkpoint/load.h"
#include "trainer/loop/fitted.h"
#include "trainer/loop/memory_check.h"

namespace stipple::trainer {

CheckpointMeta load_parameters(comm::Communicator& communicator, const OpenedRun& run,
                               const Config& config, const Stream& stream,
                               model::ParameterStore& parameters, const std::string& checkpoint) {
  // The checkpoint of another attention has nothing of what is fixed in this one.
  if (parameters.has_fixed()) parameters.initialize(stream, static_cast<uint64_t>(config.run.seed));
  const HostTensors tensors(stream, [&](StateVisitor& v) {
    parameters.describe_state(v, "parameter", parameters.values());
    parameters.describe_fixed(v);
  });
  tensors.fetch();  // what the checkpoint lacks stays
  const auto found =
      load_checkpoint(chosen_checkpoint(communicator, run.directory, run.task->info(), checkpoint),
                      communicator, tensors.refs());
  comm::agree(communicator, [&] {
    STIPPLE_CHECK_AS(ConfigError, found.has_value(), run.directory.path(),
                     " has no checkpoint yet");
  });
  tensors.put_back();
  if (config.attention.sparsefinder.fitted != run.trained.attention.sparsefinder.fitted)
    put_fitted(communicator, config, run.task->info(), stream, parameters);
  return *found;
}

LoadedModel load_model(comm::Communicator& communicator, const OpenedRun& run, const Config& config,
                       const std::string& checkpoint) {
  const data::TaskInfo& info = run.task->info();
  const int threads = threads_per_rank(config, communicator.local_size());
  const Device device = choose_device(config, communicator);
  const MemoryPlan plan = plan_memory(config, info, threads, communicator.rank(),
                                      communicator.size(), PlanFor::kEvaluation);
  require_memory(plan, config, info, threads, device, communicator, PlanFor::kEvaluation);
  auto replica = std::make_unique<Replica>(config, info, device, threads, 1, plan);
  const CheckpointMeta meta = load_parameters(communicator, run, config, replica->stream(),
                                              replica->parameters(), checkpoint);
  return {std::move(replica), meta};
}

void require_same_data(const CheckpointMeta& meta, const OpenedRun& run, data::Split split,
                       const data::Dataset& dataset) {
  const std::vector<std::string> overridden = overridden_keys(run);
  const bool asked_for_others =
      std::any_of(overridden.begin(), overridden.end(), [](const std::string& override) {
        return override.starts_with("data.") || override.starts_with("run.seed=");
      });
  const uint64_t found = dataset.fingerprint();
  uint64_t known = found;
  if (split == data::Split::kTrain) known = meta.dataset_fingerprint;
  if (split == data::Split::kValidation) known = meta.validation_fingerprint.value_or(found);
  STIPPLE_CHECK_AS(ConfigError, asked_for_others || found == known, "the split '",
                   data::split_name(split), "' in ", run.config.data.dir,
                   " is not what it was in the run; restore that data, or name another folder by "
                   "data.dir=...");
}

}  // namespace stipple::trainer
