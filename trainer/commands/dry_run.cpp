// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string_view>
#include <utility>

#include "core/bytes_text.h"
#include "core/cpu/memory.h"
#include "data/task_config.h"
#include "trainer/commands/commands.h"
#include "trainer/config/phases.h"
#include "trainer/exit_code.h"
#include "trainer/loop/optimizer_notes.h"
#include "trainer/loop/replica.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {
namespace {

std::string batch_split(const Phase& phase, int ranks) {
  const int64_t leaves = phase.num_leaves();
  const int64_t most = (leaves + ranks - 1) / ranks;
  const int64_t fewest = leaves / ranks;
  return fmt::format("{} examples = {} leaves of {}; {} ranks with ", phase.batch, leaves,
                     phase.micro_batch, ranks) +
         (fewest == most ? fmt::format("{} leaves each", most)
                         : fmt::format("{} to {} leaves each", fewest, most));
}

/// What the ranks of a machine need together, and whether this one has it.
std::string node_text(size_t bytes_per_rank, int ranks_of_node, DeviceChoice device) {
  const size_t needed = bytes_per_rank * static_cast<size_t>(ranks_of_node);
  const size_t available = cpu::available_memory();
  std::string text = bytes_text(needed);
  if (device == DeviceChoice::kCpu && needed > available)
    text += fmt::format("; more than this one can give: {}", bytes_text(available));
  return text;
}

/// What the splits of training hold, where their files can be read; making them may come later.
void print_data(const data::Task& task) {
  std::string heading = "data";
  const auto line = [&](const std::string& text) {
    fmt::print("{:<12} {}\n", std::exchange(heading, ""), text);
  };
  for (data::Split split : {data::Split::kTrain, data::Split::kValidation}) {
    const std::vector<std::string> files = task.files(split);
    for (const std::string& file : files) {
      if (::access(file.c_str(), R_OK) != 0) return line(file + " cannot be read now");
    }
    if (files.empty()) continue;
    const data::Intake intake = task.open(split)->intake();
    const std::string_view name = data::split_name(split);
    line(fmt::format("{}: {} examples, {} tokens", name, intake.examples, intake.tokens));
    for (const std::string& lost : losses(intake, name)) line(lost);
  }
}

}  // namespace

int dry_run(const ConfigArguments& arguments, int ranks, int ranks_per_node) {
  const Config config = load_arguments(arguments.files, arguments.overrides);
  validate(config);
  const auto task = data::make_task(config.data, static_cast<uint64_t>(config.run.seed));
  const int ranks_of_node = std::min(ranks, ranks_per_node);
  const int threads = threads_per_rank(config, ranks_of_node);
  const MemoryPlan largest = plan_memory(config, task->info(), threads, kLargestRank, ranks);
  fmt::print("task         {} of {} tokens, {} classes\n", task->info().name,
             task->info().max_length, task->info().num_classes);
  print_data(*task);
  fmt::print("parameters   {}\n", largest.num_parameters);
  fmt::print("steps        {}\n", config.train.steps);
  const Phases phases(config);
  for (const Phase& phase : phases.all()) {
    if (const std::string text = text_of(phase); !text.empty()) fmt::print("{}\n", text);
    if (phase.steps.size() > 0) fmt::print("batch        {}\n", batch_split(phase, ranks));
  }
  const std::string idle = idle_ranks_text(config, ranks);
  if (!idle.empty()) fmt::print("             {}\n", idle);
  const std::string unused = unused_keys_text(config);
  if (!unused.empty()) fmt::print("note         {}\n", unused);
  for (const std::string& note : optimizer_notes(config, task->info()))
    fmt::print("optimizer    {}\n", note);
  fmt::print("threads      {} per rank\n", threads);
  fmt::print("bytes per rank, the largest of {}:\n", ranks);
  fmt::print("  parameters {:>12}\n", bytes_text(largest.parameters));
  fmt::print("  moments    {:>12}\n", bytes_text(largest.moments));
  fmt::print("  gradients  {:>12}\n", bytes_text(largest.gradients));
  fmt::print("  saved      {:>12}   of one leaf, from forward to backward\n",
             bytes_text(largest.saved));
  fmt::print("  scratch    {:>12}\n", bytes_text(largest.scratch));
  if (largest.inputs > 0) fmt::print("  inputs     {:>12}\n", bytes_text(largest.inputs));
  if (largest.fitting > 0) {
    fmt::print("  fitting    {:>12}   to fit what predicts graphs anew, at most\n",
               bytes_text(largest.fitting));
  }
  if (largest.libraries > 0) {
    fmt::print("  libraries  {:>12}   of cuBLASLt and NCCL, estimated\n",
               bytes_text(largest.libraries));
  }
  fmt::print("  total      {:>12}\n", bytes_text(largest.total()));
  fmt::print("bytes of the {} rank{} of a machine: {}\n", ranks_of_node,
             ranks_of_node == 1 ? "" : "s",
             node_text(largest.total(), ranks_of_node, config.device));
  return kDone;
}

}  // namespace stipple::trainer
