// SPDX-License-Identifier: Apache-2.0
#include "core/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "core/config/nearest_match.h"
#include "core/error.h"

namespace stipple {
namespace {

enum class Kind : uint8_t { kSoftmax, kSbm };

struct Sbm {
  int64_t clusters = 128;
  double max_density = 1.0;
  void describe(ConfigVisitor& v) {
    v.field("clusters", clusters, {.doc = "Number of clusters.", .min = 1, .max = 4096});
    v.field("max_density", max_density, {.doc = "Most edges.", .min = 0, .max = 1});
  }
};

struct Attention {
  Kind kind = Kind::kSbm;
  Sbm sbm;
  double dropout = 0.1;
  void describe(ConfigVisitor& v) {
    v.choice("kind", kind, {"softmax", "sbm"}, {.doc = "Which attention."});
    v.section("sbm", sbm, "The stochastic block model.");
    v.field("dropout", dropout, {.doc = "Of weights | after the mask.", .min = 0, .max = 1});
  }
};

struct Train {
  int64_t steps = 1000;
  int64_t batch_size = 32;
  bool shuffle = true;
  void describe(ConfigVisitor& v) {
    v.field("steps", steps, {.doc = "Steps.", .unit = "steps", .min = 1, .max = 1e9});
    v.field("batch_size", batch_size, {.doc = "Examples.", .unit = "examples", .min = 1});
    v.field("shuffle", shuffle, {.doc = "Reorder."});
  }
};

struct Optimizer {
  double learning_rate = 1e-3;
  double clip_norm = std::numeric_limits<double>::infinity();
  double momentum = 0.9;
  int64_t offset = 0;
  CountOrShare warmup = 10;
  void describe(ConfigVisitor& v) {
    v.field("learning_rate", learning_rate, {.doc = "Rate.", .min = 0});
    v.field("clip_norm", clip_norm,
            {.doc = "Clip.", .min = 0, .max = std::numeric_limits<double>::infinity()});
    v.field("momentum", momentum, {.doc = "Momentum."});
    v.field("offset", offset, {.doc = "Offset."});
    v.field("warmup", warmup, {.doc = "Rise.", .min = 0, .max = 1e9, .share_of = "train.steps"});
  }
};

struct Sample {
  std::string name = "run";
  Train train;
  Attention attention;
  Optimizer optimizer;
  void describe(ConfigVisitor& v) {
    v.field("name", name, {.doc = "Name of the run."});
    v.section("train", train, "How long.");
    v.section("attention", attention, "Who sees whom.");
    v.section("optimizer", optimizer, "How to move.");
  }
};

Sample load_text(const std::string& text) {
  Sample sample;
  load_config_text(text, "a.yaml", [&](ConfigVisitor& v) { sample.describe(v); });
  return sample;
}

Sample load_overrides(const std::vector<std::string>& overrides) {
  Sample sample;
  load_config({}, overrides, [&](ConfigVisitor& v) { sample.describe(v); });
  return sample;
}

template <class Load>
std::string error_of(Load load) {
  try {
    load();
  } catch (const ConfigError& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "no error";
}

std::string text_error(const std::string& text) {
  return error_of([&] { load_text(text); });
}

std::string override_error(const std::string& text) {
  return error_of([&] { load_overrides({text}); });
}

/// A file that is gone at the end of the test.
class TemporaryFile {
 public:
  TemporaryFile(const std::string& name, const std::string& text)
      : path_((std::filesystem::temp_directory_path() / (std::to_string(::getpid()) + "_" + name))
                  .string()) {
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TemporaryFile() { std::remove(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// --- values --------------------------------------------------------------------------------------

TEST(Config, ReadsEveryTypeAndKeepsDefaultsOfTheRest) {
  const Sample s = load_text(
      "name: my run  # a comment\n"
      "train: {steps: 20, shuffle: false}\n"
      "attention:\n  kind: softmax\n  sbm:\n    clusters: 7\n"
      "optimizer:\n  learning_rate: 2.5e-4\n");
  EXPECT_EQ(s.name, "my run");
  EXPECT_EQ(s.train.steps, 20);
  EXPECT_FALSE(s.train.shuffle);
  EXPECT_EQ(s.attention.kind, Kind::kSoftmax);
  EXPECT_EQ(s.attention.sbm.clusters, 7);
  EXPECT_EQ(s.optimizer.learning_rate, 2.5e-4);
  EXPECT_EQ(s.train.batch_size, 32);
  EXPECT_EQ(s.attention.dropout, 0.1);
}

TEST(Config, NothingWrittenMeansNothingSet) {
  for (const char* text : {"", "\n\n", "# only a comment\n", "---\n", "{}", "\xEF\xBB\xBF"}) {
    EXPECT_EQ(load_text(text).train.steps, 1000) << text;
  }
}

TEST(Config, WholeNumbersMayBeWrittenWithAnExponent) {
  EXPECT_EQ(load_text("train: {steps: 1e6}").train.steps, 1000000);
  EXPECT_EQ(load_text("train: {steps: 2.5e1}").train.steps, 25);
  EXPECT_EQ(load_text("train: {steps: +7}").train.steps, 7);
  EXPECT_EQ(load_text("optimizer: {offset: -9223372036854775808}").optimizer.offset,
            std::numeric_limits<int64_t>::min());
}

TEST(Config, WrongWholeNumbersAreNamed) {
  EXPECT_EQ(text_error("train:\n  steps: ten\n"),
            "a.yaml:2: train.steps: 'ten' is not a whole number");
  EXPECT_EQ(text_error("train:\n  steps: 2.5\n"),
            "a.yaml:2: train.steps: '2.5' is not a whole number");
  EXPECT_EQ(text_error("train: {steps: 1_000}"),
            "a.yaml:1: train.steps: '1_000' is not a whole number; write 1000");
  EXPECT_EQ(text_error("train: {steps: \"10\"}"),
            "a.yaml:1: train.steps: '10' is not a whole number; remove the quotes");
  EXPECT_EQ(text_error("train: {steps: 0x10}"),
            "a.yaml:1: train.steps: '0x10' is not a whole number");
  EXPECT_EQ(text_error("train: {steps: 1e}"), "a.yaml:1: train.steps: '1e' is not a whole number");
}

TEST(Config, OutOfRangeSaysTheRangeAndTheUnit) {
  EXPECT_EQ(text_error("train:\n  steps: 0\n"),
            "a.yaml:2: train.steps: 0 is out of range [1, 1000000000] steps");
  EXPECT_EQ(text_error("train:\n  batch_size: -3\n"),
            "a.yaml:2: train.batch_size: -3 is out of range [1, inf) examples");
  EXPECT_EQ(text_error("attention: {dropout: 1.5}"),
            "a.yaml:1: attention.dropout: 1.5 is out of range [0, 1]");
  EXPECT_EQ(text_error("optimizer: {offset: 1e300}"),
            "a.yaml:1: optimizer.offset: 1e300 is out of range (-inf, inf)");
  EXPECT_EQ(text_error("train: {steps: 99999999999999999999}"),
            "a.yaml:1: train.steps: 99999999999999999999 is out of range [1, 1000000000] steps");
  EXPECT_EQ(load_text("attention: {dropout: 1}").attention.dropout, 1.0);
  EXPECT_EQ(load_text("train: {steps: 1000000000}").train.steps, 1000000000);
}

TEST(Config, InfinityIsAValueOnlyWhereTheRangeHasIt) {
  EXPECT_EQ(load_text("optimizer: {clip_norm: .inf}").optimizer.clip_norm,
            std::numeric_limits<double>::infinity());
  EXPECT_EQ(text_error("optimizer: {learning_rate: inf}"),
            "a.yaml:1: optimizer.learning_rate: .inf is out of range [0, inf)");
  EXPECT_EQ(text_error("optimizer: {momentum: -.inf}"),
            "a.yaml:1: optimizer.momentum: -.inf is out of range (-inf, inf)");
  EXPECT_EQ(text_error("optimizer: {clip_norm: -.inf}"),
            "a.yaml:1: optimizer.clip_norm: -.inf is out of range [0, inf]");
  for (const char* nan : {"nan", ".nan", "NaN"}) {
    EXPECT_NE(text_error(std::string("optimizer: {clip_norm: ") + nan + "}").find("not a number"),
              std::string::npos);
  }
  EXPECT_EQ(text_error("train: {steps: .inf}"),
            "a.yaml:1: train.steps: .inf is out of range [1, 1000000000] steps");
}

TEST(Config, WrongNumbersAreNamed) {
  EXPECT_EQ(text_error("optimizer: {momentum: fast}"),
            "a.yaml:1: optimizer.momentum: 'fast' is not a number");
  EXPECT_EQ(text_error("optimizer: {momentum: '1'}"),
            "a.yaml:1: optimizer.momentum: '1' is not a number; remove the quotes");
  EXPECT_EQ(text_error("optimizer: {momentum: 1e999}"),
            "a.yaml:1: optimizer.momentum: '1e999' is not a number");
}

TEST(Config, CommasAndUnderscoresAreAnsweredWithWhatTheyMean) {
  const auto rate = [](const std::string& text) {
    const std::string error = override_error("optimizer.learning_rate=" + text);
    const std::string known = "'" + text + "' is not a number";
    const size_t at = error.find(known);
    return at == std::string::npos ? error : error.substr(at + known.size());
  };
  const auto steps = [](const std::string& text) {
    const std::string error = override_error("train.steps=" + text);
    const std::string known = "'" + text + "' is not a whole number";
    const size_t at = error.find(known);
    return at == std::string::npos ? error : error.substr(at + known.size());
  };
  EXPECT_EQ(rate("0,001"), "; write 0.001");
  EXPECT_EQ(rate("-1,5e-3"), "; write -1.5e-3");
  EXPECT_EQ(rate("1,000"), "; write 1000 or 1.000");
  EXPECT_EQ(rate("1,234,567.5"), "; write 1234567.5");
  EXPECT_EQ(rate("1_0.5"), "; write 10.5");
  EXPECT_EQ(rate("1,2,3"), "");
  EXPECT_EQ(steps("1,000"), "; write 1000");
  EXPECT_EQ(steps("0,5"), "");
}

TEST(Config, NumbersWithLeadingZerosAreRefused) {
  EXPECT_EQ(text_error("train: {steps: 0001}"),
            "a.yaml:1: train.steps: '0001' is not a whole number; write 1");
  EXPECT_EQ(text_error("optimizer: {offset: -007}"),
            "a.yaml:1: optimizer.offset: '-007' is not a whole number; write -7");
  EXPECT_EQ(text_error("optimizer: {offset: 000}"),
            "a.yaml:1: optimizer.offset: '000' is not a whole number; write 0");
  EXPECT_EQ(text_error("optimizer: {momentum: 00.5}"),
            "a.yaml:1: optimizer.momentum: '00.5' is not a number; write 0.5");
  EXPECT_EQ(text_error("train: {steps: 01e3}"),
            "a.yaml:1: train.steps: '01e3' is not a whole number");
  EXPECT_EQ(load_text("optimizer: {momentum: 1e-05, offset: -0}").optimizer.momentum, 1e-5);
}

TEST(Config, ACountMayBeAShareOfAnotherKey) {
  const auto warmup = [](const std::string& text) {
    return load_overrides({"optimizer.warmup=" + text}).optimizer.warmup;
  };
  EXPECT_EQ(warmup("30").of(1000), 30);
  EXPECT_EQ(warmup("1e2").of(7), 100);
  EXPECT_EQ(warmup("10%").of(3000), 300);
  EXPECT_EQ(warmup("2.5%").of(4000), 100);
  EXPECT_EQ(warmup("20%").of(5000), 1000);
  EXPECT_EQ(warmup("10%").of(4), 1);
  EXPECT_EQ(warmup("0%").of(1000), 0);
  EXPECT_EQ(warmup("100%").of(1000000000), 1000000000);
  EXPECT_EQ(warmup("2.5%").str(), "2.5%");
  Sample s = load_overrides({"optimizer.warmup=2.5%"});
  EXPECT_EQ(
      load_text(config_to_yaml([&](ConfigVisitor& v) { s.describe(v); })).optimizer.warmup.str(),
      "2.5%");
  for (const char* text : {"101%", "-1%", "ten%", "1,5%", "010%"}) {
    EXPECT_EQ(override_error(std::string("optimizer.warmup=") + text),
              std::string("override \"optimizer.warmup=") + text + "\": optimizer.warmup: '" +
                  text + "' is not a share of train.steps; write 0% to 100%, or a whole number");
  }
  EXPECT_EQ(
      override_error("optimizer.warmup=-5"),
      "override \"optimizer.warmup=-5\": optimizer.warmup: -5 is out of range [0, 1000000000]");
  EXPECT_NE(override_error("optimizer.warmup=0.5").find("'0.5' is not a whole number"),
            std::string::npos);
}

TEST(Config, OnlyTrueAndFalseAreTruthValues) {
  EXPECT_EQ(text_error("train: {shuffle: yes}"),
            "a.yaml:1: train.shuffle: 'yes' is not true or false; write true");
  EXPECT_EQ(text_error("train: {shuffle: no}"),
            "a.yaml:1: train.shuffle: 'no' is not true or false; write false");
  EXPECT_EQ(text_error("train: {shuffle: 'true'}"),
            "a.yaml:1: train.shuffle: 'true' is not true or false; remove the quotes");
  EXPECT_EQ(text_error("train: {shuffle: maybe}"),
            "a.yaml:1: train.shuffle: 'maybe' is not true or false");
}

TEST(Config, AWrongChoiceGetsTheNearestName) {
  EXPECT_EQ(text_error("attention:\n  kind: smb\n"),
            "a.yaml:2: attention.kind: 'smb' is not one of softmax, sbm; did you mean 'sbm'?");
  EXPECT_EQ(text_error("attention: {kind: SBM}"),
            "a.yaml:1: attention.kind: 'SBM' is not one of softmax, sbm; did you mean 'sbm'?");
  EXPECT_EQ(text_error("attention: {kind: linear}"),
            "a.yaml:1: attention.kind: 'linear' is not one of softmax, sbm");
}

TEST(Config, TextMayLookLikeAnythingAndMayBeQuoted) {
  EXPECT_EQ(load_text("name: 12").name, "12");
  EXPECT_EQ(load_text("name: yes").name, "yes");
  EXPECT_EQ(load_text("name: \"a: b # c\"").name, "a: b # c");
  EXPECT_EQ(load_text("name: ''").name, "");
  EXPECT_EQ(load_text("name: gr\xC3\xBC\xC3\x9F").name, "gr\xC3\xBC\xC3\x9F");
}

// --- keys ----------------------------------------------------------------------------------------

TEST(Config, AnUnknownKeyGetsTheNearestKeyOfItsSection) {
  EXPECT_EQ(text_error("train:\n  stpes: 5\n"),
            "a.yaml:2: train.stpes: unknown key; did you mean 'train.steps'?");
  EXPECT_EQ(text_error("trian:\n  steps: 5\n"),
            "a.yaml:1: trian: unknown key; did you mean 'train'?");
  EXPECT_EQ(text_error("train:\n  batch-size: 5\n"),
            "a.yaml:2: train.batch-size: unknown key; did you mean 'train.batch_size'?");
}

TEST(Config, AKeyInTheWrongPlaceGetsItsFullPath) {
  EXPECT_EQ(text_error("learning_rate: 1"),
            "a.yaml:1: learning_rate: unknown key; did you mean 'optimizer.learning_rate'?");
  EXPECT_EQ(text_error("attention: {clusters: 1}"),
            "a.yaml:1: attention.clusters: unknown key; did you mean 'attention.sbm.clusters'?");
  EXPECT_EQ(text_error("train: {name: x}"),
            "a.yaml:1: train.name: unknown key; did you mean 'name' at the top level?");
  EXPECT_EQ(text_error("laerning_rate: 1"),
            "a.yaml:1: laerning_rate: unknown key; did you mean 'optimizer.learning_rate'?");
}

TEST(Config, AnUnknownKeyWithoutNeighboursGetsTheList) {
  EXPECT_EQ(text_error("train: {zzzzzzzz: 1}"),
            "a.yaml:1: train.zzzzzzzz: unknown key; the keys here are steps, batch_size, shuffle");
}

TEST(Config, ADottedKeyInAFileIsToBeNested) {
  EXPECT_EQ(text_error("train.steps: 5"),
            "a.yaml:1: train.steps: unknown key; nest it: one line for each name between the dots");
}

TEST(Config, AKeyGivenTwiceIsAnError) {
  EXPECT_EQ(text_error("train:\n  steps: 1\n  shuffle: true\n  steps: 2\n"),
            "a.yaml:4: train.steps: is given twice, first in line 2; keep one of them");
  EXPECT_EQ(text_error("train: {steps: 1}\ntrain: {shuffle: true}\n"),
            "a.yaml:2: train: is given twice, first in line 1; keep one of them");
}

TEST(Config, SectionsAndValuesAreNotConfused) {
  EXPECT_EQ(text_error("train: 5"),
            "a.yaml:1: train: is a section, not a value; put its keys below it, indented");
  EXPECT_EQ(text_error("train: [5]"),
            "a.yaml:1: train: is a section, not a value; put its keys below it, indented");
  EXPECT_EQ(text_error("train:\n  steps:\n    many: 1\n"),
            "a.yaml:2: train.steps: takes one value, not a mapping; write 'key: value'");
  EXPECT_EQ(text_error("train: {steps: [1, 2]}"),
            "a.yaml:1: train.steps: takes one value, not a list; write 'key: value'");
}

TEST(Config, NullIsNotAValue) {
  EXPECT_EQ(text_error("train:\n  steps:\n"),
            "a.yaml:2: train.steps: has no value; give it one or remove the line");
  EXPECT_EQ(text_error("train: {steps: null}"),
            "a.yaml:1: train.steps: has no value; give it one or remove the line");
  EXPECT_EQ(text_error("name: ~"), "a.yaml:1: name: has no value; give it one or remove the line");
  EXPECT_EQ(text_error("train:\nname: x\n"),
            "a.yaml:1: train: is empty; give it keys or remove the line");
}

// --- files and overrides -------------------------------------------------------------------------

TEST(Config, LaterFilesWinAndMappingsMerge) {
  const TemporaryFile base("base.yaml", "train: {steps: 5, batch_size: 6}\nname: base\n");
  const TemporaryFile task("task.yaml", "train: {steps: 7}\n");
  Sample s;
  load_config({base.path(), task.path()}, {"name=final"}, [&](ConfigVisitor& v) { s.describe(v); });
  EXPECT_EQ(s.train.steps, 7);
  EXPECT_EQ(s.train.batch_size, 6);
  EXPECT_EQ(s.name, "final");
}

/// Files in a folder of their own, gone at the end of the test.
class Tree {
 public:
  explicit Tree(const std::map<std::string, std::string>& files)
      : root_(std::filesystem::temp_directory_path() /
              ("config_tree_" + std::to_string(::getpid()))) {
    for (const auto& [name, text] : files) {
      std::filesystem::create_directories((root_ / name).parent_path());
      std::ofstream(root_ / name, std::ios::binary) << text;
    }
  }
  ~Tree() { std::filesystem::remove_all(root_); }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;
  std::string path(const std::string& name) const { return (root_ / name).string(); }

  ConfigOrigins load(const std::string& name, Sample& sample) const {
    return load_config({path(name)}, {}, [&](ConfigVisitor& v) { sample.describe(v); });
  }
  std::string error(const std::string& name) const {
    Sample sample;
    return error_of([&] { load(name, sample); });
  }

 private:
  std::filesystem::path root_;
};

TEST(Config, FilesIncludeOthersWhichComeBeforeThem) {
  const Tree tree({{"configs/task/a.yaml", "name: a\ntrain: {steps: 5, batch_size: 6}\n"},
                   {"configs/size/b.yaml", "include: task/a\ntrain:\n  batch_size: 7\n"},
                   {"configs/recipe/r.yaml", "include: [task/a, size/b]\nname: r\n"}});
  Sample s;
  const ConfigOrigins origins = tree.load("configs/recipe/r.yaml", s);
  EXPECT_EQ(s.name, "r");
  EXPECT_EQ(s.train.steps, 5);
  EXPECT_EQ(s.train.batch_size, 7);
  EXPECT_EQ(origins.str("name"), tree.path("configs/recipe/r.yaml") + ":2");
  EXPECT_EQ(origins.str("train.steps"), tree.path("configs/task/a.yaml") + ":2");
  EXPECT_EQ(origins.str("train.batch_size"), tree.path("configs/size/b.yaml") + ":3");
  EXPECT_EQ(origins.str("train.shuffle"), "default");
  EXPECT_FALSE(origins.is_set("train.shuffle"));
}

TEST(Config, AFileThatIsIncludedTwiceComesOnce) {
  const Tree tree({{"configs/base.yaml", "train: {steps: 5}\n"},
                   {"configs/a.yaml", "include: base\ntrain: {steps: 6}\n"},
                   {"configs/b.yaml", "include: base\nname: b\n"},
                   {"configs/r.yaml", "include: [a, b]\n"}});
  Sample s;
  tree.load("configs/r.yaml", s);
  EXPECT_EQ(s.train.steps, 6);
  // What is asked for by itself counts where it stands.
  load_config({tree.path("configs/r.yaml"), tree.path("configs/base.yaml")}, {},
              [&](ConfigVisitor& v) { s.describe(v); });
  EXPECT_EQ(s.train.steps, 5);
}

TEST(Config, APathIsRelativeToTheFileThatIncludesIt) {
  const Tree tree({{"mine/a.yaml", "train: {steps: 5}\n"},
                   {"mine/r.yaml", "include: [a.yaml, ../other/b.yaml]\n"},
                   {"other/b.yaml", "name: b\n"}});
  Sample s;
  tree.load("mine/r.yaml", s);
  EXPECT_EQ(s.train.steps, 5);
  EXPECT_EQ(s.name, "b");
}

TEST(Config, MistakesInIncludesAreNamedWithTheirLine) {
  const Tree tree({{"configs/task/lists.yaml", "train: {stpes: 5}\n"},
                   {"configs/a.yaml", "name: a\ninclude:\n  - b\n"},
                   {"configs/b.yaml", "include: [a]\n"},
                   {"configs/self.yaml", "include: self\n"},
                   {"configs/missing.yaml", "name: x\ninclude:\n  - task/lists\n  - task/list\n"},
                   {"configs/typo.yaml", "include: task/lists\n"},
                   {"configs/odd.yaml", "include: {a: b}\n"}});
  EXPECT_EQ(tree.error("configs/a.yaml"),
            tree.path("configs/b.yaml") +
                ":1: include: 'a' is not done with its own includes; break the circle");
  EXPECT_EQ(tree.error("configs/self.yaml"),
            tree.path("configs/self.yaml") +
                ":1: include: 'self' is not done with its own includes; break the circle");
  EXPECT_EQ(tree.error("configs/missing.yaml"),
            tree.path("configs/missing.yaml") + ":4: include: 'task/list' is not there (" +
                tree.path("configs/task/list.yaml") + "); did you mean 'task/lists'?");
  EXPECT_EQ(tree.error("configs/typo.yaml"),
            tree.path("configs/task/lists.yaml") +
                ":1: train.stpes: unknown key; did you mean 'train.steps'?");
  EXPECT_EQ(tree.error("configs/odd.yaml"),
            tree.path("configs/odd.yaml") +
                ":1: include: takes names; write include: [task/name, attention/name]");
  EXPECT_EQ(override_error("include=x"),
            "override \"include=x\": include: unknown key; it belongs into files; on the command "
            "line, write the name as an argument of its own");
}

TEST(Config, AnArgumentThatIsNeitherFileNorAssignmentIsExplained) {
  Sample s;
  const auto error = [&](const std::string& argument) {
    return error_of([&] { load_config({argument}, {}, [&](ConfigVisitor& v) { s.describe(v); }); });
  };
  EXPECT_EQ(error("train.steps"), "'train.steps' is a key, not a file; write train.steps=VALUE");
  EXPECT_EQ(error("no/such"),
            "'no/such' is neither a file, nor the name of one in configs/, nor key=value");
}

TEST(Config, AnErrorNamesTheFileThatHoldsIt) {
  const TemporaryFile base("base.yaml", "name: x\n\ntrain:\n  steps: 0\n");
  const TemporaryFile task("task.yaml", "train: {batch_size: 7}\n");
  Sample s;
  EXPECT_EQ(error_of([&] {
              load_config({base.path(), task.path()}, {}, [&](ConfigVisitor& v) { s.describe(v); });
            }),
            base.path() + ":4: train.steps: 0 is out of range [1, 1000000000] steps");
}

TEST(Config, UnreadableFilesSayWhy) {
  Sample s;
  const auto error = [&](const std::string& path) {
    return error_of([&] { load_config({path}, {}, [&](ConfigVisitor& v) { s.describe(v); }); });
  };
  EXPECT_EQ(error("/no/such.yaml"), "cannot read /no/such.yaml: No such file or directory");
  EXPECT_EQ(error("/"), "cannot read /: Is a directory");
  EXPECT_EQ(error("/dev/zero"), "/dev/zero:1: is larger than 1 MiB; a configuration is a few KiB");
}

TEST(Config, OverridesSetOneValueEach) {
  const Sample s = load_overrides({"train.steps=5", "attention.sbm.clusters=9", "name=a=b",
                                   "train.steps=6", "optimizer.learning_rate=1e-5"});
  EXPECT_EQ(s.train.steps, 6);
  EXPECT_EQ(s.attention.sbm.clusters, 9);
  EXPECT_EQ(s.name, "a=b");
  EXPECT_EQ(s.optimizer.learning_rate, 1e-5);
  EXPECT_EQ(load_overrides({"name=\"\""}).name, "");
  EXPECT_EQ(load_overrides({"name=*.txt, '*.md'"}).name, "*.txt, '*.md'") << "a pattern, no alias";
}

TEST(Config, ErrorsInOverridesQuoteThem) {
  EXPECT_EQ(override_error("train.steps=ten"),
            "override \"train.steps=ten\": train.steps: 'ten' is not a whole number");
  EXPECT_EQ(override_error("train.stpes=1"),
            "override \"train.stpes=1\": train.stpes: unknown key; did you mean 'train.steps'?");
  EXPECT_EQ(override_error("train=1"),
            "override \"train=1\": train: is a section, not a value; put its keys below it, "
            "indented");
  EXPECT_EQ(override_error("train.steps.x=1"),
            "override \"train.steps.x=1\": train.steps: takes one value, not a mapping; write "
            "'key: value'");
  EXPECT_EQ(override_error("train.steps="),
            "override \"train.steps=\": train.steps: has no value; give it one or remove the line");
  EXPECT_EQ(override_error("train.steps"),
            "override \"train.steps\": is not an assignment; write section.key=value");
  EXPECT_EQ(override_error("train.steps = 50"),
            "override \"train.steps = 50\": has spaces around '='; write train.steps=50");
  EXPECT_EQ(override_error("train.steps= 50"),
            "override \"train.steps= 50\": has spaces around '='; write train.steps=50");
  EXPECT_EQ(override_error(" train.steps=50"),
            "override \" train.steps=50\": has spaces around '='; write train.steps=50");
  EXPECT_EQ(override_error("=5"), "override \"=5\": is not an assignment; write section.key=value");
  EXPECT_EQ(override_error("train..steps=5"),
            "override \"train..steps=5\": a name is empty; write section.key=value");
  EXPECT_EQ(override_error("train={steps: 5}"),
            "override \"train={steps: 5}\": sets one value; write train.key=value for each");
  EXPECT_EQ(override_error("train.steps=[1]"),
            "override \"train.steps=[1]\": train.steps: takes one value, not a list; write "
            "'key: value'");
}

// --- texts that are not configurations -----------------------------------------------------------

TEST(Config, TextOutsideTheSubsetIsRefusedWithItsLine) {
  EXPECT_EQ(text_error("train:\n\tsteps: 5\n"), "a.yaml:2: is indented with a tab; use spaces");
  EXPECT_EQ(text_error("train: {}\nname: \xFF\n"),
            "a.yaml:2: is not UTF-8 text; save the file as UTF-8");
  EXPECT_EQ(text_error("name: \xC0\xAF\n"), "a.yaml:1: is not UTF-8 text; save the file as UTF-8");
  EXPECT_EQ(text_error(std::string("name: a\0b\n", 10)),
            "a.yaml:1: holds a control character; a configuration is plain text");
  EXPECT_EQ(text_error("just words\n"), "a.yaml:1: holds no keys; write lines like 'key: value'");
  EXPECT_EQ(text_error("- 1\n- 2\n"), "a.yaml:1: holds no keys; write lines like 'key: value'");
  EXPECT_EQ(text_error("name: &x y\n"),
            "a.yaml:1: anchors and aliases (& and *) are not read; write the value out");
  EXPECT_EQ(text_error("train: {}\nname: *x\n").substr(0, 9), "a.yaml:2:");
  EXPECT_EQ(text_error("name: !!int 5\n"),
            "a.yaml:1: tags (!) are not read; write the plain value");
  EXPECT_EQ(text_error("[1, 2]: 5\n"), "a.yaml:1: a key must be a plain word");
  EXPECT_EQ(text_error("name: a\n---\nname: b\n"),
            "a.yaml:3: a second document starts here; use one file for each");
  const std::string syntax = text_error("name: x\ntrain: {steps: 5\n");
  EXPECT_EQ(syntax.substr(0, 29), "a.yaml:3: is not valid YAML (") << syntax;
}

TEST(Config, AQuoteThatIsNotClosedIsFoundInItsLine) {
  const std::string what =
      "a quote (\") is opened and not closed in this line; close it, or put the whole value into "
      "the other kind of quotes";
  // To YAML these are whole files: the value ends at the next quote, or the text does.
  EXPECT_EQ(text_error("name: \"x\ntrain:\n  steps: 5\n"), "a.yaml:1: " + what);
  EXPECT_EQ(text_error("train: {}\nname: \"x\ntrain:\n  steps: 5\n  # it\"\n"),
            "a.yaml:2: " + what);
  EXPECT_EQ(text_error("name: \"x\nattention: {kind: \"sbm\"}\n"), "a.yaml:1: " + what);
  EXPECT_EQ(text_error("train: {steps: 1}\nattention: {kind: \"sbm}\n"), "a.yaml:2: " + what);
  EXPECT_EQ(text_error("\"name: x\n"), "a.yaml:1: " + what);
  EXPECT_EQ(text_error("name: \"x\\\"\n"), "a.yaml:1: " + what);
  EXPECT_EQ(text_error("name: 'x''\n").substr(0, 24), "a.yaml:1: a quote (') is");
  EXPECT_EQ(text_error("name: \"two\n  lines\"\n"), "a.yaml:1: " + what);
  EXPECT_EQ(override_error("name=\"x"), "override \"name=\"x\": " + what);
}

TEST(Config, QuotesInsideWordsAndCommentsAreLetters) {
  EXPECT_EQ(load_text("name: it's  # isn't \"\n").name, "it's");
  EXPECT_EQ(load_text("name: 6\" x 'y\n").name, "6\" x 'y");
  EXPECT_EQ(load_text("name: 'it''s # no comment'  # \"\n").name, "it's # no comment");
  EXPECT_EQ(load_text("\"name\": \"a \\\" b\"\n").name, "a \" b");
  EXPECT_EQ(load_text("{\"name\":\"a\",\"train\":{\"steps\":5}}\n").name, "a");
  EXPECT_EQ(load_text("\xEF\xBB\xBFname: gr\xC3\xBC\xC3\x9F\ntrain: {steps: 5}\n").train.steps, 5);
}

TEST(Config, AValueStandsInOneLine) {
  const std::string what = "a value goes on in the next line; write it in one line";
  EXPECT_EQ(text_error("train: {}\nname: two\n  lines\n"), "a.yaml:2: " + what);
  EXPECT_EQ(text_error("name: |\n  a\n"), "a.yaml:1: " + what);
  EXPECT_EQ(text_error("name: >-\n  a\n"), "a.yaml:1: " + what);
}

TEST(Config, NoTextHoldsControlCharacters) {
  EXPECT_EQ(text_error("name: \"a\\nb\"\n"),
            "a.yaml:1: name: 'a\\nb' holds a control character; use visible ones");
  EXPECT_EQ(text_error("name: \"\\x1b[0m\"\n"),
            "a.yaml:1: name: '\\x1b[0m' holds a control character; use visible ones");
  EXPECT_EQ(text_error("name: \"a\\u2028b\"\n"),
            "a.yaml:1: name: 'a\\u2028b' holds a control character; use visible ones");
  EXPECT_EQ(text_error("name: a\rb\n"),
            "a.yaml:1: holds a control character; a configuration is plain text");
  EXPECT_EQ(override_error("name=a\nb").substr(0, 17), "override \"name=a\\");
}

TEST(Config, InvisibleCharactersAreShown) {
  EXPECT_EQ(text_error("name: x\n\xEF\xBB\xBFtrain: {steps: 5}\n"),
            "a.yaml:2: \\ufefftrain: unknown key; the keys here are name, train, attention, "
            "optimizer");
  EXPECT_EQ(text_error("train: {steps:\xC2\xA0"
                       "5}\n")
                .substr(0, 30),
            "a.yaml:1: train.steps:\\u00a05:");
  EXPECT_EQ(text_error("train: {steps: \xE2\x80\x8B"
                       "5}\n"),
            "a.yaml:1: train.steps: '\\u200b5' is not a whole number");
}

TEST(Config, TabsAfterAValueAreHarmless) {
  EXPECT_EQ(load_text("train:\n  steps: 5\t# five\n\t\nname: x\n").train.steps, 5);
  EXPECT_EQ(load_text("train:\r\n  steps: 6\r\n").train.steps, 6);
}

TEST(Config, DeepOrHugeTextsAreRefused) {
  for (const char* open : {"[", "{a: ", "- ", "? "}) {
    std::string deep;
    for (int i = 0; i < 100000; ++i) deep += open;
    EXPECT_EQ(text_error("name: " + deep).substr(0, 7), "a.yaml:") << open;
    EXPECT_EQ(text_error(deep).substr(0, 7), "a.yaml:") << open;
  }
  EXPECT_EQ(text_error(std::string(2 << 20, '#')),
            "a.yaml:1: is larger than 1 MiB; a configuration is a few KiB");
  std::string wide;
  for (int i = 0; i < 20000; ++i) wide += detail::concat("k", i, ": 1\n");
  EXPECT_EQ(text_error(wide),
            "a.yaml:10001: holds more than 10000 values; a configuration is short");
  EXPECT_EQ(
      text_error("name: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: "
                 "{a: {a: 1}}}}}}}}}}}}}}}}}}}}"),
      "a.yaml:1: is nested more than 20 levels deep; use fewer");
}

TEST(Config, RandomBytesNeverDoWorseThanAConfigError) {
  std::mt19937_64 generator(11);
  const std::string alphabet = "train: steps\n  -?[]{}&*!|>'\"%@`,#\t0123.:~<=\\\xC3\xBC\r";
  int refused = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string text(generator() % 200, ' ');
    for (char& c : text) {
      c = round % 4 == 0 ? static_cast<char>(generator() % 256)
                         : alphabet[generator() % alphabet.size()];
    }
    if (round % 2 == 0) text = "train:\n  steps: 5\nname: " + text;
    refused += text_error(text) != "no error";
    refused += override_error("name=" + text) != "no error";
  }
  EXPECT_GT(refused, 4000);
}

TEST(Config, DamagedFilesNeverDoWorseThanAConfigError) {
  Sample sample;
  const std::string good = config_to_yaml([&](ConfigVisitor& v) { sample.describe(v); });
  std::mt19937_64 generator(12);
  for (int round = 0; round < 4000; ++round) {
    std::string text = good;
    for (uint64_t edits = generator() % 4 + 1; edits > 0; --edits) {
      const size_t at = generator() % text.size();
      const char c = "\n :-[]{}#&*!|>'\"%@?,\tx0~"[generator() % 24];
      if (generator() % 2 == 0) {
        text[at] = c;
      } else {
        text.insert(at, 1 + generator() % 3, c);
      }
    }
    text_error(text);
  }
}

// --- suggestions ---------------------------------------------------------------------------------

std::set<std::string> one_edit_typos(const std::string& word) {
  const std::string letters = "abcdefghijklmnopqrstuvwxyz_";
  std::set<std::string> typos;
  for (size_t i = 0; i <= word.size(); ++i) {
    for (const char c : letters) {
      typos.insert(word.substr(0, i) + c + word.substr(i));
      if (i < word.size()) typos.insert(word.substr(0, i) + c + word.substr(i + 1));
    }
    if (i < word.size()) typos.insert(word.substr(0, i) + word.substr(i + 1));
    if (i + 1 < word.size()) {
      typos.insert(word.substr(0, i) + word[i + 1] + word[i] + word.substr(i + 2));
    }
  }
  typos.erase(word);
  return typos;
}

TEST(Config, EveryOneEditTypoOfEveryKeyGetsTheRightKey) {
  Sample sample;
  const auto pairs = config_to_pairs([&](ConfigVisitor& v) { sample.describe(v); });
  ASSERT_EQ(pairs.size(), 13U);
  int right = 0;
  int all = 0;
  for (const auto& [path, value] : pairs) {
    const size_t begin = path.rfind('.') + 1;
    for (const std::string& typo : one_edit_typos(path.substr(begin))) {
      const std::string message = override_error(path.substr(0, begin) + typo + "=" + value);
      right += message.find("did you mean '" + path + "'?") != std::string::npos;
      ++all;
    }
  }
  EXPECT_GE(right, 0.95 * all) << right << " of " << all;
  EXPECT_GT(all, 5000);
}

TEST(NearestMatch, CountsASwapOfNeighboursAsOneEdit) {
  EXPECT_EQ(nearest_match("smb", {"softmax", "sbm"}), "sbm");
  EXPECT_EQ(nearest_match("abdc", {"abxx", "abcd"}), "abcd");
}

TEST(NearestMatch, IgnoresCaseAndDashes) {
  EXPECT_EQ(nearest_match("Batch-Size", {"batch", "batch_size"}), "batch_size");
}

TEST(NearestMatch, IsEmptyWhenNothingIsNear) {
  EXPECT_EQ(nearest_match("q", {"a", "b"}), "");
  EXPECT_EQ(nearest_match("momentum", {"steps"}), "");
  EXPECT_EQ(nearest_match("", {"a"}), "");
  EXPECT_EQ(nearest_match("abc", {}), "");
  EXPECT_EQ(nearest_match(std::string(1000000, 'a'), {"aaa"}), "");
}

// --- sections that users name --------------------------------------------------------------------

struct Plan {
  NamedSections<Train> phases;
  int64_t seed = 1;
  void describe(ConfigVisitor& v) {
    v.sections("phases", phases, "One after the other.");
    v.field("seed", seed, {.doc = "Seed."});
  }
};

Plan load_plan(const std::string& text, const std::vector<std::string>& overrides = {}) {
  Plan plan;
  const auto describe = [&](ConfigVisitor& v) { plan.describe(v); };
  load_config_text(text, "a.yaml", describe);
  if (!overrides.empty()) load_config({}, overrides, describe);
  return plan;
}

std::vector<std::string> names_of(const Plan& plan) {
  std::vector<std::string> names;
  for (const auto& [name, train] : plan.phases) names.push_back(name);
  return names;
}

TEST(Config, SectionsWithNamesKeepTheirOrderAndMerge) {
  EXPECT_TRUE(load_plan("").phases.empty());
  const Plan plan = load_plan("phases:\n  short: {steps: 90}\n  a_long_1:\n    batch_size: 8\n",
                              {"phases.short.batch_size=4", "phases.last.steps=3"});
  EXPECT_EQ(names_of(plan), (std::vector<std::string>{"short", "a_long_1", "last"}));
  EXPECT_EQ(plan.phases[0].second.steps, 90);
  EXPECT_EQ(plan.phases[0].second.batch_size, 4);
  EXPECT_EQ(plan.phases[1].second.steps, 1000);
  EXPECT_EQ(plan.phases[1].second.batch_size, 8);
  EXPECT_EQ(plan.phases[2].second.steps, 3);
}

TEST(Config, SectionsWithNamesAreCheckedAsAnyOther) {
  const auto error = [](const std::string& text) { return error_of([&] { load_plan(text); }); };
  EXPECT_EQ(error("phases:\n  short:\n    step: 3\n"),
            "a.yaml:3: phases.short.step: unknown key; did you mean 'phases.short.steps'?");
  EXPECT_EQ(error("phases:\n  short:\n    steps: 0\n"),
            "a.yaml:3: phases.short.steps: 0 is out of range [1, 1000000000] steps");
  EXPECT_EQ(error("phases: 3\n"),
            "a.yaml:1: phases: is a section, not a value; put its keys below it, indented");
  EXPECT_EQ(error("phases:\n  short: 3\n"),
            "a.yaml:2: phases.short: is a section, not a value; put its keys below it, indented");
  EXPECT_EQ(error("phases:\n  '*': {steps: 3}\n"),
            "a.yaml:2: phases.*: is no name; use small letters, digits and '_'");
  EXPECT_EQ(error("phases:\n  a: {steps: 3}\n  a: {steps: 4}\n").find("a.yaml:3"), 0U);
}

TEST(Config, SectionsWithNamesAreWrittenAsTheyAreRead) {
  const Plan plan = load_plan("phases:\n  b: {steps: 2}\n  a: {shuffle: false}\n");
  Plan written = plan;
  const std::string text = config_to_yaml([&](ConfigVisitor& v) { written.describe(v); });
  EXPECT_EQ(text,
            "phases:\n  b:\n    steps: 2\n    batch_size: 32\n    shuffle: true\n"
            "  a:\n    steps: 1000\n    batch_size: 32\n    shuffle: false\nseed: 1\n");
  EXPECT_EQ(names_of(load_plan(text)), names_of(plan));
  const auto pairs = config_to_pairs([&](ConfigVisitor& v) { written.describe(v); });
  EXPECT_EQ(pairs[5], (std::pair<std::string, std::string>("phases.a.shuffle", "false")));
  Plan none;
  EXPECT_EQ(config_to_yaml([&](ConfigVisitor& v) { none.describe(v); }), "seed: 1\n");
  const std::string page = config_to_markdown([&](ConfigVisitor& v) { none.describe(v); });
  EXPECT_NE(page.find("## `phases.*`\n\nOne after the other.\n"), std::string::npos) << page;
  EXPECT_NE(page.find("| `phases.*.steps` | `1000` |"), std::string::npos) << page;
}

// --- writing -------------------------------------------------------------------------------------

TEST(Config, YamlReadsBackToTheSameValues) {
  Sample s;
  s.train = {.steps = 123456789, .batch_size = 1, .shuffle = false};
  s.attention.kind = Kind::kSoftmax;
  s.optimizer.offset = std::numeric_limits<int64_t>::min();
  std::mt19937_64 generator(3);
  const std::vector<std::string> names = {
      "",         "true",    "null",       "~",           "12", "1e3",       "a: b", "# x", " lead",
      "-",        "- x",     "\"q\"",      "back\\slash", "'",  "two words", "it's", "yes", "{a}",
      "[",        "a/b.c-d", "gr\xC3\xBC", "@at",         "&x", "*x",        "!t",   "%d",  "end ",
      "\xC2\xA0", "0x1F",    "|",          ">",           "?",  "a #b",      "\\n",  ":",   ".inf"};
  for (int round = 0; round < 500; ++round) {
    s.name = names[static_cast<size_t>(round) % names.size()];
    s.optimizer.momentum = std::ldexp(static_cast<double>(generator()) - 9e18,
                                      static_cast<int>(generator() % 200) - 160);
    s.optimizer.learning_rate = std::numeric_limits<double>::denorm_min() * (round + 1);
    const std::string text = config_to_yaml([&](ConfigVisitor& v) { s.describe(v); });
    const Sample back = load_text(text);
    ASSERT_EQ(back.name, s.name) << text;
    ASSERT_EQ(back.optimizer.momentum, s.optimizer.momentum) << text;
    ASSERT_EQ(back.optimizer.learning_rate, s.optimizer.learning_rate) << text;
    ASSERT_EQ(back.optimizer.clip_norm, s.optimizer.clip_norm);
    ASSERT_EQ(back.optimizer.offset, s.optimizer.offset);
    ASSERT_EQ(back.train.steps, s.train.steps);
    ASSERT_EQ(back.train.shuffle, s.train.shuffle);
    ASSERT_EQ(back.attention.kind, s.attention.kind);
  }
}

TEST(Config, YamlIsIndentedAndDoublesAreShort) {
  Sample s;
  s.optimizer.momentum = 0.1;
  EXPECT_EQ(config_to_yaml([&](ConfigVisitor& v) { s.describe(v); }),
            "name: run\n"
            "train:\n  steps: 1000\n  batch_size: 32\n  shuffle: true\n"
            "attention:\n  kind: sbm\n  sbm:\n    clusters: 128\n    max_density: 1\n"
            "  dropout: 0.1\n"
            "optimizer:\n  learning_rate: 0.001\n  clip_norm: .inf\n  momentum: 0.1\n"
            "  offset: 0\n  warmup: 10\n");
}

TEST(Config, PairsAreFlatAndInTableOrder) {
  Sample s;
  const auto pairs = config_to_pairs([&](ConfigVisitor& v) { s.describe(v); });
  EXPECT_EQ(pairs[1], (std::pair<std::string, std::string>("train.steps", "1000")));
  EXPECT_EQ(pairs[4], (std::pair<std::string, std::string>("attention.kind", "sbm")));
  EXPECT_EQ(pairs[7].first, "attention.dropout");
}

TEST(Config, MarkdownHasOneTableForEachSection) {
  Sample s;
  s.name = "";
  const std::string text = config_to_markdown([&](ConfigVisitor& v) { s.describe(v); });
  const std::string head =
      "\n| key | default | allowed | unit | meaning |\n|---|---|---|---|---|\n";
  EXPECT_NE(text.find("## Top level\n"), std::string::npos) << text;
  EXPECT_NE(text.find("| `name` | `\"\"` | text |  | Name of the run. |\n"), std::string::npos);
  EXPECT_NE(text.find("## `train`\n\nHow long.\n" + head +
                      "| `train.steps` | `1000` | whole number in [1, 1000000000] | steps | Steps. "
                      "|\n| `train.batch_size` | `32` | whole number >= 1 | examples | Examples. "
                      "|\n| `train.shuffle` | `true` | `true`, `false` |  | Reorder. |\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("## `attention`\n\nWho sees whom.\n" + head +
                      "| `attention.kind` | `sbm` | `softmax`, `sbm` |  | Which attention. |\n"
                      "| `attention.dropout` | `0.1` | number in [0, 1] |  | Of weights \\| after "
                      "the mask. |\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("## `attention.sbm`\n"), std::string::npos);
}

}  // namespace
}  // namespace stipple
