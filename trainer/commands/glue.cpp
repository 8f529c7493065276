// SPDX-License-Identifier: Apache-2.0
// `stipple glue`: fine-tunings one after the other in this process, each an ordinary run in its own
// folder (ADR 31).
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "core/log.h"
#include "data/glue/files.h"
#include "data/glue/recipe.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/glue_plan.h"
#include "trainer/commands/load_parameters.h"
#include "trainer/commands/open_run.h"
#include "trainer/commands/train_run.h"
#include "trainer/exit_code.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/open_split.h"
#include "trainer/loop/signals.h"
#include "trainer/record/best_step.h"
#include "trainer/record/glue_results.h"

namespace stipple::trainer {
namespace {

using data::glue::published;
using data::glue::TaskId;

constexpr int64_t kMostResultBytes = int64_t{1} << 24;

class GlueJob {
 public:
  GlueJob(comm::Communicator& communicator, const GlueOptions& options,
          const ConfigArguments& arguments)
      : communicator_(communicator), plan_(options, arguments) {}

  int run();

 private:
  bool is_first() const { return communicator_.rank() == 0; }
  void prepare();
  int finish(TaskId, int64_t seed);
  bool is_complete(TaskId, int64_t seed) const;
  int64_t training_examples(TaskId, int64_t seed);
  GlueRun measure(TaskId, int64_t seed, int64_t steps);
  void keep(const GlueRun&);
  void write_results() const;
  void predict_tests();
  bool predict_test(const GlueRun& by, TaskId, const std::string& file);

