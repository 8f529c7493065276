// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "core/cuda/runtime.h"
#include "core/error.h"
#include "model/attention/registry.h"
#include "tests/support/source_folder.h"
#include "trainer/config/config.h"
#include "trainer/config/resume.h"
#include "trainer/config/user_path.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = test::source_folder();

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::pair<std::string, std::string>> pairs_of(Config config) {
  return config_to_pairs([&](ConfigVisitor& v) { config.describe(v); });
}

std::string recipe(const std::string& name) {
  return (kRoot / "configs/recipe" / (name + ".yaml")).string();
}

/// What is said about defaults with these overrides.
std::string mistake(const std::vector<std::string>& overrides) {
  try {
    validate(Config::load({}, overrides));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "none";
}

TEST(TrainerConfig, DefaultsAreValid) { EXPECT_EQ(mistake({}), "none"); }

TEST(TrainerConfig, TheReferencePageIsWhatTheCodeSays) {
  EXPECT_EQ(read_file(kRoot / "docs/config.md"), config_reference())
      << "run build/bin/stipple keys > docs/config.md";
}

TEST(TrainerConfig, EveryKeyHasAMeaning) {
  const std::string page = config_reference();
  EXPECT_EQ(page.find("|  |\n"), std::string::npos);
  for (const auto& [path, value] : pairs_of({})) {
    EXPECT_NE(page.find("| `" + path + "` |"), std::string::npos) << path;
  }
}

TEST(TrainerConfig, SectionsComeInTheOrderOfTheStruct) {
  std::vector<std::string> order;
  for (const auto& [path, value] : pairs_of({})) {
    const std::string top = path.substr(0, path.find('.'));
    if (order.empty() || order.back() != top) order.push_back(top);
  }
  EXPECT_EQ(order,
            (std::vector<std::string>{"run", "device", "precision", "reduction", "threads", "init",
                                      "train", "step", "comm", "eval", "checkpoint", "log", "data",
                                      "model", "attention", "optimizer", "guard"}));
}

TEST(TrainerConfig, EveryRecipeLoadsAndIsValidByItself) {
  std::set<std::string> seen;
  for (const auto& entry : fs::directory_iterator(kRoot / "configs/recipe")) {
    const Config config = Config::load({entry.path().string()}, {});
    EXPECT_NO_THROW(validate(config)) << entry.path();
    EXPECT_TRUE(seen.insert(config.run.dir).second) << config.run.dir << " is used twice";
  }
  EXPECT_GE(seen.size(), 4U);
}

TEST(TrainerConfig, TheResolvedFileReadsBackToTheSameConfiguration) {
  for (const auto& entry : fs::directory_iterator(kRoot / "configs/recipe")) {
    Config config = Config::load({entry.path().string()}, {});
    Config back;
    load_config_text(config_to_yaml([&](ConfigVisitor& v) { config.describe(v); }), "resolved",
                     [&](ConfigVisitor& v) { back.describe(v); });
    EXPECT_EQ(pairs_of(back), pairs_of(config));
  }
}

/// Keys with different values in two recipes.
std::vector<std::string> differences(const std::string& one, const std::string& other) {
  const auto a = pairs_of(Config::load({recipe(one)}, {}));
  const auto b = pairs_of(Config::load({recipe(other)}, {}));
  std::vector<std::string> different;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] != b[i]) different.push_back(a[i].first);
  }
  return different;
}

using Keys = std::vector<std::string>;

TEST(TrainerConfig, RecipesThatAreToBeComparedDifferInWhatTheyCompare) {
  EXPECT_EQ(differences("lra_listops_sbm", "lra_listops_softmax"),
            (Keys{"run.dir", "eval.seeds", "attention.kind", "attention.sbm.compat",
                  "attention.sbm.sparsity_weight"}));
  EXPECT_EQ(differences("lra_listops_sbm", "lra_listops_modern"),
            (Keys{"run.dir", "eval.every", "model.layers", "model.heads", "model.positions",
                  "model.mean_over", "attention.dropout", "attention.sbm.compat",
                  "attention.sbm.sparsity_weight", "optimizer.learning_rate", "optimizer.eps",
                  "optimizer.clip_norm", "optimizer.schedule.warmup_steps"}));
  EXPECT_EQ(differences("cifar10_density_combiner", "cifar10_density_softmax"),
            (Keys{"run.dir", "attention.kind"}));
  EXPECT_EQ(differences("quickstart", "lra_listops_modern"),
            (Keys{"run.dir", "train.steps", "train.batch", "train.micro_batch", "eval.every",
                  "checkpoint.every", "log.every", "data.dir", "data.max_length", "model.heads",
                  "model.dropout", "attention.sbm.clusters", "optimizer.clip_norm"}));
}

