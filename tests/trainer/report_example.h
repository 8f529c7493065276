// SPDX-License-Identifier: Apache-2.0
// A run as a report reads it.
#pragma once

#include "trainer/record/report.h"

namespace stipple::trainer {

inline TrainRecord train_at(int64_t step, size_t layers, size_t heads) {
  const double x = static_cast<double>(step);
  TrainRecord r{.step = step,
                .loss = 2 / x,
                .values = {{"accuracy", 1 - 1 / x}, {"density", 0.1}},
                .examples_per_s = 300,
                .tokens_per_s = 6000,
                .learning_rate = 1e-4,
                .grad_norm = 1,
                .seconds = {.step = 0.1, .data = 0.01, .forward = 0.03, .backward = 0.05}};
  for (size_t layer = 0; layer < layers; ++layer)
    r.layers.push_back({{"density", std::vector<double>(heads, 0.1 * static_cast<double>(layer))},
                        {"empty_rows", std::vector<double>(heads, 0.0)},
                        {"effective_cells", std::vector<double>(heads, 4.0)}});
  return r;
}

inline std::vector<ShownFigure> shown_figures() {
  return {{.name = "accuracy", .title = "Accuracy", .is_share = true, .is_metric = true},
          {.name = "density", .title = "Density", .unit = "edges / pairs", .is_share = true},
          {.name = "empty_rows", .title = "Empty rows", .unit = "share", .is_share = true},
          {.name = "effective_cells", .title = "Effective cells", .unit = "cells"}};
}

inline ReportInput example(size_t layers = 2, size_t heads = 2) {
  ReportInput input{.run_name = "run",
                    .config_yaml = "seed: 1\nmodel:\n  width: 64\n",
                    .figures = shown_figures(),
                    .ladder = {"accuracy", {{"Reference", 0.37}, {"Chance", 0.1}}}};
  for (int64_t step = 1; step <= 50; ++step)
    input.metrics.train.push_back(train_at(step, layers, heads));
  for (int64_t step : {25, 50})
    input.metrics.eval.push_back(
        {.step = step, .split = "val", .loss = 1, .values = {{"accuracy", 0.3}, {"density", 0.1}}});
  input.metrics.eval.push_back({.step = 50,
                                .split = "test",
                                .loss = 1,
                                .values = {{"accuracy", 0.3456}, {"density", 0.1}},
                                .seed_values = {{"accuracy", {0.34, 0.35}}},
                                .seed_spread = 0.01});
  return input;
}

}  // namespace stipple::trainer
