// SPDX-License-Identifier: Apache-2.0
#include "trainer/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <numeric>

#include "core/cpu/isa.h"
#include "core/log.h"
#include "trainer/commands/commands.h"
#include "trainer/report.h"
#include "trainer/signals.h"

namespace stipple::trainer {
namespace {

/// A number that does not exist: null in metrics.jsonl.
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

std::string duration_text(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

int64_t count_tokens(const data::Leaf& leaf) {
  return std::count(leaf.mask.begin(), leaf.mask.end(), uint8_t{1});
}

/// Graph facts per layer and head, for attention that has graphs.
std::vector<LayerRecord> layer_records(const StepObserver& observer,
                                       const model::ModelConfig& config) {
  std::vector<LayerRecord> records;
  if (!observer.has_graphs()) return records;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    LayerRecord& record = records.emplace_back();
    for (int64_t head = 0; head < config.heads; ++head) {
      const HeadGraph& graph = observer.graphs()[static_cast<size_t>(layer * config.heads + head)];
      record.density.push_back(graph.density());
      record.empty_rows.push_back(graph.empty_row_share());
      record.effective_cells.push_back(graph.effective_cells);
    }
  }
  return records;
}

std::unique_ptr<data::Dataset> open_on_all_ranks(comm::Communicator& communicator,
                                                 const data::Task& task, data::Split split) {
  std::unique_ptr<data::Dataset> dataset;
  comm::agree(communicator, [&] {
    dataset = task.open(split);
    STIPPLE_CHECK_AS(DataError, dataset->size() > 0, "the split '", data::split_name(split),
                     "' of ", task.info().name, " has no examples");
  });
  return dataset;
}

MemoryPlan plan_and_tell(const Config& config, const data::TaskInfo& info, int threads,
                         const comm::Communicator& communicator) {
  const MemoryPlan plan =
      plan_memory(config, info, threads, communicator.rank(), communicator.size());
  log::info(fmt::format("{} parameters, {:.1f} MB per rank, {} rank{} of {} thread{}",
                        plan.num_parameters, static_cast<double>(plan.total()) / 1e6,
                        communicator.size(), communicator.size() == 1 ? "" : "s", threads,
                        threads == 1 ? "" : "s"));
  return plan;
}

}  // namespace

Trainer::Trainer(const Config& config, comm::Communicator& communicator)
    : config_(config),
      communicator_(communicator),
      directory_(config.run.dir),
      task_(data::make_task(config.data, static_cast<uint64_t>(config.run.seed))),
      train_set_(open_on_all_ranks(communicator, *task_, data::Split::kTrain)),
      validation_set_(open_on_all_ranks(communicator, *task_, data::Split::kValidation)),
      batches_(*train_set_, task_->info(), batch_options(config)),
      plan_(plan_and_tell(config, task_->info(),
                          threads_per_rank(config, communicator.local_size()), communicator)),
      replica_(config, task_->info(), threads_per_rank(config, communicator.local_size()), plan_),
      reducer_(comm::make_gradient_reducer(communicator, reducer_options(config, plan_.numel))),
      optimizer_(config.optimizer, replica_.parameters(), kCpuDevice),
      guard_(config.guard),
      observer_(config.model.layers, config.model.heads),
      checkpoints_(directory_.checkpoints(), communicator, config.checkpoint.keep),
      my_leaves_(
          comm::leaves_of_rank(batches_.num_leaves(), communicator.rank(), communicator.size())),
      sums_(static_cast<size_t>(2 * batches_.num_leaves()) + 1),
      counts_(3) {
  observer_.attach(reducer_.get(), &communicator_);
  require_equal_ranks();
  restore();
  comm::agree(communicator_, [&] {
    if (communicator_.rank() != 0) return;
    directory_.write_config(config_);
    directory_.write_ladder(ladder_of(*task_, *validation_set_));
    metrics_ = std::make_unique<MetricsWriter>(directory_.metrics(), saved_step_);
    board_ = std::make_unique<TensorBoardWriter>(directory_.path(), saved_step_);
  });
}

/// The same bits on every rank need the same data and the same instructions.
void Trainer::require_equal_ranks() {
  const std::vector<std::string> data = communicator_.all_gather(
      fmt::format("{:016x} {:016x}", train_set_->fingerprint(), validation_set_->fingerprint()));
  const std::vector<std::string> isas =
      communicator_.all_gather(std::string(cpu::isa_name(cpu::isa())));
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
        "rank {} computes with {}, rank 0 with {}: set STIPPLE_ISA={} for results that do not "
        "depend on the machine",
        rank, isas[rank], isas[0], std::min(isas[rank], isas[0])));
  }
}

