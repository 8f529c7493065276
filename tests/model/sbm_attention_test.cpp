// SPDX-License-Identifier: Apache-2.0
// The straight-through gradient is no derivative of the loss, but it is the derivative of a
// surrogate: with the drawn graph held,
//   loss + sum over edges of dp_ij p_ij(parameters),
// where dp_ij is what the rule puts in the place of dL/dp_ij. The surrogate is written here in
// double, straight from the formulas, and differentiated by central differences.
#include "model/attention/sbm/sbm_attention.h"

#include <algorithm>

#include "kernels/sbm.h"
#include "tests/model/attention_reference.h"

namespace stipple::model {
namespace {

using test::Array;
using test::AttentionCase;
using test::AttentionReference;
using test::AttentionRun;
using test::differences;
using test::Doubles;
using test::expect_gradient;
using test::Tensors;
using test::to_doubles;

AttentionConfig small_config() {
  AttentionConfig config{.kind = AttentionKind::kSbm, .dropout = 0.0};
  config.sbm.clusters = 5;
  config.sbm.exploration = Exploration::kFixed;
  config.sbm.delta = 0.05;
  return config;
}

AttentionConfig all_edges_config() {
  AttentionConfig config = small_config();
  config.sbm.delta = 1.0;
  return config;
}

/// Parameters far from their small initial values, so that memberships differ from token to token.
void randomize(AttentionRun& run) {
  uint64_t seed = 70;
  for (const ParameterStore::Entry& entry : run.store.entries()) {
    const Array<float> values = test::random_normal(entry.shape, ++seed, 0.8);
    std::copy(values.values().begin(), values.values().end(), run.value(entry.name).data);
  }
}

void mask_second_example(AttentionRun& run) {
  const int64_t length = run.mask.shape()[1];
  for (int64_t j : {int64_t{2}, length - 1}) run.mask[length + j] = 0;
}

const SbmAttention::Saved& saved_of(const AttentionRun& run) {
  return static_cast<const SbmAttention::Saved&>(*run.saved);
}

std::vector<uint8_t> graph_of(const AttentionRun& run, const AttentionCase& c) {
  std::vector<uint8_t> all;
  for (int64_t p = 0; p < c.batch * c.heads; ++p) {
    Array<uint8_t> dense({c.length, c.length});
    kernels::get_edges(saved_of(run).edges, p, dense);
    all.insert(all.end(), dense.values().begin(), dense.values().end());
  }
  return all;
}

/// Everything the surrogate is a function of.
struct Parameters {
  Tensors t;
  Doubles w1, b1, w2, b2, clusters;
};

Parameters parameters_of(const AttentionRun& run) {
  const auto get = [&](const std::string& name) { return to_doubles(run.value(name).span()); };
  return {{to_doubles(run.q.values()), to_doubles(run.k.values()), to_doubles(run.v.values())},
          get("attention.phi.hidden.weight"),
          get("attention.phi.hidden.bias"),
          get("attention.phi.out.weight"),
          get("attention.phi.out.bias"),
          get("attention.clusters")};
}

/// The model of sections 1.2 and 3 of the specification, one pair at a time.
class SbmReference {
 public:
  SbmReference(const AttentionRun& run, const AttentionCase& c, const AttentionConfig& config)
      : attention(run, c, config.dropout, AttentionRun::kLayer),
        config_(config.sbm.resolved()),
        mask_(run.mask.values()),
        graph_(graph_of(run, c)) {
    for (size_t e = 0; e < graph_.size(); ++e) attention.weight[e] *= graph_[e];
    const double length = static_cast<double>(c.length);
    const double sequences = static_cast<double>(c.batch) / static_cast<double>(c.batch_share);
    edge_weight = config_.sparsity_weight / (AttentionRun::kLayers * static_cast<double>(c.heads)) /
                  (sequences * length * length);
  }

