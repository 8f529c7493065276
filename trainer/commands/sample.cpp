// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "data/random_stream.h"
#include "data/task_config.h"
#include "model/decoder.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/load_parameters.h"
#include "trainer/commands/open_run.h"
#include "trainer/exit_code.h"
#include "trainer/loop/replica.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {
namespace {

/// The number of a token drawn with probability softmax(logits / temperature); temperature 0: the
/// most likely one.
int32_t draw(std::span<const float> logits, double temperature, data::RandomStream& random) {
  const auto largest = std::ranges::max_element(logits);
  if (temperature == 0) return static_cast<int32_t>(largest - logits.begin());
  std::vector<double> up_to;
  double sum = 0;
  for (const float logit : logits)
    up_to.push_back(sum += std::exp((static_cast<double>(logit) - static_cast<double>(*largest)) /
                                    temperature));
  const uint32_t high = random.next(), low = random.next();
  const double at = to_unit_double(high, low) * sum;
  const auto found = std::ranges::upper_bound(up_to, at);
  return static_cast<int32_t>(std::min(found, up_to.end() - 1) - up_to.begin());
}

/// Goes on from the last half of what the model can see, once it has seen as much as it can.
std::span<const float> next(model::Decoder& decoder, const std::vector<int32_t>& tokens) {
  if (!decoder.is_full()) return decoder.next(tokens.back());
  const int64_t kept = std::max<int64_t>(1, decoder.length() / 2);
  decoder.restart();
  for (auto token = tokens.end() - kept; token + 1 != tokens.end(); ++token) decoder.next(*token);
  return decoder.next(tokens.back());
}

std::vector<int32_t> generate(model::Decoder& decoder, std::vector<int32_t> tokens,
                              const SampleOptions& options) {
  data::RandomStream random(options.seed, /*example=*/0, /*stream=*/0);
  std::vector<int32_t> given;
  std::span<const float> logits;
  for (const int32_t token : tokens) {
    given.push_back(token);
    logits = next(decoder, given);
  }
  for (int64_t i = 0; i < options.length; ++i) {
    tokens.push_back(draw(logits, options.temperature, random));
    if (i + 1 < options.length) logits = next(decoder, tokens);
  }
  return tokens;
}

}  // namespace

int sample(comm::Communicator& communicator, const std::string& run_dir,
           const std::vector<std::string>& overrides, const SampleOptions& options) {
  const OpenedRun run = open_run(communicator, run_dir, overrides);
  const RunDirectory& directory = run.directory;
  const Config& config = run.config;
  const data::Task* task = run.task.get();
  const data::TaskInfo& info = task->info();
  comm::agree(communicator, [&] {
    STIPPLE_CHECK_AS(ConfigError, info.writes_text || !data::predicts_next_token(config.data.task),
                     run_dir, " is a run of data.task=", info.name,
                     ", and pictures cannot be written yet; give the run of a text (text_lm)");
    STIPPLE_CHECK_AS(ConfigError, info.writes_text, run_dir, " is a run of data.task=", info.name,
                     ", which does not ask for the next token, so that its model cannot write; "
                     "give the run of a language model (data.task=text_lm)");
  });
  const Stream stream(choose_device(config, communicator),
                      {.threads = threads_per_rank(config, communicator.local_size()),
                       .precision = config.precision});
  model::ParameterStore parameters;
  model::FactTable facts(config.model.layers);
  const model::Model model(parameters, facts, config.model, config.attention, model_task(info));
  parameters.allocate(stream.device());
  load_parameters(directory.path(), communicator, stream, parameters);
  if (communicator.rank() != 0) return kDone;
  model::Decoder decoder(model, facts, stream,
                         {.longest = info.max_length, .vocabulary = info.vocab_size});
  const std::string text =
      task->text_of(generate(decoder, task->tokens_of(options.prompt), options));
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
  return kDone;
}

}  // namespace stipple::trainer
