// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/json.h"
#include "trainer/checkpoint/content_hash.h"
#include "trainer/checkpoint/safetensors.h"

namespace stipple::trainer {
namespace {

// Header and manifest entries of one tensor, generously.
constexpr int64_t kBytesPerTensorEntry = 1024;

}  // namespace

std::vector<int> deal_tensors(std::span<const TensorRef> tensors, int world_size) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (tensors[a].data.size() != tensors[b].data.size())
      return tensors[a].data.size() > tensors[b].data.size();
    return tensors[a].name < tensors[b].name;
  });
  std::vector<size_t> load(static_cast<size_t>(world_size));
  std::vector<int> owners(tensors.size());
  for (size_t i : order) {
    const auto least = std::min_element(load.begin(), load.end());
    owners[i] = static_cast<int>(least - load.begin());
    *least += tensors[i].data.size();
  }
  return owners;
}

std::string shard_name(int rank, int world_size) {
  return fmt::format("shard-{:05d}-of-{:05d}.safetensors", rank, world_size);
}

std::string to_text(const ShardReport& report) {
  Json hashes = Json::object();
  for (const ManifestTensor& t : report.tensors) hashes[t.name] = t.hash;
  return Json{{"bytes", report.file.bytes}, {"hash", report.file.hash}, {"tensors", hashes}}.dump();
}

std::vector<const TensorRef*> tensors_of_rank(std::span<const TensorRef> tensors,
                                              const std::vector<int>& owners, int rank) {
  std::vector<const TensorRef*> mine;
  for (size_t i = 0; i < tensors.size(); ++i)
    if (owners[i] == rank) mine.push_back(&tensors[i]);
  std::sort(mine.begin(), mine.end(),
            [](const TensorRef* a, const TensorRef* b) { return a->name < b->name; });
  return mine;
}

ShardReport write_shard(const std::string& directory, const std::string& name,
                        std::span<const TensorRef* const> tensors, int64_t step,
                        const FaultPoint& fault) {
  ShardReport report{.file = {.name = name, .bytes = 0, .hash = {}}, .tensors = {}};
  std::vector<TensorSource> sources;
  for (const TensorRef* t : tensors) {
    const auto bytes = std::as_bytes(t->data);
    sources.push_back({t->name, TensorType::kF32, t->shape, bytes});
    report.tensors.push_back({t->name, t->shape, name, content_hash(bytes)});
  }
  const std::string header =
      safetensors_header(sources, {{"format", "pt"}, {"step", std::to_string(step)}});

  // From memory, before anything is written: reading the file back can then prove the whole way to
  // the device.
  ContentHasher hasher;
  hasher.update(header);
  report.file.bytes = static_cast<int64_t>(header.size());
  for (const TensorSource& source : sources) {
    hasher.update(source.bytes);
    report.file.bytes += static_cast<int64_t>(source.bytes.size());
  }
  report.file.hash = hasher.hex();

  const std::string path = directory + "/" + name;
  DurableFile file(path, fault);
  file.write(std::as_bytes(std::span(header)));
  for (const TensorSource& source : sources) file.write(source.bytes);
  file.close();
  sync_directory(directory, fault);
  if (fault) fault("verify " + path);
  STIPPLE_CHECK_AS(CheckpointError, ReadableFile(path).hash(true) == report.file.hash, path,
                   " does not read back as it was written; check the disk");
  return report;
}

Manifest make_manifest(const CheckpointMeta& meta, std::span<const TensorRef> tensors,
                       const std::vector<int>& owners, const std::vector<std::string>& reports) {
  const int world_size = static_cast<int>(reports.size());
  Manifest manifest{.meta = meta,
                    .created_by = "stipple " STIPPLE_VERSION,
                    .world_size = world_size,
                    .tensors = {},
                    .files = {}};
  for (int rank = 0; rank < world_size; ++rank) {
    const Json report = Json::parse(reports[static_cast<size_t>(rank)]);
    const std::string name = shard_name(rank, world_size);
    manifest.files.push_back({name, report.at("bytes"), report.at("hash")});
    for (const TensorRef* t : tensors_of_rank(tensors, owners, rank))
      manifest.tensors.push_back({t->name, t->shape, name, report.at("tensors").at(t->name)});
  }
  std::sort(manifest.tensors.begin(), manifest.tensors.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return manifest;
}

int64_t bytes_needed(const CheckpointMeta& meta, std::span<const TensorRef> tensors,
                     int world_size) {
  auto bytes = static_cast<int64_t>(meta.config_yaml.size()) + world_size * kBytesPerTensorEntry;
  for (const TensorRef& t : tensors)
    bytes += static_cast<int64_t>(t.data.size_bytes()) + kBytesPerTensorEntry;
  return bytes;
}

}  // namespace stipple::trainer