std::vector<TensorRef> Trainer::tensors() {
  std::vector<TensorRef> all;
  const model::ParameterStore& parameters = replica_.parameters();
  const auto add = [&](const char* kind, View<float> flat) {
    for (const model::ParameterStore::Entry& entry : parameters.entries()) {
      all.push_back({fmt::format("{}/{}", kind, entry.name), entry.shape,
                     flat.span().subspan(static_cast<size_t>(entry.range.begin),
                                         static_cast<size_t>(entry.range.size()))});
    }
  };
  add("parameter", parameters.values());
  add("first_moment", optimizer_.first_moment());
  add("second_moment", optimizer_.second_moment());
  return all;
}

CheckpointMeta Trainer::meta() {
  // What a log line averages since the one before is state, too: a resumed run tells the same
  // history.
  std::vector<double> extra = {window_.loss, window_.hits, window_.labels, window_.steps,
                               static_cast<double>(skipped_)};
  const std::vector<double> guard = guard_.state();
  extra.insert(extra.end(), guard.begin(), guard.end());
  return {.step = step_,
          .data_position = step_ * config_.train.batch,
          .applied_steps = optimizer_.applied_steps(),
          .dataset_fingerprint = train_set_->fingerprint(),
          .extra = std::move(extra),
          .config_yaml = config_to_yaml([&](ConfigVisitor& v) { config_.describe(v); })};
}

void Trainer::restore() {
  const std::vector<TensorRef> into = tensors();
  const std::optional<CheckpointMeta> found = checkpoints_.load_newest(into, meta().config_yaml);
  if (!found) return;
  comm::agree(communicator_, [&] {
    STIPPLE_CHECK_AS(ConfigError, found->dataset_fingerprint == train_set_->fingerprint(),
                     "the training data in data.dir is not what the run in ", config_.run.dir,
                     " was trained on; restore that data or choose another run.dir");
    STIPPLE_CHECK_AS(ConfigError, found->data_position == found->step * config_.train.batch,
                     "the run in ", config_.run.dir, " has another train.batch (",
                     found->data_position / std::max<int64_t>(1, found->step),
                     "); use that, or choose another run.dir");
    STIPPLE_CHECK_AS(CheckpointError, found->extra.size() >= 5,
                     "the checkpoint lacks the trainer's state");
  });
  step_ = saved_step_ = found->step;
  window_ = {found->extra[0], found->extra[1], found->extra[2], found->extra[3]};
  skipped_ = static_cast<int64_t>(found->extra[4]);
  guard_.restore({found->extra.begin() + 5, found->extra.end()});
  optimizer_.restore(found->applied_steps);
  log::info(fmt::format("resuming {} at step {}", config_.run.dir, step_));
}

void Trainer::save() {
  if (saved_step_ == step_) return;
  checkpoints_.save(meta(), tensors());
  saved_step_ = step_;
}

void Trainer::run_leaves(StepResult& result) {
  Stopwatch watch;
  const float loss_scale = 1.0f / static_cast<float>(batches_.num_labels(step_));
  const RngKey rng{static_cast<uint64_t>(config_.run.seed), static_cast<uint64_t>(step_)};
  for (int64_t leaf = my_leaves_.begin; leaf < my_leaves_.end; ++leaf) {
    batches_.load(step_, leaf, leaf_);
    result.seconds.data += watch.lap();
    reducer_->begin_leaf(leaf);
    replica_.parameters().bind_grads(reducer_->grads());
    const LeafTotals totals = replica_.forward(leaf_, rng, true, loss_scale, observer_);
    sums_[static_cast<size_t>(leaf)] = totals.loss_sum;
    counts_[0] += totals.correct;
    counts_[1] += totals.count;
    counts_[2] += count_tokens(leaf_);
    sums_[static_cast<size_t>(batches_.num_leaves() + leaf)] = observer_.take_auxiliary_loss();
    result.seconds.forward += watch.lap();
    replica_.backward(observer_);
    reducer_->end_leaf();
    result.seconds.backward += watch.lap();
  }
  result.seconds.sampling = observer_.sampling_s();
  result.seconds.forward -= result.seconds.sampling;
}

