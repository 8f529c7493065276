// SPDX-License-Identifier: Apache-2.0
#include "trainer/replica.h"

#include <algorithm>
#include <thread>

#include "core/cpu/cores.h"

namespace stipple::trainer {
namespace {

model::ModelTask model_task(const data::TaskInfo& info) {
  return {.per_token = info.head == data::HeadKind::kToken,
          .vocab_size = info.vocab_size,
          .num_classes = info.num_classes,
          .max_length = info.max_length};
}

/// A leaf as the device sees it. On the CPU these are views of host memory; on meta, shapes without
/// memory.
model::Input input_of(const data::Leaf& leaf, const data::TaskInfo& info, int64_t global_batch,
                      float loss_scale) {
  const Shape tokens{leaf.batch, leaf.length};
  const bool per_token = info.head == data::HeadKind::kToken;
  return {.ids = {leaf.ids.data(), tokens},
          .mask = {leaf.mask.data(), tokens},
          .labels = {leaf.labels.data(), per_token ? tokens : Shape{leaf.batch}},
          .samples = {leaf.samples.data(), {leaf.batch}},
          .loss_scale = loss_scale,
          .batch_share = static_cast<float>(leaf.batch) / static_cast<float>(global_batch)};
}

/// The largest leaf that training or evaluation can meet, as shapes only.
data::Leaf largest_leaf(const Config& config, const data::TaskInfo& info) {
  data::Leaf leaf;
  leaf.batch = config.train.micro_batch;
  leaf.length = info.max_length;
  return leaf;
}

}  // namespace

data::BatchOptions batch_options(const Config& config) {
  // Where padding takes part in the graph, its amount must not depend on the neighbours in a leaf.
  const bool padding_counts =
      config.attention.kind == model::AttentionKind::kSbm &&
      config.attention.sbm.resolved().padding == model::SbmPadding::kOfficial;
  return {.seed = static_cast<uint64_t>(config.run.seed),
          .batch = config.train.batch,
          .micro_batch = config.train.micro_batch,
          .fixed_length = padding_counts};
}

comm::ReducerOptions reducer_options(const Config& config, int64_t numel) {
  return {.policy = config.reduction,
          .numel = numel,
          .num_leaves = config.train.batch / config.train.micro_batch};
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

MemoryPlan plan_memory(const Config& config, const data::TaskInfo& info, int threads, int rank,
                       int num_ranks) {
  const Stream stream(kMetaDevice, {.threads = threads});
  model::ParameterStore parameters;
  const model::Model model(parameters, config.model, config.attention, model_task(info));
  parameters.allocate(kMetaDevice);
  parameters.bind_grads({nullptr, {parameters.numel()}});

  Arena saved("saved");
  Arena scratch("scratch");
  model::Observer nobody;
  auto model_saved = model.make_saved();
  const data::Leaf leaf = largest_leaf(config, info);
  const model::Input input = input_of(leaf, info, config.train.batch, 1.0f);
  const model::Totals totals{
      .loss_sum = {nullptr, {1}}, .correct = {nullptr, {1}}, .count = {nullptr, {1}}};
  for (const bool training : {true, false}) {
    saved.rewind(0);
    scratch.rewind(0);
    model::Context context{stream, saved, scratch, RngKey{}, training, nobody};
    model.forward(context, input, totals, *model_saved);
    if (training) model.backward(context, input, *model_saved);
  }
  const Optimizer optimizer(config.optimizer, parameters, kMetaDevice);
  optimizer.plan(stream, scratch);

  const size_t flat = static_cast<size_t>(parameters.numel()) * sizeof(float);
  return {.num_parameters = parameters.num_parameters(),
          .numel = parameters.numel(),
          .parameters = flat,
          .moments = 2 * flat,
          .gradients =
              comm::reducer_bytes(reducer_options(config, parameters.numel()), rank, num_ranks),
          .saved = saved.peak(),
          .scratch = scratch.peak()};
}

Replica::Replica(const Config& config, const data::TaskInfo& info, int threads,
                 const MemoryPlan& plan)
    : config_(config),
      info_(info),
      stream_(kCpuDevice, {.threads = threads}),
      model_(parameters_, config.model, config.attention, model_task(info)),
      saved_("saved", kCpuDevice, plan.saved),
      scratch_("scratch", kCpuDevice, plan.scratch),
      model_saved_(model_.make_saved()) {
  parameters_.allocate(kCpuDevice);
  parameters_.initialize(static_cast<uint64_t>(config.run.seed));
}

LeafTotals Replica::forward(const data::Leaf& leaf, const RngKey& rng, bool training,
                            float loss_scale, model::Observer& observer) {
  saved_.rewind(0);
  scratch_.rewind(0);
  input_ = input_of(leaf, info_, config_.train.batch, loss_scale);
  rng_ = rng;
  LeafTotals totals;
  model::Context context{stream_, saved_, scratch_, rng_, training, observer};
  model_.forward(context, input_,
                 {.loss_sum = {&totals.loss_sum, {1}},
                  .correct = {&totals.correct, {1}},
                  .count = {&totals.count, {1}}},
                 *model_saved_);
  return totals;
}

void Replica::backward(model::Observer& observer) {
  model::Context context{stream_, saved_, scratch_, rng_, true, observer};
  model_.backward(context, input_, *model_saved_);
}

}  // namespace stipple::trainer
