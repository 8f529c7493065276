// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/head_switch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <vector>

#include "core/copy.h"
#include "core/log.h"
#include "model/attention/sparsefinder/head_gate.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/exact_supports.h"
#include "trainer/loop/fact_sums.h"
#include "trainer/loop/step_observer.h"

namespace stipple::trainer {
namespace {

/// What all leaves tell, on every rank.
FactSums evaluate_held_out(Replica& replica, comm::Communicator& communicator,
                           const data::Dataset& training, const data::TaskInfo& info,
                           const Config& config, int64_t step) {
  const int64_t leaves =
      leaves_of_examples(config, config.attention.sparsefinder.refresh_examples).size();
  data::TrainBatches batches(training, info, batch_options(config, /*is_captured=*/false));
  const RngKey rng = evaluation_rng(config, /*seed=*/0);
  const Buffer memory = Buffer::staging(replica.stream().device(), replica.facts().bytes());
  FactSums sums(replica.facts(), leaves);
  sums.clear();
  data::Leaf leaf;
  StepObserver nobody;
  for (int64_t l = communicator.rank(); l < leaves; l += communicator.size()) {
    const int64_t place = leaves + l;  // behind those of the fit
    batches.load(step + place / batches.num_leaves(), place % batches.num_leaves(), leaf);
    replica.feed().put(l, 0, leaf);
    replica.forward(0, rng, /*training=*/false, nobody);
    replica.fetch_facts(1, memory.data());
    replica.stream().synchronize();
    sums.add(l, {replica.facts(), memory.data()});
    communicator.progress();
  }
  sums.all_reduce(communicator);
  sums.require_limits();
  return sums;
}

/// The share of queries whose whole support is predicted, by head.
std::vector<double> exact_shares(const FactSums& sums, const model::FactTable& facts, int64_t layer,
                                 int64_t heads) {
  const model::FactId exact = facts.find("exact_rows"), all = facts.find("measured_rows");
  std::vector<double> shares;
  for (int64_t head = 0; head < heads; ++head)
    shares.push_back(sums.value(exact, layer, head) / sums.value(all, layer, head));
  return shares;
}

}  // namespace

void switch_heads(Replica& replica, comm::Communicator& communicator, const data::Dataset& training,
                  const data::TaskInfo& info, const Config& config, int64_t step) {
  const FactSums sums = evaluate_held_out(replica, communicator, training, info, config, step);
  for (int64_t layer = 0; layer < config.model.layers; ++layer) {
    const std::string name = fmt::format("encoder.{}.attention{}", layer, model::HeadGate::kTensor);
    const View<float> tensor = replica.parameters().value(*replica.parameters().find(name));
    std::vector<float> switched(static_cast<size_t>(tensor.numel()));
    download(replica.stream(), std::span<float>(switched), tensor);
    const std::vector<double> shares =
        exact_shares(sums, replica.facts(), layer, config.model.heads);
    std::vector<std::string> now;
    for (size_t head = 0; head < switched.size(); ++head) {
      // No query, no share.
      if (switched[head] != 0 || !(shares[head] >= config.attention.sparsefinder.gate)) continue;
      switched[head] = 1;
      now.push_back(fmt::format("{} (exact {:.4f})", head, shares[head]));
    }
    if (now.empty()) continue;
    upload(replica.stream(), tensor, std::span<const float>(switched));
    if (communicator.rank() == 0)
      log::info(
          fmt::format("step {}: of layer {} computes the predicted graph from now on: head {}",
                      step, layer, fmt::join(now, ", ")));
  }
}

}  // namespace stipple::trainer
