// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>

#include "core/copy.h"
#include "core/cpu/isa.h"
#include "core/cuda/runtime.h"
#include "core/log.h"
#include "core/profiler_range.h"
#include "core/section_timer.h"
#include "core/stopwatch.h"
#include "kernels/activation.h"
#include "trainer/exit_code.h"
#include "trainer/loop/memory_check.h"
#include "trainer/loop/open_split.h"
#include "trainer/loop/signals.h"
#include "trainer/record/report.h"

namespace stipple::trainer {
namespace {

/// Steps on their way at one time: the one that the device computes, and the next.
constexpr int64_t kFlights = 2;

/// A number that does not exist: null in metrics.jsonl.
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

int64_t count_tokens(const data::Leaf& leaf) {
  return std::count(leaf.mask.begin(), leaf.mask.end(), uint8_t{1});
}

MemoryPlan plan_and_tell(const Config& config, const data::TaskInfo& info, int threads,
                         const comm::Communicator& communicator) {
  const MemoryPlan plan =
      plan_memory(config, info, threads, communicator.rank(), communicator.size());
  log::info(fmt::format("{} parameters, {:.1f} MB per rank, {} rank{} of {} thread{}",
                        plan.num_parameters, static_cast<double>(plan.total()) / 1e6,
                        communicator.size(), communicator.size() == 1 ? "" : "s", threads,
                        threads == 1 ? "" : "s"));
  const std::string idle = idle_ranks_text(config, communicator.size());
  if (!idle.empty() && communicator.rank() == 0) log::warn(idle);
  return plan;
}

std::unique_ptr<comm::Communicator> make_data_plane(const Config& config,
                                                    comm::Communicator& control,
                                                    const Stream& stream) {
  if (stream.device().type != DeviceType::kCuda) return nullptr;
  return comm::make_nccl_communicator(
      control, stream,
      {.init_timeout_s = config.comm.init_timeout_s, .operation_timeout_s = config.comm.timeout_s});
}

comm::ReducerOptions reducer_options_on(const Config& config, const Replica& replica,
                                        int64_t numel) {
  comm::ReducerOptions options = reducer_options(config, numel);
  const Stream& stream = replica.stream();
  if (stream.device().type != DeviceType::kCuda) return options;
  options.flights = kFlights;
  options.stream = &stream;
  options.add = [&stream](float* out, const float* left, const float* right, int64_t count) {
    kernels::add(stream, {.y = {out, {count}}, .a = {left, {count}}, .b = {right, {count}}});
  };
  return options;
}

}  // namespace

/// One step on its way through the device.
struct Trainer::Flight {
  Flight(const Replica& replica, Device device, int64_t leaves, int64_t layers)
      : facts(Buffer::staging(device, static_cast<size_t>(leaves) * replica.facts().bytes())),
        staged(Buffer::staging(device, sizeof(Staged))),
        begin(device),
        reduced(device),
        done(device),
        forward(device, static_cast<size_t>(leaves)),
        sampling(device, static_cast<size_t>(leaves * layers)),
        backward(device, static_cast<size_t>(leaves)) {}

  /// Crosses between host and device.
  struct Staged {
    uint64_t step;               // to the device
    Optimizer::Outcome outcome;  // from it
  };
  Staged& host() const { return *reinterpret_cast<Staged*>(staged.data()); }

