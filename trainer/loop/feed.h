// SPDX-License-Identifier: Apache-2.0
// Brings leaves from host memory to the model's device. On the CPU an input is a view of the leaf
// itself; on CUDA it is staged in page-locked memory and copied on a stream of its own, while the
// step before still computes.
//
//   feed.put(step, i, leaf);                   // for every leaf i of the step
//   model.forward(context, feed.input(i), ...) // any number of times
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "core/leaf.h"
#include "core/stream.h"
#include "data/batch.h"
#include "model/input.h"

namespace stipple::trainer {

struct FeedOptions {
  int64_t slots = 1;         ///< leaves on the device at one time
  int64_t global_batch = 1;  ///< examples of one step
  LeafSizes largest{};       ///< no leaf takes more memory
  bool is_captured = false;  ///< steps are replayed, whatever their leaves hold
};

/// A leaf as its device sees it, over one block of memory (null: shapes only).
model::Input input_over(std::byte* memory, const FeedOptions&, const LeafSizes&);

class Feed {
 public:
  Feed(const Stream& compute, const FeedOptions&);
  static size_t device_bytes(const FeedOptions&);  ///< of a device that is not the CPU
  static size_t leaf_bytes(const LeafSizes&);
  void set_global_batch(int64_t examples) { options_.global_batch = examples; }

  /// `step` may be one ahead of the step that is computed, not more: there are two sets of memory
  /// on the way. On the CPU the leaf must stay untouched as long as its input is read; on CUDA it
  /// may go at once.
  void put(int64_t step, int64_t slot, const data::Leaf&);
  const model::Input& input(int64_t slot) const { return inputs_[static_cast<size_t>(slot)]; }

 private:
  bool is_host() const { return compute_.device().type == DeviceType::kCpu; }

  const Stream& compute_;
  FeedOptions options_;
  static size_t slots_bytes(const FeedOptions&);

  size_t slot_bytes_;
  Buffer device_;   // where inputs are read, at the same addresses in every step
  Buffer landing_;  // two sets
  Buffer staging_;  // two sets, in host memory
  Stream copies_;
  Event landed_;
  std::vector<model::Input> inputs_;
};

}  // namespace stipple::trainer