  Doubles probabilities(const Parameters& x) const {
    Doubles p(graph_.size());
    const Doubles y = memberships(x, x.t.q), z = memberships(x, x.t.k);
    const Doubles s = block_matrix(x);
    const int64_t k = config_.clusters;
    attention.for_each_pair([&](int64_t problem, int64_t i, int64_t j, size_t at) {
      const int64_t n = attention.length, h = problem % attention.heads;
      for (int64_t u = 0; u < k; ++u)
        for (int64_t w = 0; w < k; ++w)
          p[at] += y[index((problem * n + i) * k + u)] * s[index((h * k + u) * k + w)] *
                   z[index((problem * n + j) * k + w)];
    });
    return p;
  }

  /// dp_ij: what the rule sends into the probabilities of drawn edges.
  Doubles probability_gradient(const Parameters& x) const {
    const bool ste = config_.regularizer == SbmRegularizer::kSte;
    const double clip = clip_at();
    Doubles dp = attention.score_gradient(x.t);
    attention.for_each_pair([&](int64_t p, int64_t i, int64_t j, size_t at) {
      if (config_.ste == kernels::SteRule::kPaper) dp[at] *= attention.score(x.t, p, i, j);
      if (ste) dp[at] += edge_weight;
      dp[at] = std::clamp(dp[at], -clip, clip);
      if (graph_[at] == 0 || std::abs(i - j) <= config_.window_radius()) dp[at] = 0;
    });
    return dp;
  }

  double surrogate(const Parameters& x, const Doubles& dp) const {
    const bool expected = config_.regularizer == SbmRegularizer::kExpected;
    const Doubles p = probabilities(x);
    double loss = attention.loss(x.t);
    for (size_t e = 0; e < p.size(); ++e) loss += (dp[e] + (expected ? edge_weight : 0)) * p[e];
    return loss;
  }

  AttentionReference attention;
  double edge_weight;

 private:
  static size_t index(int64_t i) { return static_cast<size_t>(i); }

  double clip_at() const {
    if (config_.ste_clip == SteClip::kOff) return 1e300;
    return config_.ste_clip == SteClip::kUnscaled ? config_.ste_clip_at
                                                  : config_.ste_clip_at / config_.amp_scale;
  }

  Doubles memberships(const Parameters& x, const Doubles& tokens) const {
    const int64_t d = attention.head_dim, k = config_.clusters;
    const int64_t rows = attention.batch * attention.heads * attention.length;
    Doubles y(index(rows * k), 0.0);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t head = r / attention.length % attention.heads;
      const int64_t example = r / attention.length / attention.heads;
      const bool real = mask_[index(example * attention.length + r % attention.length)] != 0;
      if (!real && config_.padding == SbmPadding::kExcluded) continue;
      const Doubles embedded = phi(x, tokens.data() + r * d);
      for (int64_t u = 0; u < k; ++u) {
        double logit = 0;
        for (int64_t e = 0; e < d; ++e)
          logit += embedded[index(e)] * x.clusters[index((head * k + u) * d + e)];
        y[index(r * k + u)] = 1.0 / (1.0 + std::exp(-logit));
      }
    }
    return y;
  }

  Doubles phi(const Parameters& x, const double* token) const {
    const int64_t d = attention.head_dim;
    Doubles hidden = x.b1, out = x.b2;
    for (int64_t o = 0; o < d; ++o) {
      for (int64_t e = 0; e < d; ++e) hidden[index(o)] += x.w1[index(o * d + e)] * token[e];
      hidden[index(o)] = std::max(hidden[index(o)], 0.0);
    }
    for (int64_t o = 0; o < d; ++o)
      for (int64_t e = 0; e < d; ++e) out[index(o)] += x.w2[index(o * d + e)] * hidden[index(e)];
    return out;
  }

  Doubles block_matrix(const Parameters& x) const {
    const int64_t k = config_.clusters;
    Doubles s;
    for (int64_t h = 0; h < attention.heads; ++h) {
      Doubles cells;
      double sum = 0;
      for (int64_t u = 0; u < k; ++u)
        for (int64_t w = 0; w < k; ++w) {
          cells.push_back(std::exp(attention.dot(x.clusters, h * k + u, x.clusters, h * k + w)));
          sum += cells.back();
        }
      for (double cell : cells) s.push_back(cell / sum);
    }
    return s;
  }

