// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstdio>

#include "data/task_config.h"
#include "trainer/checkpoint.h"
#include "trainer/commands/commands.h"
#include "trainer/evaluate.h"
#include "trainer/run_directory.h"

namespace stipple::trainer {
namespace {

/// Parameters of the newest good checkpoint; the step they are of.
int64_t load_parameters(const std::string& run_dir, comm::Communicator& communicator,
                        Replica& replica) {
  std::vector<TensorRef> into;
  const View<float> flat = replica.parameters().values();
  for (const model::ParameterStore::Entry& entry : replica.parameters().entries()) {
    into.push_back({"parameter/" + entry.name, entry.shape,
                    flat.span().subspan(static_cast<size_t>(entry.range.begin),
                                        static_cast<size_t>(entry.range.size()))});
  }
  const auto found = load_checkpoint(run_dir, communicator, into);
  STIPPLE_CHECK_AS(CheckpointError, found.has_value(), run_dir, " has no checkpoint yet");
  return found->step;
}

}  // namespace

int eval(comm::Communicator& communicator, const std::string& run_dir,
         const std::vector<std::string>& overrides) {
  const RunDirectory directory(run_dir);
  const Config config = load_config_on_all_ranks(communicator, {directory.config()}, overrides);
  const auto task = data::make_task(config.data, static_cast<uint64_t>(config.run.seed));
  const auto dataset = task->open(config.eval.split);
  const int threads = threads_per_rank(config, communicator.local_size());
  const MemoryPlan plan =
      plan_memory(config, task->info(), threads, communicator.rank(), communicator.size());
  Replica replica(config, task->info(), threads, plan);
  const int64_t step = load_parameters(run_dir, communicator, replica);
  const EvalResult result =
      evaluate(replica, communicator, *dataset, task->info(), config, config.eval.seeds);
  if (communicator.rank() != 0) return kDone;

  fmt::print("step         {}\n", step);
  fmt::print("split        {}, {} examples\n", data::split_name(config.eval.split),
             result.examples);
  fmt::print("loss         {:.4f}\n", result.loss);
  fmt::print("accuracy     {}\n", place_on_ladder(result.accuracy, task->ladder(*dataset)));
  if (config.eval.seeds > 1) {
    fmt::print("spread       {:.2f} points over {} sampling seeds\n", 100 * result.spread(),
               config.eval.seeds);
  }
  if (result.density > 0) fmt::print("density      {:.2f} %\n", 100 * result.density);
  fmt::print("speed        {:.0f} examples/s\n",
             static_cast<double>(result.examples * config.eval.seeds) / result.seconds);
  return kDone;
}

}  // namespace stipple::trainer
