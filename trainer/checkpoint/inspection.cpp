// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/inspection.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/checkpoint/step_directory.h"

namespace stipple::trainer {
namespace {

struct Statistics {
  double min = std::numeric_limits<double>::infinity();
  double max = -std::numeric_limits<double>::infinity();
  double mean = 0;
  double norm = 0;
  int64_t non_finite = 0;
};

Statistics statistics_of(std::span<const float> values) {
  Statistics s;
  for (float value : values) {
    const double x = static_cast<double>(value);
    if (!std::isfinite(x)) {
      ++s.non_finite;
      continue;
    }
    s.min = std::min(s.min, x);
    s.max = std::max(s.max, x);
    s.mean += x;
    s.norm += x * x;
  }
  s.mean /=
      std::max<double>(1, static_cast<double>(values.size()) - static_cast<double>(s.non_finite));
  s.norm = std::sqrt(s.norm);
  return s;
}

std::string table_row(const ManifestTensor& tensor, int width, std::span<const float> values) {
  const Statistics s = statistics_of(values);
  std::string row =
      fmt::format("{:<{}}  {:<18} {:>12}", tensor.name, width, tensor.shape.str(), values.size());
  if (!values.empty() && s.non_finite < static_cast<int64_t>(values.size()))
    row += fmt::format("  {:>11.4g} {:>11.4g} {:>11.4g} {:>11.4g}", s.min, s.mean, s.max, s.norm);
  if (s.non_finite > 0) row += fmt::format("  {} not finite", s.non_finite);
  return row + "\n";
}

using Parts = std::span<const ManifestTensor>;

/// All of one tensor.
std::vector<float> read_values(const std::string& directory, Parts parts) {
  std::vector<float> values(static_cast<size_t>(parts.front().shape.numel()));
  for (const ManifestTensor& part : parts) {
    const SafetensorsFile shard(directory + "/" + part.file);
    const auto* entry = shard.find(part.name);
    STIPPLE_CHECK_AS(CheckpointError, entry, part.file, ": tensor '", part.name, "' is missing");
    shard.read(*entry, std::as_writable_bytes(
                           std::span(values).subspan(static_cast<size_t>(part.elements.begin),
                                                     static_cast<size_t>(part.elements.size()))));
  }
  return values;
}

/// One tensor after the other, each with its parts.
std::vector<Parts> by_tensor(const Manifest& manifest) {
  const Parts all = manifest.tensors;
  std::vector<Parts> tensors;
  for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
    while (end < all.size() && all[end].name == all[begin].name) ++end;
    tensors.push_back(all.subspan(begin, end - begin));
  }
  return tensors;
}

Manifest verified_manifest(const std::string& directory) {
  std::vector<std::string> faults;
  Manifest manifest;
  try {
    manifest = read_manifest(directory);
    faults = find_faults(directory, manifest);
  } catch (const CheckpointError& e) {
    faults.push_back(e.what());
  }
  STIPPLE_CHECK_AS(DataError, faults.empty(), "checkpoint ", directory,
                   " is damaged: ", fmt::format("{}", fmt::join(faults, "; ")));
  return manifest;
}

std::string summary(const std::string& directory, const Manifest& m) {
  return fmt::format(
      "checkpoint    {}\nstep          {} ({} applied by the optimizer)\n"
      "data position {} examples, dataset {:016x}\nwritten by    {}, {} rank{}\n\n",
      directory, m.meta.step, m.meta.scalars.count(kAppliedSteps),
      m.meta.scalars.count(kDataPosition), m.meta.dataset_fingerprint, m.created_by, m.world_size,
      m.world_size == 1 ? "" : "s");
}

}  // namespace

StateHasher::StateHasher(const CheckpointMeta& meta) {
  add_integer(meta.step);
  add_integer(meta.scalars.count(kDataPosition));
  add_integer(meta.scalars.count(kAppliedSteps));
}

void StateHasher::add_integer(int64_t value) {
  hasher_.update(std::as_bytes(std::span(&value, 1)));
}

void StateHasher::add(std::string_view name, const Shape& shape, std::span<const std::byte> bytes) {
  // Lengths first, so that no two different states give the same stream.
  add_integer(static_cast<int64_t>(name.size()));
  hasher_.update(name);
  add_integer(shape.rank());
  for (int i = 0; i < shape.rank(); ++i) add_integer(shape[i]);
  hasher_.update(bytes);
}

std::string state_hash(const CheckpointMeta& meta, std::span<const TensorRef> tensors) {
  StateHasher hasher(meta);
  std::vector<const TensorRef*> by_name;
  for (const TensorRef& t : tensors) by_name.push_back(&t);
  std::sort(by_name.begin(), by_name.end(),
            [](const TensorRef* a, const TensorRef* b) { return a->name < b->name; });
  for (const TensorRef* t : by_name) hasher.add(t->name, t->shape, std::as_bytes(t->data));
  return hasher.hex();
}

std::string inspect_checkpoint(const std::string& path) {
  const auto directories = list_checkpoints(path);
  STIPPLE_CHECK_AS(ConfigError, !directories.empty(), "no checkpoint in ", path,
                   "; give a run directory, its checkpoints or one step directory");
  const std::string& directory = directories.front();
  const Manifest manifest = verified_manifest(directory);
  std::string text = summary(directory, manifest);

  size_t width = 6;
  for (const ManifestTensor& t : manifest.tensors) width = std::max(width, t.name.size());
  text += fmt::format("{:<{}}  {:<18} {:>12}  {:>11} {:>11} {:>11} {:>11}\n", "tensor", width,
                      "shape", "elements", "min", "mean", "max", "norm");
  StateHasher state(manifest.meta);
  int64_t elements = 0;
  const std::vector<Parts> tensors = by_tensor(manifest);
  for (const Parts parts : tensors) {
    const ManifestTensor& t = parts.front();
    const std::vector<float> values = read_values(directory, parts);
    elements += t.shape.numel();
    state.add(t.name, t.shape, std::as_bytes(std::span(values)));
    text += table_row(t, static_cast<int>(width), values);
  }
  text += fmt::format("\n{} tensors, {} elements; every hash holds\n", tensors.size(), elements);
  for (const ManifestFile& f : manifest.files)
    text += fmt::format("{}  {} bytes\n", f.name, f.bytes);
  return text + "state " + state.hex() + "\n";
}

}  // namespace stipple::trainer
