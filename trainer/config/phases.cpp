// SPDX-License-Identifier: Apache-2.0
#include "trainer/config/phases.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace stipple::trainer {
namespace {

template <class... Parts>
void require_of_phase(bool condition, const std::string& phase, const Parts&... parts) {
  STIPPLE_CHECK_AS(ConfigError, condition, "train.phases.", phase, ".", parts...);
}

Phase whole_run(const Config& config) {
  return {.name = {},
          .steps = {0, config.train.steps},
          .max_length = config.data.max_length,
          .batch = config.train.batch,
          .micro_batch = config.train.micro_batch,
          .learning_rate = config.optimizer.learning_rate,
          .schedule = config.optimizer.schedule,
          .schedule_steps = {0, config.train.steps}};
}

/// The default for what a phase leaves open.
template <class T>
T given_or(T value, T otherwise) {
  return value == T{} ? otherwise : value;
}

Phase phase_of(const std::string& name, const PhaseConfig& c, const Config& config, Range steps) {
  Phase phase = whole_run(config);
  phase.name = name;
  phase.steps = steps;
  phase.max_length = given_or(c.max_length, phase.max_length);
  phase.batch = given_or(c.batch, phase.batch);
  phase.micro_batch = given_or(c.micro_batch, phase.micro_batch);
  phase.learning_rate = given_or(c.learning_rate, phase.learning_rate);
  const bool has_own_warmup = c.warmup_steps.is_share || c.warmup_steps.count >= 0;
  require_of_phase(
      !has_own_warmup || c.schedule == PhaseSchedule::kRestart, name,
      "warmup_steps: is of a schedule of the phase's own; use schedule: restart with it");
  if (c.schedule == PhaseSchedule::kRestart) {
    phase.schedule_steps = steps;
    if (has_own_warmup) phase.schedule.warmup_steps = c.warmup_steps;
  }
  return phase;
}

void check_phase(const Phase& phase, const Config& config) {
  require_of_phase(phase.max_length <= config.data.max_length, phase.name,
                   "max_length: ", phase.max_length, " is more than data.max_length ",
                   config.data.max_length, ", which the model is made for");
  require_of_phase(phase.batch % phase.micro_batch == 0, phase.name, "batch: ", phase.batch,
                   " is not a multiple of its micro_batch ", phase.micro_batch);
  const int64_t steps = phase.schedule_steps.size();
  const int64_t warmup = phase.schedule.warmup_steps.of(steps);
  require_of_phase(warmup <= steps, phase.name, "warmup_steps: ", warmup, " does not fit into ",
                   steps, " steps; use a share, like 10%");
}

}  // namespace

StepRates Phase::rates_at(int64_t step) const {
  return trainer::rates_at(schedule, learning_rate, step - schedule_steps.begin,
                           schedule_steps.size());
}

Config Phase::applied_to(Config config) const {
  config.train.batch = batch;
  config.train.micro_batch = micro_batch;
  return config;
}

Phases::Phases(const Config& config) {
  const TrainConfig& train = config.train;
  if (train.phases.empty()) {
    phases_.push_back(whole_run(config));
    return;
  }
  // Ends are rounded, not lengths, so that shares of 100% are the run whatever its steps.
  double end = 0;
  for (const auto& [name, c] : train.phases) {
    require_of_phase(c.steps.is_share || c.steps.count > 0, name,
                     "steps: is missing; write a number, or a share of train.steps: 90%");
    const auto begin = std::llround(end);
    end += c.steps.is_share ? static_cast<double>(train.steps) * c.steps.percent / 100
                            : static_cast<double>(c.steps.count);
    phases_.push_back(phase_of(name, c, config, {begin, std::llround(end)}));
  }
  STIPPLE_CHECK_AS(ConfigError, std::llround(end) == train.steps,
                   "train.phases: their steps add up to ", std::llround(end),
                   ", and train.steps is ", train.steps);
  for (const Phase& phase : phases_)
    if (phase.steps.size() > 0) check_phase(phase, config);
}

const Phase& Phases::at(int64_t step) const& {
  const auto found = std::ranges::find_if(phases_, [&](const Phase& phase) {
    return step >= phase.steps.begin && step < phase.steps.end;
  });
  if (found != phases_.end()) return *found;
  return *std::find_if(phases_.rbegin(), phases_.rend(),
                       [](const Phase& phase) { return phase.steps.size() > 0; });
}

int64_t Phases::examples_before(int64_t step) const {
  int64_t examples = 0;
  for (const Phase& phase : phases_) {
    const int64_t done = std::min(step, phase.steps.end) - phase.steps.begin;
    examples += std::max<int64_t>(0, done) * phase.batch;
  }
  return examples + std::max<int64_t>(0, step - phases_.back().steps.end) * phases_.back().batch;
}

void require_extensible(const Config& config, int64_t steps, int64_t done) {
  Config other = config;
  other.train.steps = steps;
  validate(other);
  const Phases before(config);
  const Phases after(other);
  for (size_t i = 0; i < before.all().size(); ++i) {
    const Range was = before.all()[i].steps;
    const Range is = after.all()[i].steps;
    STIPPLE_CHECK_AS(ConfigError,
                     std::min(was.begin, done) == std::min(is.begin, done) &&
                         std::min(was.end, done) == std::min(is.end, done),
                     "train.phases: of ", steps,
                     " steps, those that are done were of other phases");
  }
}

std::vector<DataStart> data_starts(std::span<const Phase> phases,
                                   FunctionRef<int64_t(int64_t length)> size_of) {
  std::vector<DataStart> starts;
  DataStart now;
  int64_t length = phases.front().max_length;
  for (const Phase& phase : phases) {
    if (phase.max_length != length) {
      const int64_t size = size_of(length);
      now.first_epoch += static_cast<uint64_t>((now.position + size - 1) / size);
      now.position = 0;
      length = phase.max_length;
    }
    starts.push_back(now);
    now.position += phase.steps.size() * phase.batch;
  }
  return starts;
}

std::string text_of(const Phase& phase) {
  if (phase.name.empty()) return {};
  if (phase.steps.size() == 0) return detail::concat("phase ", phase.name, ": no steps");
  return detail::concat("phase ", phase.name, ": steps ", phase.steps.begin, " to ",
                        phase.steps.end - 1, ", ", phase.max_length, " tokens, ", phase.batch,
                        " examples in leaves of ", phase.micro_batch);
}

}  // namespace stipple::trainer
