// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/log.h"
#include "data/random_stream.h"
#include "data/task_config.h"
#include "model/decoder.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/load_parameters.h"
#include "trainer/commands/open_run.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"
#include "trainer/loop/memory_check.h"
#include "trainer/loop/replica.h"
#include "trainer/record/named_file.h"
#include "trainer/record/png.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {
namespace {

constexpr int64_t kUsualTextLength = 256;

/// The token of `choices` drawn with probability softmax(logits / temperature) among them;
/// temperature 0: the most likely one.
int32_t draw(std::span<const float> all_logits, Range choices, double temperature,
             data::RandomStream& random) {
  const auto logits =
      all_logits.subspan(static_cast<size_t>(choices.begin), static_cast<size_t>(choices.size()));
  const auto first = static_cast<int32_t>(choices.begin);
  const auto largest = std::ranges::max_element(logits);
  if (temperature == 0) return first + static_cast<int32_t>(largest - logits.begin());
  std::vector<double> up_to;
  double sum = 0;
  for (const float logit : logits)
    up_to.push_back(sum += std::exp((static_cast<double>(logit) - static_cast<double>(*largest)) /
                                    temperature));
  const uint32_t high = random.next(), low = random.next();
  const double at = to_unit_double(high, low) * sum;
  const auto found = std::ranges::upper_bound(up_to, at);
  return first + static_cast<int32_t>(std::min(found, up_to.end() - 1) - up_to.begin());
}

/// Goes on from the last half of what the model can see, once it has seen as much as it can.
std::span<const float> next(model::Decoder& decoder, const std::vector<int32_t>& tokens) {
  if (!decoder.is_full()) return decoder.next(tokens.back());
  const int64_t kept = std::max<int64_t>(1, decoder.length() / 2);
  decoder.restart();
  for (auto token = tokens.end() - kept; token + 1 != tokens.end(); ++token) decoder.next(*token);
  return decoder.next(tokens.back());
}

std::vector<int32_t> generate(model::Decoder& decoder, const data::Task& task, int64_t length,
                              const SampleOptions& options) {
  data::RandomStream random(options.seed, /*example=*/0, /*stream=*/0);
  const std::vector<int32_t> prompt = task.tokens_of(options.prompt);
  const int64_t longest = task.info().max_length;
  if (std::ssize(prompt) > longest)
    log::warn(detail::concat("--prompt is longer than the ", longest,
                             " tokens that the model sees (data.max_length); it goes on from the "
                             "last of them"));
  std::vector<int32_t> tokens;
  std::span<const float> logits;
  for (const int32_t token : prompt) {
    tokens.push_back(token);
    logits = next(decoder, tokens);
  }
  for (int64_t i = 0; i < length; ++i) {
    tokens.push_back(draw(logits, task.next_tokens(i), options.temperature, random));
    if (i + 1 < length) logits = next(decoder, tokens);
  }
  return tokens;
}

/// How many tokens to write. ConfigError where they cannot be.
int64_t checked_length(const data::TaskInfo& info, const std::string& run_dir,
                       const SampleOptions& options) {
  const bool is_picture = info.writes == data::Writes::kPicture;
  STIPPLE_CHECK_AS(ConfigError, info.writes != data::Writes::kNothing, run_dir,
                   " is a run of data.task=", info.name,
                   ", which does not ask for the next token, so that its model cannot write; "
                   "give the run of a language model (data.task=text_lm)");
  STIPPLE_CHECK_AS(ConfigError, !is_picture || !options.out.empty(), run_dir,
                   " is a run of pictures; say where to write one: --out FILE.png");
  STIPPLE_CHECK_AS(ConfigError, !is_picture || options.prompt.empty(),
                   "--prompt is of texts; pictures begin without one");
  STIPPLE_CHECK_AS(ConfigError,
                   !is_picture || options.length.value_or(info.max_length) == info.max_length,
                   "--length is of texts; a picture of this run has ", info.max_length, " values");
  if (!options.out.empty()) require_output(expand_path(options.out, "--out"), "--out");
  return options.length.value_or(is_picture ? info.max_length : kUsualTextLength);
}

void write(const data::Task& task, std::span<const int32_t> tokens, const std::string& out) {
  const bool is_picture = task.info().writes == data::Writes::kPicture;
  const std::string bytes =
      is_picture ? png_of(task.picture_of(tokens)) : task.text_of(tokens) + '\n';
  if (out.empty()) {
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
  } else {
    write_output(expand_path(out, "--out"), bytes);
    log::info("wrote " + out);
  }
}

}  // namespace

int sample(comm::Communicator& communicator, const std::string& run_dir,
           const std::vector<std::string>& overrides, const SampleOptions& options) {
  const OpenedRun run = open_run(communicator, run_dir, overrides);
  const Config& config = run.config;
  const data::Task* task = run.task.get();
  const data::TaskInfo& info = task->info();
  int64_t length = 0;
  comm::agree(communicator, [&] { length = checked_length(info, run_dir, options); });
  const Device device = choose_device(config, communicator);
  const int threads = threads_per_rank(config, communicator.local_size());
  MemoryPlan plan = plan_memory(config, info, threads, communicator.rank(), communicator.size(),
                                PlanFor::kWriting);
  if (communicator.rank() != 0) plan.saved = plan.scratch = 0;  // they only load
  require_memory(plan, config, info, threads, device, communicator, PlanFor::kWriting);
  const Stream stream(device, {.threads = threads, .precision = config.precision});
  model::ParameterStore parameters;
  model::FactTable facts(config.model.layers);
  const model::Model model(parameters, facts, config.model, config.attention, model_task(info));
  parameters.allocate(stream.device());
  load_parameters(communicator, run, config, stream, parameters);
  if (communicator.rank() != 0) return kDone;
  model::Decoder decoder(model, facts, stream, decoder_options(info));
  write(*task, generate(decoder, *task, length, options), options.out);
  return kDone;
}

}  // namespace stipple::trainer
