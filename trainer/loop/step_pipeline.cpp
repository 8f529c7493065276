// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/step_pipeline.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/copy.h"
#include "core/profiler_range.h"
#include "core/stopwatch.h"
#include "kernels/activation.h"

namespace stipple::trainer {
namespace {

/// Steps on their way at one time: the one that the device computes, and the next.
constexpr int64_t kFlights = 2;

int64_t count_tokens(const data::Leaf& leaf) {
  return std::count(leaf.mask.begin(), leaf.mask.end(), uint8_t{1});
}

data::BatchOptions batches_from(const Config& config, const DataStart& start, int64_t first_step) {
  data::BatchOptions options = batch_options(config, config.step.graph);
  options.first_step = first_step;
  options.first_position = start.position;
  options.first_epoch = start.first_epoch;
  return options;
}

comm::ReducerOptions reducer_options_on(const Config& config, const Replica& replica) {
  comm::ReducerOptions options = reducer_options(config, replica.parameters().numel());
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

std::unique_ptr<comm::Communicator> make_data_plane(const Config& config,
                                                    comm::Communicator& control,
                                                    const Stream& stream) {
  if (stream.device().type != DeviceType::kCuda) return nullptr;
  return comm::make_nccl_communicator(
      control, stream,
      {.init_timeout_s = config.comm.init_timeout_s, .operation_timeout_s = config.comm.timeout_s});
}

StepPipeline::StepPipeline(const Parts& parts)
    : config_(parts.phase.applied_to(parts.config)),
      phase_(parts.phase),
      communicator_(parts.communicator),
      replica_(parts.replica),
      optimizer_(parts.optimizer),
      guard_(parts.guard),
      requests_(parts.requests),
      batches_(parts.train_set, parts.task,
               batches_from(config_, parts.data_start, phase_.steps.begin)),
      my_leaves_(
          comm::leaves_of_rank(batches_.num_leaves(), communicator_.rank(), communicator_.size())),
      leaves_(static_cast<size_t>(my_leaves_.size())),
      data_plane_(parts.data_plane),
      reducer_(comm::make_gradient_reducer(data_plane_ ? *data_plane_ : communicator_,
                                           reducer_options_on(config_, replica_))),
      host_decides_(replica_.stream().device().type == DeviceType::kCpu ||
                    config_.guard.spike_factor > 0),
      device_step_(replica_.stream().device(), sizeof(uint64_t)),
      facts_(replica_.facts(), batches_.num_leaves()) {
  for (int64_t i = 0; i < (host_decides_ ? 1 : kFlights); ++i)
    flights_.push_back(std::make_unique<Flight>(replica_, replica_.stream().device(),
                                                my_leaves_.size(), config_.model.layers));
  if (config_.step.graph) graph_ = std::make_unique<StepGraph>(flights_.size());
  observer_.attach(reducer_.get(), data_plane_ ? data_plane_ : &communicator_);
  replica_.feed().set_global_batch(phase_.batch);
}

void StepPipeline::load_leaves(Flight& flight) {
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

void StepPipeline::compute_leaves(Flight& flight) {
  const Stream& stream = replica_.stream();
  RngKey rng{static_cast<uint64_t>(config_.run.seed), static_cast<uint64_t>(flight.step)};
  if (graph_ != nullptr) rng.device_step = reinterpret_cast<const uint64_t*>(device_step_.data());
  replica_.begin_step(rng);
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
      replica_.backward(observer_, optimizer_.frozen_stages());
      reducer_->end_leaf();
      flight.backward.end(stream);
    }
    communicator_.progress();
  }
}

/// All of the step that runs on the device. Enqueues the same work every time, but for the events
/// that it records: they are the flight's.
void StepPipeline::compute(Flight& flight) {
  for (SectionTimer* timer : {&flight.forward, &flight.sampling, &flight.backward})
    timer->restart();
  observer_.measure_into(&flight.sampling);
  reducer_->choose_flight(static_cast<int64_t>(flight_number(flight.step)));
  compute_leaves(flight);
  const View<float> gradients = reducer_->finish();
  const ProfilerRange range("optimizer");
  if (!host_decides_) replica_.stream().record(flight.reduced);
  optimizer_.clear_frozen(replica_.stream(), gradients);
  optimizer_.measure(replica_.stream(), gradients, replica_.scratch());
  if (host_decides_) {
    gather(flight);
    replica_.stream().record(flight.reduced);
    optimizer_.set_rates(replica_.stream(), flight.result.rates, !flight.result.skipped);
  }
  optimizer_.apply(replica_.stream(), gradients, replica_.scratch());
}

void StepPipeline::compute_or_replay(Flight& flight) {
  if (graph_ == nullptr) return compute(flight);
  const bool was_replayed =
      graph_->run(replica_.stream(), flight_number(flight.step), [&] { compute(flight); });
  if (was_replayed) data_plane_->launched("train step");
}

void StepPipeline::enqueue(int64_t step) {
  const Stream& stream = replica_.stream();
  Flight& flight = flight_of(step);
  flight.step = step;
  flight.is_gathered = false;
  flight.result = {.examples = phase_.batch, .rates = phase_.rates_at(step)};
  stream.record(flight.begin);
  load_leaves(flight);
  flight.host().step = static_cast<uint64_t>(step);
  copy_bytes(stream, device_step_.data(), &flight.host().step, sizeof(uint64_t));
  if (!host_decides_) optimizer_.set_rates(stream, flight.result.rates);
  compute_or_replay(flight);
  replica_.fetch_facts(my_leaves_.size(), flight.facts.data());
  copy_bytes(stream, &flight.host().outcome, optimizer_.outcome(), sizeof(Optimizer::Outcome));
  stream.record(flight.done);
}

/// Loss, hits and graphs of all leaves of all ranks, and what the guard says of them.
void StepPipeline::gather(Flight& flight) {
  if (host_decides_) {
    replica_.fetch_facts(my_leaves_.size(), flight.facts.data());
    flight.host().outcome = optimizer_.read_outcome(replica_.stream());
  }
  facts_.clear();
  const size_t bytes = replica_.facts().bytes();
  for (int64_t i = 0; i < my_leaves_.size(); ++i)
    facts_.add(my_leaves_.begin + i,
               {replica_.facts(), flight.facts.data() + static_cast<size_t>(i) * bytes});
  sum_over_ranks(flight);
  judge(flight);
  flight.is_gathered = true;
}

void StepPipeline::sum_over_ranks(Flight& flight) {
  const bool leaves = requests_.leave(flight.step + 1, config_.train.steps);
  std::array<int64_t, 3> sums = {flight.tokens, leaves ? 1 : 0, requests_.save() ? 1 : 0};
  communicator_.all_reduce(std::span<int64_t>(sums), comm::Reduction::kSum);
  facts_.all_reduce(communicator_);
  StepResult& result = flight.result;
  result.auxiliary_loss = facts_.total(model::kAuxiliaryLoss);
  result.loss = facts_.total(model::kLossSum) / std::max(1.0, facts_.total(model::kLabels));
  result.tokens = sums[0];
  result.leave = sums[1] > 0;
  result.save = sums[2] > 0;
  facts_.require_limits();
}

void StepPipeline::judge(Flight& flight) {
  StepResult& result = flight.result;
  result.grad_norm = flight.host().outcome.norm();
  // What was applied on the device, by the norm alone, is not called skipped here.
  const bool was_applied = !host_decides_ && flight.host().outcome.is_applied();
  const double judged_loss = was_applied && !std::isfinite(result.loss) ? 0.0 : result.loss;
  result.skipped =
      guard_.check(flight.step, judged_loss, result.grad_norm) == SpikeGuard::Verdict::kSkip;
}

StepSeconds StepPipeline::seconds_of(const Flight& flight) const {
  const auto between = [](const Event& from, const Event& to) { return to.ms_since(from) / 1e3; };
  const double waited =
      reducer_->times(static_cast<int64_t>(flight_number(flight.step))).waited_in_backward_s;
  const double sampling = flight.sampling.seconds();
  const Event& computed = my_leaves_.size() > 0 ? flight.backward.last_end() : flight.begin;
  return {.step = between(flight.begin, flight.done),
          .data = host_decides_ ? flight.data_s : std::numeric_limits<double>::quiet_NaN(),
          .forward = flight.forward.seconds() - sampling,
          .sampling = sampling,
          .backward = flight.backward.seconds() - waited,
          .reduce = between(computed, flight.reduced) + waited,
          .optimizer = between(flight.reduced, flight.done)};
}

StepResult StepPipeline::collect(int64_t step) {
  Flight& flight = flight_of(step);
  flight.done.synchronize();
  // Throws where an exchange was given up: the sums are not to be used.
  if (data_plane_) data_plane_->progress();
  if (!flight.is_gathered) gather(flight);
  if (config_.optimizer.kind == OptimizerKind::kLamb)
    flight.result.trust = flight.host().outcome.trust;
  flight.result.seconds = seconds_of(flight);
  return flight.result;
}

}  // namespace stipple::trainer
