// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/store.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>
#include <sstream>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/config/resume.h"

namespace stipple::trainer {
namespace {

using comm::Communicator;

constexpr std::string_view kStepPrefix = "step-";
constexpr std::string_view kTemporaryPrefix = ".tmp-";
constexpr std::string_view kTrashPrefix = ".trash-";
// Header and manifest entries of one tensor, generously.
constexpr int64_t kBytesPerTensorEntry = 1024;
constexpr size_t kMaxReasonsShown = 3;

std::string step_name(int64_t step) { return fmt::format("{}{:08d}", kStepPrefix, step); }

/// The step of a directory named step-NNNNNNNN; none for other names.
std::optional<int64_t> step_of(std::string_view name) {
  if (!name.starts_with(kStepPrefix)) return std::nullopt;
  const std::string digits(name.substr(kStepPrefix.size()));
  const bool numeric =
      std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!numeric || digits.size() < 8 || digits.size() > 18) return std::nullopt;
  return std::stoll(digits);
}

std::string shard_name(int rank, int world_size) {
  return fmt::format("shard-{:05d}-of-{:05d}.safetensors", rank, world_size);
}

/// Runs a part that may fail on some ranks only, so that it fails on all of them.
template <class Body>
void collectively(Communicator& comm, Body body) {
  try {
    comm::agree(comm, body);
  } catch (const CommError&) {
    throw;
  } catch (const ConfigError&) {
    throw;
  } catch (const DataError&) {
    throw;
  } catch (const Error& e) {
    CheckpointError error(e.what());
    error.set_collective();
    throw error;
  }
}

std::string joined(const std::vector<std::string>& reasons) {
  const auto shown = std::span(reasons).first(std::min(reasons.size(), kMaxReasonsShown));
  std::string text = fmt::format("{}", fmt::join(shown, "; "));
  if (reasons.size() > shown.size())
    text += fmt::format("; and {} more", reasons.size() - shown.size());
  return text;
}

/// Why a directory is no good checkpoint; empty when it is one.
std::string reason_against(const std::string& directory) {
  try {
    return joined(find_faults(directory, read_manifest(directory)));
  } catch (const std::exception& e) {
    return e.what();
  }
}

std::vector<int64_t> steps_in(const std::string& directory) {
  std::vector<int64_t> steps;
  for (const std::string& name : list_directory(directory))
    if (const auto step = step_of(name)) steps.push_back(*step);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

// --- writing -----------------------------------------------------------------------------------

struct ShardReport {
  ManifestFile file;
  std::vector<ManifestTensor> tensors;
};

std::string to_text(const ShardReport& report) {
  Json hashes = Json::object();
  for (const ManifestTensor& t : report.tensors) hashes[t.name] = t.hash;
  return Json{{"bytes", report.file.bytes}, {"hash", report.file.hash}, {"tensors", hashes}}.dump();
}

/// The tensors that `rank` writes, by ascending name.
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

// --- reading -----------------------------------------------------------------------------------

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
  for (const ManifestTensor& t : manifest.tensors) {
    if (!kinds.contains(kind_of(t.name))) continue;
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

void read_tensors(const std::string& directory, const Manifest& manifest,
                  std::span<const TensorRef> into) {
  std::map<std::string_view, const ManifestTensor*> stored;
  for (const ManifestTensor& t : manifest.tensors) stored[t.name] = &t;
  std::map<std::string, std::vector<const TensorRef*>> by_file;
  for (const TensorRef& t : into) by_file[stored.at(t.name)->file].push_back(&t);
  for (const auto& [file, tensors] : by_file) {
    const SafetensorsFile shard(directory + "/" + file);
    for (const TensorRef* t : tensors) {
      const auto* entry = shard.find(t->name);
      STIPPLE_CHECK_AS(CheckpointError, entry, file, ": tensor '", t->name, "' is missing");
      const auto bytes = std::as_writable_bytes(t->data);
      shard.read(*entry, bytes);
      STIPPLE_CHECK_AS(CheckpointError, content_hash(bytes) == stored.at(t->name)->hash, file,
                       ": tensor '", t->name, "' hash mismatch (bytes ", entry->begin, "..",
                       entry->end, ")");
    }
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
  if (comm.rank() == 0) {
    verdict.reason = reason_against(directory);
    if (verdict.reason.empty()) manifest = manifest_to_json(read_manifest(directory));
  }
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

// --- CheckpointStore ---------------------------------------------------------------------------

CheckpointStore::CheckpointStore(std::string directory, Communicator& comm, int64_t keep)
    : directory_(std::move(directory)), comm_(comm), keep_(keep) {
  STIPPLE_CHECK_AS(ConfigError, keep_ >= 2,
                   "checkpoint.keep must be at least 2: with one, a crash during a save or a "
                   "damaged file could cost the whole run");
  collectively(comm_, [&] {
    if (comm_.rank() == 0) sweep();
  });
}

void CheckpointStore::sweep() {
  create_directories(directory_);
  const auto parent = std::filesystem::absolute(directory_).lexically_normal().parent_path();
  sync_directory(parent.string());
  for (const std::string& name : list_directory(directory_)) {
    if (!name.starts_with(kTemporaryPrefix) && !name.starts_with(kTrashPrefix)) continue;
    log::info(fmt::format("removing {}/{}, left by an interrupted save", directory_, name));
    remove_tree(directory_ + "/" + name);
  }
}

void CheckpointStore::save(const CheckpointMeta& meta, std::span<const TensorRef> tensors) {
  const std::string target = directory_ + "/" + step_name(meta.step);
  // Named by rank 0, because process ids differ and a directory listing may be stale on another
  // machine.
  const std::string temporary =
      directory_ + "/" +
      comm_.broadcast(fmt::format("{}{}.{}", kTemporaryPrefix, step_name(meta.step), getpid()), 0);
  const std::vector<int> owners = deal_tensors(tensors, comm_.size());
  try {
    collectively(comm_, [&] {
      if (comm_.rank() != 0) return;
      require_free_space(directory_, bytes_needed(meta, tensors, comm_.size()), comm_.size() + 3,
                         fault_);
      // Left by an earlier attempt at this step whose removal failed too.
      remove_tree(temporary, fault_);
      create_directory(temporary, fault_);
    });
    ShardReport report;
    collectively(comm_, [&] {
      report = write_shard(temporary, shard_name(comm_.rank(), comm_.size()),
                           tensors_of_rank(tensors, owners, comm_.rank()), meta.step, fault_);
    });
    const auto reports = comm_.all_gather(to_text(report));
    collectively(comm_, [&] {
      if (comm_.rank() == 0)
        commit(make_manifest(meta, tensors, owners, reports), temporary, target);
    });
  } catch (const CommError&) {
    throw;
  } catch (const Error&) {
    if (comm_.rank() == 0) discard(temporary);
    throw;
  }
  if (comm_.rank() == 0) retain(meta.step);
}

void CheckpointStore::commit(const Manifest& manifest, const std::string& temporary,
                             const std::string& target) {
  const std::string json = manifest_to_json(manifest);
  write_durably(temporary + "/" + kManifestName, json, fault_);
  write_durably(temporary + "/" + kManifestHashName, manifest_hash_line(json), fault_);
  sync_directory(temporary, fault_);
  known_good_.erase(manifest.meta.step);
  const bool replaced = rename_or_exchange(temporary, target, fault_);
  sync_directory(directory_, fault_);
  known_good_.insert(manifest.meta.step);
  if (replaced) discard(temporary);
}

void CheckpointStore::discard(const std::string& directory) noexcept {
  try {
    remove_tree(directory);
  } catch (const std::exception& e) {
    log::warn(e.what());
  }
}

bool CheckpointStore::is_good(int64_t step) {
  if (known_good_.contains(step)) return true;
  const std::string reason = reason_against(directory_ + "/" + step_name(step));
  if (!reason.empty()) {
    log::warn(fmt::format("checkpoint {} does not count as kept: {}", step_name(step), reason));
    return false;
  }
  known_good_.insert(step);
  return true;
}

void CheckpointStore::retain(int64_t saved) {
  try {
    int64_t kept = 1;
    for (int64_t step : steps_in(directory_)) {
      if (step == saved) continue;
      if (kept < keep_) {
        kept += is_good(step) ? 1 : 0;
        continue;
      }
      // Out of sight first: a crash in the middle of a removal must not leave half a checkpoint
      // under a good name.
      const std::string name = step_name(step);
      const std::string trash = fmt::format("{}/{}{}.{}", directory_, kTrashPrefix, name, getpid());
      rename_or_exchange(directory_ + "/" + name, trash, fault_);
      known_good_.erase(step);
      remove_tree(trash, fault_);
    }
  } catch (const std::exception& e) {
    log::warn(fmt::format("old checkpoints in {} stay for now: {}", directory_, e.what()));
  }
}

std::optional<CheckpointMeta> CheckpointStore::load_newest(std::span<const TensorRef> into,
                                                           std::string_view config_yaml) {
  auto meta = load_checkpoint(directory_, comm_, into, config_yaml);
  if (meta) known_good_.insert(meta->step);
  return meta;
}

// --- free functions ----------------------------------------------------------------------------

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

std::vector<std::string> list_checkpoints(const std::string& path) {
  namespace fs = std::filesystem;
  fs::path base = fs::path(path).lexically_normal();
  if (base.filename().empty()) base = base.parent_path();
  if (step_of(base.filename().string()) || fs::exists(base / kManifestName)) return {base.string()};
  if (fs::is_directory(base / "checkpoints")) base /= "checkpoints";
  std::vector<std::string> directories;
  for (int64_t step : steps_in(base.string()))
    directories.push_back((base / step_name(step)).string());
  return directories;
}

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

StateHasher::StateHasher(const CheckpointMeta& meta) {
  add_integer(meta.step);
  add_integer(meta.data_position);
  add_integer(meta.applied_steps);
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
  std::vector<int> everything(tensors.size(), 0);
  for (const TensorRef* t : tensors_of_rank(tensors, everything, 0))
    hasher.add(t->name, t->shape, std::as_bytes(t->data));
  return hasher.hex();
}

}  // namespace stipple::trainer