  SbmConfig config_;
  std::vector<uint8_t> mask_;
  std::vector<uint8_t> graph_;
};

/// Output and every gradient against the reference, on a graph that has empty rows and absent
/// edges.
void check_against_surrogate(const AttentionConfig& config, bool needs_empty_row = true) {
  const AttentionCase c{.length = 7, .seed = 31, .batch_share = 0.25f};
  AttentionRun run(config, c);
  randomize(run);
  mask_second_example(run);
  run.forward();
  run.backward();

  const SbmReference reference(run, c, config);
  Parameters x = parameters_of(run);
  const Doubles dp = reference.probability_gradient(x);
  int64_t empty_rows = 0;
  for (const auto& graph : run.observer.graphs) {
    empty_rows += graph.empty_rows;
    EXPECT_LT(graph.edges, graph.pairs);
    EXPECT_GT(graph.edges, 0);
  }
  EXPECT_EQ(empty_rows > 0, needs_empty_row) << "choose another seed";

  constexpr double kTolerance = 2e-4;
  const auto loss = [&] { return reference.surrogate(x, dp); };
  expect_gradient(run.out.values(), reference.attention.output(x.t), 1e-5, "out");
  expect_gradient(run.dq.values(), differences(x.t.q, loss), kTolerance, "dq");
  expect_gradient(run.dk.values(), differences(x.t.k, loss), kTolerance, "dk");
  expect_gradient(run.dv.values(), differences(x.t.v, loss), kTolerance, "dv");
  const auto check = [&](const std::string& name, Doubles& values) {
    expect_gradient(run.grad(name).span(), differences(values, loss), kTolerance, name);
  };
  check("attention.phi.hidden.weight", x.w1);
  check("attention.phi.hidden.bias", x.b1);
  check("attention.phi.out.weight", x.w2);
  check("attention.phi.out.bias", x.b2);
  check("attention.clusters", x.clusters);
}

/// A weight that makes one edge's share of the sparsity loss 0.05 in the cases above.
constexpr double kHeavyWeight = 0.05 * AttentionRun::kLayers * 2 * 8 * 7 * 7;

TEST(SbmAttention, GradientIsThatOfTheSurrogateUnderTheScoreRule) {
  check_against_surrogate(small_config());
}

TEST(SbmAttention, GradientIsThatOfTheSurrogateUnderThePaperRule) {
  AttentionConfig config = small_config();
  config.sbm.ste = kernels::SteRule::kPaper;
  check_against_surrogate(config);
}

TEST(SbmAttention, GradientIsThatOfTheSurrogateUnderAClip) {
  AttentionConfig config = small_config();
  config.sbm.ste_clip = SteClip::kUnscaled;
  config.sbm.ste_clip_at = 0.1;
  check_against_surrogate(config);
}

TEST(SbmAttention, GradientIsThatOfTheSurrogateUnderDropout) {
  AttentionConfig config = small_config();
  config.dropout = 0.3;
  check_against_surrogate(config);
}

TEST(SbmAttention, GradientIsThatOfTheSurrogateWithExpectedRegularizer) {
  AttentionConfig config = small_config();
  config.sbm.sparsity_weight = kHeavyWeight;
  check_against_surrogate(config);
}

TEST(SbmAttention, GradientIsThatOfTheSurrogateWithSteRegularizerAndClip) {
  AttentionConfig config = small_config();
  config.sbm.sparsity_weight = kHeavyWeight;
  config.sbm.regularizer = SbmRegularizer::kSte;
  config.sbm.ste_clip = SteClip::kUnscaled;
  config.sbm.ste_clip_at = 0.1;
  check_against_surrogate(config);
}

TEST(SbmAttention, GradientIsThatOfTheSurrogateWithSelfLoops) {
  AttentionConfig config = small_config();
  config.sbm.self_loop = true;
  check_against_surrogate(config, /*needs_empty_row=*/false);
}

TEST(SbmAttention, GradientIsThatOfTheSurrogateWithAWindow) {
  AttentionConfig config = small_config();
  config.sbm.window = 3;
  config.sbm.sparsity_weight = kHeavyWeight;
  for (const SbmRegularizer regularizer : {SbmRegularizer::kExpected, SbmRegularizer::kSte}) {
    config.sbm.regularizer = regularizer;
    check_against_surrogate(config, /*needs_empty_row=*/false);
  }
}

TEST(SbmAttention, GradientIsThatOfTheSurrogateInTheOfficialPreset) {
  AttentionConfig config = small_config();
  config.dropout = 0.1;
  config.sbm.compat = SbmCompat::kOfficial;
  config.sbm.amp_scale = 16.0;  // a clip well above the rounding of single precision
  config.sbm.sparsity_weight = kHeavyWeight;
  check_against_surrogate(config);
}

TEST(SbmAttention, GradientIsThatOfTheSurrogateInThePaperPreset) {
  AttentionConfig config = small_config();
  config.sbm.compat = SbmCompat::kPaper;
  config.sbm.sparsity_weight = kHeavyWeight;
  check_against_surrogate(config);
}

TEST(SbmAttention, RowsAndTilesAreBothDifferentiated) {
  for (const kernels::SamplerKind sampler :
       {kernels::SamplerKind::kRows, kernels::SamplerKind::kTiles}) {
    AttentionConfig config = small_config();
    config.sbm.sampler = sampler;
    check_against_surrogate(config);
  }
}

TEST(SbmAttention, WithEveryEdgeItIsSoftmaxAttention) {
  for (const kernels::SamplerKind sampler :
       {kernels::SamplerKind::kRows, kernels::SamplerKind::kTiles}) {
    AttentionConfig config = all_edges_config();
    config.dropout = 0.2;
    config.sbm.sampler = sampler;
    config.sbm.ste_clip = SteClip::kUnscaled;
    config.sbm.ste_clip_at = 0.0;  // softmax has no second route into q and k
    const AttentionCase c{.length = 37, .head_dim = 8, .seed = 3};
    AttentionRun sbm(config, c);
    config.kind = AttentionKind::kSoftmax;
    AttentionRun softmax(config, c);
    for (AttentionRun* run : {&sbm, &softmax}) {
      mask_second_example(*run);
      run->forward();
      for (int64_t d = 0; d < c.head_dim; ++d)  // padded queries see nothing here, everything there
        for (int64_t h = 0; h < c.heads; ++h)
          for (int64_t n : {int64_t{2}, c.length - 1})
            run->out[((c.heads + h) * c.length + n) * c.head_dim + d] =
                run->dout[((c.heads + h) * c.length + n) * c.head_dim + d] = 0;
      run->backward();
    }
    test::expect_close(sbm.out, softmax.out, 1e-5);
    test::expect_close(sbm.dq, softmax.dq, 1e-5);
    test::expect_close(sbm.dk, softmax.dk, 1e-5);
    test::expect_close(sbm.dv, softmax.dv, 1e-5);
  }
}

TEST(SbmAttention, AZeroClipClosesTheRouteIntoTheGraph) {
  AttentionConfig config = small_config();
  config.sbm.ste_clip = SteClip::kUnscaled;
  config.sbm.ste_clip_at = 0.0;
  AttentionRun run(config, {});
  run.forward();
  run.backward();
  for (int64_t i = 0; i < run.store.numel(); ++i) {
    ASSERT_EQ(reinterpret_cast<const float*>(run.grads.data())[i], 0.0f);
  }
}

TEST(SbmAttention, MultiEdgesWeighByTheirNumber) {
  AttentionConfig config = small_config();
  config.sbm.law = kernels::MaskLaw::kPoissonMulti;
  config.sbm.delta = 0.8;
  config.sbm.ste_clip = SteClip::kUnscaled;
  config.sbm.ste_clip_at = 0.0;
  const AttentionCase c{.length = 9, .seed = 8};
  AttentionRun run(config, c);
  run.forward();
  run.backward();
  AttentionReference reference(run, c, 0.0, AttentionRun::kLayer);
  const kernels::EdgeSet& edges = saved_of(run).edges;
  std::fill(reference.weight.begin(), reference.weight.end(), 0.0);
  int most = 0;
  for (int64_t p = 0; p < edges.num_problems(); ++p)
    for (int64_t i = 0; i < c.length; ++i)
      for (int32_t e = edges.row_ptr.at(p)[i]; e < edges.row_ptr.at(p)[i + 1]; ++e) {
        const auto at = static_cast<size_t>((p * c.length + i) * c.length) + edges.columns(p)[e];
        reference.weight[at] = edges.multiplicity.at(p)[e];
        most = std::max<int>(most, edges.multiplicity.at(p)[e]);
      }
  EXPECT_GT(most, 1);
  Tensors t = parameters_of(run).t;
  const auto loss = [&] { return reference.loss(t); };
  expect_gradient(run.out.values(), reference.output(t), 1e-5, "out");
  expect_gradient(run.dq.values(), differences(t.q, loss), 1e-4, "dq");
  expect_gradient(run.dk.values(), differences(t.k, loss), 1e-4, "dk");
  expect_gradient(run.dv.values(), differences(t.v, loss), 1e-4, "dv");
}

TEST(SbmAttention, NoEdgeTouchesPaddingUnlessAsked) {
  for (const SbmPadding padding : {SbmPadding::kExcluded, SbmPadding::kOfficial}) {
    AttentionConfig config = all_edges_config();
    config.sbm.padding = padding;
    const AttentionCase c{};
    AttentionRun run(config, c);
    mask_second_example(run);
    run.forward();
    const int64_t real = padding == SbmPadding::kExcluded ? c.length - 2 : c.length;
    for (const auto& graph : run.observer.graphs) {
      EXPECT_EQ(graph.edges, c.length * c.length + real * real);
      EXPECT_EQ(graph.pairs, graph.edges);
      EXPECT_EQ(graph.rows, c.length + real);
    }
  }
}

/// As under rotary positions: q and k to score with differ from what tokens are.
TEST(SbmAttention, DrawsItsGraphByContentAndScoresByRotatedQueriesAndKeys) {
  const AttentionCase c{.length = 21};
  const auto forward = [&](const Array<float>& content, const Array<float>& scored) {
    AttentionRun run(small_config(), c);
    randomize(run);
    run.rotary = true;
    run.content_q = run.content_k = content;
    run.q = run.k = scored;
    run.forward();
    return std::make_pair(graph_of(run, c), run.out.values());
  };
  const AttentionRun any(small_config(), c);
  const auto first = forward(any.q, any.k), other_scores = forward(any.q, any.v);
  EXPECT_EQ(first.first, other_scores.first);
  EXPECT_NE(first.second, other_scores.second);
  EXPECT_NE(first.first, forward(any.v, any.k).first);
}

TEST(SbmAttention, GradientsByContentAndByScoresAddUp) {
  AttentionConfig config = small_config();
  config.sbm.sparsity_weight = 20.0;
  AttentionRun together(config, {}), apart(config, {});
  for (AttentionRun* run : {&together, &apart}) {
    randomize(*run);
    mask_second_example(*run);
    run->rotary = run == &apart;
    run->forward();
    run->backward();
  }
  ASSERT_EQ(apart.out.values(), together.out.values());
  Array<float> dq(apart.dq.shape()), dk(apart.dk.shape());
  for (int64_t i = 0; i < dq.numel(); ++i) {
    dq[i] = apart.dq[i] + apart.dcontent_q[i], dk[i] = apart.dk[i] + apart.dcontent_k[i];
  }
  test::expect_close(dq, together.dq, 1e-6);
  test::expect_close(dk, together.dk, 1e-6);
  for (const auto* part : {&apart.dq, &apart.dcontent_q, &apart.dk, &apart.dcontent_k}) {
    EXPECT_TRUE(std::any_of(part->values().begin(), part->values().end(),
                            [](float x) { return std::abs(x) > 1e-4f; }));
  }
}

TEST(SbmAttention, ReportsTheGraphOfEveryHead) {
  const AttentionCase c{.heads = 3, .length = 21};
  AttentionRun run(small_config(), c);
  mask_second_example(run);
  const int planned = run.observer.sampling_reports;
  run.forward();
  ASSERT_EQ(run.observer.graphs.size(), 3u);
  EXPECT_EQ(run.observer.sampling_reports, planned + 1);
  EXPECT_EQ(run.observer.auxiliary, 0.0);
  const std::vector<uint8_t> graph = graph_of(run, c);
  for (int64_t h = 0; h < c.heads; ++h) {
    const test::RecordingObserver::Graph& report = run.observer.graphs[static_cast<size_t>(h)];
    int64_t edges = 0, empty = 0;
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t i = 0; i < c.length; ++i) {
        const auto row = graph.begin() + ((b * c.heads + h) * c.length + i) * c.length;
        const int64_t degree = std::count(row, row + c.length, uint8_t{1});
        edges += degree;
        empty += degree == 0 && run.mask[b * c.length + i] != 0;
      }
    EXPECT_EQ(report.layer, AttentionRun::kLayer);
    EXPECT_EQ(report.head, h);
    EXPECT_EQ(report.edges, edges);
    EXPECT_EQ(report.empty_rows, empty);
    EXPECT_EQ(report.rows, 2 * c.length - 2);
    EXPECT_EQ(report.pairs, c.length * c.length + (c.length - 2) * (c.length - 2));
    EXPECT_GT(report.effective_cells, 1.0);
    EXPECT_LE(report.effective_cells, 25.0);
  }
}

