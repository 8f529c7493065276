// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/task_config.h"
#include "data/tasks/tasks.h"

namespace stipple::data {
namespace {

struct Entry {
  std::string_view name;
  std::unique_ptr<Task> (*make)(const DataConfig&, uint64_t seed);
  bool predicts_next_token = false;
};

/// In the order of TaskKind.
constexpr std::array kTasks = {
    Entry{"listops", &tasks::make_listops},
    Entry{"repeated_token", &tasks::make_repeated_token},
    Entry{"text_lm", &tasks::make_text_lm, /*predicts_next_token=*/true},
    Entry{"image_lm", &tasks::make_image_lm, /*predicts_next_token=*/true},
    Entry{"glue", &tasks::make_glue},
    Entry{"tsv", &tasks::make_tsv},
    Entry{"mlm", &tasks::make_mlm},
};

const Entry& entry_of(TaskKind kind) {
  const auto index = static_cast<size_t>(kind);
  STIPPLE_CHECK(index < kTasks.size(), "task ", index, " is not in the table");
  return kTasks[index];
}

}  // namespace

void DataConfig::describe(ConfigVisitor& visitor) {
  std::vector<std::string_view> names;
  for (const Entry& entry : kTasks) names.push_back(entry.name);
  visitor.choice("task", task, names, {.doc = "What the model learns."});
  visitor.field(
      "dir", dir,
      {.doc = "Folder with basic_train.tsv, basic_val.tsv and basic_test.tsv (listops), as "
              "`stipple data listops` writes them or as published; folder below which data.files "
              "are (text_lm, mlm); folder with data_batch_1.bin to data_batch_5.bin and "
              "test_batch.bin "
              "(image_lm); folder with the folders CoLA, SST-2, ... of GLUE (glue); folder of the "
              "files (tsv)."});
  visitor.field(
      "files", files,
      {.doc =
           "Which files below data.dir are read (text_lm, mlm): patterns with * and ?, separated "
           "by "
           "commas; of names, or, with a /, of paths from data.dir. The last 5 % of their bytes, "
           "in the order of paths, are the test, the 5 % before them validation."});
  visitor.field(
      "max_length", max_length,
      {.doc = "Length of the model's positions; longer sequences lose their end; text "
              "is cut into windows of it. Models of "
              "repeated_token and image_lm have the positions of their sequences instead.",
       .unit = "tokens",
       .min = 1,
       .max = 65536});
  visitor.field("skip_bad_rows", skip_bad_rows,
                {.doc = "Leave out rows of the files that are malformed or whose label is wrong, "
                        "and tell how many; false: the first such row is an error."});
  visitor.field("vocab", vocab,
                {.doc = "The vocab.txt of the tokenizer, a token a line (glue, tsv, mlm)."});
  visitor.field("lower_case", lower_case,
                {.doc = "The vocabulary is an uncased one: texts are lower-cased and lose their "
                        "accents (glue, tsv, mlm)."});
  visitor.choice("wordpiece_profile", wordpiece_profile, {"google", "hf"},
                 {.doc = "Whose rules of splitting hold where BERT's and Hugging Face's differ, "
                         "which is in rare characters only (glue, tsv, mlm)."});
  visitor.field("val_fraction", val_fraction,
                {.doc = "Validation is this share of the training examples, drawn by run.seed, and "
                        "the published validation file is the test: choices by validation then "
                        "are none by what is reported. 0: validation is that file (glue, tsv).",
                 .min = 0,
                 .max = 0.9});
  visitor.section("repeated_token", repeated_token,
                  "Does this token occur again in the sequence? Made on the fly.");
  visitor.section("text_lm", text_lm,
                  "The next byte of plain text; makes model.causal true (data.task = text_lm).");
  visitor.section(
      "image_lm", image_lm,
      "The next value of a picture, pixel by pixel, red, green, blue; makes model.causal "
      "true (data.task = image_lm).");
  visitor.section("glue", glue, "A task of GLUE, from its published files (data.task = glue).");
  visitor.section("tsv", tsv,
                  "A class or a number for a text or two, from tsv files of your own: a line is a "
                  "row, tabs end fields, quotes have no meaning (data.task = tsv).");
  visitor.section("mlm", mlm, "Masked words of plain text, as BERT learns them (data.task = mlm).");
}

bool predicts_next_token(TaskKind kind) { return entry_of(kind).predicts_next_token; }

std::unique_ptr<Task> make_task(const DataConfig& config, uint64_t seed) {
  return entry_of(config.task).make(config, seed);
}

}  // namespace stipple::data