void Trainer::sum_over_ranks(StepResult& result) {
  sums_.back() = stop_requested() ? 1.0 : 0.0;
  // Each leaf's loss is non-zero on one rank only, so the transport's order cannot change its bits.
  communicator_.all_reduce(std::span<double>(sums_), comm::Reduction::kSum);
  communicator_.all_reduce(std::span<int64_t>(counts_), comm::Reduction::kSum);
  observer_.all_reduce(communicator_);
  const auto leaves = sums_.begin() + batches_.num_leaves();
  const double loss_sum = std::accumulate(sums_.begin(), leaves, 0.0);
  result.auxiliary_loss = std::accumulate(leaves, sums_.end() - 1, 0.0);
  const double labels = static_cast<double>(std::max<int64_t>(1, counts_[1]));
  result.loss = loss_sum / labels;
  result.hits = counts_[0];
  result.labels = counts_[1];
  result.tokens = counts_[2];
  result.stop = sums_.back() > 0;
}

Trainer::StepResult Trainer::train_step() {
  Stopwatch whole;
  StepResult result;
  observer_.clear();
  std::fill(sums_.begin(), sums_.end(), 0.0);
  std::fill(counts_.begin(), counts_.end(), int64_t{0});
  run_leaves(result);

  Stopwatch watch;
  const View<const float> gradients = reducer_->finish();
  sum_over_ranks(result);
  const comm::ReducerTimes waited = reducer_->times();
  result.seconds.reduce = watch.lap() + waited.waited_in_backward_s;
  result.seconds.backward -= waited.waited_in_backward_s;

  result.grad_norm = optimizer_.norm(replica_.stream(), gradients, replica_.scratch());
  result.skipped = guard_.check(step_, result.loss, result.grad_norm) == SpikeGuard::Verdict::kSkip;
  result.rates = rates_at(config_.optimizer.schedule, config_.optimizer.learning_rate, step_,
                          config_.train.steps);
  if (!result.skipped)
    optimizer_.apply(replica_.stream(), gradients, result.grad_norm, result.rates);
  result.seconds.optimizer = watch.lap();

  ++step_;
  skipped_ += result.skipped ? 1 : 0;
  window_.loss += result.loss;
  window_.hits += static_cast<double>(result.hits);
  window_.labels += static_cast<double>(result.labels);
  window_.steps += 1;
  result.seconds.step = whole.lap();
  since_log_.add(result);
  return result;
}

void Trainer::SinceLog::add(const StepResult& result) {
  steps += 1;
  tokens += static_cast<double>(result.tokens);
  seconds.step += result.seconds.step;
  seconds.data += result.seconds.data;
  seconds.forward += result.seconds.forward;
  seconds.sampling += result.seconds.sampling;
  seconds.backward += result.seconds.backward;
  seconds.reduce += result.seconds.reduce;
  seconds.optimizer += result.seconds.optimizer;
}

StepSeconds Trainer::SinceLog::mean() const {
  return {.step = seconds.step / steps,
          .data = seconds.data / steps,
          .forward = seconds.forward / steps,
          .sampling = seconds.sampling / steps,
          .backward = seconds.backward / steps,
          .reduce = seconds.reduce / steps,
          .optimizer = seconds.optimizer / steps};
}