TEST(TrainerConfig, EveryRecipeCanBeCutShort) {
  for (const auto& entry : fs::directory_iterator(kRoot / "configs/recipe")) {
    for (const char* steps : {"train.steps=1", "train.steps=50"}) {
      EXPECT_NO_THROW(validate(Config::load({entry.path().string()}, {steps}))) << entry.path();
    }
  }
}

TEST(TrainerConfig, EveryPartOfARecipeLoadsByItself) {
  int parts = 0;
  for (const char* folder : {"task", "size", "attention"}) {
    for (const auto& entry : fs::directory_iterator(kRoot / "configs" / folder)) {
      const Config config = Config::load({entry.path().string()}, {});
      EXPECT_NO_THROW(validate(config)) << entry.path();
      EXPECT_FALSE(config.origins.is_set("run.dir"))
          << entry.path() << " would share a run's folder";
      ++parts;
    }
  }
  EXPECT_GE(parts, 10);
}

TEST(TrainerConfig, EveryAttentionHasAPartThatChoosesIt) {
  for (const model::AttentionRow& row : model::attentions()) {
    const fs::path part = kRoot / "configs/attention" / (std::string(row.name) + ".yaml");
    ASSERT_TRUE(fs::exists(part)) << part;
    EXPECT_EQ(Config::load({part.string()}, {}).attention.kind, row.kind) << part;
  }
}

TEST(TrainerConfig, OriginsNameTheFileAndLine) {
  const Config config = Config::load({recipe("lra_listops_sbm")}, {"train.batch=64"});
  const std::string configs = (kRoot / "configs").string();
  EXPECT_EQ(config.origins.str("train.batch"), "override \"train.batch=64\"");
  EXPECT_EQ(config.origins.str("data.max_length"), configs + "/task/lra_listops.yaml:19");
  EXPECT_EQ(config.origins.str("attention.sbm.clusters"),
            configs + "/attention/sbm_official.yaml:6");
  EXPECT_EQ(config.origins.str("run.seed"), "default");
}

TEST(TrainerConfig, TheListopsRecipePeaksWhereThePublishedOneDoes) {
  const Config config = Config::load({recipe("lra_listops_sbm")}, {});
  const StepRates peak =
      rates_at(config.optimizer.schedule, config.optimizer.learning_rate, 999, config.train.steps);
  EXPECT_NEAR(peak.learning_rate, 5e-4, 1e-15);
  EXPECT_NEAR(peak.beta1.value_or(0), 0.85, 1e-15);
  const StepRates last =
      rates_at(config.optimizer.schedule, config.optimizer.learning_rate, 4999, config.train.steps);
  EXPECT_NEAR(last.learning_rate, 2e-9, 1e-15);
}

TEST(TrainerConfig, OnlyWhatCanBeCausalIs) {
  EXPECT_EQ(mistake({"model.causal=true", "attention.kind=softmax"}), "none");
  EXPECT_TRUE(mistake({"model.causal=true", "attention.kind=sbm"})
                  .starts_with("model.causal: attention.kind=sbm lets tokens see later ones and "
                               "cannot be causal; those that can: softmax, "));
  EXPECT_TRUE(mistake({"model.causal=true", "attention.kind=sparsefinder",
                       "attention.sparsefinder.predictor=quantize"})
                  .ends_with("cannot be causal, unless "
                             "attention.sparsefinder.quantize.kind=interval; those that can: "
                             "softmax, none, combiner, entmax"));
  EXPECT_EQ(mistake({"model.causal=true", "attention.kind=softmax", "model.mean_over=cls"}),
            "model.mean_over: cls reads the first token, which sees nothing but itself under "
            "model.causal; use padded or valid");
}