TEST(SbmAttention, ReportsTheSparsityLoss) {
  for (const SbmRegularizer regularizer : {SbmRegularizer::kExpected, SbmRegularizer::kSte}) {
    AttentionConfig config = small_config();
    config.sbm.regularizer = regularizer;
    config.sbm.sparsity_weight = 2.0;
    const AttentionCase c{.length = 19, .batch_share = 0.5f};
    AttentionRun run(config, c);
    mask_second_example(run);
    run.forward();
    const SbmReference reference(run, c, config);
    double counted = 0;
    if (regularizer == SbmRegularizer::kExpected) {
      for (double p : reference.probabilities(parameters_of(run))) counted += p;
    } else {
      for (const auto& graph : run.observer.graphs) counted += static_cast<double>(graph.edges);
    }
    EXPECT_GT(run.observer.auxiliary, 0.0);
    EXPECT_NEAR(run.observer.auxiliary, reference.edge_weight * counted,
                1e-6 * run.observer.auxiliary);
    // two heads of density d in one of three layers, half of the batch
    EXPECT_NEAR(reference.edge_weight, 2.0 / (3 * 2) / 4 / (19.0 * 19.0), 1e-9);
    run.observer.clear();
    run.forward(/*training=*/false);
    EXPECT_EQ(run.observer.auxiliary, 0.0);
  }
}

