// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/init_from.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>

#include "core/copy.h"
#include "core/error.h"
#include "core/log.h"
#include "trainer/checkpoint/stored_model.h"

namespace stipple::trainer {
namespace {

constexpr std::string_view kHeadPrefix = "head.";

/// Keys that say what the tensors of the encoder mean, whatever their shapes.
constexpr std::array<std::string_view, 7> kEncoderKeys = {
    "model.layers",    "model.width", "model.heads",   "model.feedforward",
    "model.positions", "model.norm",  "model.norm_eps"};

std::vector<std::pair<std::string, std::string>> model_pairs(model::ModelConfig config) {
  return config_to_pairs([&](ConfigVisitor& v) { v.section("model", config, ""); });
}

void require_same_encoder(const Config& config, const StoredModel& from) {
  const auto here = model_pairs(config.model), there = model_pairs(from.config().model);
  std::vector<std::string> differing;
  for (size_t i = 0; i < here.size(); ++i) {
    const auto& [key, value] = here[i];
    if (std::ranges::find(kEncoderKeys, key) != kEncoderKeys.end() && value != there[i].second)
      differing.push_back(fmt::format("{} is {} there and {} here", key, there[i].second, value));
  }
  STIPPLE_CHECK_AS(ConfigError, differing.empty(), "init.from: ", from.path(),
                   " is another model: ", fmt::format("{}", fmt::join(differing, ", ")),
                   "; use its values");
}

/// Tables of equal sizes may be of other words.
void require_same_vocabulary(const Config& config, const data::TaskInfo& info,
                             const StoredModel& from) {
  const std::string there = from.vocabulary();
  STIPPLE_CHECK_AS(ConfigError,
                   there.empty() || info.vocabulary.empty() || there == info.vocabulary,
                   "init.from: ", from.path(), " was trained with another vocabulary than ",
                   config.data.vocab, " (hash ", there, ", not ", info.vocabulary,
                   "); let data.vocab be the one that it was trained with");
}

/// What to do about a table whose rows are counted by a key.
std::string advice(std::string_view name, const Shape& there) {
  if (name == "embedding.positions") return fmt::format("use model.max_positions={}", there[0]);
  if (name == "embedding.segments") return fmt::format("use model.segments={}", there[0]);
  if (name == "embedding.tokens" || name == "masked_head.bias")
    return "the two have other vocabularies; use the one that it was trained with";
  return "the two are other models";
}

struct Plan {
  std::vector<const StoredTensor*> loaded;
  std::vector<std::string> fresh, left_out;
};

Plan make_plan(const Config& config, const StoredModel& from,
               const model::ParameterStore& parameters) {
  Plan plan;
  std::set<std::string_view> taken;
  for (const model::ParameterStore::Entry& entry : parameters.entries()) {
    if (!entry.is_learned) continue;
    const StoredTensor* found = from.find(entry.name);
    const bool is_head = entry.name.starts_with(kHeadPrefix);
    const bool is_other_head =
        is_head && found != nullptr &&
        (!(found->shape == entry.shape) || from.config().model.pooler != config.model.pooler);
    if (found == nullptr || is_other_head) {
      plan.fresh.push_back(entry.name);
      continue;
    }
    STIPPLE_CHECK_AS(ConfigError, found->shape == entry.shape, "init.from: ", from.path(),
                     ": tensor '", entry.name, "' has shape ", found->shape.str(), " there and ",
                     entry.shape.str(), " here; ", advice(entry.name, found->shape));
    plan.loaded.push_back(found);
    taken.insert(found->name);
  }
  for (const StoredTensor& tensor : from.tensors())
    if (!taken.contains(tensor.name)) plan.left_out.push_back(tensor.name);
  return plan;
}

/// Names with their number, those of layers as one: "encoder.*.query.weight".
std::string list_text(const std::vector<std::string>& names) {
  if (names.empty()) return "none";
  std::vector<std::string> shown;
  for (std::string name : names) {
    constexpr std::string_view kLayers = "encoder.";
    const size_t digits_end = name.find_first_not_of("0123456789", kLayers.size());
    if (name.starts_with(kLayers) && digits_end > kLayers.size() && digits_end < name.size())
      name.replace(kLayers.size(), digits_end - kLayers.size(), "*");
    if (std::ranges::find(shown, name) == shown.end()) shown.push_back(name);
  }
  return fmt::format("{}: {}", names.size(), fmt::join(shown, ", "));
}

void tell(const StoredModel& from, const Plan& plan) {
  std::vector<std::string> loaded;
  for (const StoredTensor* tensor : plan.loaded) loaded.push_back(tensor->name);
  log::info(fmt::format("init.from {}", from.path()));
  log::info(fmt::format("tensors loaded, {}", list_text(loaded)));
  log::info(fmt::format("tensors new here, {}", list_text(plan.fresh)));
  log::info(fmt::format("tensors left out, {}", list_text(plan.left_out)));
}

}  // namespace

void init_from(const Config& config, const data::TaskInfo& info, comm::Communicator& communicator,
               const Stream& stream, const model::ParameterStore& parameters) {
  if (config.init.from.empty()) return;
  comm::agree(communicator, [&] {
    const StoredModel from(config.init.from);
    require_same_encoder(config, from);
    require_same_vocabulary(config, info, from);
    const Plan plan = make_plan(config, from, parameters);
    for (const StoredTensor* tensor : plan.loaded) {
      const std::vector<float> values = from.read(*tensor);
      upload(stream, parameters.value(*parameters.find(tensor->name)),
             std::span<const float>(values));
    }
    if (communicator.rank() == 0) tell(from, plan);
  });
}

}  // namespace stipple::trainer