TEST(TrainerConfig, ATaskThatAsksForTheNextTokenMakesItsModelCausal) {
  const Config config = Config::load({}, {"data.task=text_lm", "attention.kind=softmax"});
  EXPECT_TRUE(config.model.causal);
  EXPECT_EQ(config.origins.str("model.causal"), "implied by data.task");
  EXPECT_EQ(mistake({"data.task=text_lm", "attention.kind=softmax"}), "none");
  EXPECT_EQ(mistake({"data.task=text_lm", "attention.kind=softmax", "model.causal=false"}),
            "model.causal: is set to false, and data.task asks for the next token, which makes it "
            "true; remove it");
  EXPECT_TRUE(mistake({"data.task=text_lm", "attention.kind=sbm"})
                  .starts_with("model.causal: attention.kind=sbm"));
  EXPECT_FALSE(Config::load({}, {"attention.kind=softmax"}).model.causal);
}

TEST(TrainerConfig, APresetAndAnotherValueOfItsKeysContradictEachOther) {
  const auto load = [](const std::vector<std::string>& overrides) {
    return Config::load({}, overrides);
  };
  EXPECT_EQ(mistake({"attention.sbm.compat=official", "attention.sbm.self_loop=true"}),
            "attention.sbm.self_loop: is set to true, and attention.sbm.compat to official, which "
            "makes it false; remove one of the two");
  // The default of the key, but set.
  EXPECT_NE(mistake({"attention.sbm.explore_eval=false", "attention.sbm.compat=official"}), "none");
  EXPECT_EQ(mistake({"attention.sbm.compat=official", "attention.sbm.explore_eval=true",
                     "attention.sbm.clusters=7"}),
            "none");
  const Config official = load({"attention.sbm.compat=official"}).resolved();
  EXPECT_TRUE(official.attention.sbm.explore_eval);
  // On top of what a run holds: its values are no contradiction, those that are set now can be.
  EXPECT_THROW(official.with({}, {"attention.sbm.delta=0.5"}), ConfigError);
  EXPECT_EQ(official.with({}, {"attention.sbm.compat=none", "attention.sbm.delta=0.5"})
                .attention.sbm.delta,
            0.5);
  EXPECT_EQ(pairs_of(official.with({}, {})), pairs_of(official));
}

TEST(TrainerConfig, PathsAreThoseThatAShellWouldMean) {
  const char* home = std::getenv("HOME");
  const std::string before = home == nullptr ? "" : home;
  setenv("HOME", "/home/somebody", 1);
  EXPECT_EQ(Config::load({}, {"run.dir=~/run"}).run.dir, "/home/somebody/run");
  EXPECT_EQ(expand_path("~", "here"), "/home/somebody");
  for (const char* path : {"/a/~b", "a b", "", "./~"}) EXPECT_EQ(expand_path(path, "here"), path);
  EXPECT_EQ(expand_paths("~/a:2, ~/b:1,c", "here"), "/home/somebody/a:2,/home/somebody/b:1,c");
  EXPECT_EQ(expand_paths("", "here"), "");
  setenv("HOME", before.c_str(), 1);
  EXPECT_NE(mistake({"data.dir=$HOME/lists"}).find("data.dir: '$HOME/lists'"), std::string::npos);
  EXPECT_NE(mistake({"run.dir=~nobody"}).find("run.dir"), std::string::npos);
}

std::string yaml_with(const std::vector<std::string>& overrides) {
  Config config = Config::load({}, overrides);
  return config_to_yaml([&](ConfigVisitor& v) { config.describe(v); });
}

std::vector<std::string> keys_of(const std::vector<KeyDifference>& differences) {
  std::vector<std::string> keys;
  keys.reserve(differences.size());
  for (const KeyDifference& difference : differences) keys.push_back(difference.key);
  return keys;
}

