// SPDX-License-Identifier: Apache-2.0
// What a checkpoint holds, for a person, and its identity.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "core/shape.h"
#include "trainer/checkpoint/content_hash.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/tensor_ref.h"

namespace stipple::trainer {

/// The identity of a training state: the same for any number of ranks that wrote it. Tensors in
/// ascending order of names.
class StateHasher {
 public:
  explicit StateHasher(const CheckpointMeta&);
  void add(std::string_view name, const Shape&, std::span<const std::byte> bytes);
  std::string hex() const { return hasher_.hex(); }

 private:
  void add_integer(int64_t value);
  ContentHasher hasher_;
};

std::string state_hash(const CheckpointMeta&, std::span<const TensorRef>);

/// Tensors with statistics, totals, files, and a last line "state <hex>". `path` as for
/// load_checkpoint. DataError naming every failing item when it does not verify; ConfigError where
/// there is none.
std::string inspect_checkpoint(const std::string& path);

}  // namespace stipple::trainer
