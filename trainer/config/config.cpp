// SPDX-License-Identifier: Apache-2.0
#include "trainer/config/config.h"

#include <map>

#include "core/cuda/runtime.h"
#include "core/error.h"
#include "core/text.h"
#include "model/attention/registry.h"
#include "trainer/config/duration.h"
#include "trainer/config/phases.h"
#include "trainer/config/user_path.h"

namespace stipple::trainer {
namespace {

constexpr double kMaxSteps = 1e9;

template <class... Parts>
void require(bool condition, const Parts&... parts) {
  STIPPLE_CHECK_AS(ConfigError, condition, parts...);
}

void validate_device(const Config& config) {
  const bool on_gpu = config.device == DeviceChoice::kCuda;
  require(!on_gpu || cuda::is_built(), "device: ", cuda::why_no_device(), ", or use device=cpu");
  require(on_gpu || config.precision == Precision::kFp32,
          "precision: bf16 is for GPUs; use device=cuda or precision=fp32");
  require(on_gpu || !config.step.graph, "step.graph: is for GPUs; use device=cuda or graph=false");
  require(on_gpu || config.attention.implementation == kernels::EdgesImplementation::kOurs,
          "attention.implementation: cusparse is for GPUs; use device=cuda or implementation=own");
  require(!config.step.graph || config.guard.spike_factor == 0,
          "step.graph: a captured step cannot ask the host whether it is a spike; use "
          "guard.spike_factor=0 or step.graph=false");
  require(!config.step.graph || config.attention.kind != model::AttentionKind::kSparsefinder ||
              !config.attention.sparsefinder.switches_heads(),
          "step.graph: a captured step cannot ask the host which heads have switched; use "
          "attention.sparsefinder.gate=0 or step.graph=false");
}

void validate_training(const Config& config) {
  const TrainConfig& train = config.train;
  require(train.batch % train.micro_batch == 0, "train.batch: ", train.batch,
          " is not a multiple of train.micro_batch ", train.micro_batch,
          "; the global batch is cut into equal micro-batches");
  const int64_t warmup = config.optimizer.schedule.warmup_steps.of(train.steps);
  require(warmup <= train.steps, "optimizer.schedule.warmup_steps: ", warmup,
          " does not fit into train.steps ", train.steps,
          "; use a share, like optimizer.schedule.warmup_steps=10%, or train longer");
  const double factor = config.guard.spike_factor;
  require(factor == 0 || factor > 1, "guard.spike_factor: ", factor,
          " would skip ordinary steps; use a value above 1, or 0 for off");
  require(config.run.max_time.empty() || parse_duration(config.run.max_time), "run.max_time: '",
          one_line(config.run.max_time), "' is no time; use ", kDurationForms);
  Phases{config};
  require(!config.run.dir.empty(), "run.dir: is empty; name the folder of the run");
}

void validate_model(const Config& config) {
  const model::ModelConfig& model = config.model;
  require(model.width % model.heads == 0, "model.width: ", model.width,
          " is not a multiple of model.heads ", model.heads, "; heads share the width equally");
  const int64_t head_dim = model.width / model.heads;
  require(model.positions != model::Positions::kRotary || head_dim % 2 == 0,
          "model.positions: rotary turns pairs of channels, and model.width ", model.width,
          " over model.heads ", model.heads, " leaves an odd ", head_dim, " to a head");
  const model::AttentionRow& attention = model::attention_row(config.attention.kind);
  require(attention.traits(config.attention).over_edges ||
              config.attention.implementation == kernels::EdgesImplementation::kOurs,
          "attention.implementation: cusparse computes attention over a graph, and attention.kind=",
          attention.name, " has none; use implementation=own");
  attention.validate(config.attention);
  require(config.data.task != data::TaskKind::kMlm ||
              config.data.mlm.pairs.kind == data::PairKind::kNone ||
              (model.pooler && model.mean_over == kernels::MeanOver::kCls),
          "data.mlm.pairs.kind: relations of texts are told from BERT's pooler; use "
          "model.pooler=true and model.mean_over=cls");
  if (config.data.task == data::TaskKind::kMlm && config.data.mlm.share_rows)
    model::require_can_be_packed(config.attention);
  if (!model.causal) return;
  model::require_can_be_causal(config.attention);
  require(model.mean_over != kernels::MeanOver::kCls,
          "model.mean_over: cls reads the first token, which sees nothing but itself under "
          "model.causal; use padded or valid");
}

std::vector<std::pair<std::string, std::string>> pairs_of(Config config) {
  return config_to_pairs([&](ConfigVisitor& v) { config.describe(v); });
}

/// `config` was read over a preset's values.
void require_no_contradiction(const Config& config) {
  const auto set = pairs_of(config);
  const auto preset = pairs_of(config.resolved());
  const std::map<std::string, std::string> values(set.begin(), set.end());
  for (size_t i = 0; i < set.size(); ++i) {
    const auto& [key, value] = set[i];
    if (value == preset[i].second) continue;
    const size_t end_of_section = key.find('.', key.find('.') + 1);
    const std::string compat = key.substr(0, end_of_section) + ".compat";
    require(false, key, ": is set to ", value, ", and ", compat, " to ", values.at(compat),
            ", which makes it ", preset[i].second, "; remove one of the two");
  }
}

}  // namespace

void RunConfig::describe(ConfigVisitor& v) {
  v.field("dir", dir,
          {.doc = "Folder of the run: resolved configuration, metrics, log, report, "
                  "checkpoints."});
  v.field("seed", seed,
          {.doc = "Everything random follows from it: initial values, order of the data, graphs, "
                  "dropout.",
           .min = 0,
           .max = 9007199254740992.0});
  v.choice("resume", resume, {"auto", "never", "must"},
           {.doc = "What to do about a run that dir already holds: auto, go on with it, or start "
                   "one if there is none; never, refuse; must, refuse to start a new one."});
  v.field("max_time", max_time,
          {.doc = "How long this job may last, from its start, as for sbatch --time: minutes, "
                  "minutes:seconds, hours:minutes:seconds or days-hours:minutes:seconds. The run "
                  "saves and leaves with exit code 75 before that, early enough by what its saves "
                  "and steps were measured to take. Empty: no limit but that of a Slurm job "
                  "(SLURM_JOB_END_TIME)."});
}

void InitConfig::describe(ConfigVisitor& v) {
  v.field(
      "from", from,
      {.doc = "What a new run begins with in place of random values: a run (its newest "
              "checkpoint), a checkpoint, or what `stipple import` wrote. Its encoder has the "
              "same model keys; tensors of the same name are loaded, others are new or left out, "
              "and the log lists which. A resumed run goes on from its own checkpoint."});
}

void PhaseConfig::describe(ConfigVisitor& v) {
  v.field("steps", steps,
          {.doc = "Steps of the phase. Those of all phases add up to train.steps.",
           .unit = "steps",
           .min = 0,
           .max = kMaxSteps,
           .share_of = "train.steps"});
  v.field("max_length", max_length,
          {.doc = "Examples of training are cut to this; at most data.max_length, the model's. 0: "
                  "that. Evaluation always sees data.max_length.",
           .unit = "tokens",
           .min = 0,
           .max = 1e6});
  v.field("batch", batch,
          {.doc = "In place of train.batch. 0: that.", .unit = "examples", .min = 0, .max = 1e6});
  v.field(
      "micro_batch", micro_batch,
      {.doc = "In place of train.micro_batch. 0: that.", .unit = "examples", .min = 0, .max = 1e6});
  v.field("learning_rate", learning_rate,
          {.doc = "In place of optimizer.learning_rate. 0: that.", .min = 0, .max = 1000});
  v.choice("schedule", schedule, {"run", "restart"},
           {.doc = "run: the rate is where optimizer.schedule is at this step of the run. restart: "
                   "the schedule begins anew, warm-up included, and ends with the phase."});
  v.field("warmup_steps", warmup_steps,
          {.doc = "With schedule=restart, in place of optimizer.schedule.warmup_steps, of which a "
                  "share is one of the phase's steps, too. -1: that.",
           .unit = "steps",
           .min = -1,
           .max = kMaxSteps,
           .share_of = "the phase's steps"});
}

void TrainConfig::describe(ConfigVisitor& v) {
  v.field(
      "steps", steps,
      {.doc = "Optimizer steps of the whole run.", .unit = "steps", .min = 1, .max = kMaxSteps});
  v.field("batch", batch,
          {.doc = "Global batch of one step, over all ranks.",
           .unit = "examples",
           .min = 1,
           .max = 1e6});
  v.field("micro_batch", micro_batch,
          {.doc = "Examples that go through the model at once; divides batch. Ranks share the "
                  "batch / micro_batch leaves. Smaller: less memory, more ranks can work. The "
                  "number of ranks does not change the result, this key does, in the last bits.",
           .unit = "examples",
           .min = 1,
           .max = 1e6});
  v.field(
      "length_multiple", length_multiple,
      {.doc = "A leaf is padded to the longest of its examples, rounded up to a multiple of this. "
              "64 suits GPUs; on CPUs 8 computes less padding where examples are short. "
              "Another one changes the result in the last bits.",
       .unit = "tokens",
       .min = 1,
       .max = 65536});
  v.sections(
      "phases", phases,
      "Stretches of steps with a length, a batch and a learning rate of their own, one after "
      "the other, by names that you choose; none: the run is all alike.");
}

void StepConfig::describe(ConfigVisitor& v) {
  v.field("graph", graph,
          {.doc = "GPUs: capture the step as a CUDA graph and replay it: less work for the "
                  "host. Leaves of training are padded to data.max_length; the same bits as an "
                  "eager step with that padding."});
}

void CommConfig::describe(ConfigVisitor& v) {
  v.field("init_timeout_s", init_timeout_s,
          {.doc = "GPUs: how long ranks may take to find each other over NCCL before the run ends "
                  "with an error. Before that, to find each other over MPI and to read this "
                  "configuration, they have 120 s.",
           .unit = "s",
           .min = 1,
           .max = 86400});
  v.field(
      "timeout_s", timeout_s,
      {.doc = "How long ranks wait for one that does not come to an exchange and gives no sign "
              "of work, before the run ends with an error that names it and its machine. Longer "
              "than the slowest rank needs to read the data or to save a checkpoint. On GPUs "
              "also: how long one exchange of gradients may take.",
       .unit = "s",
       .min = 1,
       .max = 86400});
}

void EvalConfig::describe(ConfigVisitor& v) {
  v.field("every", every,
          {.doc = "Steps between evaluations on the validation split. 0: only at the end.",
           .unit = "steps",
           .min = 0,
           .max = kMaxSteps});
  v.choice("split", split, {"train", "val", "test"},
           {.doc = "What the command `eval` evaluates on. Training only ever looks at val."});
  v.field("seeds", seeds,
          {.doc = "Sampling seeds over which the final evaluation and `eval` average: graphs are "
                  "random in evaluation, too. The same seed gives the same graphs every time.",
           .min = 1,
           .max = 1000});
}

void CheckpointConfig::describe(ConfigVisitor& v) {
  v.field("every", every,
          {.doc = "Steps between checkpoints. 0: only at the end and when a signal stops the run.",
           .unit = "steps",
           .min = 0,
           .max = kMaxSteps});
  v.field("keep", keep,
          {.doc = "Newest checkpoints to keep; two at least, so that one can be damaged. The best "
                  "by validation stays besides.",
           .min = 2,
           .max = 1e6});
}

void LogConfig::describe(ConfigVisitor& v) {
  v.field("every", every,
          {.doc = "Steps that one line of metrics.jsonl averages over.",
           .unit = "steps",
           .min = 1,
           .max = kMaxSteps});
}

void Config::describe(ConfigVisitor& v) {
  v.section("run", run, "Identity of the run.");
  v.choice("device", device, {"cpu", "cuda"}, {.doc = "Where the arithmetic runs."});
  v.choice("precision", precision, {"fp32", "bf16"},
           {.doc = "How activations of branches are stored and the factors of products rounded "
                   "(bf16: GPUs only); sums, the residual stream, parameters and moments are "
                   "always fp32."});
  v.choice("reduction", reduction, {"exact", "fast"},
           {.doc = "How gradients are summed: exact, in one order that does not depend on the "
                   "number of ranks; fast, by the transport's all-reduce."});
  v.field("threads", threads,
          {.doc = "CPU threads of a rank. 0: the cores of the machine divided by its ranks. Any "
                  "number gives the same bits.",
           .unit = "threads",
           .min = 0,
           .max = 4096});
  v.section("init", init, "What a new run begins with.");
  v.section("train", train, "How long, and in which portions.");
  v.section("step", step, "How a step is run.");
  v.section("comm", comm, "How long ranks wait for each other.");
  v.section("eval", eval, "When and on what the model is judged.");
  v.section("checkpoint", checkpoint, "When the state of the run is saved.");
  v.section("log", log, "When metrics are written.");
  v.section("data", data, "What the model learns from.");
  v.section("model", model, "The encoder and its head.");
  v.section("attention", attention, "Who sees whom.");
  v.section("optimizer", optimizer, "AdamW or LAMB, and gradient clipping.");
  v.section("guard", guard, "What happens to steps with bad numbers.");
}

Config Config::with(const std::vector<std::string>& files,
                    const std::vector<std::string>& overrides) const {
  ConfigOrigins set;
  const auto read_over = [&](Config config) {
    set = load_config(files, overrides, [&](ConfigVisitor& v) { config.describe(v); });
    return config;
  };
  Config config = read_over(*this);
  Config preset = *this;
  preset.attention.sbm.compat = config.attention.sbm.compat;
  preset.attention.combiner.compat = config.attention.combiner.compat;
  // What does not have the preset's value although it was there before: somebody set it.
  require_no_contradiction(read_over(preset.resolved()));
  if (data::predicts_next_token(config.data.task)) {
    require(config.model.causal || !set.is_set("model.causal"),
            "model.causal: is set to false, and data.task asks for the next token, which makes it "
            "true; remove it");
    if (!config.model.causal) set.set("model.causal", {.source = "implied by data.task"});
    config.model.causal = true;
  }
  if (set.is_set("run.dir")) config.run.dir = expand_path(config.run.dir, "run.dir");
  std::string& fitted = config.attention.sparsefinder.fitted;
  if (set.is_set("attention.sparsefinder.fitted") && !fitted.empty())
    fitted = expand_path(fitted, "attention.sparsefinder.fitted");
  if (set.is_set("data.mlm.shards"))
    config.data.mlm.shards = expand_paths(config.data.mlm.shards, "data.mlm.shards");
  if (set.is_set("data.vocab")) config.data.vocab = expand_path(config.data.vocab, "data.vocab");
  if (set.is_set("init.from") && !config.init.from.empty())
    config.init.from = expand_path(config.init.from, "init.from");
  if (set.is_set("data.dir")) config.data.dir = expand_path(config.data.dir, "data.dir");
  config.origins.add(set);
  return config;
}

Config Config::resolved() const {
  Config config = *this;
  config.attention.sbm = attention.sbm.resolved();
  config.attention.combiner = attention.combiner.resolved();
  return config;
}

void validate(const Config& config) {
  validate_model(config);
  validate_device(config);
  validate_training(config);
}

std::string unused_keys_text(const Config& config) {
  if (config.attention.kind != model::AttentionKind::kCombiner) return {};
  std::string keys;
  for (const std::string_view key : config.attention.combiner.unused_keys()) {
    const std::string path = "attention.combiner." + std::string(key);
    if (config.origins.is_set(path)) keys += (keys.empty() ? "" : ", ") + path;
  }
  return keys.empty() ? keys
                      : "attention.combiner.variant does not look at what is set for " + keys;
}

std::string config_reference() {
  Config defaults;
  return "# Configuration\n\n"
         "Every key with its default. Do not edit: the `describe()` functions in the code say it, "
         "and\n"
         "`stipple keys` prints it. To renew the page: `build/bin/stipple keys > "
         "docs/config.md`.\n\n"
         "Files compose from left to right, then come `key=value` overrides:\n"
         "`stipple train configs/recipe/quickstart.yaml train.steps=50`. In a file the dots of a\n"
         "key are nesting. A key that does not exist is an error.\n\n"
         "A file may be composed of others: `include: [task/lra_listops, attention/sbm]` at its\n"
         "top. They come before the file's own keys, from left to right; what has come before is\n"
         "not included again. A name is that of a file under the folder `configs`, without\n"
         "`.yaml`: the folder that holds the including file, else the one in the working\n"
         "directory. What ends in `.yaml` is a path, relative to the including file. The command\n"
         "line takes names, too:\n"
         "`stipple dry-run task/lra_listops size/lra_listops attention/softmax --explain`.\n"
         "`--explain` prints each value with the line, the override or the default that set it.\n" +
         config_to_markdown([&](ConfigVisitor& v) { defaults.describe(v); });
}

}  // namespace stipple::trainer
