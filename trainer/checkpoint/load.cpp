// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/load.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "trainer/checkpoint/collectively.h"
#include "trainer/checkpoint/content_hash.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/checkpoint/step_directory.h"
#include "trainer/config/resume.h"

namespace stipple::trainer {
namespace {

using comm::Communicator;

constexpr size_t kMaxReasonsShown = 3;

std::string joined(const std::vector<std::string>& reasons) {
  const auto shown = std::span(reasons).first(std::min(reasons.size(), kMaxReasonsShown));
  std::string text = fmt::format("{}", fmt::join(shown, "; "));
  if (reasons.size() > shown.size())
    text += fmt::format("; and {} more", reasons.size() - shown.size());
  return text;
}

std::string_view kind_of(std::string_view name) { return name.substr(0, name.find('/')); }

void require_same_run(const std::string& directory, const Manifest& manifest,
                      std::string_view config_yaml) {
  if (config_yaml.empty()) return;
  const auto refused = changes_between(manifest.meta.config_yaml, config_yaml).refused;
  STIPPLE_CHECK_AS(ConfigError, refused.empty(), text_of(refused), "; the run in ", directory,
                   " cannot go on with that: take it back, or choose another run.dir");
}

[[noreturn]] void refuse(const std::string& checkpoint, const std::string& what) {
  throw ConfigError(
      fmt::format("checkpoint {} does not fit this model: {}; compare the model section of the "
                  "configuration stored in manifest.json",
                  checkpoint, what));
}

/// Names, both ways, and shapes must agree for every kind of tensor that is asked for.
void check_fits(const std::string& checkpoint, const Manifest& manifest,
                std::span<const TensorRef> into) {
  std::map<std::string_view, const TensorRef*> wanted;
  std::set<std::string_view> kinds;
  for (const TensorRef& t : into) {
    wanted[t.name] = &t;
    kinds.insert(kind_of(t.name));
  }
  const auto& stored = manifest.tensors;
  const bool has_optional = std::any_of(stored.begin(), stored.end(), [](const ManifestTensor& t) {
    return kind_of(t.name) == kOptionalKind;
  });
  if (!has_optional)
    std::erase_if(wanted, [](const auto& t) { return kind_of(t.first) == kOptionalKind; });
  for (const ManifestTensor& t : stored) {
    // Only the first piece of a tensor: the manifest's own shapes agree.
    if (!kinds.contains(kind_of(t.name)) || t.elements.begin > 0) continue;
    const auto found = wanted.find(t.name);
    if (found == wanted.end())
      refuse(checkpoint, fmt::format("it has tensor '{}' of shape {}, which the model has not",
                                     t.name, t.shape.str()));
    if (!(found->second->shape == t.shape))
      refuse(checkpoint, fmt::format("tensor '{}' has shape {} there and {} in the model", t.name,
                                     t.shape.str(), found->second->shape.str()));
    wanted.erase(found);
  }
  if (!wanted.empty()) {
    const TensorRef& missing = *wanted.begin()->second;
    refuse(checkpoint,
           fmt::format("it lacks tensor '{}' of shape {}", missing.name, missing.shape.str()));
  }
}

/// Reads one stored piece, the whole of it so that its hash can be compared, and keeps what `into`
/// owns of it.
void read_piece(const SafetensorsFile& shard, const ManifestTensor& piece, const TensorRef& into) {
  const auto* entry = shard.find(piece.name);
  STIPPLE_CHECK_AS(CheckpointError, entry, piece.file, ": tensor '", piece.name, "' is missing");
  const Range owned = into.owned();
  std::vector<float> other;
  std::span<float> values = into.data;
  if (!(piece.elements == owned)) {
    other.resize(static_cast<size_t>(piece.elements.size()));
    values = other;
  }
  const auto bytes = std::as_writable_bytes(values);
  shard.read(*entry, bytes);
  STIPPLE_CHECK_AS(CheckpointError, content_hash(bytes) == piece.hash, piece.file, ": tensor '",
                   piece.name, "' hash mismatch (bytes ", entry->begin, "..", entry->end, ")");
  if (piece.elements == owned) return;
  const int64_t begin = std::max(piece.elements.begin, owned.begin);
  const int64_t end = std::min(piece.elements.end, owned.end);
  std::copy_n(values.begin() + (begin - piece.elements.begin), end - begin,
              into.data.begin() + (begin - owned.begin));
}

bool overlap(const Range& a, const Range& b) { return a.begin < b.end && b.begin < a.end; }

void read_tensors(const std::string& directory, const Manifest& manifest,
                  std::span<const TensorRef> into) {
  std::map<std::string_view, const TensorRef*> wanted;
  for (const TensorRef& t : into) wanted[t.name] = &t;
  std::map<std::string, std::vector<const ManifestTensor*>> by_file;
  for (const ManifestTensor& piece : manifest.tensors) {
    const auto found = wanted.find(piece.name);
    if (found == wanted.end()) continue;
    const Range owned = found->second->owned();
    if (owned == piece.elements || overlap(owned, piece.elements))
      by_file[piece.file].push_back(&piece);
  }
  for (const auto& [file, pieces] : by_file) {
    const SafetensorsFile shard(directory + "/" + file);
    for (const ManifestTensor* piece : pieces)
      read_piece(shard, *piece, *wanted.find(piece->name)->second);
  }
}

/// What rank 0 found, made known to all: `reason` against the candidate, or its manifest.
struct Verdict {
  std::string reason;
  Manifest manifest;
};

Verdict judge(const std::string& directory, Communicator& comm) {
  Verdict verdict;
  std::string manifest;
  collectively(comm, [&] {
    if (comm.rank() != 0) return;
    verdict.reason = reason_against(directory);
    if (verdict.reason.empty()) manifest = manifest_to_json(read_manifest(directory));
  });
  verdict.reason = comm.broadcast(verdict.reason, 0);
  manifest = comm.broadcast(manifest, 0);
  if (verdict.reason.empty()) verdict.manifest = manifest_from_json(manifest, directory);
  return verdict;
}

/// Reads on every rank. The reason of the lowest rank that could not; empty when all could.
std::string read_everywhere(const std::string& directory, const Manifest& manifest,
                            std::span<const TensorRef> into, Communicator& comm) {
  std::string error;
  try {
    read_tensors(directory, manifest, into);
  } catch (const std::exception& e) {
    error = fmt::format("rank {}: {}", comm.rank(), e.what());
  }
  for (const std::string& e : comm.all_gather(error))
    if (!e.empty()) return e;
  return {};
}

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

}  // namespace

std::string reason_against(const std::string& directory) {
  try {
    return joined(find_faults(directory, read_manifest(directory)));
  } catch (const VersionError& e) {
    throw VersionError(fmt::format("checkpoint {}: {}", directory, e.what()));
  } catch (const std::exception& e) {
    return e.what();
  }
}

std::optional<CheckpointMeta> load_checkpoint(const std::string& path, Communicator& comm,
                                              std::span<const TensorRef> into,
                                              std::string_view config_yaml) {
  std::string listing;
  collectively(comm, [&] {
    if (comm.rank() == 0) listing = fmt::format("{}", fmt::join(list_checkpoints(path), "\n"));
  });
  const auto candidates = split_lines(comm.broadcast(listing, 0));
  for (const std::string& directory : candidates) {
    Verdict verdict = judge(directory, comm);
    const std::string name = std::filesystem::path(directory).filename().string();
    if (verdict.reason.empty()) {
      collectively(comm, [&] {
        require_same_run(path, verdict.manifest, config_yaml);
        check_fits(name, verdict.manifest, into);
      });
      verdict.reason = read_everywhere(directory, verdict.manifest, into, comm);
    }
    if (verdict.reason.empty()) return verdict.manifest.meta;
    if (comm.rank() == 0) log::warn(fmt::format("checkpoint {} skipped: {}", name, verdict.reason));
  }
  if (candidates.empty()) return std::nullopt;
  DataError error(fmt::format(
      "none of the {} checkpoints in {} is intact (see the warnings above); restore one from a "
      "backup, or choose another run.dir to start from the beginning",
      candidates.size(), path));
  error.set_collective();  // every rank has the same verdicts
  throw error;
}

}  // namespace stipple::trainer
