// SPDX-License-Identifier: Apache-2.0
// What attentions tell of the graphs that they draw.
#include "model/attention/graph.h"
#include "model/attention/registry.h"
#include "tests/model/model_run.h"
#include "tests/support/attentions.h"
#include "tests/support/graph_statistics.h"

namespace stipple::model {
namespace {

using test::GraphCollection;

constexpr int kLayers = 2;
constexpr int kHeads = 2;

TEST(AttentionGraph, IsToldBySequenceAndLayerWhereTheRegistrySaysSo) {
  for (const AttentionKind kind : test::every_attention()) {
    SCOPED_TRACE(test::name_of(kind));
    const test::ModelCase c = test::small_case(kind);
    const AttentionTraits traits = attention_row(kind).traits(c.attention);
    test::ModelRun run(c);
    GraphCollection told;
    run.graphs = &told;
    const test::LeafArrays leaf(c.task, c.batch, c.length);
    run.forward(leaf, /*training=*/false);
    ASSERT_EQ(told.graphs.size(), traits.has_graph ? static_cast<size_t>(kLayers * c.batch) : 0);
    for (size_t g = 0; g < told.graphs.size(); ++g) {
      const AttentionGraph& graph = *told.graphs[g];
      EXPECT_EQ(graph.layer, static_cast<int>(g) / c.batch);
      EXPECT_EQ(graph.row, static_cast<int64_t>(g) % c.batch);
      EXPECT_EQ(graph.heads(), kHeads);
      EXPECT_EQ(graph.groups, traits.graph_groups);
      const auto memberships = static_cast<size_t>(kHeads * graph.tokens * graph.groups);
      EXPECT_EQ(graph.query_memberships.size(), memberships);
      EXPECT_EQ(graph.key_memberships.size(), memberships);
    }
  }
}

TEST(AttentionGraph, AskingForItChangesNothing) {
  for (const AttentionKind kind : test::every_attention()) {
    const test::ModelCase c = test::small_case(kind);
    test::ModelRun run(c);
    const test::LeafArrays leaf(c.task, c.batch, c.length);
    const double loss = run.forward(leaf);
    run.backward(leaf);
    const std::vector<float> gradients = run.grad_values();
    GraphCollection told;
    run.graphs = &told;
    EXPECT_EQ(run.forward(leaf), loss);
    run.backward(leaf);
    EXPECT_EQ(run.grad_values(), gradients);
  }
}

TEST(AttentionGraph, HasTheRealTokensOnly) {
  for (const AttentionKind kind : test::every_attention()) {
    test::ModelCase c = test::small_case(kind);
    c.attention.sbm.padding = SbmPadding::kOfficial;  // padding takes part in what is drawn
    if (!attention_row(kind).traits(c.attention).has_graph) continue;
    test::ModelRun run(c);
    GraphCollection told(/*only_row=*/c.batch - 1);
    run.graphs = &told;
    const test::LeafArrays leaf(c.task, c.batch, c.length);
    run.forward(leaf, /*training=*/false);
    ASSERT_EQ(told.graphs.size(), size_t{kLayers});
    for (const auto& graph : told.graphs) {
      EXPECT_EQ(graph->row, c.batch - 1);
      EXPECT_EQ(graph->tokens, c.length - c.batch);  // so many tokens of that row are padding
      for (const kernels::EdgeList& edges : graph->edges) {
        EXPECT_EQ(edges.num_queries(), graph->tokens);
        for (const int32_t column : edges.columns) EXPECT_LT(column, graph->tokens);
      }
    }
  }
}

/// Sums of what many seeds draw against what the attention says.
void check_means(const test::ModelCase& c, bool training) {
  constexpr int kDraws = 1000;
  test::ModelRun run(c);
  const test::LeafArrays leaf(c.task, c.batch, c.length);
  std::vector<double> sums, means;
  for (int draw = 0; draw < kDraws; ++draw) {
    GraphCollection told(/*only_row=*/1);
    run.graphs = &told;
    run.rng.seed = static_cast<uint64_t>(draw);
    run.forward(leaf, training);
    // Only of the first layer: what others draw from depends on what it drew.
    const std::vector<double> mask = test::drawn(*told.graphs.at(0));
    sums.resize(mask.size());
    for (size_t i = 0; i < mask.size(); ++i) sums[i] += mask[i];
    if (draw == 0) means = test::probabilities(*told.graphs.at(0));
  }
  test::expect_means(sums, means, c.attention.sbm.law == kernels::MaskLaw::kPoissonMulti, kDraws);
}

test::ModelCase case_without_dropout(AttentionKind kind) {
  test::ModelCase c = test::small_case(kind);
  c.config.dropout = 0;
  return c;
}

TEST(AttentionGraph, IsOnTheAverageWhatItsProbabilitiesSay) {
  for (const AttentionKind kind : test::every_attention()) {
    const test::ModelCase c = case_without_dropout(kind);
    if (attention_row(kind).traits(c.attention).has_graph) check_means(c, /*training=*/false);
  }
}

TEST(SbmGraph, ProbabilitiesAreThoseOfTheLawAndTheExplorationInForce) {
  for (const auto law : {kernels::MaskLaw::kBernoulli, kernels::MaskLaw::kPoissonCollapse,
                         kernels::MaskLaw::kPoissonMulti}) {
    for (const bool training : {false, true}) {
      SCOPED_TRACE(static_cast<int>(law));
      test::ModelCase c = case_without_dropout(AttentionKind::kSbm);
      c.attention.sbm.law = law;
      c.attention.sbm.delta = 0.3;
      c.attention.sbm.exploration = Exploration::kFixed;
      check_means(c, training);
    }
  }
}

TEST(SbmGraph, TheWindowIsCertain) {
  for (const auto law : {kernels::MaskLaw::kBernoulli, kernels::MaskLaw::kPoissonCollapse}) {
    test::ModelCase c = case_without_dropout(AttentionKind::kSbm);
    c.attention.sbm.law = law;
    c.attention.sbm.window = 5;
    check_means(c, /*training=*/true);
  }
}

TEST(SbmGraph, SelfLoopsAreCertain) {
  for (const auto law : {kernels::MaskLaw::kBernoulli, kernels::MaskLaw::kPoissonCollapse}) {
    test::ModelCase c = case_without_dropout(AttentionKind::kSbm);
    c.attention.sbm.law = law;
    c.attention.sbm.self_loop = true;
    check_means(c, /*training=*/true);
  }
  // Drawn several times, a loop counts at least once: the variance is not that of a Poisson law.
  test::ModelCase c = case_without_dropout(AttentionKind::kSbm);
  c.attention.sbm.law = kernels::MaskLaw::kPoissonMulti;
  c.attention.sbm.self_loop = true;
  test::ModelRun run(c);
  GraphCollection told(0);
  run.graphs = &told;
  run.forward(test::LeafArrays(c.task, c.batch, c.length));
  const std::vector<double> means = test::probabilities(*told.graphs.at(0));
  for (size_t i = 0; i < static_cast<size_t>(c.length); ++i)
    EXPECT_GT(means[i * static_cast<size_t>(c.length) + i], 1.0);
}

}  // namespace
}  // namespace stipple::model
