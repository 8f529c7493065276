// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

namespace stipple::trainer {
namespace {

/// Keeps evaluation's draws apart from those of any training step.
constexpr uint64_t kEvaluationStream = 0x8000'0000'0000'0000ull;

struct PassTotals {
  double loss_sum = 0;
  int64_t correct = 0;
  int64_t count = 0;
};

/// How many leaves a rank computes between two looks at `stop`.
constexpr int64_t kRoundsBetweenLooks = 8;

std::optional<PassTotals> evaluate_once(Replica& replica, comm::Communicator& communicator,
                                        const data::EvalBatches& batches, const RngKey& rng,
                                        StepObserver& observer, bool (*stop)()) {
  const int64_t num_leaves = batches.num_leaves();
  std::vector<double> losses(static_cast<size_t>(num_leaves));
  std::vector<int64_t> counts(3);
  data::Leaf leaf;
  const Buffer memory = Buffer::staging(replica.stream().device(), replica.record_bytes());
  const model::LeafRecord record = replica.record_over(memory.data());
  for (int64_t first = 0, round = 0; first < num_leaves; first += communicator.size(), ++round) {
    if (round % kRoundsBetweenLooks == 0 && communicator.any(stop())) return std::nullopt;
    const int64_t i = first + communicator.rank();
    if (i >= num_leaves) continue;
    batches.load(i, leaf);
    replica.feed().put(round, 0, leaf, 1.0f);
    replica.forward(0, rng, false, observer);
    replica.fetch_records(1, memory.data());
    replica.stream().synchronize();
    losses[static_cast<size_t>(i)] = record.loss_sum()[0];
    counts[0] += record.correct()[0];
    counts[1] += record.count()[0];
    counts[2] += observer.add(record);
  }
  // Each entry is non-zero on one rank only, so the transport's order cannot change its bits.
  communicator.all_reduce(std::span<double>(losses), comm::Reduction::kSum);
  communicator.all_reduce(std::span<int64_t>(counts), comm::Reduction::kSum);
  require_no_overflow(counts[2]);
  return PassTotals{.loss_sum = std::accumulate(losses.begin(), losses.end(), 0.0),
                    .correct = counts[0],
                    .count = counts[1]};
}

}  // namespace

double EvalResult::spread() const {
  if (seed_accuracy.empty()) return 0;
  const auto [low, high] = std::minmax_element(seed_accuracy.begin(), seed_accuracy.end());
  return *high - *low;
}

std::optional<EvalResult> evaluate(Replica& replica, comm::Communicator& communicator,
                                   const data::Dataset& dataset, const data::TaskInfo& info,
                                   const Config& config, int64_t seeds, bool (*stop)()) {
  Stopwatch watch;
  const data::EvalBatches batches(dataset, info, batch_options(config, /*is_captured=*/false));
  StepObserver observer(config.model.layers, config.model.heads);
  EvalResult result;
  result.examples = dataset.size();
  for (int64_t seed = 0; seed < seeds; ++seed) {
    const RngKey rng{static_cast<uint64_t>(config.run.seed),
                     kEvaluationStream + static_cast<uint64_t>(seed)};
    const auto pass = evaluate_once(replica, communicator, batches, rng, observer, stop);
    if (!pass) return std::nullopt;
    const double labels = static_cast<double>(std::max<int64_t>(1, pass->count));
    result.labels = pass->count;
    result.loss += pass->loss_sum / labels / static_cast<double>(seeds);
    result.seed_accuracy.push_back(static_cast<double>(pass->correct) / labels);
    result.accuracy += result.seed_accuracy.back() / static_cast<double>(seeds);
  }
  observer.all_reduce(communicator);
  result.density =
      observer.has_graphs() ? observer.density() : std::numeric_limits<double>::quiet_NaN();
  result.seconds = watch.lap();
  return result;
}

EvalRecord eval_record(const EvalResult& result, int64_t step, std::string_view split) {
  const double passes = static_cast<double>(result.seed_accuracy.size());
  return {.step = step,
          .split = std::string(split),
          .loss = result.loss,
          .accuracy = result.accuracy,
          .density = result.density,
          .examples = result.examples,
          .examples_per_s =
              passes * static_cast<double>(result.examples) / std::max(1e-9, result.seconds),
          .seed_accuracy = result.seed_accuracy,
          .seed_spread = result.spread()};
}

std::vector<LadderRung> ladder_of(const data::Task& task, const data::Dataset& dataset) {
  std::vector<LadderRung> rungs;
  for (const data::Task::Rung& rung : task.ladder(dataset))
    rungs.push_back({rung.name, rung.accuracy});
  return rungs;
}

std::string place_on_ladder(double accuracy, const std::vector<LadderRung>& ascending) {
  const LadderRung* below = nullptr;
  const LadderRung* above = nullptr;
  for (const LadderRung& rung : ascending) {
    if (rung.accuracy <= accuracy) {
      below = &rung;
    } else if (above == nullptr) {
      above = &rung;
    }
  }
  std::string text = fmt::format("{:.1f} %", 100 * accuracy);
  if (below != nullptr) {
    text += fmt::format(", {:.1f} points above '{}' ({:.1f} %)", 100 * (accuracy - below->accuracy),
                        below->name, 100 * below->accuracy);
  }
  if (above != nullptr) {
    text += fmt::format(", {:.1f} points below '{}' ({:.1f} %)", 100 * (above->accuracy - accuracy),
                        above->name, 100 * above->accuracy);
  }
  return text;
}

}  // namespace stipple::trainer
