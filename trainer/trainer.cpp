// SPDX-License-Identifier: Apache-2.0
#include "trainer/trainer.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/log.h"
#include "trainer/commands/commands.h"
#include "trainer/report.h"
#include "trainer/signals.h"

namespace stipple::trainer {
namespace {

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

EvalRecord eval_record(const EvalResult& result, int64_t step, const std::string& split) {
  return {.step = step,
          .split = split,
          .loss = result.loss,
          .accuracy = result.accuracy,
          .density = result.density,
          .examples = result.examples,
          .examples_per_s = static_cast<double>(result.examples) / std::max(1e-9, result.seconds),
          .seed_accuracy = result.seed_accuracy,
          .seed_spread = result.spread()};
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
      train_set_(task_->open(data::Split::kTrain)),
      validation_set_(task_->open(data::Split::kValidation)),
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
      sums_(static_cast<size_t>(batches_.num_leaves()) + 1),
      counts_(3) {
  observer_.attach(reducer_.get(), &communicator_);
  restore();
  if (communicator_.rank() == 0) {
    const int64_t restored = saved_step_;
    metrics_ = std::make_unique<MetricsWriter>(directory_.metrics(), restored);
    board_ = std::make_unique<TensorBoardWriter>(directory_.path(), restored);
    directory_.write_ladder(task_->ladder(*validation_set_));
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
  STIPPLE_CHECK_AS(ConfigError, found->dataset_fingerprint == train_set_->fingerprint(),
                   "the training data in data.dir is not what the run in ", config_.run.dir,
                   " was trained on; restore that data or choose another run.dir");
  STIPPLE_CHECK_AS(ConfigError, found->data_position == found->step * config_.train.batch,
                   "the run in ", config_.run.dir, " has another train.batch (",
                   found->data_position / std::max<int64_t>(1, found->step),
                   "); use that, or choose another run.dir");
  STIPPLE_CHECK_AS(CheckpointError, found->extra.size() >= 5,
                   "the checkpoint lacks the trainer's state");
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
  double loss_sum = 0;
  for (size_t leaf = 0; leaf + 1 < sums_.size(); ++leaf) loss_sum += sums_[leaf];
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
  result.seconds.reduce = watch.lap();

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
  return result;
}

void Trainer::log_step(const StepResult& result, double window_s) {
  const double steps = static_cast<double>(std::max(1.0, window_.steps));
  const double per_s = static_cast<double>(config_.train.batch) * steps_in_window_ / window_s;
  const double loss = window_.loss / steps;
  const double accuracy = window_.hits / std::max(1.0, window_.labels);
  const double tokens_per_s = static_cast<double>(tokens_in_window_) / window_s;
  const double density = observer_.density();
  const double left_s =
      window_s / steps_in_window_ * static_cast<double>(config_.train.steps - step_);
  if (communicator_.rank() == 0) {
    log::progress(fmt::format(
        "step {}/{}  loss {:.4f}  accuracy {:.1f} %{}  {:.0f} examples/s  {:.0f} tokens/s  ETA {}",
        step_, config_.train.steps, loss, 100 * accuracy,
        observer_.has_graphs() ? fmt::format("  density {:.2f} %", 100 * density) : "", per_s,
        tokens_per_s, duration_text(left_s)));
    metrics_->write(TrainRecord{.step = step_,
                                .loss = loss,
                                .accuracy = accuracy,
                                .density = density,
                                .examples_per_s = per_s,
                                .tokens_per_s = tokens_per_s,
                                .learning_rate = result.rates.learning_rate,
                                .grad_norm = result.grad_norm,
                                .skipped = skipped_,
                                .seconds = result.seconds,
                                .layers = layer_records(observer_, config_.model)});
    const Scalar scalars[] = {{"loss/train", loss},
                              {"accuracy/train", accuracy},
                              {"density/train", density},
                              {"optimizer/learning_rate", result.rates.learning_rate},
                              {"optimizer/grad_norm", result.grad_norm},
                              {"throughput/examples_per_s", per_s},
                              {"throughput/tokens_per_s", tokens_per_s}};
    board_->write(step_, scalars);
  }
  window_ = {};
  steps_in_window_ = 0;
  tokens_in_window_ = 0;
}

EvalResult Trainer::evaluate_split(data::Split split, const data::Dataset& dataset, int64_t seeds) {
  const EvalResult result =
      evaluate(replica_, communicator_, dataset, task_->info(), config_, seeds);
  if (communicator_.rank() == 0) {
    const std::string name(data::split_name(split));
    log::info(fmt::format("step {}  {} loss {:.4f}  accuracy {:.2f} %  ({} examples in {:.1f} s)",
                          step_, name, result.loss, 100 * result.accuracy, result.examples,
                          result.seconds));
    metrics_->write(eval_record(result, step_, name));
    const std::string loss_tag = "loss/" + name;
    const std::string accuracy_tag = "accuracy/" + name;
    const Scalar scalars[] = {{loss_tag, result.loss}, {accuracy_tag, result.accuracy}};
    board_->write(step_, scalars);
  }
  return result;
}

/// A run may have ended between its last checkpoint and its report: then the report is still owed.
bool Trainer::is_reported() {
  bool reported = false;
  if (communicator_.rank() == 0) {
    const Metrics metrics = read_metrics(directory_.metrics());
    reported = !metrics.eval.empty() && metrics.eval.back().step == step_;
  }
  return communicator_.any(reported);
}

int Trainer::run() {
  if (step_ >= config_.train.steps && is_reported()) {
    if (communicator_.rank() == 0) {
      log::info(fmt::format("{} is complete: {} of {} steps; raise train.steps to go on",
                            config_.run.dir, step_, config_.train.steps));
    }
    return kDone;
  }
  Stopwatch window;
  while (step_ < config_.train.steps) {
    const StepResult result = train_step();
    steps_in_window_ += 1;
    tokens_in_window_ += result.tokens;
    if (due(config_.log.every)) log_step(result, window.lap());
    if (due(config_.eval.every) && step_ < config_.train.steps) {
      evaluate_split(data::Split::kValidation, *validation_set_, 1);
      window.lap();
    }
    if (due(config_.checkpoint.every) || result.stop) {
      save();
      window.lap();
    }
    if (result.stop) {
      if (communicator_.rank() == 0)
        log::info(fmt::format("saved step {} and stopping, as a signal asked", step_));
      return kRequeue;
    }
  }
  save();
  finish();
  return kDone;
}

void Trainer::finish() {
  const EvalResult result =
      evaluate_split(data::Split::kValidation, *validation_set_, config_.eval.seeds);
  if (communicator_.rank() != 0) return;
  write_report(directory_.path());
  const std::vector<data::Task::Rung> ladder = directory_.read_ladder();
  log::info(fmt::format("run directory  {}", directory_.path()));
  log::info(fmt::format("report         {}/report.html", directory_.path()));
  log::info(fmt::format("validation     {}", place_on_ladder(result.accuracy, ladder)));
}

}  // namespace stipple::trainer
