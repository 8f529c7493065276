// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/entmax_attention.h"

#include "kernels/attend_entmax_reference.h"
#include "kernels/entmax_heads.h"
#include "model/attention/graph.h"
#include "model/attention/softmax/softmax_attention.h"
#include "tests/model/attention_reference.h"

namespace stipple::model {
namespace {

using test::AttentionCase;
using test::AttentionReference;
using test::AttentionRun;
using test::differences;
using test::Doubles;
using test::expect_gradient;
using test::pad_second_example;
using test::Tensors;
using test::to_doubles;

AttentionConfig entmax_config(double alpha, double dropout = 0.0) {
  AttentionConfig c{.kind = AttentionKind::kEntmax, .dropout = dropout};
  c.entmax.alpha = alpha;
  return c;
}

AttentionConfig learned() {
  AttentionConfig c = entmax_config(1.5);
  c.entmax.learn_alpha = true;
  c.entmax.alpha_range = {.low = 1.1, .high = 2.2};
  c.entmax.temperature = EntmaxTemperature::kLearned;
  return c;
}

AttentionConfig annealed(double from, double to, int64_t steps) {
  AttentionConfig c = entmax_config(to);
  c.entmax.anneal_from = from;
  c.entmax.anneal_steps = steps;
  return c;
}

/// q, k, v and, by head, alpha and temperature.
struct Point {
  Tensors tensors;
  Doubles alpha, temperature;
};

Doubles output(const AttentionReference& reference, const Point& at) {
  Doubles o;
  for (int64_t p = 0; p < reference.batch * reference.heads; ++p) {
    const auto head = static_cast<size_t>(p % reference.heads);
    const kernels::reference::Attention a = reference.problem(at.tensors, p);
    const Doubles own =
        kernels::reference::attend_entmax(
            {.attention = a, .alpha = at.alpha[head], .temperature = at.temperature[head]})
            .o;
    o.insert(o.end(), own.begin(), own.end());
  }
  return o;
}

void check_gradients(const AttentionConfig& attention, Doubles alpha, Doubles temperature,
                     const AttentionCase& c = {.seed = 21}) {
  AttentionRun run(attention, c);
  pad_second_example(run);
  run.forward();
  run.backward();
  const AttentionReference reference(run, c, attention.dropout, AttentionRun::kLayer);
  Point at{{to_doubles(run.q.values()), to_doubles(run.k.values()), to_doubles(run.v.values())},
           std::move(alpha),
           std::move(temperature)};
  expect_gradient(run.out.values(), output(reference, at), 1e-5, "out");
  const auto loss = [&] {
    const Doubles o = output(reference, at);
    double sum = 0;
    for (size_t i = 0; i < o.size(); ++i) sum += o[i] * reference.dout[i];
    return sum;
  };
  expect_gradient(run.dq.values(), differences(at.tensors.q, loss), 2e-4, "dq");
  expect_gradient(run.dk.values(), differences(at.tensors.k, loss), 2e-4, "dk");
  expect_gradient(run.dv.values(), differences(at.tensors.v, loss), 1e-4, "dv");
  const auto by_parameter = [&](const std::string& name, Doubles& values, const auto& slope) {
    if (!run.store.find(name)) return;
    Doubles expected = differences(values, loss);
    for (size_t h = 0; h < expected.size(); ++h) expected[h] *= slope(values[h]);
    expect_gradient(run.grad(name).span(), expected, 1e-3, name);
  };
  by_parameter("attention.alpha", at.alpha, [&](double value) {
    const EntmaxAlphaRange& range = attention.entmax.alpha_range;
    return (value - range.low) * (range.high - value) / (range.high - range.low);
  });
  by_parameter("attention.temperature", at.temperature, [](double value) { return value; });
}

TEST(EntmaxAttention, AgreesWithFiniteDifferences) {
  for (const double alpha : {1.1, 1.5, 1.9}) {
    for (const double dropout : {0.0, 0.3}) {
      for (const bool is_causal : {false, true}) {
        SCOPED_TRACE(testing::Message() << alpha << " " << dropout << " " << is_causal);
        check_gradients(entmax_config(alpha, dropout), {alpha, alpha}, {1, 1},
                        {.seed = 21, .is_causal = is_causal});
      }
    }
  }
}

TEST(EntmaxAttention, LearnsAlphaAndTemperatureOfEachHead) {
  check_gradients(learned(), {1.5, 1.5}, {1, 1});
}

TEST(EntmaxAttention, ALearnedAlphaStartsWhereItIsSaidAndStaysAboveOne) {
  AttentionConfig c = learned();
  c.entmax.alpha_range = {.low = 1.0, .high = 2.0};
  c.entmax.alpha = 1.25;
  AttentionRun run(c, {});
  const auto told = [&] {
    run.forward();
    return static_cast<const EntmaxAttention::Saved&>(*run.saved).heads.alpha[0];
  };
  EXPECT_NEAR(told(), 1.25, 1e-6);
  run.value("attention.alpha")[0] = -30.0f;
  EXPECT_EQ(told(), kernels::kEntmaxHeldAbove);
}

TEST(EntmaxAttention, AnAnnealedAlphaIsThatOfTheStep) {
  AttentionRun run(annealed(1.25, 2.0, 100), {});
  const Stream stream(kCpuDevice);
  const auto told = [&] {
    run.forward(/*training=*/false);
    return static_cast<const EntmaxAttention::Saved&>(*run.saved).heads.alpha[1];
  };
  EXPECT_EQ(told(), 1.25f);  // before any step
  for (const auto& [step, expected] :
       {std::pair{uint64_t{0}, 1.25f}, {40, 1.55f}, {100, 2.0f}, {5000, 2.0f}, {40, 1.55f}}) {
    run.attention->begin_step(stream, {.seed = 1, .step = step});
    EXPECT_FLOAT_EQ(told(), expected);  // also in evaluation, whatever random numbers it has
  }
  run.attention->begin_step(stream, {.step = 40});
  check_gradients(entmax_config(1.55), {1.55, 1.55}, {1, 1});
  run.forward();
  run.backward();
  for (const float gradient : run.grad("attention.alpha").span()) EXPECT_EQ(gradient, 0.0f);
}

TEST(EntmaxAttention, AlphaOneIsSoftmax) {
  AttentionConfig softmax = entmax_config(1.0, 0.2);
  AttentionRun entmax(softmax, {});
  softmax.kind = AttentionKind::kSoftmax;
  AttentionRun expected(softmax, {});
  for (AttentionRun* run : {&entmax, &expected}) {
    run->forward();
    run->backward();
  }
  EXPECT_EQ(entmax.out.values(), expected.out.values());
  EXPECT_EQ(entmax.dq.values(), expected.dq.values());
  EXPECT_EQ(entmax.store.num_parameters(), 0);
  EXPECT_FALSE(EntmaxAttention::traits(entmax_config(1.0)).has_graph);
  EXPECT_TRUE(EntmaxAttention::traits(entmax_config(1.5)).has_graph);
}

TEST(EntmaxAttention, ASequenceOfPaddingGivesZerosAndNoGradient) {
  AttentionRun run(learned(), {});
  for (int64_t j = 0; j < run.mask.shape()[1]; ++j) run.mask[j] = 0;
  run.forward();
  run.backward();
  for (int64_t i = 0; i < run.out.numel() / 2; ++i) {
    ASSERT_EQ(run.out[i], 0.0f);
    ASSERT_EQ(run.dq[i], 0.0f);
    ASSERT_EQ(run.dk[i], 0.0f);
    ASSERT_EQ(run.dv[i], 0.0f);
  }
  for (const float gradient : run.grad("attention.alpha").span())
    EXPECT_TRUE(std::isfinite(gradient));
}

TEST(EntmaxAttention, TellsDensityAndSupportSizeOfRealQueries) {
  const AttentionCase c{.length = 9, .is_causal = true};
  AttentionRun run(entmax_config(1.7), c);
  pad_second_example(run);
  run.forward();
  const AttentionReference reference(run, c, 0.0, AttentionRun::kLayer);
  const Tensors t{to_doubles(run.q.values()), to_doubles(run.k.values()),
                  to_doubles(run.v.values())};
  const Facts facts = run.observer.told(run.facts);
  const auto count = [&](const char* name, int64_t head) {
    return facts.at<int64_t>(run.facts.find(name), AttentionRun::kLayer)[head];
  };
  for (int64_t h = 0; h < c.heads; ++h) {
    int64_t edges = 0;
    for (int64_t b = 0; b < c.batch; ++b) {
      const kernels::reference::Attention a = reference.problem(t, b * c.heads + h);
      const Doubles weights =
          kernels::reference::attend_entmax({.attention = a, .alpha = 1.7}).weights;
      for (int64_t pair = 0; pair < c.length * c.length; ++pair) {
        const bool is_real = run.mask[b * c.length + pair / c.length] != 0;
        edges += is_real && weights[static_cast<size_t>(pair)] > 0 ? 1 : 0;
      }
    }
    EXPECT_EQ(count("support_edges", h), edges);
    EXPECT_EQ(count("support_pairs", h), 9 * 10 / 2 + 6 * 7 / 2);
    EXPECT_EQ(count("support_rows", h), 9 + 6);
  }
}

/// Keeps the graphs of all rows.
struct GraphsOfAllRows final : GraphSink {
  std::vector<std::unique_ptr<AttentionGraph>> graphs;
  bool wants(int64_t) const override { return true; }
  void take(std::unique_ptr<AttentionGraph> graph) override { graphs.push_back(std::move(graph)); }
};

/// By row of the batch and head, as pairs of tokens.
std::vector<Doubles> told_graphs(AttentionRun& run) {
  GraphsOfAllRows sink;
  run.tell_graphs(sink);
  std::vector<Doubles> told;
  for (const auto& graph : sink.graphs) {
    for (int64_t h = 0; h < graph->heads(); ++h) {
      for (int64_t i = 0; i < graph->tokens; ++i) {
        Doubles row(static_cast<size_t>(graph->tokens));
        graph->probabilities(h, i, row);
        told.push_back(row);
      }
    }
  }
  return told;
}

TEST(EntmaxAttention, TellsWholeSupportsAlsoOfRowsThatAreNotKept) {
  for (const bool is_causal : {false, true}) {
    for (const float size : {1.0f, 0.1f}) {
      SCOPED_TRACE(testing::Message() << is_causal << ' ' << size);
      const AttentionCase c{.length = 150, .head_dim = 8, .seed = 31, .is_causal = is_causal};
      AttentionRun run(learned(), c);
      pad_second_example(run);
      for (int64_t h = 0; h < c.heads; ++h)
        run.value("attention.temperature")[h] = 0.3f * static_cast<float>(h);
      for (float& x : run.q.values()) x *= size;
      run.forward(/*training=*/false);
      const AttentionReference reference(run, c, 0.0, AttentionRun::kLayer);
      const Tensors t{to_doubles(run.q.values()), to_doubles(run.k.values()),
                      to_doubles(run.v.values())};
      std::vector<Doubles> expected;
      int64_t longest = 0;
      for (int64_t p = 0; p < c.batch * c.heads; ++p) {
        const kernels::reference::Attention a = reference.problem(t, p);
        const Doubles weights =
            kernels::reference::attend_entmax(
                {.attention = a,
                 .alpha = 1.5,
                 .temperature = std::exp(0.3 * static_cast<double>(p % c.heads))})
                .weights;
        const uint8_t* is_real = &run.mask[p / c.heads * c.length];
        for (int64_t i = 0; i < c.length; ++i) {
          if (is_real[i] == 0) continue;
          Doubles row;
          for (int64_t j = 0; j < c.length; ++j) {
            if (is_real[j] == 0) continue;
            row.push_back(weights[static_cast<size_t>(i * c.length + j)] > 0 ? 1.0 : 0.0);
          }
          longest = std::max(longest, std::ranges::count(row, 1.0));
          expected.push_back(row);
        }
      }
      EXPECT_EQ(told_graphs(run), expected);
      EXPECT_EQ(longest > kernels::kEntmaxRoom, size < 1.0f);
    }
  }
}

// Scores so large that rounding alone decides about the edge: who was in the support is told, not
// who ought to have been.
TEST(EntmaxAttention, TellsTheSupportThatForwardHad) {
  const AttentionCase c{.batch = 1, .heads = 1, .length = 300, .head_dim = 8, .seed = 32};
  AttentionRun run(entmax_config(1.5), c);
  for (int64_t e = 0; e < run.k.numel(); ++e) {
    run.k[e] = 0.1f * run.k[e] + (e % c.head_dim < 4 ? 3e4f : -3e4f);
    run.q[e] = (e % c.head_dim % 4 < 2 ? 1.0f : -1.0f) + 1e-5f * run.q[e];
  }
  run.forward(/*training=*/false);
  Arena memory("whole", kCpuDevice, size_t{1} << 22);
  const kernels::EntmaxSupport support =
      kernels::alloc_entmax_support(memory, 1, 1, c.length, c.length);
  kernels::attend_entmax(
      Stream(kCpuDevice),
      {.o = memory.alloc<float>(run.q.shape()),
       .tau = memory.alloc<float>({1, 1, c.length}),
       .support = support,
       .q = run.q,
       .k = run.k,
       .v = run.v,
       .heads = static_cast<const EntmaxAttention::Saved&>(*run.saved).heads,
       .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim))),
       .scratch = &memory});
  std::vector<Doubles> expected(static_cast<size_t>(c.length),
                                Doubles(static_cast<size_t>(c.length)));
  for (int64_t i = 0; i < c.length; ++i) {
    for (int64_t e = 0; e < support.size[i]; ++e)
      expected[static_cast<size_t>(i)][support.columns[i * c.length + e]] = 1.0;
  }
  EXPECT_GT(std::ranges::max(support.size.span()), kernels::kEntmaxRoom);
  EXPECT_EQ(told_graphs(run), expected);
}

