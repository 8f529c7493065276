// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/sparsefinder_config.h"

#include "core/error.h"
#include "kernels/group_edges.h"

namespace stipple::model {
namespace {

constexpr double kMostClusters = 65536;
constexpr double kMostWindow = 1e9;
constexpr double kMostThreshold = 1e9;
constexpr double kMostHidden = 1024;
constexpr double kMostCosine = 2.0;  ///< 1 - the cosine of opposite directions

}  // namespace

void SparsefinderProjection::describe(ConfigVisitor& v) {
  v.choice("kind", kind, {"linear", "mlp", "concat", "none"},
           {.doc = "linear: a matrix for each head; mlp: a hidden layer with tanh before it; "
                   "concat: a matrix for a token's query and key together, so that it has one "
                   "place for both; none: queries and keys are compared as they are, in all "
                   "channels of a head."});
  v.field("dim", dim,
          {.doc = "Dimensions that queries and keys are compared in.",
           .min = 1,
           .max = static_cast<double>(kernels::kMostProjected)});
  v.field("hidden", hidden,
          {.doc = "kind=mlp: channels of the hidden layer. 0: those of a head.",
           .min = 0,
           .max = kMostHidden});
  v.field("shared", shared,
          {.doc = "One projection for the queries and the keys of a head. Two are unrelated until "
                  "they are fitted."});
  v.field("mips", mips,
          {.doc = "Keys get one coordinate more, which brings all of a sequence to one length, "
                  "queries a zero: then near is who has a large product, long keys too. A model "
                  "cannot be causal."});
}

void SparsefinderCluster::describe(ConfigVisitor& v) {
  v.field("clusters", clusters,
          {.doc = "Clusters of a head; near the square root of the length, edges grow with its "
                  "power 1.5.",
           .min = 1,
           .max = kMostClusters});
  v.field("top", top,
          {.doc = "In how many clusters a token is: its nearest ones.",
           .min = 1,
           .max = static_cast<double>(kernels::kMostGroupsOfToken)});
  v.field("rounds", rounds,
          {.doc = "Sets of clusters; a pair is seen if it shares a cluster in one of them.",
           .min = 1,
           .max = static_cast<double>(kernels::kMostGroupsOfToken)});
}

void SparsefinderQuantize::describe(ConfigVisitor& v) {
  v.field("buckets", buckets,
          {.doc = "Of each dimension; a pair is seen if it shares one in any dimension.",
           .min = 1,
           .max = kMostClusters});
  v.choice(
      "kind", kind, {"equal", "interval"},
      {.doc = "equal: as many tokens in each bucket, by rank among the sequence's, so that no "
              "model can be causal; interval: equal parts of (-1, 1), of tanh(temperature x)."});
  v.field("temperature", temperature,
          {.doc = "Of the intervals.", .min = 1e-6, .max = kMostThreshold});
}

void SparsefinderDistance::describe(ConfigVisitor& v) {
  v.field("threshold", threshold,
          {.doc = "A pair is seen if it is nearer than this. l2: a squared distance; cosine: 0 to "
                  "2.",
           .min = 0,
           .max = kMostThreshold});
  v.choice("metric", metric, {"l2", "cosine"},
           {.doc = "l2: the square of the distance; cosine: 1 less the cosine of the angle."});
}

void SparsefinderPlaces::describe(ConfigVisitor& v) {
  v.field("random_blocks", random_blocks,
          {.doc = "predictor=bigbird: blocks of keys that each query sees at random, drawn once by "
                  "run.seed; beside them window and global_tokens.",
           .min = 1,
           .max = static_cast<double>(kernels::kMostGroupsOfToken)});
  v.field("block", block,
          {.doc = "predictor=bigbird: keys of a block.",
           .unit = "tokens",
           .min = 1,
           .max = kMostWindow});
  v.field("random_tokens", random_tokens,
          {.doc = "predictor=longformer: tokens at random places, by run.seed, that all see and "
                  "that see all; beside them window.",
           .unit = "tokens",
           .min = 0,
           .max = static_cast<double>(kernels::math::kMostRandomTokens)});
  v.field("stride", stride,
          {.doc = "predictor=fixed: keys of a block, of which a query sees its own; "
                  "predictor=strided: a query sees every such key, and its neighbours as far.",
           .unit = "tokens",
           .min = 1,
           .max = kMostWindow});
  v.field("summary", summary,
          {.doc = "predictor=fixed: the last keys of each block, that all see.",
           .unit = "tokens",
           .min = 0,
           .max = kMostWindow});
}

void SparsefinderConfig::describe(ConfigVisitor& v) {
  v.choice("mode", mode, {"full", "predicted", "certified"},
           {.doc = "predicted: attention over the predicted graph; full: exact attention over all "
                   "pairs, beside which the prediction is only measured; certified: exact "
                   "attention, over the clusters that bounds do not rule out once the predicted "
                   "graph is computed."});
  v.choice(
      "predictor", predictor,
      {"cluster", "quantize", "distance", "reformer", "routing", "bigbird", "longformer", "fixed",
       "strided"},
      {.doc = "How the graph is predicted from projected queries and keys. cluster: who shares "
              "a cluster; quantize: who shares a bucket; distance: who is near, for which "
              "every pair is looked at. Others, to compare with: reformer: who shares a bucket of "
              "cluster.clusters in one of cluster.rounds hashes; routing: clusters that take their "
              "nearest queries and keys, equally many; by place alone: bigbird, longformer, "
              "and the Sparse Transformer's fixed and strided."});
  v.section("projection", projection, "Of queries and keys, per head, before they are compared.");
  v.section("cluster", cluster, "predictor=cluster, reformer and routing.");
  v.section("quantize", quantize, "predictor=quantize.");
  v.section("distance", distance, "predictor=distance.");
  v.section("places", places, "Predictors that go by the places of tokens alone.");
  v.field("window", window,
          {.doc = "Keys around its own place that a query always sees, itself included: an odd "
                  "number, or 0. Without any, a token alone in its cluster gives 0.",
           .unit = "tokens",
           .min = 0,
           .max = kMostWindow});
  v.field("global_tokens", global_tokens,
          {.doc = "The first tokens that all see and that see all.",
           .unit = "tokens",
           .min = 0,
           .max = kMostWindow});
  v.choice("compat", compat, {"none", "official"},
           {.doc = "official: with cluster.top above 1, a query's nearest cluster must be a key's "
                   "nearest one, its second the second, and so on, as the release's tensors "
                   "compare them; none: any of them."});
  v.field(
      "fitted", fitted,
      {.doc = "File of projections and centroids that `stipple sparsefinder fit` wrote, which "
              "training begins with and checkpoints then hold; an evaluation reads it where its "
              "run was trained without or with another one. Empty: initial ones."});
  v.field("refresh_every", refresh_every,
          {.doc = "Training fits projections and centroids anew after so many steps, to the exact "
                  "attention that the model has then. 0: never.",
           .unit = "steps",
           .min = 0,
           .max = kMostWindow});
  v.field("refresh_examples", refresh_examples,
          {.doc = "To how many examples, or a few more: the first of the next step's.",
           .min = 1,
           .max = kMostClusters});
  v.field("gate", gate,
          {.doc = "mode=full: a head computes the predicted graph from then on, for good, once a "
                  "refresh leaves it with this share of exact queries (figure `exact`) in as many "
                  "further examples, to which nothing was fitted. 0: never.",
           .min = 0,
           .max = 1});
  v.field("measure", measure,
          {.doc = "Evaluation compares the predicted graph with exact attention: recall, "
                  "precision, exact rows, dropped mass. With mode=predicted that is one exact "
                  "attention more."});
  v.field(
      "max_density", max_density,
      {.doc = "Room for the predicted graph of a head, as a share of all pairs, 4 bytes each. A "
              "graph with more edges ends the run.",
       .min = 0,
       .max = 1});
}

void SparsefinderConfig::validate() const {
  STIPPLE_CHECK_AS(
      ConfigError, max_density > 0,
      "attention.sparsefinder.max_density: 0 leaves no room for any edge; use up to 1");
  STIPPLE_CHECK_AS(ConfigError, window == 0 || window % 2 == 1,
                   "attention.sparsefinder.window: ", window,
                   " keys cannot lie alike on both sides of a query; use an odd number, or "
                   "0 for none");
  STIPPLE_CHECK_AS(ConfigError, cluster.top <= cluster.clusters,
                   "attention.sparsefinder.cluster.top: the nearest ", cluster.top, " of ",
                   cluster.clusters, " clusters; lower top or raise clusters");
  STIPPLE_CHECK_AS(
      ConfigError,
      projection.kind != SparsefinderProjectionKind::kNone ||
          (predictor != SparsefinderPredictor::kQuantize &&
           predictor != SparsefinderPredictor::kRouting),
      "attention.sparsefinder.projection.kind: none leaves all channels of a head, and "
      "predictor=quantize and routing take few; use linear");
  STIPPLE_CHECK_AS(ConfigError, !joins_tokens() || projection.shared,
                   "attention.sparsefinder.projection.shared: kind=concat has one place for a "
                   "token's query and key; use shared=true");
  STIPPLE_CHECK_AS(ConfigError, !joins_tokens() || !projection.mips,
                   "attention.sparsefinder.projection.mips: brings keys near to queries, and "
                   "kind=concat has one place for both; use mips=false or another kind");
  STIPPLE_CHECK_AS(
      ConfigError,
      mode != SparsefinderMode::kCertified || predictor == SparsefinderPredictor::kCluster,
      "attention.sparsefinder.mode: certified bounds the scores of clusters of keys; "
      "use predictor=cluster, or mode=full");
  STIPPLE_CHECK_AS(ConfigError, refresh_every == 0 || can_be_fitted(),
                   "attention.sparsefinder.refresh_every: this predictor has neither projections "
                   "nor clusters, and there is nothing to fit; use 0");
  STIPPLE_CHECK_AS(ConfigError, !switches_heads() || refresh_every > 0,
                   "attention.sparsefinder.gate: heads are looked at when predictors are fitted "
                   "anew; set refresh_every, or use 0");
  STIPPLE_CHECK_AS(ConfigError, !switches_heads() || measure,
                   "attention.sparsefinder.gate: it is a share that is measured; use measure=true, "
                   "or 0");
  validate_groups();
  STIPPLE_CHECK_AS(ConfigError,
                   predictor != SparsefinderPredictor::kFixed || places.summary <= places.stride,
                   "attention.sparsefinder.places.summary: the last ", places.summary,
                   " keys of blocks of ", places.stride, "; lower it or raise places.stride");
  STIPPLE_CHECK_AS(
      ConfigError,
      distance.metric != kernels::math::Nearness::kCosine || distance.threshold <= kMostCosine,
      "attention.sparsefinder.distance.threshold: ", distance.threshold,
      " is no cosine distance, which lies between 0 and 2; lower it, or use metric=l2");
}

/// Of baselines that are made of clusters, and how many groups a token may be in.
void SparsefinderConfig::validate_groups() const {
  const bool is_reformer = predictor == SparsefinderPredictor::kReformer;
  const bool is_routing = predictor == SparsefinderPredictor::kRouting;
  STIPPLE_CHECK_AS(ConfigError, !(is_reformer || is_routing) || cluster.top == 1,
                   "attention.sparsefinder.cluster.top: ", cluster.top,
                   " is predictor=cluster's; use 1 with reformer and routing");
  STIPPLE_CHECK_AS(ConfigError, !is_routing || cluster.rounds == 1,
                   "attention.sparsefinder.cluster.rounds: ", cluster.rounds,
                   " sets of clusters; predictor=routing has one");
  STIPPLE_CHECK_AS(ConfigError, !is_reformer || cluster.clusters % 2 == 0,
                   "attention.sparsefinder.cluster.clusters: predictor=reformer has directions "
                   "and their opposites, so ",
                   cluster.clusters, " buckets cannot be; use an even number");
  const char* too_many =
      is_routing ? "attention.sparsefinder.cluster.clusters: with predictor=routing and clusters="
      : predictor == SparsefinderPredictor::kQuantize
          ? "attention.sparsefinder.projection.dim: with predictor=quantize and dim="
          : "attention.sparsefinder.cluster.rounds: with top=";
  STIPPLE_CHECK_AS(ConfigError, groups_of_token() <= kernels::kMostGroupsOfToken, too_many,
                   is_routing                                      ? cluster.clusters
                   : predictor == SparsefinderPredictor::kQuantize ? projection.dim
                                                                   : cluster.top,
                   " a token is in ", groups_of_token(), " groups; at most ",
                   kernels::kMostGroupsOfToken);
}

int64_t SparsefinderConfig::groups_of_token() const {
  switch (predictor) {
    case SparsefinderPredictor::kCluster:
    case SparsefinderPredictor::kReformer:
      return cluster.top * cluster.rounds;
    case SparsefinderPredictor::kQuantize:
      return projection.dim;
    case SparsefinderPredictor::kRouting:
      return cluster.clusters;
    default:
      return 1;
  }
}

int64_t SparsefinderConfig::num_groups() const {
  if (predictor == SparsefinderPredictor::kQuantize) return projection.dim * quantize.buckets;
  if (predictor == SparsefinderPredictor::kRouting) return cluster.clusters * cluster.clusters;
  const bool is_ranked = compat == SparsefinderCompat::kOfficial;
  return cluster.rounds * cluster.clusters * (is_ranked ? cluster.top : 1);
}

kernels::math::PlaceRule SparsefinderConfig::place_rule(bool is_causal, int64_t longest) const {
  using Kind = kernels::math::PlaceRuleKind;
  kernels::math::PlaceRule rule{
      .summary = places.summary, .longest = longest, .is_causal = is_causal};
  switch (predictor) {
    case SparsefinderPredictor::kBigbird:
      rule.kind = Kind::kRandomBlocks;
      rule.size = places.block;
      rule.count = places.random_blocks;
      return rule;
    case SparsefinderPredictor::kLongformer:
      rule.kind = Kind::kRandomTokens;
      rule.count = places.random_tokens;
      return rule;
    case SparsefinderPredictor::kFixed:
    case SparsefinderPredictor::kStrided:
      rule.kind = predictor == SparsefinderPredictor::kFixed ? Kind::kFixed : Kind::kStrided;
      rule.size = places.stride;
      return rule;
    default:
      break;
  }
  throw Error("sparsefinder: this predictor has no rule of places");
}

bool SparsefinderConfig::can_be_causal() const {
  const bool ranks_equal = predictor == SparsefinderPredictor::kQuantize &&
                           quantize.kind != kernels::Quantisation::kInterval;
  const bool sees_longest = compares() && projection.mips;
  return !ranks_equal && !sees_longest && predictor != SparsefinderPredictor::kRouting;
}

std::string_view SparsefinderConfig::if_causal() const {
  if (compares() && projection.mips) return "attention.sparsefinder.projection.mips=false";
  return predictor == SparsefinderPredictor::kRouting
             ? "attention.sparsefinder.predictor=cluster"
             : "attention.sparsefinder.quantize.kind=interval";
}

}  // namespace stipple::model