int64_t edges_drawn(const SbmConfig& sbm, bool training) {
  AttentionConfig config = small_config();
  config.sbm = sbm;
  config.sbm.clusters = 5;
  AttentionRun run(config, {.length = 32});
  run.forward(training);
  int64_t edges = 0;
  for (const auto& graph : run.observer.graphs) edges += graph.edges;
  return edges;
}

TEST(SbmAttention, ExploresInTrainingOnlyUnlessAsked) {
  constexpr int64_t kAll = 2 * 2 * 32 * 32;
  SbmConfig sbm{.exploration = Exploration::kFixed, .delta = 1.0};
  EXPECT_EQ(edges_drawn(sbm, /*training=*/true), kAll);
  EXPECT_LT(edges_drawn(sbm, /*training=*/false), kAll * 6 / 10);
  sbm.explore_eval = true;
  EXPECT_EQ(edges_drawn(sbm, /*training=*/false), kAll);
}

TEST(SbmAttention, LinearExplorationIsSoManyKeysOfAFullRow) {
  SbmConfig sbm{.exploration = Exploration::kLinear, .delta = 1.0, .delta_keys = 32};
  EXPECT_EQ(edges_drawn(sbm, true), 2 * 2 * 32 * 32);
  sbm.delta_keys = 0;
  EXPECT_EQ(edges_drawn(sbm, true), edges_drawn(sbm, false));
  sbm.delta_keys = 1e9;
  sbm.delta = 0.0;
  EXPECT_EQ(edges_drawn(sbm, true), edges_drawn(sbm, false));
}

