// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/best_step.h"

#include <algorithm>
#include <cmath>

namespace stipple::trainer {

std::optional<int64_t> best_step(std::vector<int64_t> steps, std::span<const EvalRecord> records,
                                 const data::Metric& metric) {
  std::ranges::sort(steps);
  std::optional<int64_t> best;
  double best_value = 0;
  for (const int64_t step : steps) {
    for (const EvalRecord& record : records) {
      if (!record.is_plain() || record.split != "val" || record.step != step) continue;
      const double value = value_of(record.values, metric.name);
      const bool is_better = metric.less_is_better ? value < best_value : value > best_value;
      if (!std::isnan(value) && (!best || is_better)) best = step, best_value = value;
    }
  }
  return best;
}

}  // namespace stipple::trainer
