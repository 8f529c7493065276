// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/guard.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/log.h"

namespace stipple::trainer {
namespace {

/// The lower median: an element, so that no arithmetic depends on the order of the values.
double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void keep_newest(std::vector<double>& values, int64_t count) {
  const auto excess = static_cast<std::ptrdiff_t>(values.size()) - count;
  if (excess > 0) values.erase(values.begin(), values.begin() + excess);
}

}  // namespace

void GuardConfig::describe(ConfigVisitor& v) {
  v.field("spike_factor", spike_factor,
          {.doc = "A step whose loss or gradient norm exceeds this many times its median over the "
                  "last good steps is not applied. 0: only non-finite steps are skipped; else "
                  "more than 1.",
           .min = 0,
           .max = 1e9});
  v.field(
      "window", window,
      {.doc = "Good steps the medians are taken over; until there are so many nothing counts as "
              "a spike.",
       .unit = "steps",
       .min = 1,
       .max = 10000});
  v.field("max_skips", max_skips,
          {.doc = "The run stops with an error after this many skipped steps in a row.",
           .unit = "steps",
           .min = 1,
           .max = 1e6});
}

std::string SpikeGuard::fault(double loss, double grad_norm) const {
  if (!std::isfinite(loss)) return detail::concat("the loss is ", loss);
  if (!std::isfinite(grad_norm)) return detail::concat("the gradient norm is ", grad_norm);
  const bool is_ready = static_cast<int64_t>(losses_.size()) >= config_.window;
  if (config_.spike_factor <= 0 || !is_ready) return "";
  const auto spike = [&](const char* name, double value, const std::vector<double>& history) {
    const double usual = median(history);
    if (value <= config_.spike_factor * usual) return std::string();
    return detail::concat("the ", name, " is ", value, ", more than ", config_.spike_factor,
                          " times its median ", usual);
  };
  const std::string of_loss = spike("loss", loss, losses_);
  return of_loss.empty() ? spike("gradient norm", grad_norm, norms_) : of_loss;
}

std::string SpikeGuard::stop_message(int64_t step, const std::string& reason) const {
  return detail::concat(
      "stopped at step ", step, ": ", reason, ", and ", consecutive_skips_,
      " steps in a row could not be applied; try a lower optimizer.learning_rate, a longer "
      "optimizer.schedule.warmup_steps or optimizer.clip_norm=1",
      config_.spike_factor > 0 ? ", or a larger guard.spike_factor" : "");
}

SpikeGuard::SpikeGuard(const GuardConfig& config) : config_(config) {
  // One more than is kept, while the oldest goes.
  losses_.reserve(static_cast<size_t>(config.window) + 1);
  norms_.reserve(static_cast<size_t>(config.window) + 1);
}

SpikeGuard::Verdict SpikeGuard::check(int64_t step, double loss, double grad_norm) {
  const std::string reason = fault(loss, grad_norm);
  if (reason.empty()) {
    consecutive_skips_ = 0;
    losses_.push_back(loss);
    norms_.push_back(grad_norm);
    keep_newest(losses_, config_.window);
    keep_newest(norms_, config_.window);
    return Verdict::kApply;
  }
  ++consecutive_skips_;
  if (consecutive_skips_ >= config_.max_skips) {
    DivergenceError error(stop_message(step, reason));
    error.set_collective();  // every rank judges the same numbers
    throw error;
  }
  log::info(detail::concat("step ", step, " was not applied: ", reason));
  return Verdict::kSkip;
}

void SpikeGuard::describe_state(StateVisitor& v) {
  v.count("guard/consecutive_skips", consecutive_skips_);
  v.numbers("guard/losses", losses_);
  v.numbers("guard/norms", norms_);
  STIPPLE_CHECK_AS(CheckpointError, consecutive_skips_ >= 0 && losses_.size() == norms_.size(),
                   "the state of the spike guard is damaged; resume from an older checkpoint");
  keep_newest(losses_, config_.window);
  keep_newest(norms_, config_.window);
}

}  // namespace stipple::trainer
