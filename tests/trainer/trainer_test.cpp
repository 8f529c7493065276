// SPDX-License-Identifier: Apache-2.0
// Promises of the training loop as a whole: it uses the memory that was planned, allocates
// nothing in a steady-state step, and several ranks make the step that one rank makes.
#include "trainer/loop/trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>

#include "comm/gradient_reducer.h"
#include "comm/threads/thread_group.h"
#include "core/cuda/runtime.h"
#include "core/log.h"
#include "model/attention/graph.h"
#include "tests/support/allocation_count.h"
#include "tests/support/attentions.h"
#include "trainer/checkpoint/step_directory.h"
#include "trainer/exit_code.h"
#include "trainer/loop/exact_supports.h"
#include "trainer/loop/head_share.h"
#include "trainer/loop/open_split.h"
#include "trainer/loop/predictor_fit.h"
#include "trainer/loop/step_observer.h"

namespace stipple::trainer {
namespace {

/// A small repeated-token run in a folder of its own.
Config small_config(const std::string& name) {
  Config config;
  config.run.dir = (std::filesystem::temp_directory_path() / ("stipple-" + name)).string();
  std::filesystem::remove_all(config.run.dir);
  config.threads = 1;
  config.train = {.steps = 100, .batch = 8, .micro_batch = 2};
  config.data.task = data::TaskKind::kRepeatedToken;
  config.data.repeated_token = {.sequence = 96, .train_examples = 0, .eval_examples = 4};
  config.model.layers = 1;
  config.model.width = 32;
  config.attention.combiner.block = 8;
  config.optimizer.schedule.warmup_steps = 10;
  std::filesystem::create_directories(config.run.dir);
  return config;
}

/// Emulated kernels take their time.
void make_short(Config& config) {
  config.train.batch = 4;
  config.data.repeated_token.sequence = 40;
}

/// The same as a language model of a text in the run's folder.
Config small_language_model(const std::string& name) {
  Config config = small_config(name);
  config.data.task = data::TaskKind::kTextLm;
  config.data.dir = config.run.dir + "-text";
  config.data.max_length = 40;
  config.model.causal = true;
  config.attention.kind = model::AttentionKind::kSoftmax;
  std::filesystem::create_directories(config.data.dir);
  std::ofstream text(config.data.dir + "/a.txt");
  for (int i = 0; i < 300; ++i) text << i * i << (i % 9 == 8 ? ".\n" : ", ");
  return config;
}

/// Every attention on every device that is here; causal, too, where it can be; a language model.
std::vector<Config> every_config(const std::string& name) {
  std::vector<Config> configs;
  for (const auto device : {DeviceChoice::kCpu, DeviceChoice::kCuda}) {
    if (device == DeviceChoice::kCuda && cuda::device_count() == 0) continue;
    for (const auto kind : test::every_attention()) {
      Config& config = configs.emplace_back(small_config(name));
      config.device = device;
      config.attention.kind = kind;
      if (device == DeviceChoice::kCuda) make_short(config);
    }
    for (const auto kind : test::every_causal_attention()) {
      Config& config = configs.emplace_back(small_config(name));
      config.device = device;
      config.attention.kind = kind;
      config.model.causal = true;
      if (device == DeviceChoice::kCuda) make_short(config);
    }
    Config& language_model = configs.emplace_back(small_language_model(name));
    language_model.device = device;
    if (device == DeviceChoice::kCuda) make_short(language_model);
  }
  return configs;
}

TEST(Trainer, UsesThePlannedMemoryAndOnTheCpuExactlyThat) {
  for (const Config& config : every_config("plan")) {
    std::filesystem::create_directories(config.run.dir);
    const auto communicator = comm::make_single_communicator();
    Trainer trainer(config, *communicator);
    trainer.train_step();
    EXPECT_EQ(trainer.replica().saved_peak(), trainer.plan().saved);
    EXPECT_LE(trainer.replica().scratch_peak(), trainer.plan().scratch);
    if (config.device == DeviceChoice::kCpu) {
      EXPECT_EQ(trainer.replica().scratch_peak(), trainer.plan().scratch);
    }
    EXPECT_GT(trainer.plan().total(), trainer.plan().saved);
    std::filesystem::remove_all(config.run.dir);
  }
}

TEST(Trainer, AllocatesNothingAfterTheFirstStep) {
  for (const Config& config : every_config("allocations")) {
    // The emulation's stand-ins of libraries allocate; what they stand for does not.
    if (config.device == DeviceChoice::kCuda && STIPPLE_CUDA_IS_EMULATED) continue;
    std::filesystem::create_directories(config.run.dir);
    const auto communicator = comm::make_single_communicator();
    Trainer trainer(config, *communicator);
    trainer.train_step();
    const int64_t before = test::allocations;
    for (int i = 0; i < 3; ++i) trainer.train_step();
    EXPECT_EQ(test::allocations - before, 0);
    std::filesystem::remove_all(config.run.dir);
  }
}

/// Loss and norm of each step.
std::vector<double> history(const Config& config, int steps) {
  std::filesystem::create_directories(config.run.dir);
  const auto communicator = comm::make_single_communicator();
  Trainer trainer(config, *communicator);
  std::vector<double> numbers;
  for (int i = 0; i < steps; ++i) {
    const StepResult result = trainer.train_step();
    numbers.push_back(result.loss);
    numbers.push_back(result.grad_norm);
  }
  std::filesystem::remove_all(config.run.dir);
  return numbers;
}

TEST(Trainer, OnCudaMakesTheStepsOfTheCpu) {
  if (cuda::device_count() == 0) GTEST_SKIP() << cuda::why_no_device();
  std::vector<Config> configs;
  for (const auto kind : test::every_attention()) {
    configs.push_back(small_config("devices"));
    configs.back().attention.kind = kind;
  }
  for (const auto kind : test::every_causal_attention()) {
    configs.push_back(small_config("devices"));
    configs.back().attention.kind = kind;
    configs.back().model.causal = true;
  }
  configs.push_back(small_language_model("devices"));
  for (Config& config : configs) {
    make_short(config);
    const std::vector<double> on_cpu = history(config, 3);
    config.device = DeviceChoice::kCuda;
    const std::vector<double> on_cuda = history(config, 3);
    for (size_t i = 0; i < on_cpu.size(); ++i) {
      EXPECT_NEAR(on_cuda[i], on_cpu[i], 2e-3 * on_cpu[i]) << i;
    }
    EXPECT_EQ(history(config, 3), on_cuda);
  }
}

/// What a whole run logs of its steps, of which one is enqueued before the one before is collected.
std::vector<TrainRecord> records_of(const Config& config) {
  std::filesystem::create_directories(config.run.dir);
  const auto communicator = comm::make_single_communicator();
  Trainer trainer(config, *communicator);
  EXPECT_EQ(trainer.run(), kDone);
  std::vector<TrainRecord> records = read_metrics(RunDirectory(config.run.dir).metrics()).train;
  std::filesystem::remove_all(config.run.dir);
  return records;
}

/// Every part was measured, and in this step: the parts lie in the whole.
void expect_timed(const TrainRecord& record, bool has_sampling) {
  const StepSeconds& s = record.seconds;
  EXPECT_GT(s.forward, 0);
  EXPECT_GT(s.backward, 0);
  EXPECT_GT(s.optimizer, 0);
  EXPECT_GE(s.reduce, 0);
  if (has_sampling) {
    EXPECT_GT(s.sampling, 0);
  } else {
    EXPECT_EQ(s.sampling, 0);
  }
  EXPECT_LE(s.forward + s.sampling + s.backward + s.reduce + s.optimizer, 1.001 * s.step);
}

TEST(Trainer, ACapturedStepGivesTheBitsOfAnEagerOneAndIsTimedAsWell) {
  if (cuda::device_count() == 0) GTEST_SKIP() << cuda::why_no_device();
  for (const auto kind : test::every_attention()) {
    SCOPED_TRACE(test::name_of(kind));
    Config config = small_config("graph");
    make_short(config);
    config.device = DeviceChoice::kCuda;
    config.attention.kind = kind;
    config.attention.entmax.anneal_from = 1.1;  // by a step that stands in the device's memory
    config.attention.entmax.anneal_steps = 9;
    config.train.steps = 5;  // one as it is, one captured for each flight, one replayed for each
    config.optimizer.schedule.warmup_steps = 2;
    config.log.every = 1;
    const std::vector<TrainRecord> eager = records_of(config);
    config.step.graph = true;
    const std::vector<TrainRecord> captured = records_of(config);
    ASSERT_EQ(eager.size(), 5u);
    ASSERT_EQ(captured.size(), 5u);
    for (size_t i = 0; i < 5; ++i) {
      SCOPED_TRACE(i);
      EXPECT_EQ(captured[i].loss, eager[i].loss);
      EXPECT_EQ(captured[i].grad_norm, eager[i].grad_norm);
      const bool makes_a_graph =
          kind == model::AttentionKind::kSbm || kind == model::AttentionKind::kSparsefinder;
      expect_timed(eager[i], makes_a_graph);
      expect_timed(captured[i], makes_a_graph);
    }
  }
}

/// Every attention of the registry; SBM by each of its mask laws, Combiner by two of its variants,
/// entmax with what it learns and on a path, Sparsefinder by two predictors; a language model.
std::vector<Config> every_attention(const std::string& name) {
  std::vector<Config> configs;
  const auto add = [&](const auto& change) {
    change(configs.emplace_back(small_config(name)).attention);
  };
  for (const bool causal : {false, true}) {
    add([](auto& attention) { attention.kind = model::AttentionKind::kSoftmax; });
    configs.back().model.causal = causal;
  }
  configs.push_back(small_language_model(name));
  for (const auto law : {kernels::MaskLaw::kBernoulli, kernels::MaskLaw::kPoissonCollapse,
                         kernels::MaskLaw::kPoissonMulti}) {
    add([&](auto& attention) {
      attention.kind = model::AttentionKind::kSbm;
      attention.sbm.law = law;
      if (law == kernels::MaskLaw::kPoissonMulti)
        attention.sbm.sampler = kernels::SamplerKind::kRows;
    });
  }
  for (const auto variant : {model::CombinerVariant::kFixed, model::CombinerVariant::kMixture}) {
    add([&](auto& attention) {
      attention.kind = model::AttentionKind::kCombiner;
      attention.combiner.variant = variant;
      attention.combiner.mass_bias = model::CombinerMassBias::kLearned;
    });
    configs.back().model.causal = true;
  }
  add([](auto& attention) {
    attention.kind = model::AttentionKind::kEntmax;
    attention.entmax.learn_alpha = true;
    attention.entmax.temperature = model::EntmaxTemperature::kLearned;
  });
  add([](auto& attention) {
    attention.kind = model::AttentionKind::kEntmax;
    attention.entmax.anneal_from = 1.1;
    attention.entmax.anneal_steps = 2;
  });
  for (const auto predictor :
       {model::SparsefinderPredictor::kCluster, model::SparsefinderPredictor::kQuantize}) {
    add([&](auto& attention) {
      attention.kind = model::AttentionKind::kSparsefinder;
      attention.sparsefinder.predictor = predictor;
    });
  }
  add([](auto& attention) {
    attention.kind = model::AttentionKind::kSparsefinder;
    attention.sparsefinder.cluster.clusters = 4;
    attention.sparsefinder.refresh_every = 2;
    attention.sparsefinder.refresh_examples = 4;
  });
  return configs;
}

/// All tensors of a kind after these steps, by name.
std::map<std::string, std::vector<float>> tensors_after(const Config& config, int steps,
                                                        int ranks = 1) {
  std::map<std::string, std::vector<float>> all;
  std::filesystem::create_directories(config.run.dir);
  comm::run_ranks(ranks, [&](comm::Communicator& communicator) {
    Trainer trainer(config, communicator);
    for (int i = 0; i < steps; ++i) trainer.train_step();
    if (communicator.rank() != 0) return;
    const model::ParameterStore& parameters = trainer.replica().parameters();
    for (const auto& entry : parameters.entries()) {
      const auto values = parameters.value(*parameters.find(entry.name)).span();
      all[entry.name] = {values.begin(), values.end()};
    }
  });
  std::filesystem::remove_all(config.run.dir);
  return all;
}

TEST(Trainer, LambGivesTheSameBitsOnAnyRanksAndThreads) {
  Config config = small_config("lamb");
  config.optimizer.kind = OptimizerKind::kLamb;
  config.optimizer.weight_decay = 0.01;
  const auto alone = tensors_after(config, 3);
  for (int ranks : {2, 3, 4}) EXPECT_EQ(tensors_after(config, 3, ranks), alone) << ranks;
  Config threads = config;
  threads.threads = 3;
  EXPECT_EQ(tensors_after(threads, 3), alone);
  config.optimizer.kind = OptimizerKind::kAdamW;
  EXPECT_NE(tensors_after(config, 3), alone);
}

TEST(Trainer, WhatIsFrozenStaysAndTheRestLearnsAsWithoutIt) {
  for (const int64_t layers : {0, 1}) {
    Config config = small_config("frozen");
    config.model.layers = 2;
    config.optimizer.schedule.kind = ScheduleKind::kConstant;
    config.optimizer.schedule.warmup_steps = 0;
    const auto start = tensors_after(config, 0);
    const auto free = tensors_after(config, 1);
    config.optimizer.freeze = {.embeddings = true, .layers = layers, .tensors = "head.out.bias"};
    const auto frozen = tensors_after(config, 1);
    for (const auto& [name, values] : frozen) {
      const bool is_frozen = name.starts_with("embedding.") || name == "head.out.bias" ||
                             (layers > 0 && name.starts_with("encoder.0."));
      EXPECT_EQ(values, (is_frozen ? start : free).at(name)) << name;
      if (!name.starts_with("encoder.0.attention.")) {
        EXPECT_NE(free.at(name), start.at(name)) << name;
      }
    }
    EXPECT_EQ(tensors_after(config, 2, 3), tensors_after(config, 2));
  }
}

TEST(Trainer, WhatIsFrozenHasNoPartInTheNorm) {
  Config config = small_config("frozen-norm");
  const auto norm = [&] {
    std::filesystem::create_directories(config.run.dir);
    const auto communicator = comm::make_single_communicator();
    const double value = Trainer(config, *communicator).train_step().grad_norm;
    std::filesystem::remove_all(config.run.dir);
    return value;
  };
  const double all = norm();
  config.optimizer.freeze.tensors = "encoder.*, embedding.*";
  const double of_head = norm();
  EXPECT_LT(of_head, all);
  config.optimizer.freeze.tensors = "head.*";
  const double of_rest = norm();
  EXPECT_NEAR(of_head * of_head + of_rest * of_rest, all * all, 1e-9 * all * all);
}

/// Two lengths, batches, leaves and rates; the second phase warms up again.
Config two_phases(const std::string& name) {
  Config config = small_language_model(name);
  config.train.steps = 9;
  config.train.phases = {{"short", {.steps = 5, .max_length = 24}},
                         {"long",
                          {.steps = 4,
                           .batch = 4,
                           .micro_batch = 1,
                           .learning_rate = 5e-3,
                           .schedule = PhaseSchedule::kRestart,
                           .warmup_steps = 2}}};
  config.optimizer.schedule = {.kind = ScheduleKind::kPolynomial, .warmup_steps = 2};
  config.checkpoint = {.every = 1, .keep = 100};
  config.log.every = 3;
  return config;
}

TEST(Trainer, PhasesGiveTheSameBitsOnAnyRanks) {
  for (const auto kind : {OptimizerKind::kAdamW, OptimizerKind::kLamb}) {
    Config config = two_phases("phases-ranks");
    config.optimizer.kind = kind;
    const auto alone = tensors_after(config, 9);
    for (int ranks : {2, 3, 5}) EXPECT_EQ(tensors_after(config, 9, ranks), alone) << ranks;
    // What comes first is a run of the first phase's kind.
    Config first = config;
    first.train.phases.clear();
    const auto before = tensors_after(config, 4);
    EXPECT_NE(tensors_after(first, 4), before);  // sequences of 40 tokens
    first.train.phases = {{"all", {.steps = 9, .max_length = 24}}};
    EXPECT_EQ(tensors_after(first, 5), tensors_after(config, 5));
    EXPECT_NE(tensors_after(first, 6), tensors_after(config, 6));
  }
}

TEST(Trainer, PhasesThatAreAlikeAreARunWithoutAny) {
  Config config = small_language_model("phases-alike");
  config.train.steps = 8;
  config.optimizer.schedule.warmup_steps = 2;
  const auto whole = tensors_after(config, 8);
  config.train.phases = {{"a", {.steps = 3}}, {"b", {.steps = 5}}};
  EXPECT_EQ(tensors_after(config, 8), whole);
  config.train.phases[1].second.schedule = PhaseSchedule::kRestart;
  EXPECT_NE(tensors_after(config, 8), whole);
}

TEST(Trainer, ResumesAtEveryStepAroundTheChangeOfPhases) {
  const Config config = two_phases("phases-resume");
  const auto values_of = [](Trainer& trainer) {
    const auto all = trainer.replica().parameters().values().span();
    return std::vector<float>(all.begin(), all.end());
  };
  std::vector<float> expected;
  std::vector<double> rates;
  {
    const auto communicator = comm::make_single_communicator();
    Trainer trainer(config, *communicator);
    ASSERT_EQ(trainer.run(), kDone);
    expected = values_of(trainer);
  }
  for (int64_t step = 8; step > 0; --step) {
    for (const auto& entry : std::filesystem::directory_iterator(config.run.dir + "/checkpoints")) {
      const auto number = step_of(entry.path().filename().string());
      if (number && *number > step) std::filesystem::remove_all(entry.path());
    }
    const auto communicator = comm::make_single_communicator();
    Trainer trainer(config, *communicator);
    ASSERT_EQ(trainer.step(), step);
    while (trainer.step() < config.train.steps)
      rates.push_back(trainer.train_step().rates.learning_rate);
    EXPECT_EQ(values_of(trainer), expected) << step;
  }
  const size_t last = rates.size() - 8;  // from step 1 on
  const std::vector<double> all(rates.begin() + static_cast<std::ptrdiff_t>(last), rates.end());
  const std::vector<double> golden = {5e-4, 1e-3 * 7 / 9, 1e-3 * 6 / 9, 1e-3 * 5 / 9,
                                      0.0,  2.5e-3,       2.5e-3,       1.25e-3};
  for (size_t i = 0; i < golden.size(); ++i) EXPECT_NEAR(all[i], golden[i], 1e-12) << i;

  Config changed = config;
  changed.train.phases[0].second.batch = 4;
  const auto communicator = comm::make_single_communicator();
  EXPECT_THROW(Trainer(changed, *communicator), ConfigError);
  std::filesystem::remove_all(config.run.dir);
}

TEST(Trainer, PhasesUseThePlannedMemoryOfTheLargest) {
  Config config = two_phases("phases-plan");
  // The second phase has the longer sequences and the smaller leaves.
  for (const int64_t micro_batch : {1, 4}) {
    config.train.phases[1].second.micro_batch = micro_batch;
    std::filesystem::create_directories(config.run.dir);
    const auto communicator = comm::make_single_communicator();
    Trainer trainer(config, *communicator);
    for (int i = 0; i < 9; ++i) trainer.train_step();
    // A leaf of evaluation has 2 examples of 40 tokens.
    EXPECT_LE(trainer.replica().saved_peak(), trainer.plan().saved);
    EXPECT_EQ(trainer.replica().saved_peak() == trainer.plan().saved, micro_batch == 4);
    EXPECT_LE(trainer.replica().scratch_peak(), trainer.plan().scratch);
    std::filesystem::remove_all(config.run.dir);
  }
}

TEST(Trainer, PhasesOfATaskWithOneLengthAreRefusedAnother) {
  Config config = small_config("phases-length");
  config.data.max_length = 96;
  config.train.phases = {{"short", {.steps = CountOrShare::share(50), .max_length = 48}},
                         {"long", {.steps = CountOrShare::share(50)}}};
  const auto communicator = comm::make_single_communicator();
  EXPECT_THROW(Trainer(config, *communicator), ConfigError);
  config.train.phases[0].second.max_length = 0;
  EXPECT_NO_THROW(Trainer(config, *communicator).train_step());
  std::filesystem::remove_all(config.run.dir);
}

TEST(Trainer, WhatPredictsTheGraphFollowsTheModelOnEveryRank) {
  Config config = small_config("refreshed");
  config.attention.kind = model::AttentionKind::kSparsefinder;
  config.attention.sparsefinder.cluster.clusters = 4;
  config.attention.sparsefinder.refresh_every = 2;
  config.attention.sparsefinder.refresh_examples = 4;
  config.train.batch = config.train.micro_batch;  // the second rank has no leaf
  std::vector<std::vector<float>> of_rank(2);
  comm::run_ranks(2, [&](comm::Communicator& communicator) {
    Trainer trainer(config, communicator);
    const model::ParameterStore& parameters = trainer.replica().parameters();
    const auto fixed = [&] {
      std::vector<float> all;
      for (const char* name : {"encoder.0.attention.project", "encoder.0.attention.centroids"}) {
        const auto own = parameters.value(*parameters.find(name)).span();
        all.insert(all.end(), own.begin(), own.end());
      }
      return all;
    };
    const std::vector<float> first = fixed();
    trainer.train_step();
    EXPECT_EQ(fixed(), first);
    trainer.train_step();
    const std::vector<float> second = fixed();
    for (size_t e = 0; e < first.size(); ++e) EXPECT_NE(second[e], first[e]) << e;
    trainer.train_step();
    EXPECT_EQ(fixed(), second);
    trainer.train_step();
    EXPECT_NE(fixed(), second);
    of_rank[static_cast<size_t>(communicator.rank())] = fixed();
  });
  EXPECT_EQ(of_rank[0], of_rank[1]);
  std::filesystem::remove_all(config.run.dir);
}

/// Two layers of two heads that are fitted anew after each step.
Config refreshed_config(const std::string& name) {
  Config config = small_config(name);
  config.model.layers = 2;
  config.model.heads = 2;
  config.attention.kind = model::AttentionKind::kSparsefinder;
  config.attention.sparsefinder.cluster.clusters = 4;
  config.attention.sparsefinder.refresh_every = 1;
  config.attention.sparsefinder.refresh_examples = 6;
  return config;
}

TEST(Trainer, RanksRunTheirLeavesAndGetTheirHeadsOfAllLeaves) {
  for (const int ranks : {1, 2, 3, 5}) {
    const Config config = refreshed_config("exchange");
    comm::run_ranks(ranks, [&](comm::Communicator& communicator) {
      Trainer trainer(config, communicator);
      const auto task = open_task(communicator, config);
      const auto training = open_split(communicator, *task, data::Split::kTrain);
      const Range all = leaves_of_examples(config, 6);
      EXPECT_EQ(all.size(), 3);
      const auto supports = [&](Range leaves) {
        return exact_supports(trainer.replica(), *training, task->info(), config, leaves, 1);
      };
      const ExactSupports expected = supports(all);
      const ExactSupports own = exchange_heads(
          communicator,
          supports(comm::leaves_of_rank(all.size(), communicator.rank(), communicator.size())));
      ASSERT_EQ(own.size(), expected.size());
      for (size_t head = 0; head < own.size(); ++head) {
        const bool is_own = static_cast<int>(head) % ranks == communicator.rank();
        ASSERT_EQ(own[head].size(), is_own ? 6u : 0u);
        for (size_t i = 0; i < own[head].size(); ++i) {
          EXPECT_EQ(own[head][i].q, expected[head][i].q);
          EXPECT_EQ(own[head][i].k, expected[head][i].k);
          EXPECT_EQ(own[head][i].gold.row_ptr, expected[head][i].gold.row_ptr);
          EXPECT_EQ(own[head][i].gold.columns, expected[head][i].gold.columns);
        }
      }
    });
    std::filesystem::remove_all(config.run.dir);
  }
}

TEST(Trainer, WhatIsFittedIsThatOfOneRankOnEveryRank) {
  using model::SparsefinderPredictor;
  using Kind = model::SparsefinderProjectionKind;
  const auto fixed_of = [](const Config& config, int ranks) {
    std::vector<std::vector<float>> of_rank(static_cast<size_t>(ranks));
    comm::run_ranks(ranks, [&](comm::Communicator& communicator) {
      Trainer trainer(config, communicator);
      const model::ParameterStore& parameters = trainer.replica().parameters();
      const auto fixed = [&] {
        std::vector<float> all;
        for (const model::ParameterStore::Entry& entry : parameters.entries()) {
          if (entry.is_learned) continue;
          const auto own = parameters.value(*parameters.find(entry.name)).span();
          all.insert(all.end(), own.begin(), own.end());
        }
        return all;
      };
      const std::vector<float> first = fixed();
      for (int i = 0; i < 2; ++i) trainer.train_step();
      std::vector<float>& last = of_rank[static_cast<size_t>(communicator.rank())];
      last = fixed();
      for (size_t e = 0; e < first.size(); ++e) EXPECT_NE(last[e], first[e]) << e;
    });
    return of_rank;
  };
  struct Case {
    SparsefinderPredictor predictor = SparsefinderPredictor::kCluster;
    model::SparsefinderProjection projection = {};
    int64_t rounds = 1;
  };
  for (const Case& c : {Case{}, Case{.projection = {.shared = false}, .rounds = 2},
                        Case{.predictor = SparsefinderPredictor::kRouting},
                        Case{.projection = {.kind = Kind::kMlp, .hidden = 5, .shared = false}},
                        Case{.projection = {.kind = Kind::kConcat}}}) {
    Config config = refreshed_config("shared");
    config.attention.sparsefinder.predictor = c.predictor;
    config.attention.sparsefinder.projection = c.projection;
    config.attention.sparsefinder.cluster.rounds = c.rounds;
    const std::vector<float> expected = fixed_of(config, 1).front();
    for (const int ranks : {2, 3})
      for (const std::vector<float>& own : fixed_of(config, ranks)) EXPECT_EQ(own, expected);
    std::filesystem::remove_all(config.run.dir);
  }
}

TEST(PredictorFit, ThatLeavesTheNumbersNamesTheKeyOfWhoAskedForIt) {
  Config config = refreshed_config("diverged");
  config.model.layers = config.model.heads = 1;
  const auto communicator = comm::make_single_communicator();
  const auto task = open_task(*communicator, config);
  const auto channels = static_cast<size_t>(config.model.width);
  // A query has one of two keys, the other one is the other's.
  model::ProjectionExample example{
      .q = std::vector<float>(2 * channels, 1.0f),
      .k = std::vector<float>(2 * channels, -1.0f),
      .gold = {.row_ptr = {0, 1, 2}, .columns = {0, 1}, .multiplicity = {}}};
  for (size_t c = 0; c < channels; ++c) example.k[c] = 2.0f;
  const ExactSupports supports = {{example}};
  const auto error_of = [&](const PredictorFitOptions& options) -> std::string {
    PredictorFit fit(config, task->info(), options);
    try {
      fit.fit_projections(supports, {.lr = 1e300});
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "none";
  };
  EXPECT_EQ(
      error_of({}),
      "--learning-rate: at a learning rate of 1e+300 the projection of layer 0, head 0 became "
      "no number; lower it");
  EXPECT_EQ(error_of({.diverged = "attention.sparsefinder.refresh_every", .advice = "use 0"}),
            "attention.sparsefinder.refresh_every: at a learning rate of 1e+300 the projection of "
            "layer 0, head 0 became no number; use 0");
  std::filesystem::remove_all(config.run.dir);
}

/// What a refresh takes from the heap, all ranks together, of what they planned together.
struct Taken {
  int64_t bytes, planned;
};
Taken taken_by_refresh(Config config, int ranks) {
  config.attention.sparsefinder.refresh_every = 3;
  Taken taken{};
  comm::run_ranks(ranks, [&](comm::Communicator& communicator) {
    Trainer trainer(config, communicator);
    for (int i = 0; i < 2; ++i) trainer.train_step();
    communicator.barrier();
    const int64_t before = test::live_bytes;
    test::most_live_bytes = before;
    communicator.barrier();
    trainer.train_step();
    communicator.barrier();
    if (communicator.rank() != 0) return;
    taken = {test::most_live_bytes - before, ranks * static_cast<int64_t>(trainer.plan().fitting)};
  });
  std::filesystem::remove_all(config.run.dir);
  return taken;
}

TEST(Trainer, ARefreshTakesNoMoreThanIsPlannedAndNearlyThatWhereEveryPairHasAWeight) {
  using Kind = model::SparsefinderProjectionKind;
  for (const int ranks : {1, 3}) {
    for (const auto kind : {Kind::kLinear, Kind::kMlp, Kind::kConcat, Kind::kNone}) {
      for (const double alpha : {1.5, 1.01}) {
        SCOPED_TRACE(testing::Message()
                     << ranks << " ranks, kind " << static_cast<int>(kind) << ", alpha " << alpha);
        Config config = refreshed_config("fit-memory");
        config.attention.sparsefinder.projection.kind = kind;
        config.attention.entmax.alpha = alpha;
        const Taken taken = taken_by_refresh(config, ranks);
        EXPECT_LE(taken.bytes, taken.planned);
        if (alpha < 1.1) {
          EXPECT_GT(2 * taken.bytes, taken.planned);
        }
      }
    }
  }
}

TEST(Trainer, WhoFitsNothingPlansNothingForIt) {
  for (const int64_t every : {0, 5}) {
    Config config = refreshed_config("fit-memory");
    config.attention.sparsefinder.refresh_every = every;
    const auto communicator = comm::make_single_communicator();
    const auto task = open_task(*communicator, config);
    EXPECT_EQ(plan_memory(config, task->info(), 1, 0, 1).fitting > 0, every > 0);
    EXPECT_EQ(plan_memory(config, task->info(), 1, 0, 1, PlanFor::kEvaluation).fitting, 0u);
    EXPECT_GT(plan_memory(config, task->info(), 1, 0, 1, PlanFor::kFitting).fitting, 0u);
    std::filesystem::remove_all(config.run.dir);
  }
}

// --- heads that switch to the predicted graph ----------------------------------------------------

Config gated_config(const std::string& name, double gate) {
  Config config = small_config(name);
  config.model.heads = 4;
  config.attention.kind = model::AttentionKind::kSparsefinder;
  model::SparsefinderConfig& sparsefinder = config.attention.sparsefinder;
  sparsefinder.mode = model::SparsefinderMode::kFull;
  sparsefinder.cluster.clusters = 4;
  sparsefinder.cluster.top = 2;
  sparsefinder.refresh_every = 2;
  sparsefinder.refresh_examples = config.train.batch;  // a step's
  sparsefinder.gate = gate;
  return config;
}

std::vector<float> switched_of(Trainer& trainer) {
  const model::ParameterStore& parameters = trainer.replica().parameters();
  const auto own = parameters.value(*parameters.find("encoder.0.attention.switched")).span();
  return {own.begin(), own.end()};
}

/// The predicted graphs of a forward, by head, sequence after sequence.
class PredictedGraphs final : public model::GraphSink {
 public:
  bool wants(int64_t) const override { return true; }
  void take(std::unique_ptr<model::AttentionGraph> graph) override {
    by_head.resize(static_cast<size_t>(graph->heads()));
    for (size_t head = 0; head < by_head.size(); ++head)
      by_head[head].push_back(std::move(graph->edges[head]));
  }
  std::vector<std::vector<kernels::EdgeList>> by_head;
};

/// The share of a head's queries whose whole support is predicted, of all examples of a step.
std::vector<double> exact_shares_of(Trainer& trainer, const Config& config, int64_t step) {
  const auto communicator = comm::make_single_communicator();
  const auto task = open_task(*communicator, config);
  const auto training = open_split(*communicator, *task, data::Split::kTrain);
  const ExactSupports gold = exact_supports(trainer.replica(), *training, task->info(), config,
                                            leaves_of_examples(config, config.train.batch), step);
  PredictedGraphs predicted;
  data::TrainBatches batches(*training, task->info(), batch_options(config, false));
  data::Leaf leaf;
  StepObserver nobody;
  for (int64_t l = 0; l < batches.num_leaves(); ++l) {
    batches.load(step, l, leaf);
    trainer.replica().feed().put(l, 0, leaf);
    trainer.replica().forward(0, evaluation_rng(config, 0), false, nobody, &predicted);
  }
  std::vector<double> shares;
  for (size_t head = 0; head < gold.size(); ++head) {
    double exact = 0, all = 0;
    for (size_t i = 0; i < gold[head].size(); ++i) {
      const kernels::EdgeList &own = gold[head][i].gold, &found = predicted.by_head[head].at(i);
      for (size_t row = 0; row + 1 < own.row_ptr.size(); ++row, ++all)
        exact += std::includes(found.columns.begin() + found.row_ptr[row],
                               found.columns.begin() + found.row_ptr[row + 1],
                               own.columns.begin() + own.row_ptr[row],
                               own.columns.begin() + own.row_ptr[row + 1])
                     ? 1
                     : 0;
    }
    shares.push_back(exact / all);
  }
  return shares;
}

TEST(Trainer, AHeadSwitchesOnceEnoughQueriesOfExamplesThatNothingWasFittedToAreExact) {
  const auto communicator = comm::make_single_communicator();
  std::vector<double> shares;
  {
    const Config config = gated_config("gate", 1.0);
    Trainer trainer(config, *communicator);
    trainer.train_step();
    trainer.train_step();
    EXPECT_EQ(switched_of(trainer), std::vector<float>(4));
    shares = exact_shares_of(trainer, config, /*step=*/3);  // fitted to those of step 2, behind it
  }
  const auto [least, most] = std::ranges::minmax(shares);
  ASSERT_LT(least, most);
  ASSERT_LT(most, 1);
  const Config config = gated_config("gate", most);
  std::vector<float> expected;
  for (const double share : shares) expected.push_back(share == most ? 1.0f : 0.0f);
  Trainer trainer(config, *communicator);
  trainer.train_step();
  EXPECT_EQ(switched_of(trainer), std::vector<float>(4));
  trainer.train_step();
  EXPECT_EQ(switched_of(trainer), expected);
  std::filesystem::remove_all(config.run.dir);
}

TEST(Trainer, HeadsSwitchAlikeOnAnyNumberOfRanksAndForGood) {
  for (const double gate : {1.0, 1e-3}) {
    std::vector<std::vector<float>> switched(3);
    std::vector<std::vector<double>> losses(3);
    for (size_t r = 0; r < 3; ++r) {
      const Config config = gated_config("gate", gate);
      comm::run_ranks(static_cast<int>(r) + 1, [&](comm::Communicator& communicator) {
        Trainer trainer(config, communicator);
        // As if a head had switched before, whose share is not that of the gate now.
        const model::ParameterStore& parameters = trainer.replica().parameters();
        parameters.value(*parameters.find("encoder.0.attention.switched"))[2] = 1;
        for (int i = 0; i < 5; ++i) {
          const StepResult result = trainer.train_step();
          if (communicator.rank() == 0) losses[r].push_back(result.loss);
        }
        if (communicator.rank() == 0) switched[r] = switched_of(trainer);
      });
      EXPECT_EQ(switched[r][2], 1);
      EXPECT_EQ(switched[r], switched[0]);
      EXPECT_EQ(losses[r], losses[0]);
      std::filesystem::remove_all(config.run.dir);
    }
    const auto heads = std::ranges::count(switched[0], 1.0f);
    if (gate == 1.0) {
      EXPECT_EQ(heads, 1);
    } else {
      EXPECT_GT(heads, 1);
    }
  }
}

/// One cluster predicts every pair: the gate is reached at once, and nothing is lost by it.
TEST(Trainer, WhereEverythingIsPredictedSwitchingChangesNoBit) {
  const auto losses_of = [](double gate, bool switches) {
    Config config = gated_config("gate", gate);
    config.attention.sparsefinder.cluster.clusters = 1;
    config.attention.sparsefinder.cluster.top = 1;
    const auto communicator = comm::make_single_communicator();
    Trainer trainer(config, *communicator);
    std::vector<double> losses;
    for (int i = 0; i < 5; ++i) {
      losses.push_back(trainer.train_step().loss);
      if (switches) {
        EXPECT_EQ(switched_of(trainer), std::vector<float>(4, i == 0 ? 0.0f : 1.0f)) << i;
      }
    }
    std::filesystem::remove_all(config.run.dir);
    return losses;
  };
  EXPECT_EQ(losses_of(1.0, true), losses_of(0.0, false));
}

TEST(Trainer, AnAnnealedAlphaFollowsTheStepOnEveryRank) {
  Config config = small_config("annealed");
  config.attention.kind = model::AttentionKind::kEntmax;
  config.attention.entmax.anneal_from = 1.1;
  config.attention.entmax.anneal_steps = 4;
  config.train.batch = config.train.micro_batch;  // the second rank has no leaf
  comm::run_ranks(2, [&](comm::Communicator& communicator) {
    Trainer trainer(config, communicator);
    const model::ParameterStore& parameters = trainer.replica().parameters();
    for (const float expected : {1.1f, 1.2f, 1.3f, 1.4f, 1.5f, 1.5f}) {
      trainer.train_step();
      for (const float alpha :
           parameters.value(*parameters.find("encoder.0.attention.alpha")).span())
        EXPECT_FLOAT_EQ(alpha, expected) << "rank " << communicator.rank();
    }
  });
  std::filesystem::remove_all(config.run.dir);
}

TEST(Trainer, SeveralRanksMakeTheStepOfOneWithEveryAttention) {
  const auto losses_of = [](const Config& config, int ranks) {
    std::vector<double> losses;
    std::filesystem::create_directories(config.run.dir);
    comm::run_ranks(ranks, [&](comm::Communicator& communicator) {
      Trainer trainer(config, communicator);
      for (int i = 0; i < 3; ++i) {
        const StepResult result = trainer.train_step();
        if (communicator.rank() == 0) {
          losses.push_back(result.loss);
          losses.push_back(result.grad_norm);
        }
      }
    });
    std::filesystem::remove_all(config.run.dir);
    return losses;
  };
  for (const Config& config : every_attention("ranks")) {
    SCOPED_TRACE(std::to_string(static_cast<int>(config.attention.kind)) + ", law " +
                 std::to_string(static_cast<int>(config.attention.sbm.law)));
    const std::vector<double> alone = losses_of(config, 1);
    for (int ranks : {2, 3, 4}) EXPECT_EQ(losses_of(config, ranks), alone) << ranks;
    EXPECT_NE(alone[0], alone[2]);
    Config threads = config;
    threads.threads = 3;
    EXPECT_EQ(losses_of(threads, 1), alone);
    Config other = config;
    other.run.seed = 99;
    EXPECT_NE(losses_of(other, 1), alone);
  }
}

}  // namespace
}  // namespace stipple::trainer
