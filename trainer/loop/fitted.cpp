// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/fitted.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/copy.h"
#include "core/error.h"
#include "model/attention/sparsefinder/head_gate.h"
#include "trainer/checkpoint/safetensors.h"

namespace stipple::trainer {
namespace {

constexpr std::string_view kKey = "attention.sparsefinder.fitted: ";

/// What models must have in common for what was fitted to one to mean anything in the other.
TensorMetadata sort_of_model(const Config& config, const data::TaskInfo& info) {
  return {{"data.task", info.name},
          {"vocabulary", std::to_string(info.vocab_size)},
          {"model.layers", std::to_string(config.model.layers)},
          {"model.width", std::to_string(config.model.width)},
          {"model.heads", std::to_string(config.model.heads)}};
}

void require_sort(const SafetensorsFile& file, const TensorMetadata& expected) {
  for (const auto& [key, value] : expected) {
    const auto found = file.metadata().find(key);
    STIPPLE_CHECK_AS(ConfigError, found != file.metadata().end(), kKey, file.path(),
                     " is not a file that `stipple sparsefinder fit` wrote");
    STIPPLE_CHECK_AS(ConfigError, found->second == value, kKey, file.path(),
                     " was fitted to a model with ", key, " ", found->second, ", and this one has ",
                     value, "; fit it to this one");
  }
}

std::vector<float> fitted_values(const SafetensorsFile& file,
                                 const model::ParameterStore::Entry& entry) {
  const SafetensorsFile::Entry* found = file.find(entry.name);
  STIPPLE_CHECK_AS(ConfigError, found != nullptr, kKey, file.path(), " has no tensor '", entry.name,
                   "'; it was fitted with other attention.sparsefinder keys");
  STIPPLE_CHECK_AS(ConfigError, found->shape == entry.shape && found->type == TensorType::kF32,
                   kKey, file.path(), ": tensor '", entry.name, "' has shape ", found->shape.str(),
                   " there and ", entry.shape.str(),
                   " in this model; fit it again, with the same attention.sparsefinder keys");
  std::vector<float> values(static_cast<size_t>(entry.shape.numel()));
  file.read(*found, std::as_writable_bytes(std::span(values)));
  STIPPLE_CHECK_AS(
      ConfigError, std::ranges::all_of(values, [](float x) { return std::isfinite(x); }), kKey,
      file.path(), ": tensor '", entry.name, "' holds what is no number; fit it again");
  return values;
}

}  // namespace

void put_fitted(comm::Communicator& communicator, const Config& config, const data::TaskInfo& info,
                const Stream& stream, const model::ParameterStore& parameters) {
  const std::string& path = config.attention.sparsefinder.fitted;
  if (path.empty() || !parameters.has_fixed()) return;
  comm::agree(communicator, [&] {
    try {
      const SafetensorsFile file(path);
      require_sort(file, sort_of_model(config, info));
      for (const model::ParameterStore::Entry& entry : parameters.entries()) {
        if (entry.is_learned || entry.name.ends_with(model::HeadGate::kTensor)) continue;
        upload(stream, parameters.value(*parameters.find(entry.name)),
               std::span<const float>(fitted_values(file, entry)));
        stream.synchronize();
      }
    } catch (const CheckpointError& error) {
      throw ConfigError(detail::concat(kKey, error.what()));
    }
  });
}

void write_fitted(const std::string& path, const Config& config, const data::TaskInfo& info,
                  const model::ParameterStore& parameters) {
  const TensorMetadata about = sort_of_model(config, info);
  if (path_exists(path)) {
    const auto is_ours = [&] {
      try {
        return SafetensorsFile(path).metadata().contains(about.begin()->first);
      } catch (const CheckpointError&) {
        return false;
      }
    };
    STIPPLE_CHECK_AS(ConfigError, is_ours(), path,
                     " is not a file that `stipple sparsefinder fit` wrote; move it away");
  }
  std::vector<TensorSource> tensors;
  for (const model::ParameterStore::Entry& entry : parameters.entries()) {
    if (entry.is_learned) continue;
    tensors.push_back(
        {.name = entry.name,
         .shape = entry.shape,
         .bytes = std::as_bytes(parameters.value(*parameters.find(entry.name)).span())});
  }
  const std::string header = safetensors_header(tensors, about);
  std::vector<std::span<const std::byte>> pieces = {std::as_bytes(std::span(header))};
  for (const TensorSource& tensor : tensors) pieces.push_back(tensor.bytes);
  replace_durably(path, pieces);
}

}  // namespace stipple::trainer