TEST(Resume, SaysModelKeysFirstAndWhichMayChange) {
  const ConfigChanges changes = changes_between(
      yaml_with({}), yaml_with({"run.dir=other", "run.seed=7", "train.steps=2000", "threads=3",
                                "data.max_length=64", "model.width=32", "optimizer.beta2=0.9",
                                "optimizer.learning_rate=0.5", "log.every=5"}));
  EXPECT_EQ(keys_of(changes.refused), (std::vector<std::string>{"model.width", "data.max_length",
                                                                "run.seed", "optimizer.beta2"}));
  EXPECT_EQ(keys_of(changes.applied),
            (std::vector<std::string>{"run.dir", "threads", "train.steps", "log.every",
                                      "optimizer.learning_rate"}));
  EXPECT_EQ(text_of(changes.refused[0]), "model.width: 64 before, 32 now");
}

TEST(Resume, KeysOfOtherVersionsAreNoChange) {
  const std::string now = yaml_with({});
  for (const std::string& stored :
       {std::string("model:\n  width: 64\n"), now + "removed_since: 3\n", std::string()}) {
    const ConfigChanges changes = changes_between(stored, now);
    EXPECT_TRUE(changes.refused.empty() && changes.applied.empty()) << stored.substr(0, 40);
  }
  // Before presets were resolved in it, a stored configuration had the keys' own defaults.
  const std::vector<std::string> preset = {"attention.sbm.compat=official"};
  Config resolved = Config::load({}, preset).resolved();
  EXPECT_TRUE(changes_between(yaml_with(preset),
                              config_to_yaml([&](ConfigVisitor& v) { resolved.describe(v); }))
                  .refused.empty());
}

TEST(Resume, EveryChangeableKeyExists) {
  const std::string page = config_reference();
  for (const std::string_view key : changeable_keys()) {
    const std::string row = "\n| `" + std::string(key) + (key.ends_with('.') ? "" : "` |");
    EXPECT_NE(page.find(row), std::string::npos) << key;
  }
}

TEST(Resume, SectionsThatComeOrGoAreChanges) {
  const std::string group = "optimizer.groups.head.tensors=head.*";
  const ConfigChanges come = changes_between(yaml_with({}), yaml_with({group}));
  EXPECT_EQ(keys_of(come.applied).size(), 3U);
  EXPECT_EQ(text_of(come.applied.at(0)),
            "optimizer.groups.head.tensors: absent before, \"head.*\" now");
  EXPECT_EQ(keys_of(changes_between(yaml_with({group}), yaml_with({})).applied).size(), 3U);
}

TEST(Resume, TheOptimizersKindStays) {
  const ConfigChanges changes = changes_between(
      yaml_with({}), yaml_with({"optimizer.kind=lamb", "optimizer.lamb.variant=nvidia",
                                "optimizer.bias_correction=false"}));
  EXPECT_EQ(text_of(changes.refused.at(0)), "optimizer.kind: adamw before, lamb now");
  EXPECT_EQ(keys_of(changes.refused),
            (std::vector<std::string>{"optimizer.kind", "optimizer.bias_correction",
                                      "optimizer.lamb.variant"}));
}

TEST(TrainerConfig, CombinerSaysWhatDoesNotFit) {
  EXPECT_EQ(
      mistake({"attention.combiner.compat=paper", "attention.combiner.mix=joint"}),
      "attention.combiner.mix: is set to joint, and attention.combiner.compat to paper, which "
      "makes it average; remove one of the two");
  EXPECT_EQ(mistake({"attention.kind=combiner", "model.causal=true"}), "none");
  EXPECT_EQ(mistake({"attention.kind=combiner", "attention.combiner.dropout.direct=-0.5"}),
            "attention.combiner.dropout.direct: -0.5 is no probability; use 0 to 0.99, or -1 for "
            "attention.dropout");
  EXPECT_NE(mistake({"attention.combiner.blok=8"}).find("attention.combiner.block"),
            std::string::npos);
}

