// SPDX-License-Identifier: Apache-2.0
#include "model/model.h"

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/model/model_run.h"
#include "tests/support/allocation_count.h"
#include "tests/support/attentions.h"

namespace stipple::model {
namespace {

using test::is_per_token;
using test::LeafArrays;
using test::ModelCase;
using test::ModelRun;
using test::small_case;
using test::small_language_model;

const std::vector<AttentionKind> kKinds = test::every_attention();

/// Softmax, and SBM by every sampler, with a regulariser; both with every kind of positions.
/// Language models of what can be causal.
std::vector<ModelCase> every_case() {
  std::vector<ModelCase> cases{small_case(AttentionKind::kSoftmax)};
  for (const AttentionKind kind : kKinds) {
    for (const Positions positions : {Positions::kSinusoidal, Positions::kRotary}) {
      cases.push_back(small_case(kind));
      cases.back().config.positions = positions;
    }
  }
  for (const AttentionKind kind : test::every_causal_attention())
    cases.push_back(small_language_model(kind));
  for (const kernels::SamplerKind sampler :
       {kernels::SamplerKind::kAuto, kernels::SamplerKind::kTiles, kernels::SamplerKind::kRows}) {
    cases.push_back(small_case(AttentionKind::kSbm));
    cases.back().attention.sbm.sampler = sampler;
    cases.back().attention.sbm.sparsity_weight = 1.0;
  }
  return cases;
}

/// What a model of the case may be asked.
std::vector<LabelKind> labels_of(const ModelCase& c) {
  if (c.task.fields.label == LabelKind::kNextToken) return {LabelKind::kNextToken};
  return {LabelKind::kClass, LabelKind::kTokenClass};
}

int64_t num_parameters(AttentionKind kind, const ModelTask& task) {
  ParameterStore store;
  AttentionConfig attention;
  attention.kind = kind;
  FactTable facts(ModelConfig{}.layers);
  const Model model(store, facts, ModelConfig{}, attention, task);
  return store.num_parameters();
}

TEST(Model, HasTheParameterCountsOfTheLongRangeArena) {
  struct Row {
    ModelTask task;
    int64_t count;
  };
  const Row rows[] = {{{{}, 32, 10, 2048}, 230410},
                      {{{}, 512, 2, 3072}, 325634},
                      {{{}, 512, 10, 1024}, 195594},
                      {{{}, 512, 2, 1024}, 194562}};
  for (const Row& row : rows) {
    EXPECT_EQ(num_parameters(AttentionKind::kSbm, row.task), row.count);
    EXPECT_EQ(num_parameters(AttentionKind::kSoftmax, row.task), row.count - 20608);
  }
}

TEST(Model, OnlyLearnedPositionsAreParameters) {
  const auto names = [](Positions positions) {
    ModelCase c = small_case(AttentionKind::kSbm);
    c.config.positions = positions;
    std::vector<std::string> all;
    const ModelRun run(c);
    for (const auto& entry : run.store.entries()) all.push_back(entry.name);
    return all;
  };
  std::vector<std::string> learned = names(Positions::kLearned);
  ASSERT_EQ(learned[0], "embedding.tokens");
  ASSERT_EQ(learned[1], "embedding.positions");
  learned.erase(learned.begin() + 1);
  EXPECT_EQ(names(Positions::kSinusoidal), learned);
  EXPECT_EQ(names(Positions::kRotary), learned);
}

TEST(Model, HasTheTensorsOfBertOnlyWhereAsked) {
  const auto has = [](const ModelRun& run, const char* name) {
    return run.store.find(name).has_value();
  };
  const ModelRun usual(small_case(AttentionKind::kSoftmax));
  ModelCase c = small_case(AttentionKind::kSoftmax);
  c.config.norm = NormPlace::kPost;
  c.config.segments = 2;
  c.config.max_positions = 20;
  c.config.pooler = true;
  const ModelRun bert(c);
  for (const char* name : {"embedding.norm.weight", "embedding.norm.bias", "embedding.segments"}) {
    EXPECT_TRUE(has(bert, name)) << name;
    EXPECT_FALSE(has(usual, name)) << name;
  }
  EXPECT_TRUE(has(usual, "encoder.norm.weight"));
  EXPECT_FALSE(has(bert, "encoder.norm.weight"));
  const auto shape = [&](const char* name) {
    return bert.store.entry(*bert.store.find(name)).shape;
  };
  EXPECT_EQ(shape("embedding.positions"), (Shape{20, c.config.width}));
  EXPECT_EQ(shape("head.hidden.weight"), (Shape{c.config.width, c.config.width}));
}

TEST(Model, RefusesKeysOfBertThatDoNotFitTheTask) {
  ModelCase c = small_case(AttentionKind::kSoftmax);
  c.config.max_positions = c.task.max_length - 1;
  EXPECT_THROW(ModelRun{c}, ConfigError);
  c.config = {.heads = 2, .pooler = true};
  c.task.fields.label = LabelKind::kTokenClass;
  EXPECT_THROW(ModelRun{c}, ConfigError);
}

/// The loss of one example that begins at position `first`, behind padding.
double loss_from(int64_t first, Positions positions, bool reversed = false) {
  ModelCase c = small_case(AttentionKind::kSoftmax);
  c.batch = 1;
  c.config.mean_over = kernels::MeanOver::kValid;
  c.config.positions = positions;
  ModelRun run(c);
  // Initial token vectors are too small to matter.
  for (float& x : run.store.value(*run.store.find("embedding.tokens")).span()) x *= 50.0f;
  LeafArrays leaf(c.task, c.batch, c.length);
  constexpr int64_t kTokens = 7;
  for (int64_t n = 0; n < c.length; ++n) {
    const int64_t token = reversed ? first + kTokens - 1 - n : n - first;
    leaf.mask[n] = token >= 0 && token < kTokens;
    leaf.ids[n] = leaf.mask[n] != 0 ? static_cast<int32_t>(1 + 5 * token % 8) : 0;
  }
  return run.forward(leaf, /*training=*/false);
}

TEST(Model, RotaryPositionsTellOrderAndDistanceButNotThePlace) {
  EXPECT_NEAR(loss_from(4, Positions::kRotary), loss_from(0, Positions::kRotary), 1e-6);
  EXPECT_GT(std::abs(loss_from(0, Positions::kRotary, true) - loss_from(0, Positions::kRotary)),
            1e-5);
  for (const Positions absolute : {Positions::kLearned, Positions::kSinusoidal}) {
    EXPECT_GT(std::abs(loss_from(4, absolute) - loss_from(0, absolute)), 1e-5);
  }
}

TEST(Model, ALanguageModelHasNoParametersBesideItsEncoderAndTable) {
  const auto names = [](const ModelCase& c) {
    std::vector<std::string> all;
    const ModelRun run(c);
    for (const auto& entry : run.store.entries()) all.push_back(entry.name);
    return all;
  };
  std::vector<std::string> classifier = names(small_case(AttentionKind::kSoftmax));
  std::erase_if(classifier, [](const std::string& name) { return name.starts_with("head."); });
  EXPECT_EQ(names(small_language_model(AttentionKind::kSoftmax)), classifier);
}

TEST(Model, ALanguageModelIsCausalWhateverItsConfiguration) {
  ModelCase c = small_language_model(AttentionKind::kSbm);
  c.config.causal = false;
  EXPECT_THROW(ModelRun{c}, ConfigError);
}

TEST(Model, OnlyMatricesOfLinearMapsDecay) {
  const ModelRun run(small_case(AttentionKind::kSbm));
  int64_t decayed = 0;
  for (const ParameterStore::Entry& entry : run.store.entries()) {
    const bool matrix = entry.name.ends_with(".weight") && !entry.name.ends_with("norm.weight");
    EXPECT_EQ(entry.decay == Decay::kYes, matrix) << entry.name;
    decayed += matrix;
  }
  EXPECT_EQ(decayed, 2 * (4 + 2 + 2) + 2);
}

TEST(Model, ReportsRangesThatTileTheArenaInAscendingOrder) {
  for (const ModelCase& c : every_case()) {
    ModelRun run(c);
    const LeafArrays leaf(c.task, c.batch, c.length);
    run.forward(leaf);
    run.backward(leaf);
    ASSERT_GT(run.observer.ranges.size(), 4u);
    int64_t end = 0;
    for (const Range& range : run.observer.ranges) {
      EXPECT_EQ(range.begin, end);
      EXPECT_GT(range.end, range.begin);
      end = range.end;
    }
    EXPECT_EQ(end, run.store.numel());
  }
}

/// Fails when a gradient still changes after its range was reported.
class FinalityObserver final : public Observer {
 public:
  explicit FinalityObserver(View<const float> grads) : grads_(grads) {}
  void grads_ready(Range range) override {
    seen_.insert(seen_.end(), grads_.data + range.begin, grads_.data + range.end);
  }
  const std::vector<float>& seen() const { return seen_; }

