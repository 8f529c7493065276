// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/run_state.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/log.h"
#include "trainer/config/phases.h"
#include "trainer/config/resume.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {

RunState::RunState(const Parts& parts)
    : parts_(parts),
      window_(parts.replica.facts()),
      tensors_(parts.replica.stream(), [this](StateVisitor& v) { describe(v); }) {}

void RunState::describe(StateVisitor& v) {
  const model::ParameterStore& parameters = parts_.replica.parameters();
  parameters.describe_state(v, "parameter", parameters.values());
  parameters.describe_fixed(v);
  parts_.optimizer.describe_state(parts_.replica.stream(), v);
  parts_.guard.describe_state(v);
  window_.describe_state(v);
  v.count("skipped_steps", skipped_);
  // The order of examples is a function of the step, so the step is where the data stand.
  int64_t position = Phases(parts_.config).examples_before(step_);
  v.count(kDataPosition, position);
}

void RunState::advance(double loss, const FactSums& facts, bool was_skipped) {
  ++step_;
  skipped_ += was_skipped ? 1 : 0;
  window_.add(loss, facts);
}

Snapshot RunState::snapshot() {
  tensors_.fetch();
  return {.meta = {.step = step_,
                   .dataset_fingerprint = parts_.train_fingerprint,
                   .validation_fingerprint = parts_.validation_fingerprint,
                   .vocabulary = parts_.info.vocabulary,
                   .class_names = parts_.info.class_names,
                   .scalars = scalars_of([this](StateVisitor& v) { describe(v); }),
                   .config_yaml = yaml_of(parts_.config)},
          .tensors = {tensors_.refs().begin(), tensors_.refs().end()}};
}

bool RunState::save(CheckpointStore& checkpoints) {
  if (saved_step_ == step_) return false;
  checkpoints.save(snapshot());
  saved_step_ = step_;
  return true;
}

void RunState::require_same_run(const CheckpointMeta& found) const {
  const Config& config = parts_.config;
  STIPPLE_CHECK_AS(ConfigError, found.dataset_fingerprint == parts_.train_fingerprint,
                   "the training data is not what the run in ", config.run.dir,
                   " was trained on; restore that data or choose another run.dir");
  const uint64_t validation = parts_.validation_fingerprint;
  STIPPLE_CHECK_AS(ConfigError, found.validation_fingerprint.value_or(validation) == validation,
                   "the validation data is not what the run in ", config.run.dir,
                   " was judged by; restore that data or choose another run.dir");
  const int64_t position = found.scalars.count(kDataPosition);
  const int64_t expected = Phases(config).examples_before(found.step);
  STIPPLE_CHECK_AS(ConfigError, !config.train.phases.empty() || position == expected, "the run in ",
                   config.run.dir, " has another train.batch (",
                   position / std::max<int64_t>(1, found.step),
                   "); use that, or choose another run.dir");
  STIPPLE_CHECK_AS(ConfigError, position == expected, "the run in ", config.run.dir, " has used ",
                   position, " examples in ", found.step,
                   " steps; train.batch and train.phases say ", expected,
                   "; take back what changes its past, or choose another run.dir");
}

void RunState::tell(const CheckpointMeta& found) const {
  const Config& config = parts_.config;
  const bool is_complete = step_ >= config.train.steps;
  log::info(
      fmt::format("{} {} at step {}", is_complete ? "found" : "resuming", config.run.dir, step_));
  for (const KeyDifference& change : changes_between(found.config_yaml, yaml_of(config)).applied)
    log::info(text_of(change) + (is_complete ? ", without effect: the run is complete" : ""));
}

std::string RunState::restore(CheckpointStore& checkpoints, comm::Communicator& communicator) {
  const auto found = checkpoints.load_newest(tensors_.refs(), yaml_of(parts_.config));
  if (!found) return {};
  comm::agree(communicator, [&] {
    require_same_run(*found);
    step_ = saved_step_ = found->step;
    restore_scalars(found->scalars, [this](StateVisitor& v) { describe(v); });
  });
  tensors_.put_back();
  tell(*found);
  return found->config_yaml;
}

}  // namespace stipple::trainer
