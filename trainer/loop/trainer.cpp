// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <limits>

#include "core/cpu/isa.h"
#include "core/cuda/runtime.h"
#include "core/log.h"
#include "core/stopwatch.h"
#include "trainer/checkpoint/step_directory.h"
#include "trainer/config/duration.h"
#include "trainer/exit_code.h"
#include "trainer/loop/fitted.h"
#include "trainer/loop/graph_sample.h"
#include "trainer/loop/init_from.h"
#include "trainer/loop/memory_check.h"
#include "trainer/loop/open_split.h"
#include "trainer/loop/optimizer_notes.h"
#include "trainer/loop/predictor_refresh.h"
#include "trainer/record/best_step.h"
#include "trainer/record/report.h"

namespace stipple::trainer {
namespace {

/// A number that does not exist: null in metrics.jsonl.
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

MemoryPlan plan_and_tell(const Config& config, const data::TaskInfo& info, int threads,
                         comm::Communicator& communicator) {
  std::vector<std::string> notes;
  comm::agree(communicator, [&] { notes = optimizer_notes(config, info); });
  const MemoryPlan plan =
      plan_memory(config, info, threads, communicator.rank(), communicator.size());
  log::info(fmt::format("{} parameters, {:.1f} MB per rank, {} rank{} of {} thread{}",
                        plan.num_parameters, static_cast<double>(plan.total()) / 1e6,
                        communicator.size(), communicator.size() == 1 ? "" : "s", threads,
                        threads == 1 ? "" : "s"));
  const std::string idle = idle_ranks_text(config, communicator.size());
  if (!idle.empty() && communicator.rank() == 0) log::warn(idle);
  const std::string unused = unused_keys_text(config);
  if (!unused.empty()) log::info(unused);
  for (const std::string& note : notes) log::info("optimizer: " + note);
  return plan;
}

/// What tells which of several is the best.
EvalRecord first_metric_of(const EvalRecord& record, const data::TaskInfo& info) {
  const std::string name(info.metrics.front().name);
  return {.step = record.step,
          .split = record.split,
          .values = {{name, value_of(record.values, name)}}};
}

std::vector<EvalRecord> validations_in(const std::string& metrics, const data::TaskInfo& info) {
  std::vector<EvalRecord> found;
  if (info.metrics.empty()) return found;
  for (const EvalRecord& record : read_metrics(metrics).eval)
    if (record.is_plain()) found.push_back(first_metric_of(record, info));
  return found;
}

/// Of checkpoints on a slow file system, before the first was measured.
constexpr double kExpectedBytesPerS = 100e6;
constexpr double kExpectedLeastSave_s = 1;

Requests requests_of(const Config& config, const MemoryPlan& plan,
                     comm::Communicator& communicator) {
  std::optional<JobEnd> end;
  comm::agree(communicator, [&] { end = end_of_job(config, std::getenv("SLURM_JOB_END_TIME")); });
  const auto bytes = static_cast<double>(plan.parameters + plan.moments);
  TimeLimit limit(end, kExpectedLeastSave_s + bytes / kExpectedBytesPerS);
  // A step that refits the predictor is rare and long: the next may be such a one.
  if (config.attention.sparsefinder.refresh_every > 0) limit.never_forget_steps();
  if (limit.end())
    log::info(fmt::format("this job ends in {} ({}); the run will save and leave before that",
                          duration_text(std::max(0.0, limit.left_s())), limit.end()->said_by));
  const bool looks = communicator.rank() == 0;
  return {std::move(limit), ControlFolder(looks ? RunDirectory(config.run.dir).control() : "",
                                          [config](int64_t steps, int64_t done) {
                                            require_extensible(config, steps, done);
                                          })};
}

}  // namespace

Trainer::Trainer(const Config& config, comm::Communicator& communicator)
    : config_(config),
      communicator_(communicator),
      directory_(config.run.dir),
      task_(open_task(communicator, config)),
      train_set_(open_training(communicator, *task_, config)),
      validation_set_(open_split(communicator, *task_, data::Split::kValidation)),
      phases_(config),
      phase_data_(open_phase_data(communicator, config, phases_)),
      data_starts_(data_starts(phases_.all(),
                               [this](int64_t length) { return train_set_of(length).size(); })),
      device_(choose_device(config, communicator)),
      plan_(plan_and_tell(config, task_->info(),
                          threads_per_rank(config, communicator.local_size()), communicator)),
      replica_(config, task_->info(), device_, threads_per_rank(config, communicator.local_size()),
               leaves_per_rank(config, communicator.size()),
               (require_memory(plan_, config, task_->info(),
                               threads_per_rank(config, communicator.local_size()), device_,
                               communicator),
                plan_)),
      optimizer_(config.optimizer, replica_.parameters(), device_),
      guard_(config.guard),
      state_({config_, replica_, optimizer_, guard_, train_set_->fingerprint(),
              validation_set_->fingerprint(), task_->info()}),
      checkpoints_(directory_.checkpoints(), communicator, config.checkpoint.keep),
      requests_(requests_of(config, plan_, communicator)),
      data_plane_(make_data_plane(config_, communicator_, replica_.stream())),
      log_(config, task_->info(), replica_.facts()) {
  require_equal_ranks();
  const std::string config_until_now = state_.restore(checkpoints_, communicator_);
  if (state_.saved_step() < 0) {
    init_from(config, task_->info(), communicator, replica_.stream(), replica_.parameters());
    put_fitted(communicator_, config_, task_->info(), replica_.stream(), replica_.parameters());
  }
  enqueued_ = step();
  begin_phase(enqueued_);
  comm::agree(communicator_, [&] {
    if (communicator_.rank() != 0) return;
    if (state_.saved_step() >= 0) directory_.remember_checkpoint(state_.saved_step());
    // A complete run keeps the configuration that it ran with.
    if (step() < config_.train.steps || !path_exists(directory_.config()))
      directory_.write_config(config_, step(), config_until_now);
    directory_.write_ladder(ladder_of(*task_, *validation_set_));
    directory_.write_data_summary(
        {{"train", train_set_->intake()}, {"val", validation_set_->intake()}});
    log_.open(directory_, state_.saved_step());
    validations_ = validations_in(directory_.metrics(), task_->info());
  });
}

const PhaseData* Trainer::data_of(int64_t length) const {
  const auto found = std::ranges::find_if(
      phase_data_, [length](const PhaseData& of_length) { return of_length.length == length; });
  return found == phase_data_.end() ? nullptr : &*found;
}

const data::Dataset& Trainer::train_set_of(int64_t length) const {
  const PhaseData* shorter = data_of(length);
  return shorter == nullptr ? *train_set_ : *shorter->train_set;
}

/// No step is under way.
void Trainer::begin_phase(int64_t step) {
  const Phase& phase = phases_.at(step);
  if (phase_ == &phase) return;
  phase_ = &phase;
  const std::string text = text_of(phase);
  if (!text.empty()) log::info(text);
  const PhaseData* shorter = data_of(phase.max_length);
  const auto number = static_cast<size_t>(&phase - phases_.all().data());
  pipeline_.reset();  // its memory comes first
  pipeline_.emplace(StepPipeline::Parts{config_, phase, data_starts_[number], communicator_,
                                        data_plane_.get(), train_set_of(phase.max_length),
                                        (shorter == nullptr ? *task_ : *shorter->task).info(),
                                        replica_, optimizer_, guard_, requests_});
}

/// The same bits on every rank need the same data and the same instructions.
void Trainer::require_equal_ranks() {
  std::string prints =
      fmt::format("{:016x} {:016x}", train_set_->fingerprint(), validation_set_->fingerprint());
  for (const PhaseData& shorter : phase_data_)
    prints += fmt::format(" {:016x}", shorter.train_set->fingerprint());
  const std::vector<std::string> data = communicator_.all_gather(prints);
  const std::vector<std::string> isas = communicator_.all_gather(
      device_.type == DeviceType::kCuda ? cuda::device_info(device_.index).name
                                        : std::string(cpu::isa_name(cpu::isa())));
  comm::agree(communicator_, [&] {
    for (size_t rank = 1; rank < data.size(); ++rank) {
      STIPPLE_CHECK_AS(ConfigError, data[rank] == data[0], "rank ", rank,
                       " reads other data than rank 0 from data.dir (", config_.data.dir,
                       "); put it on a shared file system or copy the same files");
    }
  });
  for (size_t rank = 1; rank < isas.size(); ++rank) {
    if (isas[rank] == isas[0] || communicator_.rank() != 0) continue;
    log::warn(fmt::format(
        "rank {} computes with {}, rank 0 with {}: results depend on which rank runs where{}", rank,
        isas[rank], isas[0],
        device_.type == DeviceType::kCuda
            ? ""
            : fmt::format("; set STIPPLE_ISA={}", std::min(isas[rank], isas[0]))));
  }
}

/// Of those that are there and the one that is about to be saved.
void Trainer::protect_best_checkpoint() {
  if (communicator_.rank() != 0 || validations_.empty()) return;
  std::vector<int64_t> steps = steps_in(directory_.checkpoints());
  steps.push_back(step());
  checkpoints_.protect(best_step(std::move(steps), validations_, task_->info().metrics.front()));
}

void Trainer::save() {
  Stopwatch watch;
  comm::agree(communicator_, [&] { protect_best_checkpoint(); });
  if (!state_.save(checkpoints_)) return requests_.saved(0);
  comm::agree(communicator_, [&] {
    if (communicator_.rank() == 0) directory_.remember_checkpoint(step());
  });
  requests_.saved(watch.lap());
}

double Trainer::figure(std::string_view name) const {
  for (const model::Figure& figure : replica_.facts().figures()) {
    if (figure.name == name) return pipeline_->facts().figure(figure);
  }
  return kNone;
}

void Trainer::enqueue_step() {
  begin_phase(enqueued_);
  pipeline_->enqueue(enqueued_++);
}

StepResult Trainer::collect_step() {
  const StepResult result = pipeline_->collect(step());
  state_.advance(result.loss, pipeline_->facts(), result.skipped);
  throughput_.add(result);
  if (refreshes_after(config_, step()))
    refresh_predictor(replica_, communicator_, *train_set_, task_->info(), config_, step());
  return result;
}

StepResult Trainer::train_step() {
  enqueue_step();
  return collect_step();
}

/// Steps after which parameters are read, or fixed ones set, or a phase begins, so that no later step
/// may have begun.
bool Trainer::is_boundary(int64_t step) const {
  const auto falls_due = [step](int64_t every) { return every > 0 && step % every == 0; };
  return falls_due(config_.eval.every) || falls_due(config_.checkpoint.every) ||
         refreshes_after(config_, step) || step == phase_->steps.end;
}

bool Trainer::may_enqueue() const {
  if (enqueued_ == config_.train.steps) return false;
  if (enqueued_ == step()) return true;
  return enqueued_ - step() < pipeline_->capacity() && !is_boundary(enqueued_);
}

TrainRecord Trainer::train_record(const StepResult& result) const {
  const auto sum = [&](std::string_view name) { return state_.window().sum(name); };
  Named<double> values = log_.metrics(sum);
  for (auto& figure : log_.figures(pipeline_->facts())) values.push_back(std::move(figure));
  if (result.trust) {
    values.emplace_back("trust_ratio_mean", result.trust->mean);
    values.emplace_back("trust_ratio_min", result.trust->min);
  }
  const StepSeconds seconds = throughput_.mean();
  return {.step = step(),
          .loss = state_.window().mean_loss(),
          .values = std::move(values),
          .examples_per_s = throughput_.examples_per_s(),
          .tokens_per_s = throughput_.tokens_per_s(),
          .learning_rate = result.rates.learning_rate,
          .grad_norm = result.grad_norm,
          .skipped = state_.skipped(),
          .auxiliary_loss = result.auxiliary_loss,
          .seconds = seconds,
          .layers = log_.layers(pipeline_->facts())};
}

void Trainer::log_step(const StepResult& result) {
  log_.training(train_record(result));
  state_.clear_window();
  throughput_.clear();
}

/// Figures of a few graphs for the record, and one of them for the report.
void Trainer::look_at_graphs(EvalResult& result) {
  if (communicator_.rank() != 0 || !has_graphs(config_)) return;
  const GraphSample sample = sample_graphs(replica_, *validation_set_, task_->info(), config_);
  result.add(sample.layers);
  if (!sample.picture) return;
  try {
    sample.picture->replace(directory_.graphs(),
                            {{"split", "val"}, {"step", std::to_string(step())}});
  } catch (const Error& e) {
    log::warn(fmt::format("the report will show no graphs of step {}: {}", step(), e.what()));
  }
}

std::optional<EvalResult> Trainer::evaluate_validation(int64_t seeds) {
  std::optional<EvalResult> result =
      evaluate(replica_, communicator_, *validation_set_, task_->info(), config_, seeds,
               [this] { return requests_.leave(step(), config_.train.steps); });
  if (!result) return result;
  look_at_graphs(*result);
  log_.evaluation(*result, step(), data::split_name(data::Split::kValidation));
  if (communicator_.rank() == 0 && !task_->info().metrics.empty())
    validations_.push_back(first_metric_of(
        eval_record(*result, step(), data::split_name(data::Split::kValidation)), task_->info()));
  return result;
}

/// The run may have ended between its last checkpoint and what follows it.
bool Trainer::has_validation_at_this_step() {
  bool found = false;
  if (communicator_.rank() == 0) {
    for (const EvalRecord& record : read_metrics(directory_.metrics()).eval)
      found |= record.is_plain() && record.step == step() && record.split == "val";
  }
  return communicator_.any(found);
}

/// Afterwards the parameters are those of step().
void Trainer::drain() {
  while (step() < enqueued_) {
    const StepResult result = collect_step();
    if (due(config_.log.every)) log_step(result);
  }
}

int Trainer::leave() {
  const Leave why = requests_.agreed(communicator_);
  ended_ = requests_.text(why);
  drain();
  is_to_extend_ = why == Leave::kToExtend;
  save();
  log::info(fmt::format("saved step {} and stopping, {}{}", step(), ended_,
                        is_to_extend_ ? "" : "; start again to go on"));
  return kRequeue;
}

int Trainer::run() {
  requests_.begin();
  const bool complete = step() >= config_.train.steps;
  // A stop may have come between a step and its evaluation.
  if (!complete && step() > 0 && due(config_.eval.every) && !has_validation_at_this_step()) {
    if (!evaluate_validation(1)) return leave();
  }
  while (step() < config_.train.steps) {
    while (may_enqueue()) enqueue_step();
    const StepResult result = collect_step();
    if (due(config_.log.every)) log_step(result);
    if (result.leave) return leave();
    if (result.save) drain();
    if (due(config_.eval.every) && step() < config_.train.steps) {
      if (!evaluate_validation(1)) return leave();
    }
    if (result.save || due(config_.checkpoint.every)) save();
  }
  save();
  if (!has_validation_at_this_step() && !evaluate_validation(config_.eval.seeds)) return leave();
  if (communicator_.rank() == 0) tell_result(complete);
  ended_ = "complete";
  return kDone;
}

void Trainer::tell_result(bool was_complete) {
  if (!was_complete || !std::filesystem::exists(directory_.report()))
    write_report(directory_.path());
  if (was_complete) {
    log::info(fmt::format("{} is complete: {} of {} steps; raise train.steps to go on",
                          directory_.path(), step(), config_.train.steps));
  }
  const Metrics metrics = read_metrics(directory_.metrics());
  const Ladder ladder = read_ladder(directory_.ladder());
  double value = kNone;
  for (const EvalRecord& record : metrics.eval) {
    if (record.is_plain() && record.step == step() && record.split == "val")
      value = value_of(record.values, ladder.metric);
  }
  log::info(fmt::format("run directory  {}", directory_.path()));
  log::info(fmt::format("report         {}", directory_.report()));
  if (task_->info().metrics.empty()) return;
  log::info("validation     " +
            data::place_on_ladder(value, task_->info().metrics.front().is_share, ladder.rungs));
}

}  // namespace stipple::trainer