void expect_refused(const AttentionConfig& c, const std::string& key) {
  try {
    EntmaxAttention::validate(c);
    ADD_FAILURE() << "nothing said of " << key;
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find("attention.entmax." + key + ": "), 0u) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

TEST(EntmaxAttention, RefusesKeysThatContradictEachOther) {
  AttentionConfig c = annealed(1.1, 1.5, 10);
  c.entmax.learn_alpha = true;
  expect_refused(c, "learn_alpha");
  expect_refused(annealed(0.0, 1.5, 10), "anneal_steps");
  expect_refused(annealed(1.1, 1.5, 0), "anneal_from");
  expect_refused(annealed(0.5, 1.5, 10), "anneal_from");
  expect_refused(annealed(1.5, 1.0, 10), "alpha");
  expect_refused(entmax_config(1.0000001), "alpha");
  c = learned();
  c.entmax.alpha = 2.5;
  expect_refused(c, "alpha");
  c = entmax_config(1.0);
  c.entmax.temperature = EntmaxTemperature::kLearned;
  expect_refused(c, "temperature");
  for (const AttentionConfig& good : {entmax_config(1.0), entmax_config(1.5), entmax_config(4.0),
                                      learned(), annealed(1.0, 1.5, 10)})
    EntmaxAttention::validate(good);
}

}  // namespace
}  // namespace stipple::model