TEST(SbmAttention, GivesTheSameBitsForAnyNumberOfThreads) {
  AttentionConfig config = small_config();
  config.dropout = 0.1;
  config.sbm.sparsity_weight = 1.0;
  const AttentionCase c{.batch = 3, .length = 150, .head_dim = 16};
  AttentionCase threaded = c;
  AttentionRun one(config, c);
  mask_second_example(one);
  one.forward();
  one.backward();
  for (threaded.threads = 2; threaded.threads <= 3; ++threaded.threads) {
    AttentionRun many(config, threaded);
    mask_second_example(many);
    many.forward();
    many.backward();
    EXPECT_EQ(graph_of(one, c), graph_of(many, c));
    EXPECT_EQ(one.out.values(), many.out.values());
    EXPECT_EQ(one.dq.values(), many.dq.values());
    EXPECT_EQ(one.dk.values(), many.dk.values());
    EXPECT_EQ(one.dv.values(), many.dv.values());
    EXPECT_EQ(std::memcmp(one.grads.data(), many.grads.data(), one.grads.bytes()), 0);
  }
}

struct InitialGraph {
  double cells = 0, density = 0, lowest = 1, highest = 0;
};

/// Means over heads and seeds of the model of the Long Range Arena, for standard normal q and k of
/// layer-normed size.
InitialGraph initial_graph(ClusterInit init) {
  constexpr int kSeeds = 6;
  InitialGraph mean;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    AttentionConfig config = small_config();
    config.sbm.clusters = 128;
    config.sbm.cluster_init = init;
    AttentionRun run(config, {.length = 128, .head_dim = 32, .seed = seed});
    for (auto* x : {&run.q, &run.k})  // a projection with weights U(+-1/8) of 64 unit inputs
      for (float& value : x->values()) value *= 0.58f;
    run.forward(/*training=*/false);
    for (const auto& graph : run.observer.graphs) {
      const double density = static_cast<double>(graph.edges) / static_cast<double>(graph.pairs);
      mean.cells += graph.effective_cells / (2 * kSeeds);
      mean.density += density / (2 * kSeeds);
      mean.lowest = std::min(mean.lowest, density);
      mean.highest = std::max(mean.highest, density);
    }
  }
  return mean;
}

