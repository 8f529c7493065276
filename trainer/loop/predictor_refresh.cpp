// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/predictor_refresh.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/log.h"
#include "trainer/loop/exact_supports.h"
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
  const ExactSupports supports =
      exact_supports(replica, training, info, config,
                     config.attention.sparsefinder.refresh_examples, /*first_step=*/step);
  if (!are_numbers(supports)) {
    log::warn(fmt::format(
        "step {}: queries or keys are no numbers; what predicts the graph stays as it was", step));
    return;
  }
  PredictorFit fit(config, info, static_cast<uint64_t>(step));
  fit.take(replica.stream(), replica.parameters());
  fit.fit_projections(supports, {.epochs = 1, .batch = 4});
  fit.fit_centroids(supports);
  fit.parameters().copy_fixed_to(replica.stream(), replica.parameters());
  if (config.attention.sparsefinder.switches_heads())
    switch_heads(replica, communicator, training, info, config, step);
}

}  // namespace stipple::trainer
