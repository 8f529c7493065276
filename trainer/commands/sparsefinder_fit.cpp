// SPDX-License-Identifier: Apache-2.0
// `stipple sparsefinder fit`: projections and centroids for a trained model with entmax attention.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "model/attention/registry.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/exact_run.h"
#include "trainer/exit_code.h"
#include "trainer/loop/fitted.h"
#include "trainer/loop/predictor_fit.h"

namespace stipple::trainer {

int sparsefinder_fit(comm::Communicator& communicator, const std::string& run_dir,
                     const std::vector<std::string>& overrides, const FitOptions& options) {
  const OpenedRun run = open_exact_run(communicator, "fit", run_dir, overrides);
  const Config config = with_attention(run.config, model::AttentionKind::kSparsefinder);
  model::attention_row(config.attention.kind).validate(config.attention);
  const model::SparsefinderConfig& sparsefinder = config.attention.sparsefinder;
  STIPPLE_CHECK_AS(ConfigError, sparsefinder.compares(),
                   "attention.sparsefinder.predictor: this one goes by the places of tokens alone, "
                   "and there is nothing to fit; take one that compares them");
  STIPPLE_CHECK_AS(
      ConfigError,
      sparsefinder.projects() || sparsefinder.predictor == model::SparsefinderPredictor::kCluster,
      "attention.sparsefinder.projection.kind: without projections this predictor has nothing to "
      "fit; use linear, mlp or concat, or predictor=cluster");
  const RunLock lock(run.directory);
  PredictorFit fit(config, run.task->info());
  const ExactSupports supports =
      contents_of(config, supports_of(communicator, run, options.examples));
  const auto losses = fit.fit_projections(supports, options.projection);
  const auto occupancy = fit.fit_centroids(supports);
  for (size_t layer = 0; layer < static_cast<size_t>(config.model.layers); ++layer) {
    fmt::print("layer {:<6}", layer);
    if (!losses.empty()) fmt::print(" loss by head {:.3f}", fmt::join(losses[layer], " "));
    if (!occupancy.empty())
      fmt::print("{} occupancy of clusters {:.3f}", losses.empty() ? "" : ",",
                 fmt::join(occupancy[layer], " "));
    fmt::print("\n");
  }
  const std::string path = run.directory.path() + "/sparsefinder.safetensors";
  write_fitted(path, config, run.task->info(), fit.parameters());
  fmt::print("written      {}\n", path);
  return kDone;
}

}  // namespace stipple::trainer
