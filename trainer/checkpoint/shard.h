// SPDX-License-Identifier: Apache-2.0
// The part of a checkpoint that one rank writes: which tensors, the file with them, and what it
// reports for the manifest.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "trainer/checkpoint/durable_file.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/tensor_ref.h"

namespace stipple::trainer {

/// Which rank writes each tensor: largest first to the rank with least to do.
std::vector<int> deal_tensors(std::span<const TensorRef>, int world_size);
/// The tensors that `rank` writes, by ascending name.
std::vector<const TensorRef*> tensors_of_rank(std::span<const TensorRef>,
                                              const std::vector<int>& owners, int rank);

std::string shard_name(int rank, int world_size);

struct ShardReport {
  ManifestFile file = {};
  std::vector<ManifestTensor> tensors = {};
};
/// As one line, to be sent to the rank that writes the manifest.
std::string to_text(const ShardReport&);

/// Writes `tensors` into a new file of `directory`, waits until it is durable, and reads it back.
ShardReport write_shard(const std::string& directory, const std::string& name,
                        std::span<const TensorRef* const> tensors, int64_t step,
                        const FaultPoint& fault);

/// From the reports of all ranks, by rank.
Manifest make_manifest(const CheckpointMeta&, std::span<const TensorRef>,
                       const std::vector<int>& owners, const std::vector<std::string>& reports);

/// What all files of a checkpoint may take, generously.
int64_t bytes_needed(const CheckpointMeta&, std::span<const TensorRef>, int world_size);

}  // namespace stipple::trainer