void Trainer::log_step(const StepResult& result) {
  const StepSeconds seconds = since_log_.mean();
  const double examples_per_s = static_cast<double>(config_.train.batch) / seconds.step;
  const double tokens_per_s = since_log_.tokens / since_log_.seconds.step;
  const double loss = window_.loss / std::max(1.0, window_.steps);
  const double accuracy = window_.hits / std::max(1.0, window_.labels);
  const double density = observer_.has_graphs() ? observer_.density() : kNone;
  const double left_s = seconds.step * static_cast<double>(config_.train.steps - step_);
  if (communicator_.rank() == 0) {
    log::progress(fmt::format(
        "step {}/{}  loss {:.4f}  accuracy {:.1f} %{}  {:.0f} examples/s  {:.0f} tokens/s  ETA {}",
        step_, config_.train.steps, loss, 100 * accuracy,
        observer_.has_graphs() ? fmt::format("  density {:.2f} %", 100 * density) : "", examples_per_s,
        tokens_per_s, duration_text(left_s)));
    metrics_->write(TrainRecord{.step = step_,
                                .loss = loss,
                                .accuracy = accuracy,
                                .density = density,
                                .examples_per_s = examples_per_s,
                                .tokens_per_s = tokens_per_s,
                                .learning_rate = result.rates.learning_rate,
                                .grad_norm = result.grad_norm,
                                .skipped = skipped_,
                                .auxiliary_loss = result.auxiliary_loss,
                                .seconds = seconds,
                                .layers = layer_records(observer_, config_.model)});
    const Scalar scalars[] = {{"loss/train", loss},
                              {"accuracy/train", accuracy},
                              {"density/train", density},
                              {"optimizer/learning_rate", result.rates.learning_rate},
                              {"optimizer/grad_norm", result.grad_norm},
                              {"throughput/examples_per_s", examples_per_s},
                              {"throughput/tokens_per_s", tokens_per_s}};
    board_->write(step_, scalars);
  }
  window_ = {};
  since_log_ = {};
}

std::optional<EvalResult> Trainer::evaluate_validation(int64_t seeds) {
  const std::optional<EvalResult> result = evaluate(replica_, communicator_, *validation_set_,
                                                    task_->info(), config_, seeds, stop_requested);
  if (!result || communicator_.rank() != 0) return result;
  const std::string name(data::split_name(data::Split::kValidation));
  log::info(fmt::format("step {}  {} loss {:.4f}  accuracy {:.2f} %  ({} examples in {:.1f} s)",
                        step_, name, result->loss, 100 * result->accuracy, result->examples,
                        result->seconds));
  metrics_->write(eval_record(*result, step_, name));
  const Scalar scalars[] = {{"loss/val", result->loss}, {"accuracy/val", result->accuracy}};
  board_->write(step_, scalars);
  return result;
}

/// The run may have ended between its last checkpoint and what follows it.
bool Trainer::has_validation_at_this_step() {
  bool found = false;
  if (communicator_.rank() == 0) {
    for (const EvalRecord& record : read_metrics(directory_.metrics()).eval)
      found |= record.step == step_ && record.split == "val";
  }
  return communicator_.any(found);
}

int Trainer::stop() {
  save();
  if (communicator_.rank() == 0)
    log::info(
        fmt::format("saved step {} and stopping, as a signal asked; start again to go on", step_));
  return kRequeue;
}

int Trainer::run() {
  const bool complete = step_ >= config_.train.steps;
  // A stop may have come between a step and its evaluation.
  if (!complete && step_ > 0 && due(config_.eval.every) && !has_validation_at_this_step()) {
    if (!evaluate_validation(1)) return stop();
  }
  while (step_ < config_.train.steps) {
    const StepResult result = train_step();
    if (due(config_.log.every)) log_step(result);
    if (result.stop) return stop();
    if (due(config_.eval.every) && step_ < config_.train.steps) {
      if (!evaluate_validation(1)) return stop();
    }
    if (due(config_.checkpoint.every)) save();
  }
  save();
  if (!has_validation_at_this_step() && !evaluate_validation(config_.eval.seeds)) return stop();
  if (communicator_.rank() == 0) tell_result(complete);
  return kDone;
}

void Trainer::tell_result(bool was_complete) {
  if (!was_complete || !std::filesystem::exists(directory_.report()))
    write_report(directory_.path());
  if (was_complete) {
    log::info(fmt::format("{} is complete: {} of {} steps; raise train.steps to go on",
                          directory_.path(), step_, config_.train.steps));
  }
  const Metrics metrics = read_metrics(directory_.metrics());
  double accuracy = kNone;
  for (const EvalRecord& record : metrics.eval) {
    if (record.step == step_ && record.split == "val") accuracy = record.accuracy;
  }
  log::info(fmt::format("run directory  {}", directory_.path()));
  log::info(fmt::format("report         {}", directory_.report()));
  log::info(fmt::format("validation     {}",
                        place_on_ladder(accuracy, read_ladder(directory_.ladder()))));
}

}  // namespace stipple::trainer