 private:
  View<const float> grads_;
  std::vector<float> seen_;
};

TEST(Model, ReportsARangeOnlyWhenItIsFinal) {
  for (const ModelCase& c : every_case()) {
    ModelRun run(c);
    const LeafArrays leaf(c.task, c.batch, c.length);
    run.forward(leaf);
    std::memset(run.gradients.data(), 0, run.gradients.bytes());
    FinalityObserver observer(run.grads());
    const Stream stream(kCpuDevice);
    Context ctx{.stream = stream,
                .saved = *run.saved_arena,
                .scratch = *run.scratch_arena,
                .rng = run.rng,
                .training = true,
                .observer = observer,
                .facts = {}};
    run.model.backward(ctx, leaf.input(), *run.saved);
    EXPECT_EQ(observer.seen(), run.grad_values());
  }
}

TEST(Model, PlanningNeedsExactlyTheMemoryOfTheRun) {
  for (ModelCase c : every_case()) {
    for (const int threads : {1, 3}) {
      c.threads = threads;
      c.task.max_length = 300;
      c.length = 261;
      ModelRun run(c);
      const LeafArrays leaf(c.task, c.batch, c.length);
      run.forward(leaf);
      run.backward(leaf);
      EXPECT_EQ(run.saved_arena->peak(), run.planned_saved);
      EXPECT_EQ(run.scratch_arena->peak(), run.planned_scratch);
      EXPECT_EQ(run.scratch_arena->used(), 0u);
    }
  }
}

TEST(Model, PlanningReportsTheRangesOfTheRun) {
  ModelCase c = small_case(AttentionKind::kSbm);
  c.attention.sbm.sparsity_weight = 1.0;
  ModelRun run(c);
  const LeafArrays leaf(c.task, c.batch, c.length);
  run.forward(leaf);
  run.backward(leaf);
  EXPECT_EQ(run.planning_observer.ranges, run.observer.ranges);
}

TEST(Model, ASteadyStepAllocatesNothing) {
  for (ModelCase c : every_case()) {
    c.threads = 2;
    ModelRun run(c);
    const LeafArrays leaf(c.task, c.batch, c.length);
    run.forward(leaf);
    run.backward(leaf);
    run.observer.clear();
    const int64_t before = test::allocations;
    run.forward(leaf);
    const int64_t after_forward = test::allocations;
    run.backward(leaf);
    EXPECT_EQ(after_forward - before, 0) << "in forward";
    EXPECT_EQ(test::allocations - after_forward, 0) << "in backward";
  }
}

TEST(Model, GivesTheSameBitsForAnyNumberOfThreads) {
  for (ModelCase c : every_case()) {
    c.task.max_length = 300;
    c.length = 131;
    const LeafArrays leaf(c.task, c.batch, c.length);
    ModelRun one(c);
    const double loss = one.forward(leaf);
    one.backward(leaf);
    for (c.threads = 2; c.threads <= 3; ++c.threads) {
      ModelRun many(c);
      EXPECT_EQ(loss, many.forward(leaf));
      many.backward(leaf);
      EXPECT_EQ(one.grad_values(), many.grad_values());
    }
  }
}

TEST(Model, AReplayGivesTheSameBitsAndAnotherStepDoesNot) {
  for (ModelCase c : every_case()) {
    const LeafArrays leaf(c.task, c.batch, c.length);
    ModelRun run(c);
    const double loss = run.forward(leaf);
    run.rng.step = 5;
    EXPECT_NE(run.forward(leaf), loss);
    run.rng.step = 4;
    EXPECT_EQ(run.forward(leaf), loss);
  }
}

TEST(Model, EvaluationOfSoftmaxIsNotRandom) {
  const ModelCase c = small_case(AttentionKind::kSoftmax);
  const LeafArrays leaf(c.task, c.batch, c.length);
  ModelRun run(c);
  const double loss = run.forward(leaf, /*training=*/false);
  run.rng.step = 5;
  EXPECT_EQ(run.forward(leaf, /*training=*/false), loss);
}

TEST(Model, WhatPaddingHoldsDoesNotMatter) {
  for (const ModelCase& base : every_case()) {
    for (const LabelKind label : labels_of(base)) {
      ModelCase c = base;
      c.task.fields.label = label;
      LeafArrays leaf(c.task, c.batch, c.length);
      ModelRun run(c);
      const double loss = run.forward(leaf);
      const std::vector<int32_t> prediction = run.prediction.values();
      run.backward(leaf);
      const std::vector<float> gradient = run.grad_values();
      for (int64_t i = 0; i < leaf.ids.numel(); ++i) {
        if (leaf.mask[i] == 0) leaf.ids[i] = static_cast<int32_t>(1 + i % 8);
      }
      EXPECT_EQ(run.forward(leaf), loss);
      EXPECT_EQ(run.prediction.values(), prediction);
      run.backward(leaf);
      test::Array<float> before({run.store.numel()}), after({run.store.numel()});
      before.values() = gradient;
      after.values() = run.grad_values();
      test::expect_close(after, before, 1e-6);
    }
  }
}

LeafArrays with_tail(const LeafArrays& leaf, const ModelTask& task, int64_t length) {
  LeafArrays longer(task, leaf.ids.shape()[0], length);
  const int64_t old_length = leaf.ids.shape()[1];
  for (int64_t b = 0; b < leaf.ids.shape()[0]; ++b) {
    for (int64_t n = 0; n < length; ++n) {
      const bool inside = n < old_length;
      const int64_t from = b * old_length + n;
      longer.ids[b * length + n] = inside ? leaf.ids[from] : 0;
      longer.mask[b * length + n] = inside ? leaf.mask[from] : uint8_t{0};
      if (is_per_token(task)) longer.labels[b * length + n] = inside ? leaf.labels[from] : -1;
    }
  }
  if (!is_per_token(task)) longer.labels = leaf.labels;
  longer.loss_scale = leaf.loss_scale;
  return longer;
}

TEST(Model, TheLengthOfTheLeafDoesNotMatter) {
  for (const ModelCase& base : every_case()) {
    for (const LabelKind label : labels_of(base)) {
      ModelCase c = base;
      c.task.fields.label = label;
      c.task.max_length = 100;
      c.length = 45;
      c.attention.sbm.delta = 1.0;  // a tenth, by delta_keys of max_length
      c.attention.sbm.delta_keys = 10;
      const LeafArrays leaf(c.task, c.batch, c.length);
      ModelRun run(c);
      const double loss = run.forward(leaf);
      run.backward(leaf);
      c.length = 100;
      ModelRun padded(c);
      const LeafArrays longer = with_tail(leaf, c.task, c.length);
      EXPECT_NEAR(padded.forward(longer), loss, 1e-6 * loss);
      padded.backward(longer);
      EXPECT_EQ(padded.count, run.count);
      for (size_t i = 0; i < run.observer.graphs.size(); ++i) {
        EXPECT_EQ(padded.observer.graphs[i].edges, run.observer.graphs[i].edges);
        EXPECT_EQ(padded.observer.graphs[i].pairs, run.observer.graphs[i].pairs);
      }
      test::Array<float> trimmed({run.store.numel()}), full({run.store.numel()});
      trimmed.values() = run.grad_values();
      full.values() = padded.grad_values();
      test::expect_close(full, trimmed, 1e-5);
    }
  }
}

LeafArrays example_of(const LeafArrays& leaf, const ModelTask& task, int64_t b) {
  const int64_t length = leaf.ids.shape()[1];
  LeafArrays one(task, 1, length);
  for (int64_t n = 0; n < length; ++n) {
    one.ids[n] = leaf.ids[b * length + n];
    one.mask[n] = leaf.mask[b * length + n];
  }
  one.labels[0] = leaf.labels[b];
  one.samples[0] = leaf.samples[b];
  one.loss_scale = leaf.loss_scale;
  one.batch_share = leaf.batch_share / static_cast<float>(leaf.ids.shape()[0]);
  return one;
}

TEST(Model, HowTheBatchIsCutIntoLeavesDoesNotMatter) {
  for (const AttentionKind kind : kKinds) {
    for (const SbmRegularizer regularizer : {SbmRegularizer::kExpected, SbmRegularizer::kSte}) {
      ModelCase c = small_case(kind);
      c.attention.sbm.sparsity_weight = 10.0;
      c.attention.sbm.regularizer = regularizer;
      LeafArrays leaf(c.task, c.batch, c.length);
      leaf.batch_share = 0.5f;
      ModelRun whole(c);
      const double loss = whole.forward(leaf);
      whole.backward(leaf);
      const int64_t batch = c.batch;
      c.batch = 1;
      ModelRun parts(c);
      double sum = 0;
      for (int64_t b = 0; b < batch; ++b) {
        const LeafArrays one = example_of(leaf, c.task, b);
        sum += parts.forward(one);
        parts.accumulate(one);
      }
      EXPECT_NEAR(sum, loss, 1e-6 * loss);
      test::Array<float> together({whole.store.numel()}), apart({whole.store.numel()});
      together.values() = whole.grad_values();
      apart.values() = parts.grad_values();
      test::expect_close(apart, together, 1e-5);
    }
  }
}

TEST(Model, ReportsTheGraphOfEveryLayerAndHead) {
  const ModelCase c = small_case(AttentionKind::kSbm);
  ModelRun run(c);
  const LeafArrays leaf(c.task, c.batch, c.length);
  run.forward(leaf);
  EXPECT_EQ(run.observer.sampling_reports, 2);
  ASSERT_EQ(run.observer.graphs.size(), 4u);
  int64_t pairs = 0, rows = 0;
  for (int64_t b = 0; b < c.batch; ++b) {
    int64_t real = 0;
    for (int64_t n = 0; n < c.length; ++n) real += leaf.mask[b * c.length + n];
    pairs += real * real;
    rows += real;
  }
  for (size_t i = 0; i < 4; ++i) {
    const test::RecordingObserver::Graph& graph = run.observer.graphs[i];
    EXPECT_EQ(graph.layer, static_cast<int>(i / 2));
    EXPECT_EQ(graph.head, static_cast<int>(i % 2));
    EXPECT_EQ(graph.pairs, pairs);
    EXPECT_EQ(graph.rows, rows);
    EXPECT_GT(graph.edges, 0);
    EXPECT_LT(graph.edges, pairs);
  }
}

TEST(Model, CountsLabelsAndWritesPredictions) {
  for (const LabelKind label : {LabelKind::kClass, LabelKind::kTokenClass, LabelKind::kNextToken}) {
    ModelCase c = small_language_model(AttentionKind::kSoftmax);
    c.task.fields.label = label;
    ModelRun run(c);
    LeafArrays leaf(c.task, c.batch, c.length);
    leaf.labels[1] = -1;
    run.prediction.fill(-7);
    run.forward(leaf, /*training=*/false);
    int64_t labelled = 0, correct = 0;
    for (int64_t i = 0; i < leaf.labels.numel(); ++i) {
      labelled += leaf.labels[i] >= 0;
      correct += leaf.labels[i] >= 0 && leaf.labels[i] == run.prediction[i];
      EXPECT_GE(run.prediction[i], 0);
      EXPECT_LT(run.prediction[i], c.task.num_classes);
    }
    EXPECT_EQ(run.count, labelled);
    EXPECT_EQ(run.correct, correct);
  }
}

TEST(Model, CountsNumbersThatAreToBeMet) {
  ModelCase c = small_case(AttentionKind::kSoftmax);
  c.task.fields.label = LabelKind::kValue;
  ModelRun run(c);
  LeafArrays leaf(c.task, c.batch, c.length);
  leaf.values[1] = std::nanf("");
  const double loss = run.forward(leaf);
  EXPECT_GT(loss, 0);
  EXPECT_EQ(run.count, c.batch - 1);
  run.backward(leaf);
  const std::vector<float> gradient = run.grad_values();
  leaf.ids[c.length] = leaf.ids[c.length] % 8 + 1;
  EXPECT_EQ(run.forward(leaf), loss) << "the example without a number";
  run.backward(leaf);
  EXPECT_EQ(run.grad_values(), gradient);
}

TEST(Model, JudgesAnExampleByItsOwnSequences) {
  ModelCase c = small_case(AttentionKind::kSoftmax);
  c.task.fields.sequences = 2;
  ModelRun run(c);
  LeafArrays leaf(c.task, c.batch, c.length);
  const auto loss_of_each = [&] {
    std::vector<double> losses;
    for (int64_t b = 0; b < c.batch; ++b) {
      LeafArrays only = leaf;
      only.labels.fill(-1);
      only.labels[b] = leaf.labels[b];
      losses.push_back(run.forward(only, /*training=*/false));
    }
    return losses;
  };
  const std::vector<double> before = loss_of_each();
  for (int64_t row = 0; row < leaf.sizes.rows(); ++row) {
    int32_t& token = leaf.ids[row * c.length];
    token = token % 8 + 1;
    const std::vector<double> after = loss_of_each();
    for (int64_t b = 0; b < c.batch; ++b) {
      const auto i = static_cast<size_t>(b);
      EXPECT_EQ(after[i] != before[i], b == row / 2) << "row " << row << ", example " << b;
    }
    token = (token + 6) % 8 + 1;
  }
  EXPECT_EQ(loss_of_each(), before) << "the rows were put back";
}

TEST(Model, LearnsItsLeafByHeart) {
  for (const AttentionKind kind : kKinds) {
    ModelCase c = small_case(kind);
    c.config.dropout = 0.0;
    ModelRun run(c);
    const LeafArrays leaf(c.task, c.batch, c.length);
    const double before = run.forward(leaf);
    for (int step = 0; step < 200; ++step) {
      run.forward(leaf);
      run.backward(leaf);
      for (int64_t i = 0; i < run.store.numel(); ++i) {
        run.store.values()[i] -= 0.3f * run.grads()[i];
      }
    }
    EXPECT_LT(run.forward(leaf), 0.2 * before);
  }
}

TEST(Model, RefusesWhatDoesNotFit) {
  ModelCase c = small_case(AttentionKind::kSoftmax);
  ModelRun run(c);
  const LeafArrays too_long(c.task, c.batch, c.task.max_length + 1);
  EXPECT_THROW(run.forward(too_long), ShapeError);
  LeafArrays odd(c.task, c.batch, c.length);
  odd.mask = test::Array<uint8_t>({c.batch, c.length - 1});
  EXPECT_THROW(run.forward(odd), ShapeError);
  const LeafArrays three_rows(c.task, 3, c.length);
  c.task.fields.sequences = 2;
  ModelRun of_pairs(c);
  EXPECT_THROW(of_pairs.forward(three_rows), ShapeError);
  c.config.heads = 3;
  EXPECT_THROW(ModelRun{c}, ConfigError);
}

}  // namespace
}  // namespace stipple::model
