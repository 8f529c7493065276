// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/manifest.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <iterator>
#include <span>

#include "core/error.h"
#include "core/json.h"
#include "trainer/checkpoint/content_hash.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/checkpoint/safetensors.h"

namespace stipple::trainer {
namespace {

constexpr int64_t kFormatVersion = 2;
constexpr int64_t kOldestVersion = 1;
constexpr int64_t kMaxManifestBytes = int64_t{256} << 20;

/// Hexadecimal, so that every value comes back with the same bits; JSON has no infinity and no NaN.
std::string exact_text(double value) { return fmt::format("{:a}", value); }

double exact_value(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  STIPPLE_CHECK_AS(CheckpointError, !text.empty() && *end == '\0', "'", text, "' is no number");
  return value;
}

Json extents_of(const Shape& shape) {
  Json extents = Json::array();
  for (int i = 0; i < shape.rank(); ++i) extents.push_back(shape[i]);
  return extents;
}

Json tensor_to_json(const ManifestTensor& t) {
  Json j{{"name", t.name}, {"shape", extents_of(t.shape)}, {"dtype", "F32"}};
  if (!t.is_whole()) {
    Json& elements = j["elements"] = Json::array();
    elements.push_back(t.elements.begin);
    elements.push_back(t.elements.end);
  }
  j["file"] = t.file;
  j["xxh3_128"] = t.hash;
  return j;
}

ManifestTensor tensor_from_json(const Json& j) {
  STIPPLE_CHECK_AS(CheckpointError, j.at("dtype") == "F32", "a tensor is not F32");
  ManifestTensor t{.name = j.at("name"),
                   .shape = shape_from(j.at("shape").get<std::vector<int64_t>>()),
                   .file = j.at("file"),
                   .hash = j.at("xxh3_128")};
  t.elements = {0, t.shape.numel()};
  if (const Json* found = j.find("elements")) {
    const auto ends = found->get<std::vector<int64_t>>();
    STIPPLE_CHECK_AS(CheckpointError, ends.size() == 2, "tensor '", t.name,
                     "': elements are not [begin, end]");
    t.elements = {ends[0], ends[1]};
  }
  return t;
}

/// The parts of each tensor, one behind the other, must be all of it.
void require_complete(std::span<const ManifestTensor> tensors) {
  for (size_t i = 0; i < tensors.size();) {
    const ManifestTensor& first = tensors[i];
    int64_t end = 0;
    for (; i < tensors.size() && tensors[i].name == first.name; ++i) {
      const ManifestTensor& part = tensors[i];
      const bool follows = part.shape == first.shape && part.elements.begin == end &&
                           part.elements.end >= end && (end > 0 || &part == &first);
      STIPPLE_CHECK_AS(CheckpointError, follows, "tensor '", first.name, "' of shape ",
                       first.shape.str(), ": elements ", part.elements.begin, "..",
                       part.elements.end, " do not follow element ", end);
      end = part.elements.end;
    }
    STIPPLE_CHECK_AS(CheckpointError, end == first.shape.numel(), "tensor '", first.name,
                     "' of shape ", first.shape.str(), " ends at element ", end);
  }
}

/// A name from a manifest becomes part of a path, so it must not lead anywhere else.
ManifestFile file_from_json(const Json& j) {
  ManifestFile f{j.at("name"), j.at("bytes"), j.at("xxh3_128")};
  STIPPLE_CHECK_AS(CheckpointError,
                   f.name.find('/') == std::string::npos && !f.name.starts_with('.'), "'", f.name,
                   "' is no file of a checkpoint");
  return f;
}

uint64_t fingerprint_from(const Json& j) { return std::stoull(j.get<std::string>(), nullptr, 16); }

Json scalars_to_json(const Scalars& scalars) {
  Json counts = Json::object();
  for (const auto& [name, value] : scalars.counts) counts[name] = value;
  Json numbers = Json::object();
  for (const auto& [name, values] : scalars.numbers) {
    Json& list = numbers[name] = Json::array();
    for (double value : values) list.push_back(exact_text(value));
  }
  return {{"counts", counts}, {"numbers", numbers}};
}

Scalars scalars_from_json(const Json& j) {
  Scalars scalars;
  for (const auto& [name, value] : j.at("counts").members()) scalars.counts[name] = value;
  for (const auto& [name, list] : j.at("numbers").members()) {
    std::vector<double>& values = scalars.numbers[name];
    for (const auto& value : list) values.push_back(exact_value(value));
  }
  return scalars;
}

/// Version 1 kept its numbers without names, always these: loss, hits and labels of the log line
/// under way, its steps, the steps skipped so far and in a row, then the guard's history of losses
/// and, as long, of norms.
Scalars scalars_of_version_1(const Json& j) {
  Scalars scalars;
  scalars.counts[std::string(kDataPosition)] = j.at("data_position");
  scalars.counts[std::string(kAppliedSteps)] = j.at("applied_steps");
  std::vector<double> values;
  for (const auto& value : j.at("extra")) values.push_back(exact_value(value));
  constexpr const char* kNumbers[] = {"window/loss", "window/correct", "window/count",
                                      "window/steps"};
  constexpr const char* kCounts[] = {"skipped_steps", "guard/consecutive_skips"};
  constexpr size_t kNamed = std::size(kNumbers) + std::size(kCounts);
  STIPPLE_CHECK_AS(CheckpointError, values.size() >= kNamed && values.size() % 2 == 0,
                   "its state has ", values.size(), " numbers, which version 1 never has");
  auto next = values.begin();
  for (const char* name : kNumbers) scalars.numbers[name] = {*next++};
  for (const char* name : kCounts) {
    STIPPLE_CHECK_AS(CheckpointError, std::abs(*next) < 1e15 && *next == std::trunc(*next), "'",
                     name, "' is ", *next, ", no count");
    scalars.counts[name] = static_cast<int64_t>(*next++);
  }
  const auto middle = next + (values.end() - next) / 2;
  scalars.numbers["guard/losses"].assign(next, middle);
  scalars.numbers["guard/norms"].assign(middle, values.end());
  return scalars;
}

CheckpointMeta meta_from_json(const Json& j, int64_t version) {
  CheckpointMeta meta;
  meta.step = j.at("step");
  meta.dataset_fingerprint = fingerprint_from(j.at("dataset_fingerprint"));
  if (const Json* found = j.find("validation_fingerprint"))
    meta.validation_fingerprint = fingerprint_from(*found);
  if (const Json* found = j.find("vocabulary")) meta.vocabulary = found->get<std::string>();
  if (const Json* found = j.find("class_names"))
    for (const Json& name : *found) meta.class_names.push_back(name);
  meta.scalars = version == 1 ? scalars_of_version_1(j) : scalars_from_json(j.at("state"));
  meta.config_yaml = j.at("config_yaml");
  return meta;
}

/// Which tensors of a file differ from the manifest. The header may itself be damaged.
std::vector<std::string> find_tensor_faults(const std::string& path, const ManifestFile& file,
                                            const Manifest& manifest) {
  std::vector<std::string> faults;
  try {
    const SafetensorsFile shard(path);
    for (const ManifestTensor& tensor : manifest.tensors) {
      if (tensor.file != file.name) continue;
      const auto* entry = shard.find(tensor.name);
      if (!entry || !(entry->shape == tensor.stored_shape())) {
        faults.push_back(fmt::format("{}: the header does not describe tensor '{}' of shape {}",
                                     file.name, tensor.name, tensor.stored_shape().str()));
        continue;
      }
      std::vector<std::byte> bytes(static_cast<size_t>(entry->bytes()));
      shard.read(*entry, bytes);
      if (content_hash(bytes) != tensor.hash)
        faults.push_back(fmt::format("{}: tensor '{}' hash mismatch (bytes {}..{})", file.name,
                                     tensor.name, entry->begin, entry->end));
    }
  } catch (const Error& e) {
    faults.push_back(fmt::format("{}: {}", file.name, e.what()));
  }
  return faults;
}

std::vector<std::string> find_file_faults(const std::string& directory, const ManifestFile& file,
                                          const Manifest& manifest) {
  const std::string path = directory + "/" + file.name;
  try {
    const ReadableFile readable(path);
    if (readable.bytes() != file.bytes)
      return {
          fmt::format("{}: has {} bytes instead of {}", file.name, readable.bytes(), file.bytes)};
    const bool whole = readable.hash() == file.hash;
    auto faults = find_tensor_faults(path, file, manifest);
    if (!whole && faults.empty())
      faults.push_back(fmt::format("{}: hash mismatch in the header", file.name));
    return faults;
  } catch (const Error& e) {
    return {fmt::format("{}: {}", file.name, e.what())};
  }
}

}  // namespace

std::string manifest_to_json(const Manifest& m) {
  Json j;
  j["format"] = "stipple checkpoint";
  j["format_version"] = kFormatVersion;
  j["created_by"] = m.created_by;
  j["step"] = m.meta.step;
  j["dataset_fingerprint"] = fmt::format("{:016x}", m.meta.dataset_fingerprint);
  if (m.meta.validation_fingerprint)
    j["validation_fingerprint"] = fmt::format("{:016x}", *m.meta.validation_fingerprint);
  if (!m.meta.vocabulary.empty()) j["vocabulary"] = m.meta.vocabulary;
  if (!m.meta.class_names.empty()) {
    Json& names = j["class_names"] = Json::array();
    for (const std::string& name : m.meta.class_names) names.push_back(name);
  }
  j["world_size"] = m.world_size;
  j["state"] = scalars_to_json(m.meta.scalars);
  j["config_yaml"] = m.meta.config_yaml;
  Json& files = j["files"] = Json::array();
  for (const ManifestFile& f : m.files)
    files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"xxh3_128", f.hash}});
  Json& tensors = j["tensors"] = Json::array();
  for (const ManifestTensor& t : m.tensors) tensors.push_back(tensor_to_json(t));
  return j.dump(1) + "\n";
}