TEST(SbmAttention, SpreadClustersStartWithTensOfEffectiveCells) {
  const InitialGraph graph = initial_graph(ClusterInit::kSpread);
  RecordProperty("effective_cells", std::to_string(graph.cells));
  RecordProperty("density", std::to_string(graph.density));
  EXPECT_GT(graph.cells, 20.0);
  EXPECT_LT(graph.cells, 80.0);
  EXPECT_GT(graph.lowest, 0.05) << graph.density;
  EXPECT_LT(graph.density, 0.30);
}

TEST(SbmAttention, OfficialClustersStartAsAnErdosRenyiGraph) {
  const InitialGraph graph = initial_graph(ClusterInit::kOfficial);
  EXPECT_GT(graph.cells, 0.99 * 128 * 128);
  EXPECT_NEAR(graph.density, 0.25, 0.005);
}

TEST(SbmConfig, OfficialPresetOverridesWhatTheReleaseDoes) {
  SbmConfig c;
  c.compat = SbmCompat::kOfficial;
  c.law = kernels::MaskLaw::kPoissonMulti;
  c.self_loop = true;
  c.clusters = 17;
  c.sparsity_weight = 0.5;
  const SbmConfig r = c.resolved();
  EXPECT_EQ(r.law, kernels::MaskLaw::kBernoulli);
  EXPECT_EQ(r.exploration, Exploration::kFixed);
  EXPECT_EQ(r.delta, 0.01);
  EXPECT_TRUE(r.explore_eval);
  EXPECT_FALSE(r.self_loop);
  EXPECT_EQ(r.ste, kernels::SteRule::kScoreGradient);
  EXPECT_EQ(r.ste_clip, SteClip::kAmpCompat);
  EXPECT_EQ(r.ste_clip_at, 1.0);
  EXPECT_EQ(r.regularizer, SbmRegularizer::kSte);
  EXPECT_EQ(r.padding, SbmPadding::kOfficial);
  EXPECT_EQ(r.cluster_init, ClusterInit::kOfficial);
  EXPECT_EQ(r.clusters, 17);
  EXPECT_EQ(r.sparsity_weight, 0.5);
}

