// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sbm/sbm_config.h"

namespace stipple::model {
namespace {

void describe_graph(SbmConfig& c, ConfigVisitor& v) {
  v.choice(
      "compat", c.compat, {"none", "official", "paper"},
      {.doc = "A preset of law, exploration, delta, explore_eval, self_loop, ste, "
              "ste_clip, ste_clip_at, regularizer, padding and cluster_init, none of which may "
              "then be set to something else: official, as the released code behaves; paper, "
              "as the text describes; none, the keys below."});
  v.field("clusters", c.clusters, {.doc = "Clusters per head.", .min = 1, .max = 4096});
  v.choice("cluster_init", c.cluster_init, {"official", "spread"},
           {.doc = "official: N(0, 2 / (K D)), a nearly uniform block matrix. spread: N(0, (ln K + "
                   "1.5) / D), a block matrix of tens of effective cells."});
  v.choice("law", c.law, {"bernoulli", "poisson_collapse", "poisson_multi"},
           {.doc = "Distribution of an edge given its probability p: bernoulli, P = p; "
                   "poisson_collapse, P = 1 - exp(-p); poisson_multi, N ~ Poisson(p) kept as a "
                   "weight."});
  v.choice(
      "sampler", c.sampler, {"auto", "tiles", "rows"},
      {.doc = "Who draws the edges; the law is the same. tiles: a uniform per pair; rows: time "
              "proportional to the edges; auto: by expected density."});
  v.field(
      "tile_density", c.tile_density,
      {.doc = "Expected density from which auto uses tiles and a bit mask.", .min = 0, .max = 1});
  v.field("max_density", c.max_density,
          {.doc = "Promised bound on the density of any graph, besides its window. Below "
                  "tile_density only the edges it "
                  "allows get memory, linear in length at a fixed degree, and a graph above it "
                  "stops the run; from tile_density on it changes nothing.",
           .min = 0,
           .max = 1});
}

void describe_exploration(SbmConfig& c, ConfigVisitor& v) {
  v.choice("exploration", c.exploration, {"fixed", "linear"},
           {.doc = "Probability added to every edge in training: fixed, delta; linear, min(delta, "
                   "delta_keys / data.max_length), which keeps the number of edges linear."});
  v.field("delta", c.delta,
          {.doc = "Exploration probability, or its upper bound.", .min = 0, .max = 1});
  v.field("delta_keys", c.delta_keys,
          {.doc = "linear: exploratory edges of a full-length row.", .unit = "keys", .min = 0});
  v.field("explore_eval", c.explore_eval, {.doc = "Explore in evaluation too."});
  v.field("self_loop", c.self_loop, {.doc = "Every token always sees itself."});
  v.field("window", c.window,
          {.doc = "Every token always sees those at most window / 2 places away, beside those that "
                  "are drawn. 0: none.",
           .unit = "tokens",
           .min = 0,
           .max = 1e9});
}

void describe_gradient(SbmConfig& c, ConfigVisitor& v) {
  v.choice(
      "ste", c.ste, {"score_gradient", "paper"},
      {.doc = "What stands for the derivative by the probability of a drawn edge: the gradient "
              "ds of its score, or ds times the score."});
  v.choice(
      "ste_clip", c.ste_clip, {"off", "unscaled", "amp_compat"},
      {.doc = "Clip of that derivative: none; at ste_clip_at; at ste_clip_at / amp_scale, what "
              "the released code does under its gradient scaler."});
  v.field("ste_clip_at", c.ste_clip_at,
          {.doc = "Where to clip; 0 lets nothing through to the graph.", .min = 0});
  v.field("amp_scale", c.amp_scale, {.doc = "Loss scale that amp_compat imitates.", .min = 1});
  v.choice("regularizer", c.regularizer, {"expected", "ste"},
           {.doc = "Sparsity loss: expected density in closed form with its exact gradient, or "
                   "sampled density with a straight-through one."});
  v.field("sparsity_weight", c.sparsity_weight, {.doc = "Weight of the sparsity loss.", .min = 0});
  v.choice("padding", c.padding, {"excluded", "official"},
           {.doc = "excluded: no edge touches padding. official: the graph ignores padding, only "
                   "scores of padded keys are masked; wants batches padded to data.max_length."});
}

}  // namespace

void SbmConfig::describe(ConfigVisitor& v) {
  describe_graph(*this, v);
  describe_exploration(*this, v);
  describe_gradient(*this, v);
}

SbmConfig SbmConfig::resolved() const {
  SbmConfig c = *this;
  if (compat == SbmCompat::kNone) return c;
  const bool official = compat == SbmCompat::kOfficial;
  c.cluster_init = ClusterInit::kOfficial;
  c.law = official ? kernels::MaskLaw::kBernoulli : kernels::MaskLaw::kPoissonCollapse;
  c.exploration = Exploration::kFixed;
  c.delta = 0.01;
  c.explore_eval = official;
  c.self_loop = false;
  c.ste = official ? kernels::SteRule::kScoreGradient : kernels::SteRule::kPaper;
  c.ste_clip = official ? SteClip::kAmpCompat : SteClip::kOff;
  c.ste_clip_at = 1.0;
  c.regularizer = SbmRegularizer::kSte;
  c.padding = official ? SbmPadding::kOfficial : SbmPadding::kExcluded;
  return c;
}

}  // namespace stipple::model
