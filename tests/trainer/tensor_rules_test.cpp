// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/tensor_rules.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "core/error.h"
#include "trainer/optimizer/name_patterns.h"

namespace stipple::trainer {
namespace {

using model::Decay;
using model::Init;

/// The names of a model of three blocks.
struct Store {
  Store() {
    const auto declare = [this](const std::string& name, Decay decay) {
      store.declare(name, {40}, Init::constant(0), decay);
    };
    declare("embedding.tokens", Decay::kNo);
    declare("embedding.norm.bias", Decay::kNo);
    for (const char* block : {"encoder.0", "encoder.1", "encoder.2"}) {
      declare(std::string(block) + ".query.weight", Decay::kYes);
      declare(std::string(block) + ".query.bias", Decay::kNo);
    }
    store.declare_fixed("encoder.1.attention.project", {40}, Init::constant(0));
    declare("encoder.norm.weight", Decay::kNo);
    declare("head.out.weight", Decay::kYes);
    store.allocate(kMetaDevice);
  }
  model::ParameterStore store;
};

std::map<std::string, TensorRule> rules_of(const OptimizerConfig& config) {
  const Store store;
  std::map<std::string, TensorRule> by_name;
  for (const TensorRule& rule : tensor_rules(config, store.store)) by_name[rule.name] = rule;
  return by_name;
}

std::string rules_mistake(const OptimizerConfig& config) {
  try {
    rules_of(config);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "none";
}

TEST(TensorRules, ByDefaultAreWhatModulesSay) {
  const Store store;
  const std::vector<TensorRule> rules = tensor_rules({.weight_decay = 0.1}, store.store);
  ASSERT_EQ(rules.size(), store.store.entries().size());
  for (size_t i = 0; i + 1 < rules.size(); ++i)
    EXPECT_LT(rules[i].range.begin, rules[i + 1].range.begin);
  for (const TensorRule& rule : rules) {
    const auto& entry = store.store.entry(*store.store.find(rule.name));
    EXPECT_EQ(rule.weight_decay, entry.decay == Decay::kYes ? 0.1 : 0.0) << rule.name;
    EXPECT_EQ(rule.rate_factor, 1.0) << rule.name;
    EXPECT_EQ(rule.is_frozen, !entry.is_learned) << rule.name;
  }
  EXPECT_EQ(frozen_stages(rules), 0);
  EXPECT_TRUE(notes_of({.weight_decay = 0.1}, rules).empty());
}

TEST(TensorRules, GroupsHaveADecayAndARateOfTheirOwn) {
  const OptimizerConfig config{
      .weight_decay = 0.1,
      .groups = {{"tables", {.tensors = "embedding.tokens", .weight_decay = 0.02}},
                 {"head", {.tensors = "head.*, encoder.norm.*", .rate_factor = 10}},
                 {"top", {.tensors = "encoder.2.*.weight", .weight_decay = 0}}}};
  const auto rules = rules_of(config);
  EXPECT_EQ(rules.at("embedding.tokens").weight_decay, 0.02);
  EXPECT_EQ(rules.at("embedding.norm.bias").weight_decay, 0.0);
  EXPECT_EQ(rules.at("head.out.weight").rate_factor, 10);
  EXPECT_EQ(rules.at("head.out.weight").weight_decay, 0.1);
  EXPECT_EQ(rules.at("encoder.norm.weight").rate_factor, 10);
  EXPECT_EQ(rules.at("encoder.2.query.weight").weight_decay, 0.0);
  EXPECT_EQ(rules.at("encoder.1.query.weight").weight_decay, 0.1);
  EXPECT_EQ(rules.at("encoder.1.query.weight").group, "");
  const Store store;
  EXPECT_EQ(notes_of(config, tensor_rules(config, store.store)),
            (std::vector<std::string>{
                "group tables: 1 tensors, 40 numbers, learning rate x 1, decay 0.02",
                "group head: 2 tensors, 80 numbers, learning rate x 10",
                "group top: 1 tensors, 40 numbers, learning rate x 1, decay 0"}));
}

TEST(TensorRules, AGroupThatMeansNothingOrTwoThingsIsRefused) {
  const auto group = [](const std::string& tensors) {
    return OptimizerConfig{.groups = {{"mine", {.tensors = tensors}}}};
  };
  EXPECT_EQ(rules_mistake(group("hed.*")),
            "optimizer.groups.mine.tensors: 'hed.*' matches no tensor of the model; did you mean "
            "'head.*'?");
  EXPECT_EQ(rules_mistake(group("*.bais")),
            "optimizer.groups.mine.tensors: '*.bais' matches no tensor of the model; did you mean "
            "'*.bias'?");
  EXPECT_EQ(rules_mistake(group("embedding.token")),
            "optimizer.groups.mine.tensors: 'embedding.token' matches no tensor of the model; did "
            "you mean 'embedding.tokens'?");
  EXPECT_NE(rules_mistake(group("zzzzzzzz")).find("they are called like 'embedding.tokens'"),
            std::string::npos);
  // What is not learned is in no group.
  EXPECT_NE(rules_mistake(group("*.project")).find("matches no tensor"), std::string::npos);
  EXPECT_EQ(rules_mistake(group("")).find("optimizer.groups.mine.tensors: is empty"), 0U);
  EXPECT_NE(rules_mistake(group("head.*,,")).find("a pattern is empty"), std::string::npos);
  EXPECT_EQ(
      rules_mistake({.groups = {{"a", {.tensors = "head.*"}}, {"b", {.tensors = "*.weight"}}}}),
      "optimizer.groups: 'head.out.weight' is in 'a' and in 'b'; make their patterns exclude "
      "it");
}

TEST(TensorRules, LayerDecayIsAPowerOfTheDepthFromTheTop) {
  // BEiT's layer_decay: 1 for the head, f for the last block, f^(L + 1) for the embedding.
  const auto rules = rules_of(
      {.layer_decay = 0.5, .groups = {{"top", {.tensors = "encoder.2.*.bias", .rate_factor = 3}}}});
  EXPECT_EQ(rules.at("head.out.weight").rate_factor, 1.0);
  EXPECT_EQ(rules.at("encoder.norm.weight").rate_factor, 1.0);
  EXPECT_EQ(rules.at("encoder.2.query.weight").rate_factor, 0.5);
  EXPECT_EQ(rules.at("encoder.2.query.bias").rate_factor, 1.5);
  EXPECT_EQ(rules.at("encoder.1.query.weight").rate_factor, 0.25);
  EXPECT_EQ(rules.at("encoder.0.query.bias").rate_factor, 0.125);
  EXPECT_EQ(rules.at("embedding.tokens").rate_factor, 0.0625);
}

TEST(TensorRules, FreezesByPartByDepthAndByName) {
  const Store store;
  const auto stages = [&](const FreezeConfig& freeze) {
    return frozen_stages(tensor_rules({.freeze = freeze}, store.store));
  };
  EXPECT_EQ(stages({.embeddings = true}), 1);
  EXPECT_EQ(stages({.embeddings = true, .layers = 2}), 3);
  EXPECT_EQ(stages({.layers = 2}), 0);  // backward goes down to the embedding
  EXPECT_EQ(stages({.tensors = "embedding.*, encoder.0.*"}), 2);
  EXPECT_EQ(stages({.tensors = "embedding.*, encoder.0.*.bias"}), 1);
  EXPECT_EQ(stages({.embeddings = true, .layers = 3}), 4);

  const OptimizerConfig config{.freeze = {.embeddings = true, .layers = 1, .tensors = "*.norm.*"}};
  const std::vector<TensorRule> rules = tensor_rules(config, store.store);
  for (const TensorRule& rule : rules) {
    const bool is_low = rule.name.starts_with("embedding.") || rule.name.starts_with("encoder.0.");
    const bool is_named = rule.name == "encoder.norm.weight";
    const bool is_fixed = rule.name == "encoder.1.attention.project";
    EXPECT_EQ(rule.is_frozen, is_low || is_named || is_fixed) << rule.name;
  }
  const std::string note = notes_of(config, rules).at(0);
  EXPECT_EQ(note.find("frozen: 6 of 11 tensors, 240 numbers: embedding.*, encoder.0.*"), 0U)
      << note;
  EXPECT_NE(note.find("encoder.norm.weight"), std::string::npos);
}

TEST(TensorRules, FreezingMoreThanThereIsIsRefused) {
  EXPECT_EQ(rules_mistake({.freeze = {.layers = 4}}),
            "optimizer.freeze.layers: 4 of a model of 3 (model.layers)");
  EXPECT_EQ(rules_mistake({.freeze = {.tensors = "*"}}),
            "optimizer.freeze: nothing is left to learn; freeze less");
  EXPECT_NE(rules_mistake({.freeze = {.tensors = "encoder.7.*"}}).find("optimizer.freeze.tensors"),
            std::string::npos);
}

TEST(NamePatterns, StandForLettersWithCommasBetween) {
  const NamePatterns patterns("key", " a.*.b , c?");
  EXPECT_TRUE(patterns.match("a.x.y.b"));
  EXPECT_TRUE(patterns.match("cd"));
  EXPECT_FALSE(patterns.match("c"));
  EXPECT_FALSE(patterns.match("a.b"));
  EXPECT_TRUE(NamePatterns("key", "").empty());
}

}  // namespace
}  // namespace stipple::trainer