  int64_t step = 0;
  StepRates rates{};
  Buffer facts;
  Buffer staged;
  Event begin, reduced, done;
  SectionTimer forward, sampling, backward;
  bool is_gathered = false;  ///< facts summed over ranks
  bool is_skipped = false;
  double data_s = 0;
  int64_t tokens = 0;
  std::vector<double> counts;  ///< by window().facts()
  StepResult result{};
};

Trainer::Trainer(const Config& config, comm::Communicator& communicator)
    : config_(config),
      communicator_(communicator),
      directory_(config.run.dir),
      task_(data::make_task(config.data, static_cast<uint64_t>(config.run.seed))),
      train_set_(open_split(communicator, *task_, data::Split::kTrain)),
      validation_set_(open_split(communicator, *task_, data::Split::kValidation)),
      batches_(*train_set_, task_->info(), batch_options(config, config.step.graph)),
      my_leaves_(
          comm::leaves_of_rank(batches_.num_leaves(), communicator.rank(), communicator.size())),
      leaves_(static_cast<size_t>(my_leaves_.size())),
      device_(choose_device(config, communicator)),
      plan_(plan_and_tell(config, task_->info(),
                          threads_per_rank(config, communicator.local_size()), communicator)),
      replica_(config, task_->info(), device_, threads_per_rank(config, communicator.local_size()),
               leaves_per_rank(config, communicator.size()),
               (require_memory(plan_, config, task_->info(),
                               threads_per_rank(config, communicator.local_size()), device_,
                               communicator),
                plan_)),
      data_plane_(make_data_plane(config, communicator, replica_.stream())),
      reducer_(comm::make_gradient_reducer(data_plane_ ? *data_plane_ : communicator,
                                           reducer_options_on(config, replica_, plan_.numel))),
      optimizer_(config.optimizer, replica_.parameters(), device_),
      guard_(config.guard),
      state_({config_, replica_, optimizer_, guard_, train_set_->fingerprint(),
              validation_set_->fingerprint()}),
      checkpoints_(directory_.checkpoints(), communicator, config.checkpoint.keep),
      host_decides_(device_.type == DeviceType::kCpu || config.guard.spike_factor > 0),
      device_step_(device_, sizeof(uint64_t)),
      facts_(replica_.facts(), batches_.num_leaves()),
      log_(config, task_->info(), replica_.facts()) {
  for (int64_t i = 0; i < (host_decides_ ? 1 : kFlights); ++i) {
    flights_.push_back(
        std::make_unique<Flight>(replica_, device_, my_leaves_.size(), config.model.layers));
    flights_.back()->counts.reserve(state_.window().facts().size());
  }
  if (config.step.graph) graph_ = std::make_unique<StepGraph>(flights_.size());
  observer_.attach(reducer_.get(), data_plane_ ? data_plane_.get() : &communicator_);
  require_equal_ranks();
  const std::string config_until_now = state_.restore(checkpoints_, communicator_);
  enqueued_ = step();
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
  });
}

Trainer::~Trainer() = default;

