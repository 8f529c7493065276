// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/entmax_config.h"

#include "core/error.h"
#include "kernels/entmax_heads.h"

namespace stipple::model {
namespace {

constexpr double kLeastAlpha = 1.0;
constexpr double kMostAlpha = 4.0;
constexpr double kMostAnnealSteps = 1e9;

void validate_path(const EntmaxConfig& c) {
  const bool has_start = c.anneal_from != 0.0;
  STIPPLE_CHECK_AS(ConfigError, !c.learn_alpha || (!has_start && !c.is_annealed()),
                   "attention.entmax.learn_alpha: a learned alpha follows no fixed path; leave out "
                   "learn_alpha, or anneal_from and anneal_steps");
  STIPPLE_CHECK_AS(ConfigError, !c.is_annealed() || has_start,
                   "attention.entmax.anneal_steps: a path of ", c.anneal_steps,
                   " steps has no start; set anneal_from to the alpha of the first step, 1 to 4");
  STIPPLE_CHECK_AS(ConfigError, !has_start || c.is_annealed(),
                   "attention.entmax.anneal_from: the path from ", c.anneal_from,
                   " has no length; set anneal_steps to the steps until alpha is reached");
  STIPPLE_CHECK_AS(ConfigError, !has_start || c.anneal_from >= kLeastAlpha,
                   "attention.entmax.anneal_from: ", c.anneal_from,
                   " is no alpha; use 1 to 4, or 0 for an alpha that stays");
}

void validate_alpha(const EntmaxConfig& c) {
  const double least = static_cast<double>(kernels::kEntmaxHeldAbove);
  STIPPLE_CHECK_AS(ConfigError, c.alpha == kLeastAlpha || c.alpha >= least,
                   "attention.entmax.alpha: ", c.alpha,
                   " is nearer to softmax than floats can tell; use 1, which is softmax, or at "
                   "least ",
                   least);
  if (c.learn_alpha) {
    const EntmaxAlphaRange& range = c.alpha_range;
    STIPPLE_CHECK_AS(ConfigError, range.low < c.alpha && c.alpha < range.high,
                     "attention.entmax.alpha: ", c.alpha,
                     " is where learned alphas start and must lie between alpha_range.low=",
                     range.low, " and alpha_range.high=", range.high);
    return;
  }
  STIPPLE_CHECK_AS(ConfigError, c.alpha > kLeastAlpha || !c.is_annealed(),
                   "attention.entmax.alpha: 1 is softmax, where no annealed path can end; use more "
                   "than 1, or attention.kind=softmax");
  STIPPLE_CHECK_AS(ConfigError, c.alpha > kLeastAlpha || c.temperature == EntmaxTemperature::kNone,
                   "attention.entmax.temperature: alpha=1 is softmax, which learns no temperature; "
                   "use temperature=none, or an alpha above 1");
}

}  // namespace

void EntmaxAlphaRange::describe(ConfigVisitor& v) {
  v.field("low", low, {.doc = "No learned alpha is below.", .min = kLeastAlpha, .max = kMostAlpha});
  v.field("high", high,
          {.doc = "No learned alpha is above.", .min = kLeastAlpha, .max = kMostAlpha});
}

void EntmaxConfig::describe(ConfigVisitor& v) {
  v.field("alpha", alpha,
          {.doc = "How sparse: 1 is softmax, 1.5 leaves a few keys of a row, 2 is sparsemax. Where "
                  "learned alphas start, and where an annealed one ends.",
           .min = kLeastAlpha,
           .max = kMostAlpha});
  v.field("learn_alpha", learn_alpha,
          {.doc = "One alpha of each head and layer is learned: low + (high - low) sigmoid(w)."});
  v.section("alpha_range", alpha_range, "Between which numbers alpha is learned.");
  v.field("anneal_from", anneal_from,
          {.doc = "alpha of the first step, from which it goes to alpha in a straight line. 0: it "
                  "stays.",
           .min = 0,
           .max = kMostAlpha});
  v.field("anneal_steps", anneal_steps,
          {.doc = "Length of that path.", .unit = "steps", .min = 0, .max = kMostAnnealSteps});
  v.choice("temperature", temperature, {"none", "learned"},
           {.doc = "learned: scores of each head and layer are multiplied by e^w, which begins at "
                   "1."});
}

void EntmaxConfig::validate() const {
  validate_path(*this);
  validate_alpha(*this);
}

bool EntmaxConfig::is_softmax() const {
  return alpha == kLeastAlpha && !learn_alpha && !is_annealed();
}

}  // namespace stipple::model