TEST(TrainerConfig, SparsefinderSaysWhatDoesNotFit) {
  const std::string kind = "attention.kind=sparsefinder", prefix = "attention.sparsefinder.";
  EXPECT_EQ(mistake({kind}), "none");
  EXPECT_EQ(mistake({kind, "model.causal=true"}), "none");
  EXPECT_EQ(
      mistake({kind, "attention.entmax.alpha=1"}),
      "attention.entmax.alpha: 1 is softmax, of which no graph can be predicted: every key has "
      "some weight; use more than 1");
  EXPECT_EQ(
      mistake({kind, prefix + "window=4"}),
      "attention.sparsefinder.window: 4 keys cannot lie alike on both sides of a query; use an "
      "odd number, or 0 for none");
  EXPECT_EQ(mistake({kind, prefix + "cluster.top=3", prefix + "cluster.clusters=2"}),
            "attention.sparsefinder.cluster.top: the nearest 3 of 2 clusters; lower top or raise "
            "clusters");
  EXPECT_EQ(
      mistake({kind, prefix + "cluster.top=4", prefix + "cluster.rounds=8"}),
      "attention.sparsefinder.cluster.rounds: with top=4 a token is in 32 groups; at most 30");
  EXPECT_EQ(
      mistake({kind, prefix + "predictor=quantize", prefix + "projection.dim=32"}),
      "attention.sparsefinder.projection.dim: with predictor=quantize and dim=32 a token is in "
      "32 groups; at most 30");
  EXPECT_EQ(
      mistake({kind, prefix + "distance.metric=cosine", prefix + "distance.threshold=2.5"}),
      "attention.sparsefinder.distance.threshold: 2.5 is no cosine distance, which lies between "
      "0 and 2; lower it, or use metric=l2");
  EXPECT_EQ(mistake({kind, prefix + "max_density=0"}),
            "attention.sparsefinder.max_density: 0 leaves no room for any edge; use up to 1");
  EXPECT_EQ(mistake({kind, prefix + "predictor=reformer", prefix + "cluster.clusters=5"}),
            "attention.sparsefinder.cluster.clusters: predictor=reformer has directions and their "
            "opposites, so 5 buckets cannot be; use an even number");
  EXPECT_EQ(mistake({kind, prefix + "predictor=routing", prefix + "cluster.clusters=31"}),
            "attention.sparsefinder.cluster.clusters: with predictor=routing and clusters=31 a "
            "token is in 31 groups; at most 30");
  EXPECT_EQ(mistake({kind, prefix + "predictor=routing", prefix + "cluster.rounds=2"}),
            "attention.sparsefinder.cluster.rounds: 2 sets of clusters; predictor=routing has one");
  EXPECT_EQ(mistake({kind, prefix + "predictor=routing", prefix + "cluster.top=2"}),
            "attention.sparsefinder.cluster.top: 2 is predictor=cluster's; use 1 with reformer and "
            "routing");
  EXPECT_EQ(mistake({kind, prefix + "predictor=fixed", prefix + "places.summary=17"}),
            "attention.sparsefinder.places.summary: the last 17 keys of blocks of 16; lower it or "
            "raise places.stride");
  EXPECT_EQ(mistake({kind, prefix + "predictor=quantize", prefix + "projection.kind=none"}),
            "attention.sparsefinder.projection.kind: none leaves all channels of a head, and "
            "predictor=quantize and routing take few; use linear");
  EXPECT_EQ(mistake({kind, prefix + "projection.mips=true"}), "none");
  EXPECT_EQ(mistake({kind, prefix + "mode=certified"}), "none");
  EXPECT_EQ(mistake({kind, prefix + "refresh_every=5"}), "none");
  const std::string concat = prefix + "projection.kind=concat";
  EXPECT_EQ(mistake({kind, concat}), "none");
  EXPECT_EQ(mistake({kind, prefix + "projection.kind=mlp", prefix + "projection.shared=false"}),
            "none");
  EXPECT_EQ(mistake({kind, concat, prefix + "projection.shared=false"}),
            "attention.sparsefinder.projection.shared: kind=concat has one place for a token's "
            "query and key; use shared=true");
  EXPECT_EQ(mistake({kind, concat, prefix + "projection.mips=true"}),
            "attention.sparsefinder.projection.mips: brings keys near to queries, and kind=concat "
            "has one place for both; use mips=false or another kind");
  const std::string full = prefix + "mode=full", gate = prefix + "gate=0.9",
                    refreshed = prefix + "refresh_every=5";
  EXPECT_EQ(mistake({kind, full, gate, refreshed}), "none");
  EXPECT_EQ(mistake({kind, gate}), "none");  // of another mode it says nothing
  EXPECT_EQ(mistake({kind, full, gate}),
            "attention.sparsefinder.gate: heads are looked at when predictors are fitted anew; set "
            "refresh_every, or use 0");
  EXPECT_EQ(mistake({kind, full, gate, refreshed, prefix + "measure=false"}),
            "attention.sparsefinder.gate: it is a share that is measured; use measure=true, or 0");
  EXPECT_NE(mistake({kind, full, prefix + "gate=1.5", refreshed}), "none");
  EXPECT_EQ(mistake({kind, prefix + "refresh_every=5", prefix + "predictor=bigbird"}),
            "attention.sparsefinder.refresh_every: this predictor has neither projections nor "
            "clusters, and there is nothing to fit; use 0");
  EXPECT_EQ(mistake({kind, prefix + "mode=certified", prefix + "predictor=distance"}),
            "attention.sparsefinder.mode: certified bounds the scores of clusters of keys; use "
            "predictor=cluster, or mode=full");
  EXPECT_TRUE(
      mistake({kind, "model.causal=true", prefix + "projection.mips=true"})
          .starts_with("model.causal: attention.kind=sparsefinder lets tokens see later ones and "
                       "cannot be causal, unless attention.sparsefinder.projection.mips=false; "));
  for (const std::string predictor : {"reformer", "bigbird", "longformer", "fixed", "strided"})
    EXPECT_EQ(mistake({kind, "model.causal=true", prefix + "predictor=" + predictor}), "none");
  EXPECT_TRUE(
      mistake({kind, "model.causal=true", prefix + "predictor=routing"})
          .starts_with("model.causal: attention.kind=sparsefinder lets tokens see later ones and "
                       "cannot be causal, unless attention.sparsefinder.predictor=cluster; "));
  EXPECT_TRUE(
      mistake({kind, "model.causal=true", prefix + "predictor=quantize"})
          .starts_with("model.causal: attention.kind=sparsefinder lets tokens see later ones"));
  EXPECT_EQ(mistake({kind, "model.causal=true", prefix + "predictor=quantize",
                     prefix + "quantize.kind=interval"}),
            "none");
}

