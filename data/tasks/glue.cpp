// SPDX-License-Identifier: Apache-2.0
#include "data/glue/files.h"
#include "data/tasks/tasks.h"
#include "data/tsv/text_task.h"

namespace stipple::data {
namespace {

class GlueTask final : public tsv::TextTask {
 public:
  GlueTask(const DataConfig& config, uint64_t seed)
      : TextTask(config, seed, options_of(glue::published(config.glue.task))),
        published_(glue::published(config.glue.task)),
        dir_(config.dir) {}

  std::vector<std::string> files(Split split) const override {
    return glue::split_files(published_, dir_, split);
  }

 private:
  static tsv::TextTaskOptions options_of(const glue::Published& task) {
    return {.name = "glue " + std::string(task.name),
            .is_pair = task.test.second.number >= 0,
            .labels = glue::labels_of(task),
            .metrics = glue::metrics_of(task.id)};
  }

  Read read(Split split) const override {
    glue::SplitTexts read = glue::read_split(published_, dir_, split, bad_row(split));
    return {std::move(read.texts), std::move(read.remarks)};
  }

  const glue::Published& published_;
  std::string dir_;
};

}  // namespace

void GlueConfig::describe(ConfigVisitor& visitor) {
  const auto names = glue::task_names();
  visitor.choice(
      "task", task, {names.begin(), names.end()},
      {.doc = "Which of GLUE's tasks. mnli_mm is mnli, judged by the mismatched files; ax, the "
              "diagnostic, is a test alone, which a run of mnli predicts."});
}

std::unique_ptr<Task> tasks::make_glue(const DataConfig& config, uint64_t seed) {
  return std::make_unique<GlueTask>(config, seed);
}

}  // namespace stipple::data
