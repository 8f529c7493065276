// SPDX-License-Identifier: Apache-2.0
// A causal model never looks ahead: bit for bit, whole models with every attention that can be causal.
#include <algorithm>
#include <vector>

#include "core/error.h"
#include "tests/model/model_run.h"
#include "tests/support/attentions.h"

namespace stipple::model {
namespace {

using test::LeafArrays;
using test::ModelCase;
using test::ModelRun;

constexpr int64_t kCausalLength = 131;  // no multiple of any tile

ModelCase causal_case(AttentionKind kind, Positions positions,
                      LabelKind label = LabelKind::kTokenClass) {
  ModelCase c = test::small_case(kind);
  c.config.causal = true;
  c.config.positions = positions;
  c.task.fields.label = label;
  c.task.max_length = c.length = kCausalLength;
  c.batch = 2;
  return c;
}

/// Every attention that can be causal, with every kind of positions; and as language models.
std::vector<ModelCase> every_causal_case() {
  std::vector<ModelCase> cases;
  for (const AttentionKind kind : test::every_causal_attention()) {
    for (const Positions positions :
         {Positions::kLearned, Positions::kSinusoidal, Positions::kRotary}) {
      cases.push_back(causal_case(kind, positions));
    }
    cases.push_back(causal_case(kind, Positions::kLearned, LabelKind::kNextToken));
  }
  return cases;
}

std::string name_of(const ModelCase& c) {
  return test::name_of(c.attention.kind) + ", positions " +
         std::to_string(static_cast<int>(c.config.positions));
}

/// Row 0 is full, row 1 has padding in its middle and at its end.
LeafArrays leaf_of(const ModelCase& c) {
  LeafArrays leaf(c.task, c.batch, c.length);
  for (int64_t i = 0; i < leaf.labels.numel(); ++i) leaf.labels[i] = leaf.mask[i] != 0 ? 1 : -1;
  return leaf;
}

/// Its labels of tokens [begin, end) only.
LeafArrays labelled(LeafArrays leaf, int64_t begin, int64_t end) {
  for (int64_t i = 0; i < leaf.labels.numel(); ++i) {
    const int64_t token = i % kCausalLength;
    if (token < begin || token >= end) leaf.labels[i] = -1;
  }
  return leaf;
}

void change_token(LeafArrays& leaf, int64_t token) {
  for (int64_t row = 0; row < leaf.sizes.rows(); ++row) {
    int32_t& id = leaf.ids[row * kCausalLength + token];
    id = id % 8 + 1;
  }
}

TEST(Causal, ATokenChangesNothingBeforeIt) {
  for (const ModelCase& c : every_causal_case()) {
    SCOPED_TRACE(name_of(c));
    ModelRun run(c);
    const LeafArrays leaf = leaf_of(c);
    for (const bool training : {false, true}) {
      for (const int64_t token : {1, 2, 31, 32, 63, 64, 100, 127, 128, 130}) {
        LeafArrays changed = leaf;
        change_token(changed, token);
        const double before = run.forward(labelled(leaf, 0, token), training);
        const std::vector<int32_t> predicted = run.prediction.values();
        EXPECT_EQ(run.forward(labelled(changed, 0, token), training), before) << token;
        for (int64_t i = 0; i < run.prediction.numel(); ++i) {
          if (i % kCausalLength >= token) continue;
          ASSERT_EQ(run.prediction[i], predicted[static_cast<size_t>(i)]) << token;
        }
        EXPECT_NE(run.forward(labelled(changed, token, token + 1), training),
                  run.forward(labelled(leaf, token, token + 1), training))
            << token << ": the change is none";
      }
    }
  }
}

TEST(Causal, WhoComparesSeesAllEarlierTokens) {
  for (const ModelCase& c : every_causal_case()) {
    if (!attention_row(c.attention.kind).traits(c.attention).compares) continue;
    SCOPED_TRACE(name_of(c));
    ModelRun run(c);
    const LeafArrays leaf = labelled(leaf_of(c), kCausalLength - 1, kCausalLength);
    const double before = run.forward(leaf, /*training=*/false);
    for (const int64_t token : {0, 1, 40, 129}) {
      LeafArrays changed = leaf;
      change_token(changed, token);
      EXPECT_NE(run.forward(changed, /*training=*/false), before) << token;
    }
  }
}

/// Rows of gradients by learned positions are gradients by tokens, summed over the batch.
TEST(Causal, ALossHasNoGradientByLaterTokens) {
  for (const AttentionKind kind : test::every_causal_attention()) {
    SCOPED_TRACE(test::name_of(kind));
    const ModelCase c = causal_case(kind, Positions::kLearned);
    ModelRun run(c);
    for (const int64_t token : {0, 1, 31, 32, 64, 100, 129}) {
      const LeafArrays leaf = labelled(leaf_of(c), token, token + 1);
      run.forward(leaf);
      run.backward(leaf);
      const View<float> gradient = run.store.grad(*run.store.find("embedding.positions"));
      const auto is_zero = [&](int64_t row) {
        return std::ranges::all_of(gradient.at(row).span(), [](float x) { return x == 0.0f; });
      };
      EXPECT_FALSE(is_zero(token)) << token;
      for (int64_t later = token + 1; later < kCausalLength; ++later)
        ASSERT_TRUE(is_zero(later)) << token;
    }
  }
}

TEST(Causal, AnAttentionThatCannotBeSaysSoAndWhoCan) {
  for (const AttentionRow& row : attentions()) {
    const ModelCase c = causal_case(row.kind, Positions::kLearned);
    if (row.traits(c.attention).can_be_causal) continue;
    ParameterStore store;
    FactTable facts(c.config.layers);
    try {
      const Model model(store, facts, c.config, c.attention, c.task);
      ADD_FAILURE() << row.name << " was built";
    } catch (const ConfigError& error) {
      const std::string said = error.what();
      EXPECT_NE(said.find(row.name), std::string::npos) << said;
      for (const AttentionKind able : test::every_causal_attention())
        EXPECT_NE(said.find(test::name_of(able)), std::string::npos) << said;
    }
  }
}

}  // namespace
}  // namespace stipple::model
