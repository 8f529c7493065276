// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/replica.h"

#include <algorithm>
#include <thread>

#include "comm/gpu_assignment.h"
#include "core/bytes_text.h"
#include "core/copy.h"
#include "core/cpu/cores.h"
#include "core/cuda/runtime.h"
#include "core/error.h"
#include "model/attention/registry.h"
#include "model/planning_run.h"
#include "trainer/config/phases.h"
#include "trainer/loop/fit_memory.h"

namespace stipple::trainer {
namespace {

/// A leaf of evaluation.
LeafSizes whole_leaf(const Config& config, const data::TaskInfo& info) {
  return {info.fields, config.train.micro_batch, info.max_length};
}

/// The leaves of training, by phase.
std::vector<LeafSizes> training_leaves(const Config& config, const data::TaskInfo& info) {
  std::vector<LeafSizes> leaves;
  const Phases phases(config);
  for (const Phase& phase : phases.all()) {
    if (phase.steps.size() == 0) continue;
    // Tasks whose length is no key have one for all phases.
    const bool is_whole = phase.max_length == config.data.max_length;
    leaves.push_back(
        {info.fields, phase.micro_batch, is_whole ? info.max_length : phase.max_length});
  }
  return leaves;
}

LeafSizes largest_leaf(const Config& config, const data::TaskInfo& info) {
  LeafSizes largest = whole_leaf(config, info);
  for (const LeafSizes& leaf : training_leaves(config, info))
    if (Feed::leaf_bytes(leaf) > Feed::leaf_bytes(largest)) largest = leaf;
  return largest;
}

FeedOptions feed_options(const Config& config, const data::TaskInfo& info, int64_t slots) {
  return {.slots = slots,
          .global_batch = config.train.batch,
          .largest = largest_leaf(config, info),
          .is_captured = config.step.graph};
}

/// cuBLASLt's workspace and constants; NCCL's channels, as its version 2.28 has them by default.
size_t library_bytes(const Config& config, int num_ranks) {
  if (config.device == DeviceChoice::kCpu) return 0;
  constexpr size_t kProducts = 40 * kMegabyte;
  constexpr size_t kChannels = 400 * kMegabyte;
  return kProducts + (num_ranks > 1 ? kChannels : 0);
}

DeviceType device_type(const Config& config) {
  return config.device == DeviceChoice::kCuda ? DeviceType::kCuda : DeviceType::kCpu;
}

}  // namespace

model::ModelTask model_task(const data::TaskInfo& info) {
  return {.fields = info.fields,
          .vocab_size = info.vocab_size,
          .num_classes = info.num_classes,
          .max_length = info.max_length};
}

int64_t num_answer_outputs(const data::TaskInfo& info) {
  if (!info.has_answers()) return 0;
  return info.fields.label == LabelKind::kValue ? 1 : info.num_classes;
}

data::BatchOptions batch_options(const Config& config, bool is_captured) {
  // Where padding takes part, its amount must not depend on the neighbours in a leaf. A captured step
  // has one shape.
  const bool padding_counts =
      model::attention_row(config.attention.kind).traits(config.attention).fixed_length;
  return {.seed = static_cast<uint64_t>(config.run.seed),
          .batch = config.train.batch,
          .micro_batch = config.train.micro_batch,
          .length_multiple = config.train.length_multiple,
          .fixed_length = padding_counts || is_captured};
}

comm::ReducerOptions reducer_options(const Config& config, int64_t numel) {
  return {.policy = config.reduction,
          .numel = numel,
          .num_leaves = config.train.batch / config.train.micro_batch};
}

model::DecoderOptions decoder_options(const data::TaskInfo& info) {
  return {.longest = info.max_length, .vocabulary = info.vocab_size};
}

int threads_per_rank(const Config& config, int local_ranks) {
  if (config.threads > 0) return static_cast<int>(config.threads);
  const int allowed = cpu::allowed_cores();
  const int online = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  // A launcher that binds ranks has given this one its own share; otherwise all ranks see all
  // cores.
  const bool own_share = allowed < online && allowed * local_ranks <= online;
  return own_share ? allowed : std::max(1, allowed / local_ranks);
}

Device choose_device(const Config& config, comm::Communicator& communicator) {
  if (config.device == DeviceChoice::kCpu) return kCpuDevice;
  try {
    return cuda_device(comm::choose_cuda_device(communicator));
  } catch (const ConfigError& e) {
    ConfigError error(std::string("device=cuda: ") + e.what());
    if (e.is_collective()) error.set_collective();
    throw error;
  }
}

int64_t leaves_per_rank(const Config& config, int num_ranks) {
  int64_t most = 0;
  const Phases phases(config);
  for (const Phase& phase : phases.all())
    most = std::max(most, (phase.num_leaves() + num_ranks - 1) / num_ranks);
  return most;
}

std::string idle_ranks_text(const Config& config, int num_ranks) {
  const Phases phases(config);
  for (const Phase& phase : phases.all()) {
    const int64_t leaves = phase.num_leaves();
    if (leaves >= num_ranks || phase.steps.size() == 0) continue;
    return detail::concat(num_ranks - leaves, " of ", num_ranks, " ranks have no work",
                          phase.name.empty() ? "" : " in phase " + phase.name, ": train.batch ",
                          phase.batch, " is ", leaves, " leaves of train.micro_batch ",
                          phase.micro_batch, "; lower train.micro_batch or start ", leaves,
                          leaves == 1 ? " rank" : " ranks");
  }
  return {};
}

namespace {

/// Of the phase that takes most.
size_t gradient_bytes(const Config& config, int64_t numel, int rank, int num_ranks) {
  size_t most = 0;
  const Phases phases(config);
  for (const Phase& phase : phases.all()) {
    const comm::ReducerOptions options = reducer_options(phase.applied_to(config), numel);
    most = std::max(most, rank == kLargestRank ? comm::largest_reducer_bytes(options, num_ranks)
                                               : comm::reducer_bytes(options, rank, num_ranks));
  }
  return most;
}

bool fits(const Config& config, PlanFor purpose) {
  return purpose == PlanFor::kFitting ||
         (purpose == PlanFor::kTraining &&
          config.attention.kind == model::AttentionKind::kSparsefinder &&
          config.attention.sparsefinder.refresh_every > 0);
}

}  // namespace

MemoryPlan plan_memory(const Config& config, const data::TaskInfo& info, int threads, int rank,
                       int num_ranks, PlanFor purpose) try {
  const bool trains = purpose == PlanFor::kTraining;
  model::ParameterStore parameters;
  model::FactTable facts(config.model.layers);
  const model::Model model(parameters, facts, config.model, config.attention, model_task(info));
  model::PlanningRun plan(device_type(config), {.threads = threads, .precision = config.precision},
                          facts);
  const Device meta = plan.stream().device();
  parameters.allocate(meta);
  parameters.bind_grads({nullptr, {parameters.numel()}});

  const size_t flat = static_cast<size_t>(parameters.numel()) * sizeof(float);
  if (purpose == PlanFor::kWriting) {
    const model::DecoderBytes bytes = model::Decoder::plan(
        model, facts, device_type(config), {.threads = threads, .precision = config.precision},
        decoder_options(info));
    return {.num_parameters = parameters.num_parameters(),
            .numel = parameters.numel(),
            .parameters = flat,
            .saved = bytes.kept + bytes.saved,
            .scratch = bytes.scratch,
            .libraries = library_bytes(config, 1)};
  }
  const auto saved = model.make_saved();
  const FeedOptions feed = feed_options(config, info, leaves_per_rank(config, num_ranks));
  const auto run = [&](const LeafSizes& leaf, bool training) {
    const model::Input input = input_over(nullptr, feed, leaf);
    model::Context context = plan.begin(training);
    model.forward(context, input, *saved);
    if (training) model.backward(context, input, *saved);
  };
  if (trains)
    for (const LeafSizes& leaf : training_leaves(config, info)) run(leaf, true);
  run(whole_leaf(config, info), false);
  if (trains) Optimizer(config.optimizer, parameters, meta).plan(plan.stream(), plan.scratch());

  return {.num_parameters = parameters.num_parameters(),
          .numel = parameters.numel(),
          .parameters = flat,
          .moments = trains ? 2 * flat : 0,
          .gradients = trains ? gradient_bytes(config, parameters.numel(), rank, num_ranks) : 0,
          .saved = plan.saved_bytes(),
          .scratch = plan.scratch_bytes(),
          .inputs = config.device == DeviceChoice::kCpu ? 0 : Feed::device_bytes(feed),
          .fitting = fits(config, purpose) ? fit_bytes(config, info, num_ranks, flat) : 0,
          .libraries = library_bytes(config, trains ? num_ranks : 1)};
} catch (const SizeError& error) {
  throw ConfigError(detail::concat(error.what(),
                                   "; lower train.micro_batch, data.max_length, model.width, "
                                   "model.feedforward, model.heads or model.layers"));
}

Replica::Replica(const Config& config, const data::TaskInfo& info, Device device, int threads,
                 int64_t slots, const MemoryPlan& plan)
    : config_(config),
      stream_(device, {.threads = threads, .precision = config.precision}),
      facts_(config.model.layers),
      model_(parameters_, facts_, config.model, config.attention, model_task(info)),
      saved_("saved", device, plan.saved),
      scratch_("scratch", device, plan.scratch),
      feed_(stream_, feed_options(config, info, slots)),
      leaf_facts_(device, static_cast<size_t>(slots) * facts_.bytes()),
      num_outputs_(num_answer_outputs(info)),
      outputs_(device,
               static_cast<size_t>(config.train.micro_batch * num_outputs_) * sizeof(float)),
      model_saved_(model_.make_saved()) {
  parameters_.allocate(device);
  parameters_.initialize(stream_, static_cast<uint64_t>(config.run.seed), config.model.init);
}

void Replica::forward(int64_t slot, const RngKey& rng, bool training, model::Observer& observer,
                      model::GraphSink* graphs) {
  saved_.rewind(0);
  scratch_.rewind(0);
  slot_ = slot;
  rng_ = rng;
  std::byte* memory = leaf_facts_.data() + static_cast<size_t>(slot) * facts_.bytes();
  fill_zero_bytes(stream_, memory, facts_.bytes());
  model::Context context{stream_, saved_, scratch_, rng_, training, observer, {facts_, memory}};
  context.graphs = graphs;
  if (!training && num_outputs_ > 0) {
    const model::Input& input = feed_.input(slot);
    const int64_t examples = (input.values.empty() ? input.labels.shape : input.values.shape)[0];
    context.outputs = {reinterpret_cast<float*>(outputs_.data()), {examples, num_outputs_}};
  }
  model_.forward(context, feed_.input(slot), *model_saved_);
}

void Replica::backward(model::Observer& observer, int64_t frozen_stages) {
  model::Context context{stream_, saved_, scratch_, rng_, true, observer, {}};
  model_.backward(context, feed_.input(slot_), *model_saved_, frozen_stages);
}

void Replica::fetch_outputs(std::span<float> to) {
  STIPPLE_CHECK(to.size_bytes() <= outputs_.bytes(), "no ", to.size(), " outputs of a leaf");
  copy_bytes(stream_, to.data(), outputs_.data(), to.size_bytes());
}

void Replica::fetch_facts(int64_t slots, std::byte* to) {
  copy_bytes(stream_, to, leaf_facts_.data(), static_cast<size_t>(slots) * facts_.bytes());
}

}  // namespace stipple::trainer
