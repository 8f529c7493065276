// SPDX-License-Identifier: Apache-2.0
// Which examples a step sees, how they are grouped into leaves, and the padded arrays of one leaf
// (host memory).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/leaf.h"
#include "data/dataset.h"

namespace stipple::data {

template <class T>
using HostArray = std::vector<T>;

/// A micro-batch, padded to a common length. Storage is reserved for max_length by the first load
/// and reused.
struct Leaf : LeafArrays<HostArray> {
  /// B is always the configured micro-batch, see `draws` for empty places. N is the longest
  /// sequence rounded up to a multiple of BatchOptions::length_multiple, at most max_length. Samples count the sequences of the
  /// global batch by slot; in evaluation, those of the dataset.
  LeafSizes sizes;
  int64_t num_labels = 0;   ///< that are some
  std::vector<Draw> draws;  ///< [B]  example -1 past the end: its rows hold nothing
};

struct BatchOptions {
  uint64_t seed = 0;
  int64_t batch = 32;            ///< global batch
  int64_t micro_batch = 4;       ///< examples per leaf; divides batch
  int64_t length_multiple = 64;  ///< leaves have a multiple of so many tokens, or max_length
  /// Always pad to max_length: needed when padding takes part in the graph.
  bool fixed_length = false;
  /// Training begins with this step, at this position of the examples, which are counted from the
  /// beginning of this epoch.
  int64_t first_step = 0;
  int64_t first_position = 0;
  uint64_t first_epoch = 0;
};

/// The order of training. A pure function of (dataset size and lengths, options, step): never of
/// ranks, threads or history. Position g = first_position + (step - first_step) * batch + slot; epoch
/// first_epoch + g / size; example Shuffle(size, seed, epoch)(g % size). Within a global batch, examples are sorted by length (that
/// of their longest sequence) and dealt so that a leaf holds like lengths and every aligned run of
/// leaves carries like work. The dataset is referenced, not owned.
class TrainBatches {
 public:
  /// ConfigError when micro_batch does not divide batch, DataError when the dataset is empty.
  TrainBatches(const Dataset&, const TaskInfo&, const BatchOptions&);
  int64_t num_leaves() const { return options_.batch / options_.micro_batch; }
  /// Leaves [begin, end) of step `step` are asked for one at a time. Reuses `leaf`'s storage.
  void load(int64_t step, int64_t leaf_index, Leaf& leaf);

 private:
  void plan(int64_t step);
  const Dataset& dataset_;
  TaskInfo info_;
  BatchOptions options_;
  int64_t planned_step_ = -1;
  float loss_scale_ = 1.0f;         ///< of the planned step
  std::vector<Draw> draws_;         ///< by slot
  std::vector<int32_t> by_length_;  ///< slots, longest example first
  std::vector<int32_t> slots_;      ///< leaves in order, micro_batch slots each
};

/// Evaluation: examples [0, size) in leaves of micro_batch, each exactly once; the last leaf is
/// filled with empty rows. Examples come by falling length (equal ones by number), so that leaves
/// hold little padding and the largest comes first.
class EvalBatches {
 public:
  EvalBatches(const Dataset&, const TaskInfo&, const BatchOptions&);
  int64_t num_leaves() const;
  void load(int64_t leaf_index, Leaf& leaf) const;
  /// A leaf of these examples and no empty places.
  void load(std::span<const int64_t> examples, Leaf& leaf) const;

 private:
  void load(std::span<const int64_t> examples, size_t batch, Leaf& leaf) const;

  const Dataset& dataset_;
  TaskInfo info_;
  BatchOptions options_;
  std::vector<int64_t> order_;  ///< example numbers
};

}  // namespace stipple::data