/// The same bits on every rank need the same data and the same instructions.
void Trainer::require_equal_ranks() {
  const std::vector<std::string> data = communicator_.all_gather(
      fmt::format("{:016x} {:016x}", train_set_->fingerprint(), validation_set_->fingerprint()));
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

void Trainer::save() {
  if (!state_.save(checkpoints_)) return;
  comm::agree(communicator_, [&] {
    if (communicator_.rank() == 0) directory_.remember_checkpoint(step());
  });
}

void Trainer::load_leaves(Flight& flight) {
  Stopwatch watch;
  flight.tokens = 0;
  for (int64_t i = 0; i < my_leaves_.size(); ++i) {
    data::Leaf& leaf = leaves_[static_cast<size_t>(i)];
    batches_.load(flight.step, my_leaves_.begin + i, leaf);
    replica_.feed().put(flight.step, i, leaf);
    flight.tokens += count_tokens(leaf);
  }
  flight.data_s = watch.lap();
}

void Trainer::compute_leaves(Flight& flight) {
  const Stream& stream = replica_.stream();
  RngKey rng{static_cast<uint64_t>(config_.run.seed), static_cast<uint64_t>(flight.step)};
  if (graph_ != nullptr) rng.device_step = reinterpret_cast<const uint64_t*>(device_step_.data());
  for (int64_t i = 0; i < my_leaves_.size(); ++i) {
    reducer_->begin_leaf(my_leaves_.begin + i);
    replica_.parameters().bind_grads(reducer_->grads());
    {
      const ProfilerRange range("forward");
      flight.forward.begin(stream);
      replica_.forward(i, rng, true, observer_);
      flight.forward.end(stream);
    }
    {
      const ProfilerRange range("backward");
      flight.backward.begin(stream);
      replica_.backward(observer_);
      reducer_->end_leaf();
      flight.backward.end(stream);
    }
    communicator_.progress();
  }
}

/// All of the step that runs on the device. Enqueues the same work every time, but for the events
/// that it records: they are the flight's.
void Trainer::compute(Flight& flight) {
  for (SectionTimer* timer : {&flight.forward, &flight.sampling, &flight.backward})
    timer->restart();
  observer_.measure_into(&flight.sampling);
  reducer_->choose_flight(static_cast<int64_t>(flight_number(flight.step)));
  compute_leaves(flight);
  const View<const float> gradients = reducer_->finish();
  const ProfilerRange range("optimizer");
  if (!host_decides_) replica_.stream().record(flight.reduced);
  optimizer_.measure(replica_.stream(), gradients, replica_.scratch());
  if (host_decides_) {
    gather_facts(flight);
    replica_.stream().record(flight.reduced);
    optimizer_.set_rates(replica_.stream(), flight.rates, !flight.is_skipped);
  }
  optimizer_.apply(replica_.stream(), gradients);
}

void Trainer::compute_or_replay(Flight& flight) {
  if (graph_ == nullptr) return compute(flight);
  const bool was_replayed =
      graph_->run(replica_.stream(), flight_number(flight.step), [&] { compute(flight); });
  if (was_replayed) data_plane_->launched("train step");
}

void Trainer::enqueue_step() {
  const Stream& stream = replica_.stream();
  Flight& flight = *flights_[flight_number(enqueued_)];
  flight.step = enqueued_;
  flight.is_gathered = false;
  flight.is_skipped = false;
  flight.rates = rates_at(config_.optimizer.schedule, config_.optimizer.learning_rate, flight.step,
                          config_.train.steps);
  stream.record(flight.begin);
  load_leaves(flight);
  flight.host().step = static_cast<uint64_t>(flight.step);
  copy_bytes(stream, device_step_.data(), &flight.host().step, sizeof(uint64_t));
  if (!host_decides_) optimizer_.set_rates(stream, flight.rates);
  compute_or_replay(flight);
  replica_.fetch_facts(my_leaves_.size(), flight.facts.data());
  copy_bytes(stream, &flight.host().outcome, optimizer_.outcome(), sizeof(Optimizer::Outcome));
  stream.record(flight.done);
  ++enqueued_;
}

/// Loss, hits and graphs of all leaves of all ranks, and what the guard says of them.
void Trainer::gather_facts(Flight& flight) {
  const Stream& stream = replica_.stream();
  if (host_decides_) {
    replica_.fetch_facts(my_leaves_.size(), flight.facts.data());
    flight.host().outcome = optimizer_.read_outcome(stream);
  }
  facts_.clear();
  const size_t bytes = replica_.facts().bytes();
  for (int64_t i = 0; i < my_leaves_.size(); ++i)
    facts_.add(my_leaves_.begin + i,
               {replica_.facts(), flight.facts.data() + static_cast<size_t>(i) * bytes});
  sum_over_ranks(flight);
  StepResult& result = flight.result;
  result.grad_norm = flight.host().outcome.norm();
  // What was applied on the device, by the norm alone, is not called skipped here.
  const bool was_applied = !host_decides_ && flight.host().outcome.is_applied();
  const double judged_loss = was_applied && !std::isfinite(result.loss) ? 0.0 : result.loss;
  flight.is_skipped =
      guard_.check(flight.step, judged_loss, result.grad_norm) == SpikeGuard::Verdict::kSkip;
  flight.is_gathered = true;
}

void Trainer::sum_over_ranks(Flight& flight) {
  std::array<int64_t, 2> sums = {flight.tokens, stop_requested() ? 1 : 0};
  communicator_.all_reduce(std::span<int64_t>(sums), comm::Reduction::kSum);
  facts_.all_reduce(communicator_);
  StepResult& result = flight.result;
  result.auxiliary_loss = facts_.total(model::kAuxiliaryLoss);
  result.loss = facts_.total(model::kLossSum) / std::max(1.0, facts_.total(model::kLabels));
  result.tokens = sums[0];
  result.stop = sums[1] > 0;
  flight.counts.clear();
  for (const model::FactId id : state_.window().facts()) flight.counts.push_back(facts_.total(id));
  facts_.require_limits();
}

double Trainer::figure(std::string_view name) const {
  for (const model::Figure& figure : replica_.facts().figures()) {
    if (figure.name == name) return facts_.figure(figure);
  }
  return kNone;
}

StepSeconds Trainer::seconds_of(const Flight& flight) const {
  const auto between = [](const Event& from, const Event& to) { return to.ms_since(from) / 1e3; };
  const double waited =
      reducer_->times(static_cast<int64_t>(flight_number(flight.step))).waited_in_backward_s;
  const double sampling = flight.sampling.seconds();
  const Event& computed = my_leaves_.size() > 0 ? flight.backward.last_end() : flight.begin;
  return {.step = between(flight.begin, flight.done),
          .data = host_decides_ ? flight.data_s : kNone,
          .forward = flight.forward.seconds() - sampling,
          .sampling = sampling,
          .backward = flight.backward.seconds() - waited,
          .reduce = between(computed, flight.reduced) + waited,
          .optimizer = between(flight.reduced, flight.done)};
}

Trainer::StepResult Trainer::collect_step() {
  Flight& flight = *flights_[flight_number(step())];
  flight.done.synchronize();
  if (data_plane_)
    data_plane_->progress();  // throws where an exchange was given up: the sums are not to be used
  if (!flight.is_gathered) gather_facts(flight);
  StepResult result = flight.result;
  result.skipped = flight.is_skipped;
  result.rates = flight.rates;
  result.seconds = seconds_of(flight);
  state_.advance(result.loss, flight.counts, result.skipped);
  since_log_.add(result);
  return result;
}

Trainer::StepResult Trainer::train_step() {
  enqueue_step();
  return collect_step();
}

/// Steps after which parameters are read, so that no later step may have begun.
bool Trainer::is_boundary(int64_t step) const {
  const auto falls_due = [step](int64_t every) { return every > 0 && step % every == 0; };
  return falls_due(config_.eval.every) || falls_due(config_.checkpoint.every);
}

bool Trainer::may_enqueue() const {
  if (enqueued_ == config_.train.steps) return false;
  if (enqueued_ == step()) return true;
  return enqueued_ - step() < static_cast<int64_t>(flights_.size()) && !is_boundary(enqueued_);
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

TrainRecord Trainer::train_record(const StepResult& result) const {
  const auto sum = [&](std::string_view name) { return state_.window().sum(name); };
  Named<double> values = log_.metrics(sum);
  for (auto& figure : log_.figures(facts_)) values.push_back(std::move(figure));
  const StepSeconds seconds = since_log_.mean();
  return {.step = step(),
          .loss = state_.window().mean_loss(),
          .values = std::move(values),
          .examples_per_s = static_cast<double>(config_.train.batch) / seconds.step,
          .tokens_per_s = since_log_.tokens / since_log_.seconds.step,
          .learning_rate = result.rates.learning_rate,
          .grad_norm = result.grad_norm,
          .skipped = state_.skipped(),
          .auxiliary_loss = result.auxiliary_loss,
          .seconds = seconds,
          .layers = log_.layers(facts_)};
}

void Trainer::log_step(const StepResult& result) {
  log_.training(train_record(result));
  state_.clear_window();
  since_log_ = {};
}

std::optional<EvalResult> Trainer::evaluate_validation(int64_t seeds) {
  const std::optional<EvalResult> result = evaluate(replica_, communicator_, *validation_set_,
                                                    task_->info(), config_, seeds, stop_requested);
  if (result) log_.evaluation(*result, step(), data::split_name(data::Split::kValidation));
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

int Trainer::stop() {
  while (step() < enqueued_) {
    const StepResult result = collect_step();
    if (due(config_.log.every)) log_step(result);
  }
  save();
  if (communicator_.rank() == 0)
    log::info(
        fmt::format("saved step {} and stopping, as a signal asked; start again to go on", step()));
  return kRequeue;
}

int Trainer::run() {
  const bool complete = step() >= config_.train.steps;
  // A stop may have come between a step and its evaluation.
  if (!complete && step() > 0 && due(config_.eval.every) && !has_validation_at_this_step()) {
    if (!evaluate_validation(1)) return stop();
  }
  while (step() < config_.train.steps) {
    while (may_enqueue()) enqueue_step();
    const StepResult result = collect_step();
    if (due(config_.log.every)) log_step(result);
    if (result.stop) return stop();
    if (due(config_.eval.every) && step() < config_.train.steps) {
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
