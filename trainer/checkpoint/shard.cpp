// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <sstream>

#include "core/error.h"
#include "core/json.h"
#include "trainer/checkpoint/content_hash.h"
#include "trainer/checkpoint/safetensors.h"

namespace stipple::trainer {
namespace {

// Header and manifest entries of one tensor, generously.
constexpr int64_t kBytesPerTensorEntry = 1024;
// Of a number in hexadecimal, with its quotes.
constexpr size_t kBytesPerNumber = 32;

ManifestTensor entry_of(const TensorRef& tensor, const Piece& piece, std::string file,
                        std::string hash) {
  return {tensor.name, tensor.shape, piece.elements, std::move(file), std::move(hash)};
}

/// The pieces of those tensors that not every rank owns as a whole.
std::vector<Piece> owned_parts(std::span<const TensorRef> tensors, comm::Communicator& comm) {
  std::string mine;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Range owned = tensors[i].owned();
    if (!tensors[i].is_whole()) mine += fmt::format("{} {} {}\n", i, owned.begin, owned.end);
  }
  std::map<size_t, std::vector<Range>> parts;  // by tensor, then by rank
  const std::vector<std::string> all = comm.all_gather(mine);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    std::istringstream in(all[rank]);
    Range owned;
    for (size_t i = 0; in >> i >> owned.begin >> owned.end;) {
      auto& ranges = parts[i];
      ranges.resize(all.size(), {0, tensors[i].shape.numel()});
      ranges[rank] = owned;
    }
  }
  std::vector<Piece> pieces;
  for (const auto& [tensor, ranges] : parts)
    for (size_t rank = 0; rank < ranges.size(); ++rank)
      if (ranges[rank].size() > 0) pieces.push_back({tensor, ranges[rank], static_cast<int>(rank)});
  return pieces;
}

void require_complete(std::span<const TensorRef> tensors, std::span<const Piece> pieces) {
  std::vector<int64_t> ends(tensors.size());
  for (const Piece& piece : pieces) {
    int64_t& end = ends[piece.tensor];
    STIPPLE_CHECK_AS(
        CheckpointError, piece.elements.begin == end, "tensor '", tensors[piece.tensor].name,
        "': rank ", piece.rank, " owns elements ", piece.elements.begin, "..", piece.elements.end,
        ", but ", piece.elements.begin > end ? "nobody those from " : "others those up to ", end);
    end = piece.elements.end;
  }
  for (size_t i = 0; i < tensors.size(); ++i)
    STIPPLE_CHECK_AS(CheckpointError, ends[i] == tensors[i].shape.numel(), "tensor '",
                     tensors[i].name, "': nobody owns the elements from ", ends[i]);
}

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

std::vector<Piece> deal_pieces(std::span<const TensorRef> tensors, comm::Communicator& comm) {
  std::vector<Piece> pieces = owned_parts(tensors, comm);
  std::vector<bool> is_parted(tensors.size());
  for (const Piece& piece : pieces) is_parted[piece.tensor] = true;
  std::vector<size_t> whole;
  std::vector<TensorRef> dealt;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (is_parted[i]) continue;
    whole.push_back(i);
    dealt.push_back(tensors[i]);
  }
  const std::vector<int> owners = deal_tensors(dealt, comm.size());
  for (size_t i = 0; i < whole.size(); ++i)
    pieces.push_back({whole[i], {0, dealt[i].shape.numel()}, owners[i]});
  std::sort(pieces.begin(), pieces.end(), [&](const Piece& a, const Piece& b) {
    const std::string& left = tensors[a.tensor].name;
    const std::string& right = tensors[b.tensor].name;
    return left != right ? left < right : a.elements.begin < b.elements.begin;
  });
  require_complete(tensors, pieces);
  return pieces;
}

ShardReport write_shard(const std::string& directory, const std::string& name,
                        const Snapshot& snapshot, std::span<const Piece> pieces, int rank,
                        const FaultPoint& fault) {
  ShardReport report{.file = {.name = name, .bytes = 0, .hash = {}}, .tensors = {}};
  std::vector<TensorSource> sources;
  for (const Piece& piece : pieces) {
    if (piece.rank != rank) continue;
    const TensorRef& t = snapshot.tensors[piece.tensor];
    const auto bytes = std::as_bytes(t.data);
    report.tensors.push_back(entry_of(t, piece, name, content_hash(bytes)));
    sources.push_back({t.name, TensorType::kF32, report.tensors.back().stored_shape(), bytes});
  }
  const std::string header =
      safetensors_header(sources, {{"format", "pt"}, {"step", std::to_string(snapshot.meta.step)}});

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

Manifest make_manifest(const Snapshot& snapshot, std::span<const Piece> pieces,
                       const std::vector<std::string>& reports) {
  const int world_size = static_cast<int>(reports.size());
  Manifest manifest{.meta = snapshot.meta,
                    .created_by = "stipple " STIPPLE_VERSION,
                    .world_size = world_size,
                    .tensors = {},
                    .files = {}};
  std::vector<Json> by_rank;
  for (int rank = 0; rank < world_size; ++rank) {
    const Json& report = by_rank.emplace_back(Json::parse(reports[static_cast<size_t>(rank)]));
    manifest.files.push_back({shard_name(rank, world_size), report.at("bytes"), report.at("hash")});
  }
  for (const Piece& piece : pieces) {
    const TensorRef& t = snapshot.tensors[piece.tensor];
    const Json& report = by_rank[static_cast<size_t>(piece.rank)];
    manifest.tensors.push_back(
        entry_of(t, piece, shard_name(piece.rank, world_size), report.at("tensors").at(t.name)));
  }
  return manifest;
}

int64_t bytes_needed(const Snapshot& snapshot, int world_size) {
  const CheckpointMeta& meta = snapshot.meta;
  auto bytes = static_cast<int64_t>(meta.config_yaml.size()) + world_size * kBytesPerTensorEntry;
  for (const TensorRef& t : snapshot.tensors)
    bytes += t.shape.numel() * static_cast<int64_t>(sizeof(float)) + kBytesPerTensorEntry;
  for (const auto& [name, values] : meta.scalars.numbers)
    bytes += static_cast<int64_t>(name.size() + values.size() * kBytesPerNumber);
  return bytes;
}

}  // namespace stipple::trainer