  comm::Communicator& communicator_;
  GluePlan plan_;
  std::optional<RunLock> lock_;
  std::string measured_on_;
  std::vector<GlueRun> runs_;  ///< complete ones, whoever asked for them; rank 0 only
  std::vector<std::string> predictions_;
  std::pair<TaskId, int64_t> counted_ = {TaskId::kAx, 0};  ///< training examples of a task
};

/// Fails before anything is trained where a task could not be.
void GlueJob::prepare() {
  const Config base = load_config_on_all_ranks(
      communicator_, [&] { return plan_.config(plan_.tasks().front(), 1, 0); });
  measured_on_ = base.data.val_fraction > 0
                     ? fmt::format("dev, epochs and seeds chosen by {} of the training examples",
                                   base.data.val_fraction)
                     : "dev, by which epochs and seeds are chosen, too";
  comm::agree(communicator_, [&] {
    if (!is_first()) return;
    std::vector<std::string_view> there;
    std::vector<std::string> missing;
    for (const TaskId task : plan_.tasks()) {
      const auto files = missing_files(base.data.dir, task);
      if (files.empty()) there.push_back(published(task).name);
      missing.insert(missing.end(), files.begin(), files.end());
    }
    STIPPLE_CHECK_AS(ConfigError, missing.empty(), "data.dir: ", missing.front(), " is not there",
                     there.empty() ? std::string()
                                   : fmt::format("; --tasks {} takes the tasks that are",
                                                 fmt::join(there, ",")));
    create_directories(plan_.folder() + "/predictions");
    lock_.emplace(RunDirectory(plan_.folder()));
    runs_ = plan_.complete_runs();
  });
}

bool GlueJob::is_complete(TaskId task, int64_t seed) const {
  return communicator_.any(std::ranges::any_of(
      runs_, [&](const GlueRun& run) { return run.task == task && run.seed == seed; }));
}

int64_t GlueJob::training_examples(TaskId task, int64_t seed) {
  if (counted_.first == task) return counted_.second;
  const Config config =
      load_config_on_all_ranks(communicator_, [&] { return plan_.config(task, seed, 0); });
  const auto opened = open_task(communicator_, config);
  counted_ = {task, open_split(communicator_, *opened, data::Split::kTrain)->size()};
  return counted_.second;
}

/// Trains one run to its end and measures it, unless that was done before.
int GlueJob::finish(TaskId task, int64_t seed) {
  const int64_t examples = training_examples(task, seed);
  const RunDirectory directory = plan_.run(task, seed);
  const Config config = load_config_on_all_ranks(communicator_, [&] {
    const Config now = plan_.config(task, seed, examples);
    require_same_settings(directory, now);
    return now;
  });
  if (is_complete(task, seed)) return kDone;
  log::info(fmt::format("glue: {}, seed {} of {}, {} steps", published(task).name, seed,
                        plan_.seeds_of(task), config.train.steps));
  const int code = train_run(communicator_, config, [&]() -> Config {
    ConfigError refused(
        fmt::format("{}/extend: a run of `stipple glue` has the {} steps of its epochs; remove the "
                    "file and start again",
                    directory.control(), config.train.steps));
    refused.set_collective();
    throw refused;
  });
  if (is_first()) log::set_file("");
  if (code != kDone) return code;
  keep(measure(task, seed, config.train.steps));
  return communicator_.any(stop_requested()) ? kRequeue : kDone;
}

/// By its best checkpoint, on what counts: dev, where training did not look at it or everybody does.
GlueRun GlueJob::measure(TaskId task, int64_t seed, int64_t steps) {
  GlueRun result{.task = task, .seed = seed, .steps = steps};
  const std::string path = plan_.run(task, seed).path();
  for (const TaskId judge : judged_on(task)) {
    const OpenedRun run =
        open_run(communicator_, path, {fmt::format("data.glue.task={}", published(judge).name)});
    const Config& config = run.config;
    const data::TaskInfo& info = run.task->info();
    const auto dataset =
        open_split(communicator_, *run.task,
                   config.data.val_fraction > 0 ? data::Split::kTest : data::Split::kValidation);
    const auto [replica, meta] = load_model(communicator_, run, config, "best");
    const auto never = [] { return false; };
    const EvalResult found =
        evaluate(*replica, communicator_, *dataset, info, config, config.eval.seeds, never).value();
    for (const data::Metric& metric : info.metrics)
      result.measures.push_back({judge, std::string(metric.name), found.metric(metric.name)});
    if (!found.sameness.empty()) result.alarms.push_back(found.sameness);
    result.best_step = meta.step;
  }
  comm::agree(communicator_, [&] {
    if (!is_first()) return;
    const std::string first(data::glue::metrics_of(task).front().name);
    for (const EvalRecord& record : read_metrics(RunDirectory(path).metrics()).eval)
      if (record.is_plain() && record.split == "val" && record.step == result.best_step)
        result.validation = value_of(record.values, first);
  });
  return result;
}

void GlueJob::keep(const GlueRun& run) {
  comm::agree(communicator_, [&] {
    if (!is_first()) return;
    replace_durably(plan_.record(run.task, run.seed), glue_run_to_json(run));
    runs_.push_back(run);
    write_results();
  });
  for (const std::string& alarm : run.alarms)
    if (is_first()) log::warn(alarm);
}

void GlueJob::write_results() const {
  const std::string results = plan_.folder() + "/results.";
  replace_durably(results + "md", glue_markdown(runs_, measured_on_));
  replace_durably(results + "csv", glue_csv(runs_));
  replace_durably(results + "json", glue_json(runs_, measured_on_));
}

/// By the seed that was best on validation. False: there is no test to predict.
bool GlueJob::predict_test(const GlueRun& by, TaskId task, const std::string& file) {
  const RunDirectory directory = plan_.run(by.task, by.seed);
  const std::string made_by = fmt::format("{} {}\n", directory.path(), by.best_step);
  bool is_there = false, is_made = false;
  comm::agree(communicator_, [&] {
    if (!is_first()) return;
    const std::string dir = directory.load_config().data.dir;
    for (const std::string& test :
         data::glue::split_files(published(task), dir, data::Split::kTest))
      is_there |= path_exists(test);
    is_made = path_exists(file) && path_exists(file + ".from") &&
              read_text(file + ".from", kMostResultBytes) == made_by;
  });
  if (!communicator_.any(is_there)) return false;
  if (communicator_.any(is_made)) return true;
  predict(communicator_, directory.path(), {fmt::format("data.glue.task={}", published(task).name)},
          {.out = file, .checkpoint = std::to_string(by.best_step)});
  comm::agree(communicator_, [&] {
    if (is_first()) replace_durably(file + ".from", made_by);
  });
  return true;
}

void GlueJob::predict_tests() {
  for (const TaskId task : data::glue::kTrainedTasks) {
    std::string best;
    if (const GlueRun* found = best_glue_run(runs_, task)) best = glue_run_to_json(*found);
    best = communicator_.broadcast(best, 0);
    if (best.empty()) continue;
    const GlueRun by = glue_run_from_json(best, "the best run");
    for (const TaskId asked : predicted_by(task)) {
      const std::string file =
          fmt::format("{}/predictions/{}", plan_.folder(), published(asked).submission);
      if (predict_test(by, asked, file)) {
        predictions_.push_back(file);
      } else if (is_first()) {
        log::warn(
            fmt::format("{} has no test file: {} is not written", published(asked).name, file));
      }
    }
  }
}

int GlueJob::run() {
  prepare();
  for (const TaskId task : plan_.tasks())
    for (int64_t seed = 1; seed <= plan_.seeds_of(task); ++seed)
      if (const int code = finish(task, seed); code != kDone) return code;
  predict_tests();
  comm::agree(communicator_, [&] {
    if (!is_first()) return;
    write_results();
    if (!predictions_.empty()) submission(predictions_, plan_.folder() + "/submission.zip");
    std::fputs(glue_markdown(runs_, measured_on_).c_str(), stdout);
  });
  return kDone;
}

}  // namespace

int glue(comm::Communicator& communicator, const GlueOptions& options,
         const ConfigArguments& arguments) {
  std::optional<GlueJob> job;
  comm::agree(communicator, [&] { job.emplace(communicator, options, arguments); });
  return job->run();
}

}  // namespace stipple::trainer