Manifest manifest_from_json(const std::string& text, const std::string& where) {
  try {
    const auto j = Json::parse(text);
    const int64_t version = j.at("format_version");
    STIPPLE_CHECK_AS(VersionError, version >= kOldestVersion && version <= kFormatVersion,
                     "its format version is ", version, ", written by ",
                     j.at("created_by").get<std::string>(), "; this program reads ", kOldestVersion,
                     " to ", kFormatVersion,
                     ": go on with that program, or choose another run.dir");
    Manifest m{.meta = meta_from_json(j, version),
               .created_by = j.at("created_by"),
               .world_size = j.at("world_size"),
               .tensors = {},
               .files = {}};
    for (const auto& file : j.at("files")) m.files.push_back(file_from_json(file));
    for (const auto& tensor : j.at("tensors")) m.tensors.push_back(tensor_from_json(tensor));
    require_complete(m.tensors);
    return m;
  } catch (const VersionError& e) {
    throw VersionError(fmt::format("{}: {}", where, e.what()));
  } catch (const std::exception& e) {
    throw CheckpointError(fmt::format("{}: {}", where, e.what()));
  }
}

std::string manifest_hash_line(const std::string& json) {
  return content_hash(json) + "  " + kManifestName + "\n";
}

Manifest read_manifest(const std::string& directory) {
  const std::string json = read_text(directory + "/" + kManifestName, kMaxManifestBytes);
  const std::string hash = read_text(directory + "/" + kManifestHashName, kMaxManifestBytes);
  STIPPLE_CHECK_AS(CheckpointError, hash == manifest_hash_line(json), kManifestName,
                   ": does not have the hash in ", kManifestHashName);
  return manifest_from_json(json, kManifestName);
}

std::vector<std::string> find_faults(const std::string& directory, const Manifest& manifest) {
  std::vector<std::string> faults;
  for (const ManifestFile& file : manifest.files)
    for (std::string& fault : find_file_faults(directory, file, manifest))
      faults.push_back(std::move(fault));
  return faults;
}

}  // namespace stipple::trainer
