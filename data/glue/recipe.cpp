// SPDX-License-Identifier: Apache-2.0
#include "data/glue/recipe.h"

#include <algorithm>

#include "core/error.h"

namespace stipple::data::glue {
namespace {

constexpr std::array<TaskRecipe, kTrainedTasks.size()> for_all(const TaskRecipe& recipe) {
  std::array<TaskRecipe, kTrainedTasks.size()> all;
  all.fill(recipe);
  return all;
}

constexpr std::string_view kLinear = "optimizer.schedule.kind=linear";
constexpr std::string_view kWarmup6 = "optimizer.schedule.warmup_steps=6%";
constexpr std::string_view kWarmup10 = "optimizer.schedule.warmup_steps=10%";
constexpr std::array kMosaicBertKeys{kLinear, kWarmup6, std::string_view("optimizer.beta1=0.9"),
                                     std::string_view("optimizer.beta2=0.98")};
constexpr std::array kBertKeys{kLinear, kWarmup10};
constexpr std::array kCrammingKeys{std::string_view("optimizer.schedule.kind=cosine"), kWarmup10};
constexpr std::array kNystromKeys{kLinear, std::string_view("optimizer.schedule.warmup_steps=5%"),
                                  std::string_view("optimizer.beta2=0.999")};
constexpr std::array kRobertaKeys{kLinear, kWarmup6, std::string_view("optimizer.beta2=0.98")};

constexpr std::array kRecipes = {
    Recipe{.name = "mosaicbert",
           .source =
               "MosaicBERT (arXiv 2312.17482), its fine-tuning code; WNLI, which it leaves out, "
               "as RTE",
           .tasks = {{{10, 32, 5e-5, 5e-6},   // CoLA
                      {3, 16, 3e-5, 3e-6},    // SST-2
                      {10, 32, 8e-5, 8e-6},   // MRPC
                      {5, 16, 3e-5, 3e-6},    // QQP
                      {10, 32, 3e-5, 3e-6},   // STS-B
                      {3, 48, 5e-5, 5e-6},    // MNLI
                      {10, 16, 1e-5, 1e-6},   // QNLI
                      {3, 16, 1e-5, 1e-5},    // RTE
                      {3, 16, 1e-5, 1e-5}}},  // WNLI
           .keys = kMosaicBertKeys},
    Recipe{
        .name = "bert",
        .source = "BERT (arXiv 1810.04805, appendix A.3): one of its learning rates, 2e-5 to 5e-5",
        .tasks = for_all({3, 32, 3e-5, 0.01}),
        .keys = kBertKeys},
    Recipe{.name = "compact",
           .source = "the compact BERTs (arXiv 1908.08962): one of 3e-4, 1e-4, 5e-5, 3e-5",
           .tasks = for_all({4, 32, 1e-4, 0.01}),
           .keys = kBertKeys},
    Recipe{.name = "roberta",
           .source = "RoBERTa (arXiv 1907.11692, table 10): one of 1e-5, 2e-5, 3e-5",
           .tasks = for_all({10, 16, 2e-5, 0.1}),
           .keys = kRobertaKeys},
    Recipe{.name = "cramming",
           .source = "Cramming (arXiv 2212.14034): one setting for all tasks",
           .tasks = for_all({5, 16, 4e-5}),
           .keys = kCrammingKeys},
    Recipe{.name = "nystromformer",
           .source = "Nystromformer (arXiv 2102.03902), its code",
           .tasks = for_all({5, 32, 3e-5, 0.01}),
           .keys = kNystromKeys},
    Recipe{.name = "config",
           .source = "what the configuration says, for three epochs",
           .tasks = for_all({.epochs = 3}),
           .keys = {}},
};

}  // namespace

const TaskRecipe& Recipe::of(TaskId task) const {
  const TaskId trained = task == TaskId::kMnliMm ? TaskId::kMnli : task;
  const auto at = std::ranges::find(kTrainedTasks, trained);
  STIPPLE_CHECK(at != kTrainedTasks.end(), published(task).name, " is not trained");
  return tasks[static_cast<size_t>(at - kTrainedTasks.begin())];
}

std::span<const Recipe> all_recipes() { return kRecipes; }

const Recipe* recipe_named(std::string_view name) {
  const auto found = std::ranges::find(kRecipes, name, &Recipe::name);
  return found == kRecipes.end() ? nullptr : &*found;
}

int64_t usual_seeds(TaskId task) {
  switch (task) {
    case TaskId::kMnli:
    case TaskId::kMnliMm:
    case TaskId::kQnli:
    case TaskId::kQqp:
      return 1;  // MosaicBERT's
    case TaskId::kSst2:
      return 3;  // MosaicBERT's
    default:
      return 5;
  }
}

bool gains_from_mnli(TaskId task) {
  return task == TaskId::kRte || task == TaskId::kStsb || task == TaskId::kMrpc;
}

}  // namespace stipple::data::glue
