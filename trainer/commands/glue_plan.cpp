// SPDX-License-Identifier: Apache-2.0
#include "trainer/commands/glue_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/json.h"
#include "data/glue/files.h"
#include "data/glue/recipe.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/checkpoint/step_directory.h"
#include "trainer/checkpoint/stored_model.h"
#include "trainer/config/resume.h"
#include "trainer/config/user_path.h"

namespace stipple::trainer {
namespace {

using data::glue::kTrainedTasks;
using data::glue::published;
using data::glue::TaskId;

constexpr const char* kRecordName = "glue.json";
constexpr int64_t kMostRecordBytes = int64_t{1} << 24;

/// The keys that are this command's, and what to use instead.
constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kOwnKeys = {{
    {"run.dir", "--out"},
    {"run.seed", "--seeds"},
    {"init.from", "--init"},
    {"data.task", "--tasks"},
    {"data.glue.task", "--tasks"},
    {"train.steps", "--epochs"},
    {"eval.every", "--epochs"},
    {"checkpoint.every", "--epochs"},
}};

void refuse_own_keys(const std::vector<std::string>& overrides) {
  for (const std::string& override : overrides)
    for (const auto& [key, instead] : kOwnKeys)
      STIPPLE_CHECK_AS(ConfigError, override.substr(0, override.find('=')) != key, override, ": ",
                       key, " is set for each run; use ", instead);
}

std::vector<TaskId> tasks_of(const GlueOptions& options) {
  std::vector<TaskId> tasks;
  for (const std::string& name : options.tasks) {
    const auto found = std::ranges::find(data::glue::all_published(), name,
                                         [](const auto& task) { return std::string(task.name); });
    STIPPLE_CHECK_AS(ConfigError, found != data::glue::all_published().end(),
                     "--tasks: there is no task ", name, "; there are ",
                     fmt::format("{}", fmt::join(data::glue::task_names(), ", ")));
    STIPPLE_CHECK_AS(ConfigError, std::ranges::count(kTrainedTasks, found->id) == 1,
                     "--tasks: mnli is judged on mnli_mm and predicts ax by itself; name mnli");
    tasks.push_back(found->id);
  }
  if (tasks.empty()) tasks.assign(kTrainedTasks.begin(), kTrainedTasks.end());
  std::ranges::sort(tasks);
  tasks.erase(std::unique(tasks.begin(), tasks.end()), tasks.end());
  if (options.from_mnli)
    std::ranges::stable_partition(tasks, [](TaskId task) { return task == TaskId::kMnli; });
  return tasks;
}

/// The model is the one that everything begins from; what reads it is a classifier's.
void take_model(const StoredModel& from, bool takes_attention, Config& config) {
  const model::ModelConfig classifier = config.model;
  config.model = from.config().model;
  config.model.pooler = classifier.pooler;
  config.model.mean_over = classifier.mean_over;
  config.model.head_hidden = classifier.head_hidden;
  config.model.causal = false;
  if (takes_attention && !from.is_imported()) config.attention = from.config().attention;
}

/// How its texts were cut.
void take_vocabulary(const StoredModel& from, Config& config) {
  if (!from.is_imported()) {
    const data::DataConfig& there = from.config().data;
    if (!path_exists(there.vocab)) return;
    config.data.vocab = there.vocab;
    config.data.lower_case = there.lower_case;
    config.data.wordpiece_profile = there.wordpiece_profile;
    return;
  }
  if (const std::string own = from.file_beside("vocab.txt"); !own.empty()) config.data.vocab = own;
  const std::string tokenizer = from.file_beside("tokenizer_config.json");
  if (tokenizer.empty()) return;
  const Json json = Json::parse(read_text(tokenizer, kMostRecordBytes));
  if (const Json* lower = json.find("do_lower_case")) config.data.lower_case = lower->get<bool>();
}

/// Whether another value of this key would have given another model.
bool is_setting(std::string_view key) {
  return !may_change(key) || key == "train.steps" || key.starts_with("train.phases.") ||
         key == "precision" || key.starts_with("optimizer.") || key.starts_with("guard.");
}

}  // namespace

GluePlan::GluePlan(const GlueOptions& options, const ConfigArguments& arguments)
    : options_(options), arguments_(arguments), tasks_(tasks_of(options)) {
  refuse_own_keys(arguments.overrides);
  options_.out = expand_path(options.out, "--out");
  if (!options.init.empty()) options_.init = expand_path(options.init, "--init");
  STIPPLE_CHECK_AS(ConfigError, data::glue::recipe_named(options.recipe) != nullptr,
                   "--recipe: there is none called ", options.recipe);
  STIPPLE_CHECK_AS(ConfigError, !options.from_mnli || tasks_.front() == TaskId::kMnli,
                   "--from-mnli: the model of MNLI is to be trained first; add mnli to --tasks");
}

int64_t GluePlan::seeds_of(TaskId task) const {
  return options_.seeds.value_or(data::glue::usual_seeds(task));
}

int64_t GluePlan::epochs_of(TaskId task) const {
  return options_.epochs.value_or(data::glue::recipe_named(options_.recipe)->of(task).epochs);
}

RunDirectory GluePlan::run(TaskId task, int64_t seed) const {
  return RunDirectory(fmt::format("{}/{}-{}", folder(), published(task).name, seed));
}

std::string GluePlan::record(TaskId task, int64_t seed) const {
  return fmt::format("{}/{}", run(task, seed).path(), kRecordName);
}

std::vector<GlueRun> GluePlan::complete_runs() const {
  std::vector<GlueRun> runs;
  for (const std::string& name : list_directory(folder())) {
    const std::string path = fmt::format("{}/{}/{}", folder(), name, kRecordName);
    if (path_exists(path))
      runs.push_back(glue_run_from_json(read_text(path, kMostRecordBytes), path));
  }
  std::ranges::sort(runs, {}, [](const GlueRun& run) { return std::pair(run.task, run.seed); });
  return runs;
}

/// The best checkpoint of MNLI's first seed, or what --init says.
std::string GluePlan::begins_from(TaskId task) const {
  if (!options_.from_mnli || !data::glue::gains_from_mnli(task)) return options_.init;
  const std::string path = record(TaskId::kMnli, 1);
  const GlueRun mnli = glue_run_from_json(read_text(path, kMostRecordBytes), path);
  return run(TaskId::kMnli, 1).checkpoints() + "/" + step_name(mnli.best_step);
}

Config GluePlan::base() const {
  const bool has_files = !arguments_.files.empty();
  Config config =
      load_arguments(has_files ? arguments_.files : std::vector<std::string>{"recipe/glue"}, {});
  if (!options_.init.empty()) {
    const StoredModel from(options_.init);
    take_model(from, !has_files, config);
    take_vocabulary(from, config);
  }
  return config.with({}, arguments_.overrides);
}

Config GluePlan::config(TaskId task, int64_t seed, int64_t examples) const {
  const data::glue::Recipe& recipe = *data::glue::recipe_named(options_.recipe);
  const data::glue::TaskRecipe& of_task = recipe.of(task);
  std::vector<std::string> keys(recipe.keys.begin(), recipe.keys.end());
  const auto set = [&](std::string_view key, const auto& value) {
    keys.push_back(fmt::format("{}={}", key, value));
  };
  if (of_task.batch > 0) set("train.batch", of_task.batch);
  if (of_task.learning_rate > 0) set("optimizer.learning_rate", of_task.learning_rate);
  if (of_task.weight_decay > 0) set("optimizer.weight_decay", of_task.weight_decay);
  keys.insert(keys.end(), arguments_.overrides.begin(), arguments_.overrides.end());
  Config config = base().with({}, keys);
  const int64_t epoch =
      std::max<int64_t>(1, (examples + config.train.batch - 1) / config.train.batch);
  config.run.dir = run(task, seed).path();
  config.run.seed = seed;
  config.init.from = begins_from(task);
  config.data.task = data::TaskKind::kGlue;
  config.data.glue.task = task;
  config.train.steps = epochs_of(task) * epoch;
  config.eval.every = config.checkpoint.every = epoch;
  config.checkpoint.keep = 2;  // and the best
  if (examples == 0) {         // only to open the data: nothing is to fit these steps
    config.optimizer.schedule.warmup_steps = 0;
    config.train.phases = {};
  }
  return config;
}

void require_same_settings(const RunDirectory& directory, const Config& now) {
  if (!path_exists(directory.config())) return;
  const std::string then = read_text(directory.config(), kMostRecordBytes);
  for (const KeyDifference& d : differing_keys(then, yaml_of(now.resolved()))) {
    // Keys that only one of them has are of another version, or of sections that users name.
    const bool is_named =
        d.key.starts_with("train.phases.") || d.key.starts_with("optimizer.groups.");
    if ((!is_named && (!d.before || !d.now)) || !is_setting(d.key)) continue;
    throw ConfigError(
        fmt::format("{} was begun with other settings: {}; use those, or another --out",
                    directory.path(), text_of(d)));
  }
}

std::vector<TaskId> judged_on(TaskId task) {
  if (task == TaskId::kMnli) return {TaskId::kMnli, TaskId::kMnliMm};
  return {task};
}

std::vector<TaskId> predicted_by(TaskId task) {
  if (task == TaskId::kMnli) return {TaskId::kMnli, TaskId::kMnliMm, TaskId::kAx};
  return {task};
}

std::vector<std::string> missing_files(const std::string& dir, TaskId task) {
  std::vector<std::string> files =
      data::glue::split_files(published(task), dir, data::Split::kTrain);
  for (const TaskId judge : judged_on(task))
    for (std::string& file :
         data::glue::split_files(published(judge), dir, data::Split::kValidation))
      files.push_back(std::move(file));
  std::erase_if(files, [](const std::string& file) { return path_exists(file); });
  return files;
}

}  // namespace stipple::trainer
