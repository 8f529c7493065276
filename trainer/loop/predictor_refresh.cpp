// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/predictor_refresh.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "comm/gradient_reducer.h"
#include "core/log.h"
#include "trainer/loop/exact_supports.h"
#include "trainer/loop/head_share.h"
#include "trainer/loop/head_switch.h"
#include "trainer/loop/predictor_fit.h"

namespace stipple::trainer {
namespace {

bool are_numbers(const ExactSupports& supports) {
  const auto is_number = [](float x) { return std::isfinite(x); };
  return std::ranges::all_of(supports, [&](const auto& of_head) {
    return std::ranges::all_of(of_head, [&](const model::ProjectionExample& example) {
      return std::ranges::all_of(example.q, is_number) && std::ranges::all_of(example.k, is_number);
    });
  });
}

}  // namespace

bool refreshes_after(const Config& config, int64_t step) {
  const int64_t every = config.attention.sparsefinder.refresh_every;
  return config.attention.kind == model::AttentionKind::kSparsefinder && every > 0 &&
         step % every == 0;
}

void refresh_predictor(Replica& replica, comm::Communicator& communicator,
                       const data::Dataset& training, const data::TaskInfo& info,
                       const Config& config, int64_t step) {
  const int rank = communicator.rank(), ranks = communicator.size();
  const Range leaves = leaves_of_examples(config, config.attention.sparsefinder.refresh_examples);
  ExactSupports of_leaves =
      exact_supports(replica, training, info, config,
                     comm::leaves_of_rank(leaves.size(), rank, ranks), /*first_step=*/step);
  if (communicator.any(!are_numbers(of_leaves))) {
    if (rank == 0)
      log::warn(fmt::format(
          "step {}: queries or keys are no numbers; what predicts the graph stays as it was",
          step));
    return;
  }
  const ExactSupports supports =
      contents_of(config, exchange_heads(communicator, std::move(of_leaves)));
  PredictorFitOptions options{.turn = static_cast<uint64_t>(step), .share = {rank, ranks}};
  options.after_head = [&] { communicator.progress(); };
  options.diverged = "attention.sparsefinder.refresh_every";
  options.advice = fmt::format(
      "that was after step {}; lower optimizer.learning_rate, by which queries and keys grow, or "
      "use 0",
      step);
  PredictorFit fit(config, info, options);
  fit.take(replica.stream(), replica.parameters());
  comm::agree(communicator, [&] {
    fit.fit_projections(supports, {.epochs = 1, .batch = 4});
    fit.fit_centroids(supports);
  });
  fit.share(communicator);
  fit.parameters().copy_fixed_to(replica.stream(), replica.parameters());
  if (config.attention.sparsefinder.switches_heads())
    switch_heads(replica, communicator, training, info, config, step);
}

}  // namespace stipple::trainer
