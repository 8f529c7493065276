// SPDX-License-Identifier: Apache-2.0
// The part of a checkpoint that one rank writes: which pieces of tensors, the file with them, and what it
// reports for the manifest.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/snapshot.h"
#include "trainer/checkpoint/tensor_ref.h"

namespace stipple::trainer {

/// Elements of a tensor, and the rank that writes them.
struct Piece {
  size_t tensor = 0;  ///< its index among the tensors of the save
  Range elements = {};
  int rank = 0;
};

/// Which rank writes each tensor: largest first to the rank with least to do.
std::vector<int> deal_tensors(std::span<const TensorRef>, int world_size);
/// Who writes what, the same on every rank: what one rank owns that rank writes; what all own is
/// dealt. By ascending name, then by elements. Collective; CheckpointError when elements of a
/// tensor are nobody's or two ranks'.
std::vector<Piece> deal_pieces(std::span<const TensorRef>, comm::Communicator&);

std::string shard_name(int rank, int world_size);

struct ShardReport {
  ManifestFile file = {};
  std::vector<ManifestTensor> tensors = {};
};
/// As one line, to be sent to the rank that writes the manifest.
std::string to_text(const ShardReport&);

/// Writes the pieces of `rank` into a new file of `directory`, waits until it is durable, and reads
/// it back.
ShardReport write_shard(const std::string& directory, const std::string& name, const Snapshot&,
                        std::span<const Piece>, int rank, const FaultPoint& fault);

/// From the reports of all ranks, by rank.
Manifest make_manifest(const Snapshot&, std::span<const Piece>,
                       const std::vector<std::string>& reports);

/// What all files of a checkpoint may take, generously.
int64_t bytes_needed(const Snapshot&, int world_size);

}  // namespace stipple::trainer