TEST(TrainerConfig, KeysThatAVariantDoesNotLookAtAreToldOf) {
  const auto told = [](const std::vector<std::string>& overrides) {
    return unused_keys_text(Config::load({}, overrides));
  };
  const std::string kind = "attention.kind=combiner", block = "attention.combiner.block=32";
  EXPECT_EQ(told({kind, block}), "");
  EXPECT_EQ(told({kind, block, "attention.combiner.variant=axial", "attention.combiner.pool=max"}),
            "attention.combiner.variant does not look at what is set for attention.combiner.block, "
            "attention.combiner.pool");
  EXPECT_EQ(told({kind, "attention.combiner.variant=axial"}), "");
  EXPECT_EQ(told({"attention.kind=softmax", block, "attention.combiner.variant=axial"}), "");
}

TEST(TrainerConfig, WhatThisBuildCannotDoIsRefused) {
  EXPECT_EQ(mistake({"precision=bf16"}),
            "precision: bf16 is for GPUs; use device=cuda or precision=fp32");
  EXPECT_EQ(mistake({"step.graph=true"}),
            "step.graph: is for GPUs; use device=cuda or graph=false");
  EXPECT_EQ(
      mistake({"attention.implementation=cusparse"}),
      "attention.implementation: cusparse is for GPUs; use device=cuda or implementation=own");
  for (const std::string kind : {"attention.kind=softmax", "attention.kind=entmax"}) {
    EXPECT_EQ(mistake({kind, "attention.implementation=cusparse"}),
              "attention.implementation: cusparse computes attention over a graph, and " + kind +
                  " has none; use implementation=own");
  }
  if (cuda::is_built()) {
    EXPECT_EQ(mistake({"device=cuda", "step.graph=true", "guard.spike_factor=2"}),
              "step.graph: a captured step cannot ask the host whether it is a spike; use "
              "guard.spike_factor=0 or step.graph=false");
  } else {
    EXPECT_EQ(mistake({"device=cuda"}),
              "device: this program was built without CUDA; build it with the preset 'cuda', or "
              "use device=cpu");
  }
}