TEST(SbmConfig, PaperPresetFollowsTheText) {
  SbmConfig c;
  c.compat = SbmCompat::kPaper;
  c.explore_eval = true;
  c.ste_clip = SteClip::kUnscaled;
  const SbmConfig r = c.resolved();
  EXPECT_EQ(r.law, kernels::MaskLaw::kPoissonCollapse);
  EXPECT_EQ(r.exploration, Exploration::kFixed);
  EXPECT_EQ(r.delta, 0.01);
  EXPECT_FALSE(r.explore_eval);
  EXPECT_EQ(r.ste, kernels::SteRule::kPaper);
  EXPECT_EQ(r.ste_clip, SteClip::kOff);
  EXPECT_EQ(r.regularizer, SbmRegularizer::kSte);
  EXPECT_EQ(r.padding, SbmPadding::kExcluded);
}

TEST(SbmConfig, AWindowHoldsTheTokenItself) {
  SbmConfig c;
  EXPECT_EQ(c.window_radius(), -1);
  c.self_loop = true;
  EXPECT_EQ(c.window_radius(), 0);
  c.window = 1;
  EXPECT_EQ(c.window_radius(), 0);
  c.self_loop = false;
  c.window = 64;
  EXPECT_EQ(c.window_radius(), 32);
  c.compat = SbmCompat::kOfficial;
  EXPECT_EQ(c.resolved().window_radius(), 32);
}

TEST(SbmConfig, WithoutPresetTheKeysStand) {
  SbmConfig c;
  c.law = kernels::MaskLaw::kPoissonMulti;
  c.delta = 0.2;
  c.self_loop = true;
  const SbmConfig r = c.resolved();
  EXPECT_EQ(r.law, kernels::MaskLaw::kPoissonMulti);
  EXPECT_EQ(r.delta, 0.2);
  EXPECT_TRUE(r.self_loop);
  EXPECT_EQ(r.exploration, Exploration::kLinear);
}

TEST(AttentionConfig, NamesInAFileMeanTheirEnumerators) {
  AttentionConfig c;
  load_config_text(
      "kind: softmax\n"
      "sbm:\n"
      "  compat: paper\n"
      "  cluster_init: official\n"
      "  law: poisson_collapse\n"
      "  sampler: rows\n"
      "  exploration: fixed\n"
      "  ste: paper\n"
      "  ste_clip: unscaled\n"
      "  regularizer: ste\n"
      "  padding: official\n",
      "test.yaml", [&](ConfigVisitor& v) { c.describe(v); });
  EXPECT_EQ(c.kind, AttentionKind::kSoftmax);
  EXPECT_EQ(c.sbm.compat, SbmCompat::kPaper);
  EXPECT_EQ(c.sbm.cluster_init, ClusterInit::kOfficial);
  EXPECT_EQ(c.sbm.law, kernels::MaskLaw::kPoissonCollapse);
  EXPECT_EQ(c.sbm.sampler, kernels::SamplerKind::kRows);
  EXPECT_EQ(c.sbm.exploration, Exploration::kFixed);
  EXPECT_EQ(c.sbm.ste, kernels::SteRule::kPaper);
  EXPECT_EQ(c.sbm.ste_clip, SteClip::kUnscaled);
  EXPECT_EQ(c.sbm.regularizer, SbmRegularizer::kSte);
  EXPECT_EQ(c.sbm.padding, SbmPadding::kOfficial);
}

}  // namespace
}  // namespace stipple::model
