// SPDX-License-Identifier: Apache-2.0
// What one leaf's forward tells the log: loss, hits, and facts about the graphs of every layer. One
// block of memory on the model's device, filled by operations and copied to the host in one piece;
// the same class reads the copy. Start it as zeros.
//
//   LeafRecord record(buffer.data(), layers, heads);      // LeafRecord::bytes(layers, heads)
//   bytes, 8-byte aligned
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/view.h"

namespace stipple::model {

class LeafRecord {
 public:
  /// Facts about one layer's graphs, by head, summed over the leaf.
  struct Layer {
    View<int64_t> edges;       // [H]
    View<int64_t> pairs;       // [H]  real queries x real keys
    View<int64_t> empty_rows;  // [H]  real queries without an edge
    View<int64_t> rows;        // [H]  real queries
    View<double>
        auxiliary_loss;  // [1]  regularisers, already weighted; their gradient is in backward
    View<float> effective_cells;  // [H]  exp(entropy of the block matrix)
    View<int32_t> overflow;       // [1]  edges that had no room
  };

  LeafRecord() = default;
  LeafRecord(void* memory, int64_t layers, int64_t heads)
      : words_(static_cast<int64_t*>(memory)), layers_(layers), heads_(heads) {}
  static size_t bytes(int64_t layers, int64_t heads) {
    return static_cast<size_t>(kHeader + layers * layer_words(heads)) * sizeof(int64_t);
  }

  View<double> loss_sum() const { return at<double>(0, 1); }   // [1]
  View<int64_t> correct() const { return at<int64_t>(1, 1); }  // [1]
  View<int64_t> count() const { return at<int64_t>(2, 1); }    // [1]
  int64_t layers() const { return layers_; }
  int64_t heads() const { return heads_; }

  Layer layer(int64_t i) const {
    const int64_t first = kHeader + i * layer_words(heads_);
    const auto per_head = [&](int64_t nth) { return at<int64_t>(first + nth * heads_, heads_); };
    const int64_t rest = first + kHeadWords * heads_;
    return {per_head(0),
            per_head(1),
            per_head(2),
            per_head(3),
            at<double>(rest, 1),
            at<float>(first + 4 * heads_, heads_),
            at<int32_t>(rest + 1, 1)};
  }

 private:
  static constexpr int64_t kHeader = 3;
  static constexpr int64_t kHeadWords = 5;
  static constexpr int64_t layer_words(int64_t heads) { return kHeadWords * heads + 2; }

  template <class T>
  View<T> at(int64_t word, int64_t count) const {
    return {words_ == nullptr ? nullptr : reinterpret_cast<T*>(words_ + word), {count}};
  }

  int64_t* words_ = nullptr;
  int64_t layers_ = 0;
  int64_t heads_ = 0;
};

}  // namespace stipple::model