TEST(TrainerConfig, ValuesThatContradictEachOtherAreNamed) {
  EXPECT_EQ(mistake({"train.batch=32", "train.micro_batch=5"}),
            "train.batch: 32 is not a multiple of train.micro_batch 5; the global batch is cut "
            "into equal micro-batches");
  EXPECT_EQ(mistake({"train.batch=4", "train.micro_batch=8"}),
            "train.batch: 4 is not a multiple of train.micro_batch 8; the global batch is cut "
            "into equal micro-batches");
  EXPECT_EQ(mistake({"model.width=65"}),
            "model.width: 65 is not a multiple of model.heads 2; heads share the width equally");
  EXPECT_EQ(mistake({"model.positions=rotary", "model.width=66", "model.heads=2"}),
            "model.positions: rotary turns pairs of channels, and model.width 66 over model.heads "
            "2 leaves an odd 33 to a head");
  EXPECT_EQ(mistake({"model.positions=rotary", "model.width=64", "model.heads=2"}), "none");
  EXPECT_EQ(mistake({"train.steps=10", "optimizer.schedule.warmup_steps=11"}),
            "optimizer.schedule.warmup_steps: 11 does not fit into train.steps 10; use a share, "
            "like optimizer.schedule.warmup_steps=10%, or train longer");
  EXPECT_EQ(mistake({"train.steps=10", "optimizer.schedule.warmup_steps=100%"}), "none");
  EXPECT_EQ(mistake({"train.steps=10", "optimizer.schedule.warmup_steps=10"}), "none");
  EXPECT_EQ(mistake({"guard.spike_factor=0.5"}),
            "guard.spike_factor: 0.5 would skip ordinary steps; use a value above 1, or 0 for off");
  EXPECT_EQ(mistake({"run.dir=\"\""}), "run.dir: is empty; name the folder of the run");
}

TEST(TrainerConfig, RoomForEdgesMustFitTheSampler) {
  EXPECT_EQ(mistake({"attention.sbm.max_density=0"}),
            "attention.sbm.max_density: 0 leaves no room for any edge; use up to 1");
  EXPECT_EQ(mistake({"attention.kind=softmax", "attention.sbm.max_density=0"}), "none");
  const std::vector<std::string> tight = {"attention.sbm.max_density=0.1",
                                          "attention.sbm.tile_density=0.2"};
  EXPECT_EQ(mistake(tight), "none");
  std::vector<std::string> tiles = tight;
  tiles.push_back("attention.sbm.sampler=tiles");
  EXPECT_EQ(mistake(tiles),
            "attention.sbm.tile_density: 0.2 is above attention.sbm.max_density 0.1, which "
            "reserves no room for what attention.sbm.sampler=tiles writes; lower tile_density or "
            "use sampler=auto");
  tiles.push_back("attention.sbm.law=poisson_multi");
  EXPECT_EQ(mistake(tiles), "none");
}

TEST(TrainerConfig, RangesAndTyposAreNamed) {
  EXPECT_EQ(mistake({"checkpoint.keep=1"}),
            "override \"checkpoint.keep=1\": checkpoint.keep: 1 is out of range [2, 1000000]");
  EXPECT_EQ(mistake({"train.steps=0"}),
            "override \"train.steps=0\": train.steps: 0 is out of range [1, 1000000000] steps");
  EXPECT_EQ(mistake({"learning_rate=1"}),
            "override \"learning_rate=1\": learning_rate: unknown key; did you mean "
            "'optimizer.learning_rate'?");
  EXPECT_EQ(mistake({"optimizer.schedule.kind=one-cycle"}),
            "override \"optimizer.schedule.kind=one-cycle\": optimizer.schedule.kind: 'one-cycle' "
            "is not one of one_cycle, linear, cosine, rsqrt, constant, polynomial; did you mean "
            "'one_cycle'?");
  EXPECT_EQ(mistake({"run.resume=always"}),
            "override \"run.resume=always\": run.resume: 'always' is not one of auto, never, "
            "must");
}

}  // namespace
}  // namespace stipple::trainer
