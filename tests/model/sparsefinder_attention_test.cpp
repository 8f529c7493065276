// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/sparsefinder_attention.h"

#include <algorithm>
#include <array>
#include <string>

#include "core/error.h"
#include "kernels/attend_entmax_reference.h"
#include "model/attention/graph.h"
#include "model/attention/sparsefinder/projection_fit.h"
#include "tests/model/attention_reference.h"

namespace stipple::model {
namespace {

using kernels::Quantisation;
using kernels::math::Nearness;
using test::AttentionCase;
using test::AttentionReference;
using test::AttentionRun;
using test::differences;
using test::Doubles;
using test::expect_gradient;
using test::Tensors;
using test::to_doubles;

AttentionConfig config_of(const SparsefinderConfig& sparsefinder, double dropout = 0.0) {
  return {.kind = AttentionKind::kSparsefinder, .dropout = dropout, .sparsefinder = sparsefinder};
}

SparsefinderConfig clustered(int64_t clusters, int64_t top = 1, int64_t rounds = 1) {
  return {.cluster = {.clusters = clusters, .top = top, .rounds = rounds}};
}

SparsefinderConfig near(double threshold, Nearness metric = Nearness::kSquaredDistance) {
  return {.predictor = SparsefinderPredictor::kDistance,
          .distance = {.threshold = threshold, .metric = metric}};
}

SparsefinderConfig quantized(int64_t buckets, Quantisation kind) {
  return {.predictor = SparsefinderPredictor::kQuantize,
          .projection = {.dim = 2},
          .quantize = {.buckets = buckets, .kind = kind}};
}

AttentionCase small(bool is_causal = false) {
  return {.length = 11, .head_dim = 4, .seed = 51, .is_causal = is_causal};
}

void add_padding(AttentionRun& run) {
  const int64_t length = run.mask.shape()[1];
  for (const int64_t j : {int64_t{2}, length - 2, length - 1}) run.mask[length + j] = 0;
}

const SparsefinderAttention::Saved& predicted_of(const AttentionRun& run) {
  return static_cast<const SparsefinderAttention::Saved&>(*run.saved);
}

std::vector<uint8_t> predicted_graph_of(const AttentionRun& run, const AttentionCase& c) {
  std::vector<uint8_t> all;
  for (int64_t p = 0; p < c.batch * c.heads; ++p) {
    test::Array<uint8_t> dense({c.length, c.length});
    kernels::get_edges(predicted_of(run).graph, p, dense);
    all.insert(all.end(), dense.values().begin(), dense.values().end());
  }
  return all;
}

int64_t count(const std::vector<uint8_t>& graph) {
  return std::count(graph.begin(), graph.end(), uint8_t{1});
}

SparsefinderConfig other(SparsefinderPredictor predictor, int64_t clusters = 4) {
  return {.predictor = predictor,
          .cluster = {.clusters = clusters},
          .places = {.random_blocks = 2, .random_tokens = 2, .stride = 3}};
}

SparsefinderConfig unprojected(SparsefinderConfig config, bool mips = false) {
  config.projection.kind = SparsefinderProjectionKind::kNone;
  config.projection.mips = mips;
  return config;
}

SparsefinderConfig with_mips(SparsefinderConfig config) {
  config.projection.mips = true;
  return config;
}

SparsefinderConfig projected_by(SparsefinderProjectionKind kind, SparsefinderConfig config) {
  config.projection.kind = kind;
  config.projection.hidden = 5;
  return config;
}

std::vector<SparsefinderConfig> every_predictor() {
  return {projected_by(SparsefinderProjectionKind::kMlp, clustered(3)),
          projected_by(SparsefinderProjectionKind::kConcat, clustered(3)),
          projected_by(SparsefinderProjectionKind::kConcat, quantized(3, Quantisation::kEqual)),
          unprojected(clustered(3)),
          unprojected(near(4.0), /*mips=*/true),
          with_mips(clustered(3)),
          other(SparsefinderPredictor::kReformer),
          other(SparsefinderPredictor::kRouting),
          other(SparsefinderPredictor::kBigbird),
          other(SparsefinderPredictor::kLongformer),
          other(SparsefinderPredictor::kFixed),
          other(SparsefinderPredictor::kStrided),
          clustered(3),
          clustered(5, 2),
          clustered(5, 1, 2),
          quantized(3, Quantisation::kEqual),
          quantized(3, Quantisation::kInterval),
          near(3.0),
          near(0.5, Nearness::kCosine)};
}

// --- attention over the graph --------------------------------------------------------------------

TEST(SparsefinderAttention, IsEntmaxOverTheGraphWithItsGradients) {
  for (const SparsefinderConfig& sparsefinder : every_predictor()) {
    for (const bool is_causal : {false, true}) {
      if (is_causal && !sparsefinder.can_be_causal()) continue;
      const AttentionCase c = small(is_causal);
      AttentionRun run(config_of(sparsefinder, 0.2), c);
      add_padding(run);
      run.forward();
      run.backward();
      AttentionReference reference(run, c, 0.2, AttentionRun::kLayer);
      const std::vector<uint8_t> graph = predicted_graph_of(run, c);
      double pairs = 0, edges = 0;
      for (size_t e = 0; e < graph.size(); ++e) {
        ASSERT_LE(graph[e], reference.weight[e]) << "an edge to padding or to the future";
        pairs += reference.weight[e];
        edges += graph[e];
        reference.weight[e] = graph[e];
      }
      EXPECT_GT(edges, 0);
      EXPECT_LT(edges, pairs);
      Tensors at{to_doubles(run.q.values()), to_doubles(run.k.values()),
                 to_doubles(run.v.values())};
      const auto output = [&] {
        Doubles o;
        for (int64_t p = 0; p < c.batch * c.heads; ++p) {
          const kernels::reference::Attention a = reference.problem(at, p);
          const Doubles own = kernels::reference::attend_entmax({.attention = a, .alpha = 1.5}).o;
          o.insert(o.end(), own.begin(), own.end());
        }
        return o;
      };
      const auto loss = [&] {
        const Doubles o = output();
        double sum = 0;
        for (size_t i = 0; i < o.size(); ++i) sum += o[i] * reference.dout[i];
        return sum;
      };
      expect_gradient(run.out.values(), output(), 1e-5, "out");
      // Differences are slow, and of a graph it does not matter to them who made it.
      if (sparsefinder.predictor != SparsefinderPredictor::kDistance &&
          sparsefinder.predictor != SparsefinderPredictor::kRouting)
        continue;
      expect_gradient(run.dq.values(), differences(at.q, loss), 2e-4, "dq");
      expect_gradient(run.dk.values(), differences(at.k, loss), 2e-4, "dk");
      expect_gradient(run.dv.values(), differences(at.v, loss), 1e-4, "dv");
    }
  }
}

/// What padding asks is nobody's business: nothing, over a graph, and the answer of any query, over
/// all pairs.
void silence_padding(const AttentionRun& run, test::Array<float>& x) {
  const int64_t row = x.shape()[2] * x.shape()[3], heads = x.shape()[1];
  for (int64_t e = 0; e < x.numel(); ++e) {
    const int64_t sample = e / (heads * row), token = e % row / x.shape()[3];
    if (run.mask[sample * x.shape()[2] + token] == 0) x[e] = 0;
  }
}

/// Everything that attention computes: the same bits.
void expect_same(AttentionRun& a, AttentionRun& b) {
  for (AttentionRun* run : {&a, &b}) silence_padding(*run, run->out);
  EXPECT_EQ(a.out.values(), b.out.values());
  EXPECT_EQ(a.dq.values(), b.dq.values());
  EXPECT_EQ(a.dk.values(), b.dk.values());
  EXPECT_EQ(a.dv.values(), b.dv.values());
}

void run_both_ways(AttentionRun& run) {
  add_padding(run);
  for (float& x : run.q.values()) x *= 4.0f;  // sharp: supports of few keys
  run.content_q = run.q;
  silence_padding(run, run.dout);
  run.forward();
  run.backward();
}

TEST(SparsefinderAttention, WhereTheWholeSupportIsPredictedItIsExactToTheBit) {
  for (const bool is_causal : {false, true}) {
    const AttentionCase c = small(is_causal);
    SparsefinderConfig exact = near(1);
    exact.mode = SparsefinderMode::kFull;
    AttentionRun full(config_of(exact, 0.3), c);
    run_both_ways(full);
    bool is_sparse = false;
    for (const double threshold : {1e9, 300.0, 200.0, 150.0, 100.0, 70.0}) {
      AttentionRun predicted(config_of(near(threshold), 0.3), c);
      run_both_ways(predicted);
      const auto recall = [&] {
        AttentionRun evaluated(config_of(near(threshold)), c);
        run_both_ways(evaluated);
        evaluated.forward(/*training=*/false);
        const Facts told = evaluated.observer.told(evaluated.facts);
        const auto sum = [&](const char* name) {
          int64_t all = 0;
          for (const int64_t x :
               told.at<int64_t>(evaluated.facts.find(name), AttentionRun::kLayer).span())
            all += x;
          return all;
        };
        return sum("support") == sum("support_found");
      };
      if (!recall()) continue;
      expect_same(predicted, full);
      AttentionRun everything(config_of(near(1e9)), c);
      run_both_ways(everything);
      is_sparse = is_sparse || count(predicted_graph_of(predicted, c)) <
                                   count(predicted_graph_of(everything, c));
    }
    EXPECT_TRUE(is_sparse) << "no threshold left a pair out";
  }
}

int64_t told_sum(AttentionRun& run, const char* name) {
  const Facts told = run.observer.told(run.facts);
  int64_t all = 0;
  for (const int64_t x : told.at<int64_t>(run.facts.find(name), AttentionRun::kLayer).span())
    all += x;
  return all;
}

/// Heads of one run beside those of another: the same bits.
void expect_same_head(AttentionRun& a, AttentionRun& b, int64_t head) {
  const auto of_head = [&](const test::Array<float>& x) {
    const int64_t heads = x.shape()[1], each = x.shape()[2] * x.shape()[3];
    std::vector<float> own;
    for (int64_t row = 0; row < x.shape()[0]; ++row) {
      const auto first = x.values().begin() + (row * heads + head) * each;
      own.insert(own.end(), first, first + each);
    }
    return own;
  };
  for (AttentionRun* run : {&a, &b}) silence_padding(*run, run->out);
  EXPECT_EQ(of_head(a.out), of_head(b.out));
  EXPECT_EQ(of_head(a.dq), of_head(b.dq));
  EXPECT_EQ(of_head(a.dk), of_head(b.dk));
  EXPECT_EQ(of_head(a.dv), of_head(b.dv));
  for (const char* name : {"attention.alpha", "attention.temperature"})
    EXPECT_EQ(a.grad(name)[head], b.grad(name)[head]) << name;
}

TEST(SparsefinderAttention, HeadsThatHaveSwitchedAreThoseOfPredictedAndOthersThoseOfFull) {
  for (const bool is_causal : {false, true}) {
    const AttentionCase c{
        .heads = 4, .length = 37, .head_dim = 4, .seed = 53, .is_causal = is_causal};
    AttentionConfig config = config_of(clustered(3), 0.3);
    config.entmax.learn_alpha = true;
    config.entmax.temperature = EntmaxTemperature::kLearned;
    AttentionRun predicted(config, c);
    config.sparsefinder.mode = SparsefinderMode::kFull;
    AttentionRun full(config, c);
    config.sparsefinder.gate = 0.9;
    AttentionRun gated(config, c);
    for (AttentionRun* run : {&predicted, &full}) run_both_ways(*run);
    EXPECT_NE(predicted.out.values(), full.out.values());
    bool is_first = true;
    for (const auto& switched : std::vector<std::array<float, 4>>{
             {0, 0, 0, 0}, {1, 1, 1, 1}, {0, 1, 1, 0}, {1, 0, 0, 1}, {0, 0, 1, 0}}) {
      std::copy(switched.begin(), switched.end(), gated.value("attention.switched").data);
      if (is_first) run_both_ways(gated);
      is_first = false;
      gated.forward();
      gated.backward();
      for (int64_t head = 0; head < 4; ++head) {
        SCOPED_TRACE(head);
        const bool has_switched = switched[static_cast<size_t>(head)] != 0;
        expect_same_head(gated, has_switched ? predicted : full, head);
        EXPECT_EQ(gated.observer.told(gated.facts)
                      .at<float>(gated.facts.find("switched"), AttentionRun::kLayer)[head],
                  switched[static_cast<size_t>(head)]);
      }
      // What the prediction is worth is measured beside exact attention all the same.
      for (AttentionRun* run : {&predicted, &gated}) run->forward(/*training=*/false);
      for (const char* name : {"support", "support_found", "exact_rows", "measured_rows"})
        EXPECT_EQ(told_sum(gated, name), told_sum(predicted, name)) << name;
      predicted.forward();
    }
  }
}

/// Tokens of topics that come by turns; a query asks for its own.
void take_topics(AttentionRun& run, const AttentionCase& c, int64_t topics) {
  const test::Array<float> centres = test::random_normal({topics, c.head_dim}, 7);
  for (int64_t row = 0; row < c.batch * c.heads * c.length; ++row) {
    for (int64_t d = 0; d < c.head_dim; ++d) {
      const float centre = 3.0f * centres[row % c.length % topics * c.head_dim + d];
      run.q[row * c.head_dim + d] = centre + 0.3f * run.q[row * c.head_dim + d];
      run.k[row * c.head_dim + d] = centre + 0.3f * run.k[row * c.head_dim + d];
    }
  }
}

TEST(SparsefinderAttention, CertifiedIsExactToTheBitOverFewerPairs) {
  for (const bool is_causal : {false, true}) {
    for (const bool is_rough : {false, true}) {
      AttentionCase c{.length = 60, .head_dim = 4, .seed = 51, .is_causal = is_causal};
      SparsefinderConfig certified = clustered(12, is_rough ? 2 : 1);
      // Without a window a row may see nobody, of which there is no bound.
      certified.window = is_rough ? 0 : 3;
      certified.mode = SparsefinderMode::kCertified;
      SparsefinderConfig exact = certified;
      exact.mode = SparsefinderMode::kFull;
      const auto run_on_topics = [&](AttentionRun& run) {
        take_topics(run, c, 10);
        run_both_ways(run);
      };
      AttentionRun full(config_of(exact, 0.3), c);
      run_on_topics(full);
      for (const int threads : {1, 3}) {
        c.threads = threads;
        AttentionRun run(config_of(certified, 0.3), c);
        run_on_topics(run);
        expect_same(run, full);
        EXPECT_LT(told_sum(run, "computed"), told_sum(run, "pairs") * 2 / 3);
        EXPECT_GE(told_sum(run, "computed"), told_sum(run, "weighted"));
      }
      c.threads = 1;
    }
  }
}

TEST(SparsefinderAttention, CertifiedIsMeasuredAsFullIs) {
  const AttentionCase c = small();
  SparsefinderConfig sparsefinder = clustered(4);
  const auto measured = [&](SparsefinderMode mode) {
    sparsefinder.mode = mode;
    AttentionRun run(config_of(sparsefinder), c);
    run_both_ways(run);
    run.forward(/*training=*/false);
    return std::array{told_sum(run, "support"), told_sum(run, "support_found"),
                      told_sum(run, "measured_edges"), told_sum(run, "exact_rows"),
                      told_sum(run, "edges")};
  };
  EXPECT_EQ(measured(SparsefinderMode::kCertified), measured(SparsefinderMode::kFull));
}

// --- the graph -----------------------------------------------------------------------------------

TEST(SparsefinderAttention, ClustersAreTheNearestCentroidsOfProjectedContent) {
  const AttentionCase c = small();
  SparsefinderConfig sparsefinder = clustered(4, 2);
  sparsefinder.window = 3;
  sparsefinder.global_tokens = 1;
  AttentionRun run(config_of(sparsefinder), c);
  run.rotary = true;
  run.content_q = test::random_normal(run.q.shape(), 91);
  run.content_k = test::random_normal(run.k.shape(), 92);
  run.forward();
  const View<float> w = run.value("attention.project"),
                    centroids = run.value("attention.centroids");
  const int64_t r = w.shape[2];
  const auto groups = [&](const test::Array<float>& x, int64_t p, int64_t i) {
    const int64_t h = p % c.heads;
    std::vector<std::pair<double, int64_t>> by_distance;
    for (int64_t g = 0; g < 4; ++g) {
      double squared = 0;
      for (int64_t e = 0; e < r; ++e) {
        double y = 0;
        for (int64_t d = 0; d < c.head_dim; ++d)
          y += static_cast<double>(x[(p * c.length + i) * c.head_dim + d]) *
               static_cast<double>(w[(h * c.head_dim + d) * r + e]);
        y -= static_cast<double>(centroids[(h * 4 + g) * r + e]);
        squared += y * y;
      }
      by_distance.emplace_back(squared, g);
    }
    std::sort(by_distance.begin(), by_distance.end());
    return std::array{by_distance[0].second, by_distance[1].second};
  };
  const std::vector<uint8_t> graph = predicted_graph_of(run, c);
  for (int64_t p = 0; p < c.batch * c.heads; ++p) {
    for (int64_t i = 0; i < c.length; ++i) {
      const auto q = groups(run.content_q, p, i);
      for (int64_t j = 0; j < c.length; ++j) {
        const auto k = groups(run.content_k, p, j);
        const bool shares = q[0] == k[0] || q[0] == k[1] || q[1] == k[0] || q[1] == k[1];
        const bool expected = shares || std::abs(i - j) <= 1 || i == 0 || j == 0;
        ASSERT_EQ(graph[static_cast<size_t>((p * c.length + i) * c.length + j)] != 0, expected)
            << p << " " << i << " " << j;
      }
    }
  }
}

TEST(SparsefinderAttention, OneClusterSeesEverythingAndAWindowOfOneTheTokenItself) {
  const AttentionCase c = small();
  AttentionRun everything(config_of(clustered(1)), c);
  everything.forward();
  EXPECT_EQ(count(predicted_graph_of(everything, c)), c.batch * c.heads * c.length * c.length);
  AttentionRun alone(config_of(near(0)), c);
  alone.forward();
  EXPECT_EQ(count(predicted_graph_of(alone, c)), c.batch * c.heads * c.length);
  SparsefinderConfig nothing = near(0);
  nothing.window = 0;
  AttentionRun none(config_of(nothing), c);
  none.forward();
  EXPECT_EQ(count(predicted_graph_of(none, c)), 0);
  for (const float x : none.out.values()) EXPECT_EQ(x, 0.0f);
}

TEST(SparsefinderAttention, OfficialClustersMustBeOfEqualRank) {
  const AttentionCase c = small();
  SparsefinderConfig sparsefinder = clustered(5, 2);
  AttentionRun any(config_of(sparsefinder), c);
  sparsefinder.compat = SparsefinderCompat::kOfficial;
  AttentionRun ranked(config_of(sparsefinder), c);
  any.forward();
  ranked.forward();
  const std::vector<uint8_t> more = predicted_graph_of(any, c),
                             fewer = predicted_graph_of(ranked, c);
  EXPECT_LT(count(fewer), count(more));
  for (size_t e = 0; e < more.size(); ++e) EXPECT_LE(fewer[e], more[e]);
}

/// Content times W, [B, H, N, R].
Doubles projected(const AttentionRun& run, const test::Array<float>& x) {
  const View<float> w = run.value("attention.project");
  const int64_t heads = w.shape[0], d = w.shape[1], r = w.shape[2], n = x.shape()[2];
  Doubles y;
  for (int64_t row = 0; row < x.numel() / d; ++row) {
    for (int64_t e = 0; e < r; ++e) {
      double sum = 0;
      for (int64_t c = 0; c < d; ++c)
        sum += static_cast<double>(x[row * d + c]) *
               static_cast<double>(w[(row / n % heads * d + c) * r + e]);
      y.push_back(sum);
    }
  }
  return y;
}

TEST(SparsefinderAttention, ReformersBucketIsTheLargestOfAHashAndItsOpposite) {
  const AttentionCase c{.length = 23, .head_dim = 4, .seed = 51};
  SparsefinderConfig sparsefinder = other(SparsefinderPredictor::kReformer, 6);
  sparsefinder.cluster.rounds = 2;
  sparsefinder.window = 0;
  AttentionRun run(config_of(sparsefinder), c);
  run.forward();
  const Doubles q = projected(run, run.q), k = projected(run, run.k);
  const View<float> directions = run.value("attention.centroids");
  const int64_t r = directions.shape[3];
  const auto bucket = [&](const double* x, int64_t round, int64_t head) {
    int64_t best = 0;
    double largest = -1;
    for (int64_t g = 0; g < 3; ++g) {
      double dot = 0;
      for (int64_t e = 0; e < r; ++e)
        dot +=
            x[e] * static_cast<double>(directions[((round * c.heads + head) * 6 + 2 * g) * r + e]);
      if (std::abs(dot) <= largest) continue;
      largest = std::abs(dot);
      best = 2 * g + (dot < 0 ? 1 : 0);
    }
    return best;
  };
  const std::vector<uint8_t> graph = predicted_graph_of(run, c);
  for (int64_t p = 0; p < c.batch * c.heads; ++p) {
    for (int64_t e = 0; e < c.length * c.length; ++e) {
      const double* of_query = q.data() + (p * c.length + e / c.length) * r;
      const double* of_key = k.data() + (p * c.length + e % c.length) * r;
      bool shares = false;
      for (const int64_t round : {0, 1})
        shares =
            shares || bucket(of_query, round, p % c.heads) == bucket(of_key, round, p % c.heads);
      ASSERT_EQ(graph[static_cast<size_t>(p * c.length * c.length + e)] != 0, shares);
    }
  }
}

TEST(SparsefinderAttention, RoutingsClustersTakeTheirNearestQueriesAndKeysByAngle) {
  const AttentionCase c{.length = 23, .head_dim = 4, .seed = 51};
  SparsefinderConfig sparsefinder = other(SparsefinderPredictor::kRouting, 5);
  sparsefinder.window = 0;
  AttentionRun run(config_of(sparsefinder), c);
  add_padding(run);
  run.forward();
  const View<float> routing = run.value("attention.routing");
  const int64_t r = routing.shape[1];
  /// Who is among the nearest tokens of each cluster.
  const auto members = [&](const Doubles& x, int64_t p, int64_t cluster) {
    std::vector<std::pair<double, int64_t>> by_angle;
    for (int64_t i = 0; i < c.length; ++i) {
      if (run.mask[p / c.heads * c.length + i] == 0) continue;
      const double* own = x.data() + (p * c.length + i) * r;
      double dot = 0, squares = 0;
      for (int64_t e = 0; e < r; ++e) {
        dot += own[e] * static_cast<double>(routing[(p % c.heads * r + e) * 5 + cluster]);
        squares += own[e] * own[e];
      }
      by_angle.emplace_back(dot / std::sqrt(squares), i);
    }
    std::sort(by_angle.begin(), by_angle.end());
    std::vector<bool> is_in(static_cast<size_t>(c.length));
    for (size_t rank = 0; rank < (by_angle.size() + 4) / 5; ++rank)
      is_in[static_cast<size_t>(by_angle[rank].second)] = true;
    return is_in;
  };
  const Doubles q = projected(run, run.q), k = projected(run, run.k);
  const std::vector<uint8_t> graph = predicted_graph_of(run, c);
  for (int64_t p = 0; p < c.batch * c.heads; ++p) {
    std::vector<uint8_t> expected(static_cast<size_t>(c.length * c.length));
    for (int64_t cluster = 0; cluster < 5; ++cluster) {
      const auto queries = members(q, p, cluster), keys = members(k, p, cluster);
      for (size_t e = 0; e < expected.size(); ++e) {
        const auto n = static_cast<size_t>(c.length);
        if (queries[e / n] && keys[e % n]) expected[e] = 1;
      }
    }
    const auto first = graph.begin() + p * c.length * c.length;
    EXPECT_EQ(std::vector<uint8_t>(first, first + c.length * c.length), expected) << p;
  }
}

TEST(SparsefinderAttention, GraphsByPlaceHaveWindowsAndGlobalTokensBeside) {
  const AttentionCase c = small();
  for (const SparsefinderPredictor predictor :
       {SparsefinderPredictor::kBigbird, SparsefinderPredictor::kFixed,
        SparsefinderPredictor::kStrided}) {
    SparsefinderConfig alone = other(predictor), more = alone;
    alone.window = 0;
    more.window = 9;
    more.global_tokens = 1;
    AttentionRun a(config_of(alone), c), b(config_of(more), c);
    a.forward();
    b.forward();
    const std::vector<uint8_t> fewer = predicted_graph_of(a, c), all = predicted_graph_of(b, c);
    for (int64_t e = 0; e < std::ssize(all); ++e) {
      const int64_t i = e / c.length % c.length, j = e % c.length;
      const bool always = std::abs(i - j) <= 4 || i == 0 || j == 0;
      ASSERT_EQ(all[static_cast<size_t>(e)] != 0, fewer[static_cast<size_t>(e)] != 0 || always);
      if (predictor != SparsefinderPredictor::kStrided) continue;
      ASSERT_EQ(fewer[static_cast<size_t>(e)] != 0, (i - j) % 3 == 0 || std::abs(i - j) <= 3);
    }
  }
}

TEST(SparsefinderAttention, WithoutProjectionsTokensAreComparedAsTheyAre) {
  const AttentionCase c = small();
  SparsefinderConfig sparsefinder = unprojected(near(5.0));
  sparsefinder.window = 0;
  AttentionRun run(config_of(sparsefinder), c);
  run.forward();
  EXPECT_FALSE(run.store.find("attention.project").has_value());
  const std::vector<uint8_t> graph = predicted_graph_of(run, c);
  for (int64_t e = 0; e < std::ssize(graph); ++e) {
    const int64_t p = e / (c.length * c.length), i = e / c.length % c.length, j = e % c.length;
    double squared = 0;
    for (int64_t d = 0; d < c.head_dim; ++d) {
      const double away = static_cast<double>(run.q[(p * c.length + i) * c.head_dim + d]) -
                          static_cast<double>(run.k[(p * c.length + j) * c.head_dim + d]);
      squared += away * away;
    }
    ASSERT_EQ(graph[static_cast<size_t>(e)] != 0, squared < 5.0);
  }
}

/// What a map (model/attention/sparsefinder/projection_fit.h) makes of a head's tokens of one sequence.
std::vector<float> placed(const AttentionRun& run, std::span<const float> x,
                          const std::string& suffix, int64_t head, const ProjectionShape& shape) {
  std::vector<double> map;
  for (const char* name : {"attention.hidden", "attention.hidden_bias", "attention.project"}) {
    if (!run.store.find(name + suffix)) continue;
    const auto own = run.value(name + suffix).at(head).span();
    map.insert(map.end(), own.begin(), own.end());
  }
  std::vector<float> rows;
  append_projected(x, map, shape, rows);
  return rows;
}

TEST(SparsefinderAttention, TokensAreComparedWhereTheirMapPutsThem) {
  using Kind = SparsefinderProjectionKind;
  for (const auto& [kind, is_shared] : {std::pair(Kind::kMlp, true), std::pair(Kind::kMlp, false),
                                        std::pair(Kind::kConcat, true)}) {
    const AttentionCase c = small();
    SparsefinderConfig sparsefinder = projected_by(kind, near(kind == Kind::kMlp ? 1.0 : 5.0));
    sparsefinder.projection.shared = is_shared;
    sparsefinder.window = 0;
    AttentionRun run(config_of(sparsefinder), c);
    for (const std::string suffix : {"", "_query", "_key"}) {  // as if fitted
      if (!run.store.find("attention.hidden_bias" + suffix)) continue;
      for (float& x : run.value("attention.hidden_bias" + suffix).span()) x = 0.3f;
    }
    run.forward();
    const std::vector<uint8_t> graph = predicted_graph_of(run, c);
    EXPECT_GT(count(graph), 10);
    EXPECT_LT(count(graph), std::ssize(graph) - 10);
    const ProjectionShape shape{.d = kind == Kind::kConcat ? 2 * c.head_dim : c.head_dim,
                                .r = sparsefinder.projection.dim,
                                .hidden = kind == Kind::kMlp ? 5 : 0};
    const auto size = static_cast<size_t>(c.length * c.head_dim);
    for (size_t p = 0; p < static_cast<size_t>(c.batch * c.heads); ++p) {
      const auto of_problem = [&](const test::Array<float>& x) {
        return std::vector<float>(x.values().begin() + static_cast<int64_t>(p * size),
                                  x.values().begin() + static_cast<int64_t>((p + 1) * size));
      };
      ProjectionExample example{.q = of_problem(run.q), .k = of_problem(run.k), .gold = {}};
      if (kind == Kind::kConcat) example = joined(std::move(example), c.head_dim);
      const auto head = static_cast<int64_t>(p) % c.heads;
      const std::vector<float> q = placed(run, example.q, is_shared ? "" : "_query", head, shape),
                               k = placed(run, example.k, is_shared ? "" : "_key", head, shape);
      for (int64_t e = 0; e < c.length * c.length; ++e) {
        double squared = 0;
        for (int64_t x = 0; x < shape.r; ++x) {
          const double away =
              static_cast<double>(q[static_cast<size_t>(e / c.length * shape.r + x)]) -
              static_cast<double>(k[static_cast<size_t>(e % c.length * shape.r + x)]);
          squared += away * away;
        }
        ASSERT_EQ(graph[p * static_cast<size_t>(c.length * c.length) + static_cast<size_t>(e)] != 0,
                  squared < sparsefinder.distance.threshold);
      }
    }
  }
}

/// Without projections the near keys of a query are those with the largest products.
TEST(SparsefinderAttention, MipsMakesNearKeysThoseWithLargeProducts) {
  const AttentionCase c = small();
  for (const bool mips : {true, false}) {
    SparsefinderConfig sparsefinder = unprojected(near(8.0), mips);
    sparsefinder.window = 0;
    AttentionRun run(config_of(sparsefinder), c);
    add_padding(run);
    run.forward();
    const std::vector<uint8_t> graph = predicted_graph_of(run, c);
    int64_t unordered = 0;
    for (int64_t row = 0; row < c.batch * c.heads * c.length; ++row) {
      double least_near = 1e9, most_far = -1e9;
      if (run.mask[row / (c.heads * c.length) * c.length + row % c.length] == 0) continue;
      for (int64_t j = 0; j < c.length; ++j) {
        if (run.mask[row / (c.heads * c.length) * c.length + j] == 0) continue;
        double product = 0;
        for (int64_t d = 0; d < c.head_dim; ++d)
          product += static_cast<double>(run.q[row * c.head_dim + d]) *
                     static_cast<double>(run.k[(row / c.length * c.length + j) * c.head_dim + d]);
        if (graph[static_cast<size_t>(row * c.length + j)] != 0) {
          least_near = std::min(least_near, product);
        } else {
          most_far = std::max(most_far, product);
        }
      }
      unordered += least_near < most_far ? 1 : 0;
    }
    EXPECT_GT(count(graph), 0);
    EXPECT_EQ(unordered == 0, mips);
  }
}

/// Keeps what it is told.
class HeardGraphs final : public GraphSink {
 public:
  explicit HeardGraphs(bool wants_support) : wants_support_(wants_support) {}
  bool wants_support() const override { return wants_support_; }
  bool wants(int64_t) const override { return true; }
  void take(std::unique_ptr<AttentionGraph> graph) override {
    for (const kernels::EdgeList& edges : graph->edges) {
      columns.push_back(edges.columns);
      row_ptrs.push_back(edges.row_ptr);
    }
  }
  std::vector<std::vector<int32_t>> columns;
  std::vector<std::vector<int64_t>> row_ptrs;

