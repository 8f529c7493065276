// SPDX-License-Identifier: Apache-2.0
// The whole configuration of a run: these structs with their defaults are the schema.
// docs/config.md is generated from them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/gradient_reducer.h"
#include "core/config.h"
#include "core/device.h"
#include "data/task_config.h"
#include "model/attention/attention_config.h"
#include "model/model.h"
#include "trainer/optimizer/guard.h"
#include "trainer/optimizer/optimizer.h"

namespace stipple::trainer {

enum class Resume : uint8_t { kAuto, kNever, kMust };
enum class DeviceChoice : uint8_t { kCpu, kCuda };

struct RunConfig {
  std::string dir = "runs/default";
  int64_t seed = 1;
  Resume resume = Resume::kAuto;
  std::string max_time = {};  ///< parse_duration(); empty: none
  void describe(ConfigVisitor&);
};

/// Where a new run begins.
struct InitConfig {
  std::string from;  ///< path of a run, a checkpoint or an imported model; empty: random values
  void describe(ConfigVisitor&);
};

/// Over which steps a phase's schedule runs: the whole run's, or those of the phase alone.
enum class PhaseSchedule : uint8_t { kRun, kRestart };

/// Zeros: as in the run. See config/phases.h.
struct PhaseConfig {
  CountOrShare steps = 0;
  int64_t max_length = 0;
  int64_t batch = 0;
  int64_t micro_batch = 0;
  double learning_rate = 0;
  PhaseSchedule schedule = PhaseSchedule::kRun;
  CountOrShare warmup_steps = -1;
  void describe(ConfigVisitor&);
};

struct TrainConfig {
  int64_t steps = 1000;
  int64_t batch = 32;
  int64_t micro_batch = 4;
  int64_t length_multiple = 64;
  NamedSections<PhaseConfig> phases = {};
  void describe(ConfigVisitor&);
};

struct EvalConfig {
  int64_t every = 0;                             ///< 0: only at the end
  data::Split split = data::Split::kValidation;  ///< of the command `eval`
  int64_t seeds = 1;
  void describe(ConfigVisitor&);
};

struct CheckpointConfig {
  int64_t every = 0;  ///< 0: only at the end and when stopped
  int64_t keep = 3;
  void describe(ConfigVisitor&);
};

struct LogConfig {
  int64_t every = 10;
  void describe(ConfigVisitor&);
};

struct StepConfig {
  bool graph = false;
  void describe(ConfigVisitor&);
};

struct CommConfig {
  double init_timeout_s = 120;
  double timeout_s = 600;
  void describe(ConfigVisitor&);
};

struct Config {
  RunConfig run;
  DeviceChoice device = DeviceChoice::kCpu;
  Precision precision = Precision::kFp32;
  comm::ReductionPolicy reduction = comm::ReductionPolicy::kExact;
  int64_t threads = 0;  ///< 0: cores of the machine / its ranks
  InitConfig init;
  TrainConfig train;
  StepConfig step;
  CommConfig comm;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  LogConfig log;
  data::DataConfig data;
  model::ModelConfig model;
  model::AttentionConfig attention;
  OptimizerConfig optimizer;
  GuardConfig guard;

  /// Who set which key; those of the rank that read them.
  ConfigOrigins origins;

  void describe(ConfigVisitor&);

  /// Defaults, then the files from left to right, then the overrides. ConfigError, also for a
  /// preset and a key that contradict each other; does not validate().
  static Config load(const std::vector<std::string>& files,
                     const std::vector<std::string>& overrides) {
    return Config().with(files, overrides);
  }
  /// The same on top of these values.
  Config with(const std::vector<std::string>& files,
              const std::vector<std::string>& overrides) const;

  /// With presets applied: what runs.
  Config resolved() const;
};

/// What no single key can tell: values that contradict each other, or that this build cannot do.
/// ConfigError naming the keys.
void validate(const Config&);

/// Which keys are set although nothing looks at them; empty: none.
std::string unused_keys_text(const Config&);

/// The contents of docs/config.md.
std::string config_reference();

}  // namespace stipple::trainer
