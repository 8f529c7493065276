// SPDX-License-Identifier: Apache-2.0
// The gradient of every parameter against central differences, in one loop over the flat arena.
// With delta = 1 every edge is drawn whatever the parameters, so the loss is differentiable; a clip
// at 0 closes the straight-through route, which no difference of the loss can see
// (sbm_attention_test.cpp has it); the memberships' route is seen through the expected-density
// regulariser. Combiner pools by means: maxima have kinks. Sparsefinder's graph is all pairs: others
// jump.
#include "tests/model/model_run.h"
#include "tests/model/slope.h"
#include "tests/support/attentions.h"

namespace stipple::model {
namespace {

using test::is_per_token;
using test::LeafArrays;
using test::ModelCase;
using test::ModelRun;
using test::slope;
using test::slopes_apart;
using test::small_case;

ModelCase differentiable_case(AttentionKind kind) {
  ModelCase c = small_case(kind);
  c.batch = 2;
  c.length = 7;
  c.task.max_length = 9;
  SbmConfig& sbm = c.attention.sbm;
  sbm.exploration = Exploration::kFixed;
  sbm.delta = 1.0;
  sbm.ste_clip = SteClip::kUnscaled;
  sbm.ste_clip_at = 0.0;
  sbm.sparsity_weight = 20.0;
  c.attention.combiner.pool = CombinerPool::kMean;
  c.attention.sparsefinder.cluster.clusters = 1;
  return c;
}

/// Initial values are small; larger ones make every path matter more than rounding. Every other
/// rectifier is held open and the rest shut, so that no step of a difference crosses its kink.
void enlarge(const ModelCase& c, ModelRun& run) {
  constexpr float kTokenScale = 0.5f;
  for (const ParameterStore::Entry& entry : run.store.entries()) {
    const bool embedding =
        entry.name.starts_with("embedding") && entry.init.kind == Init::Kind::kNormal;
    const bool rectified = (entry.name == "head.hidden.bias" && !c.config.pooler) ||
                           entry.name.ends_with("phi.hidden.bias");
    const auto stddev = static_cast<float>(entry.init.scale);
    float offset = rectified ? 4.0f : 0.1f;
    for (float& x : run.store.value(*run.store.find(entry.name)).span()) {
      x = embedding ? kTokenScale / stddev * x : 1.2f * x + offset;
      if (rectified) offset = -offset;
    }
  }
}

void check_every_parameter(const ModelCase& c) {
  ModelRun run(c);
  enlarge(c, run);
  LeafArrays leaf(c.task, c.batch, c.length);
  if (is_per_token(c.task) && c.task.fields.label != LabelKind::kMaskedToken) {
    // Token vectors of padding are zero even where a label says otherwise.
    ASSERT_EQ(leaf.mask[leaf.mask.numel() - 1], 0);
    leaf.labels[leaf.labels.numel() - 1] = 2;
  }
  const double loss = run.forward(leaf);
  run.backward(leaf);
  const std::vector<float> gradient = run.grad_values();
  const bool compares = attention_row(c.attention.kind).traits(c.attention).compares;
  for (const ParameterStore::Entry& entry : run.store.entries()) {
    double scale = 0, worst = 0;
    const auto apart = static_cast<int64_t>(slopes_apart(static_cast<size_t>(entry.range.size())));
    for (int64_t i = entry.range.begin; i < entry.range.end; i += apart) {
      const double expected = slope(run.store.values()[i], [&] { return run.forward(leaf); });
      const double actual = static_cast<double>(gradient[static_cast<size_t>(i)]);
      scale = std::max(scale, std::abs(expected));
      worst = std::max(worst, std::abs(actual - expected));
    }
    EXPECT_LE(worst, 5e-3 * scale + 6e-5 * std::max(1.0, loss)) << entry.name;
    // A bias of keys moves all scores of a row alike; without scores, queries and keys do nothing.
    const bool is_score = entry.name.find(".query.") != std::string::npos ||
                          entry.name.find(".key.") != std::string::npos;
    const bool may_be_zero =
        entry.name.ends_with("key.bias") || (is_score && !compares) || !entry.is_learned;
    EXPECT_TRUE(scale > 3e-4 || may_be_zero) << entry.name << " " << scale;
  }
}

TEST(ModelGradient, SoftmaxPerSequence) {
  check_every_parameter(differentiable_case(AttentionKind::kSoftmax));
}

TEST(ModelGradient, SoftmaxPerToken) {
  ModelCase c = differentiable_case(AttentionKind::kSoftmax);
  c.task.fields.label = LabelKind::kTokenClass;
  check_every_parameter(c);
}

TEST(ModelGradient, SoftmaxPooledOverValidTokens) {
  ModelCase c = differentiable_case(AttentionKind::kSoftmax);
  c.config.mean_over = kernels::MeanOver::kValid;
  check_every_parameter(c);
}

TEST(ModelGradient, SoftmaxPooledByTheFirstToken) {
  ModelCase c = differentiable_case(AttentionKind::kSoftmax);
  c.config.mean_over = kernels::MeanOver::kCls;
  check_every_parameter(c);
}

TEST(ModelGradient, SbmPerSequence) {
  check_every_parameter(differentiable_case(AttentionKind::kSbm));
}

TEST(ModelGradient, OfSegments) {
  ModelCase c = differentiable_case(AttentionKind::kSoftmax);
  c.task.fields.segments = 2;
  check_every_parameter(c);
}

TEST(ModelGradient, OfPairs) {
  for (const LabelKind label : {LabelKind::kClass, LabelKind::kTokenClass, LabelKind::kValue}) {
    ModelCase c = differentiable_case(AttentionKind::kSoftmax);
    c.task.fields = {.label = label, .sequences = 2};
    check_every_parameter(c);
  }
}

TEST(ModelGradient, OfNumbers) {
  ModelCase c = differentiable_case(AttentionKind::kSoftmax);
  c.task.fields.label = LabelKind::kValue;
  check_every_parameter(c);
}

/// Post-norm, segments of which the task knows nothing, a table of more positions than it has.
ModelCase bert_case(AttentionKind kind) {
  ModelCase c = differentiable_case(kind);
  c.config.norm = NormPlace::kPost;
  c.config.norm_eps = 1e-3;
  c.config.segments = 2;
  c.config.max_positions = 11;
  c.config.mean_over = kernels::MeanOver::kCls;
  c.config.pooler = true;
  return c;
}

TEST(ModelGradient, OfBertWithEveryAttention) {
  for (const AttentionKind kind : test::every_attention()) {
    SCOPED_TRACE(test::name_of(kind));
    check_every_parameter(bert_case(kind));
  }
}

TEST(ModelGradient, OfBertWithSegmentsAndOfItsPairsAndNumbers) {
  for (const int64_t sequences : {1, 2}) {
    for (const LabelKind label : {LabelKind::kClass, LabelKind::kValue}) {
      ModelCase c = bert_case(AttentionKind::kSoftmax);
      c.task.fields = {.label = label, .sequences = sequences, .segments = 2};
      check_every_parameter(c);
    }
  }
}

TEST(ModelGradient, OfMaskedLanguageModels) {
  for (const NormPlace norm : {NormPlace::kPre, NormPlace::kPost}) {
    ModelCase c = bert_case(AttentionKind::kSoftmax);
    c.config.pooler = false;
    c.config.norm = norm;
    c.task.fields = {.label = LabelKind::kMaskedToken, .segments = 2};
    c.task.num_classes = c.task.vocab_size;
    check_every_parameter(c);
  }
}

TEST(ModelGradient, OfMaskedLanguageModelsOfPairs) {
  ModelCase c = bert_case(AttentionKind::kSoftmax);
  c.task.fields = {.label = LabelKind::kMaskedToken, .segments = 2, .has_relation = true};
  c.task.num_classes = c.task.vocab_size;
  check_every_parameter(c);
}

TEST(ModelGradient, OfPostNormLanguageModels) {
  ModelCase c = bert_case(AttentionKind::kSoftmax);
  c.config.pooler = false;
  c.task.fields.label = LabelKind::kNextToken;
  c.task.num_classes = c.task.vocab_size;
  check_every_parameter(c);
}

TEST(ModelGradient, OfEveryKindOfPositions) {
  for (const AttentionKind kind : test::every_attention()) {
    for (const Positions positions : {Positions::kSinusoidal, Positions::kRotary}) {
      SCOPED_TRACE(static_cast<int>(positions));
      ModelCase c = differentiable_case(kind);
      c.config.positions = positions;
      check_every_parameter(c);
    }
  }
}

TEST(ModelGradient, OfEveryAttentionThatCanBeCausal) {
  for (const AttentionKind kind : test::every_causal_attention()) {
    SCOPED_TRACE(test::name_of(kind));
    ModelCase c = differentiable_case(kind);
    c.config.causal = true;
    c.task.fields.label = LabelKind::kTokenClass;
    check_every_parameter(c);
  }
}

TEST(ModelGradient, OfLanguageModels) {
  for (const AttentionKind kind : test::every_causal_attention()) {
    for (const Positions positions :
         {Positions::kLearned, Positions::kSinusoidal, Positions::kRotary}) {
      SCOPED_TRACE(test::name_of(kind) + ", positions " +
                   std::to_string(static_cast<int>(positions)));
      ModelCase c = differentiable_case(kind);
      c.config.positions = positions;
      c.task.fields.label = LabelKind::kNextToken;
      c.task.num_classes = c.task.vocab_size;
      check_every_parameter(c);
    }
  }
}

TEST(ModelGradient, OfEntmaxThatLearnsAlphaAndTemperature) {
  ModelCase c = differentiable_case(AttentionKind::kEntmax);
  c.attention.entmax.learn_alpha = true;
  c.attention.entmax.temperature = EntmaxTemperature::kLearned;
  check_every_parameter(c);
}

TEST(ModelGradient, SbmPerToken) {
  ModelCase c = differentiable_case(AttentionKind::kSbm);
  c.task.fields.label = LabelKind::kTokenClass;
  check_every_parameter(c);
}

}  // namespace
}  // namespace stipple::model