 private:
  bool wants_support_;
};

TEST(SparsefinderAttention, WhoFitsHearsTheSupportOfExactAttentionInEveryMode) {
  const AttentionCase c{.length = 80, .head_dim = 4, .seed = 51};  // more keys than are kept
  const auto told = [&](AttentionConfig config, bool wants_support) {
    AttentionRun run(config, c);
    add_padding(run);
    for (float& x : run.q.values()) x *= 0.5f;
    run.forward(/*training=*/false);
    HeardGraphs sink(wants_support);
    run.tell_graphs(sink);
    return std::pair(sink.columns, sink.row_ptrs);
  };
  AttentionConfig exact;
  exact.kind = AttentionKind::kEntmax;
  exact.dropout = 0.0;
  const auto expected = told(exact, false);
  for (const SparsefinderMode mode :
       {SparsefinderMode::kFull, SparsefinderMode::kPredicted, SparsefinderMode::kCertified}) {
    SparsefinderConfig sparsefinder = clustered(5);
    sparsefinder.mode = mode;
    EXPECT_EQ(told(config_of(sparsefinder), true), expected);
    EXPECT_NE(told(config_of(sparsefinder), false), expected);
  }
}

// --- what is not learned -------------------------------------------------------------------------

TEST(SparsefinderAttention, NoGradientReachesTheProjectionNorPassesThroughIt) {
  for (SparsefinderConfig sparsefinder : every_predictor()) {
    for (const bool is_shared : {true, false}) {
      sparsefinder.projection.shared = is_shared;
      AttentionRun run(config_of(sparsefinder), small());
      run.rotary = true;
      run.forward();
      run.backward();
      const auto* gradients = reinterpret_cast<const float*>(run.grads.data());
      for (int64_t e = 0; e < run.store.numel(); ++e) ASSERT_EQ(gradients[e], 0.0f);
      for (const float x : run.dcontent_q.values()) ASSERT_EQ(x, 0.0f);
      for (const float x : run.dcontent_k.values()) ASSERT_EQ(x, 0.0f);
    }
  }
}

// --- what it tells -------------------------------------------------------------------------------

struct Told {
  double recall, precision, exact, dropped;
};

Told told_of(const SparsefinderConfig& sparsefinder) {
  AttentionRun run(config_of(sparsefinder), small());
  run_both_ways(run);
  run.forward(/*training=*/false);
  const Facts facts = run.observer.told(run.facts);
  const auto sum = [&](const char* name) {
    double all = 0;
    for (const int64_t x : facts.at<int64_t>(run.facts.find(name), AttentionRun::kLayer).span())
      all += static_cast<double>(x);
    return all;
  };
  double dropped = 0;
  for (const double x : facts.at<double>(run.facts.find("dropped"), AttentionRun::kLayer).span())
    dropped += x;
  return {.recall = sum("support_found") / sum("support"),
          .precision = sum("support_found") / sum("measured_edges"),
          .exact = sum("exact_rows") / sum("measured_rows"),
          .dropped = dropped / sum("measured_rows")};
}

TEST(SparsefinderAttention, EvaluationTellsWhatTheGraphIsWorth) {
  const Told all = told_of(clustered(1));
  EXPECT_EQ(all.recall, 1.0);
  EXPECT_EQ(all.exact, 1.0);
  EXPECT_NEAR(all.dropped, 0.0, 1e-5);
  EXPECT_LT(all.precision, 0.6);
  SparsefinderConfig sparse = clustered(6);
  const Told some = told_of(sparse);
  EXPECT_GT(some.recall, 0.05);
  EXPECT_LT(some.recall, 0.95);
  EXPECT_GT(some.dropped, 0.05);
  sparse.window = 5;
  const Told wider = told_of(sparse);
  EXPECT_GT(wider.recall, some.recall);
  EXPECT_LT(wider.dropped, some.dropped);
  sparse.mode = SparsefinderMode::kFull;
  const Told beside = told_of(sparse);
  EXPECT_EQ(beside.recall, wider.recall);
  EXPECT_EQ(beside.exact, wider.exact);
  EXPECT_NEAR(beside.dropped, wider.dropped, 1e-6);
}

TEST(SparsefinderAttention, EvaluationTellsHowEvenlyClustersAreFilled) {
  const auto told = [](int64_t clusters, bool training) {
    AttentionRun run(config_of(clustered(clusters)), small());
    run.forward(training);
    const Facts facts = run.observer.told(run.facts);
    const int layer = AttentionRun::kLayer;
    return std::pair(facts.at<double>(run.facts.find("occupancy"), layer)[0],
                     facts.at<int64_t>(run.facts.find("occupancy_sequences"), layer)[0]);
  };
  EXPECT_EQ(told(1, false), std::pair(2.0, int64_t{2}));  // one cluster is full, of two sequences
  EXPECT_EQ(told(1, true), std::pair(0.0, int64_t{0}));
  const double some = told(4, false).first / 2;
  EXPECT_GT(some, 0.3);
  EXPECT_LT(some, 1.0);
}

TEST(SparsefinderAttention, AGraphWithoutRoomNamesTheKeyThatReservesIt) {
  SparsefinderConfig sparsefinder = clustered(1);
  sparsefinder.max_density = 0.01;
  const AttentionCase c{.length = 64, .head_dim = 4};
  AttentionRun run(config_of(sparsefinder), c);
  try {
    run.forward();
    FAIL() << "4096 edges fitted into the room of 41";
  } catch (const ConfigError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("attention.sparsefinder: a graph has more"))
        << error.what();
    EXPECT_TRUE(std::string(error.what()).ends_with("; raise max_density")) << error.what();
  }
}

TEST(SparsefinderAttention, IsTheSameForAnyThreads) {
  for (const SparsefinderConfig& sparsefinder : every_predictor()) {
    AttentionCase c = small();
    AttentionRun one(config_of(sparsefinder), c);
    c.threads = 3;
    AttentionRun three(config_of(sparsefinder), c);
    run_both_ways(one);
    run_both_ways(three);
    expect_same(one, three);
  }
}

}  // namespace
}  // namespace stipple::model
