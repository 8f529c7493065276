// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/fitted.h"

#include <vector>

#include "core/copy.h"
#include "core/error.h"

namespace stipple::trainer {
namespace {

constexpr std::string_view kKey = "attention.sparsefinder.fitted: ";

void put_from(const SafetensorsFile& file, const Stream& stream,
              const model::ParameterStore& parameters) {
  for (const model::ParameterStore::Entry& entry : parameters.entries()) {
    if (entry.is_learned) continue;
    const SafetensorsFile::Entry* found = file.find(entry.name);
    STIPPLE_CHECK_AS(ConfigError, found != nullptr, kKey, file.path(), " has no tensor '",
                     entry.name, "'; it was fitted for another model or predictor");
    STIPPLE_CHECK_AS(ConfigError, found->shape == entry.shape && found->type == TensorType::kF32,
                     kKey, file.path(), ": tensor '", entry.name, "' has shape ",
                     found->shape.str(), " there and ", entry.shape.str(),
                     " in this model; fit it again, with the same attention.sparsefinder keys");
    std::vector<float> values(static_cast<size_t>(entry.shape.numel()));
    file.read(*found, std::as_writable_bytes(std::span(values)));
    upload(stream, parameters.value(*parameters.find(entry.name)), std::span<const float>(values));
    stream.synchronize();
  }
}

}  // namespace

void put_fitted(const Config& config, const Stream& stream,
                const model::ParameterStore& parameters) {
  const std::string& path = config.attention.sparsefinder.fitted;
  if (path.empty() || !parameters.has_fixed()) return;
  try {
    put_from(SafetensorsFile(path), stream, parameters);
  } catch (const CheckpointError& error) {
    throw ConfigError(detail::concat(kKey, error.what()));
  }
}

void write_fitted(const std::string& path, const model::ParameterStore& parameters,
                  const TensorMetadata& about) {
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
