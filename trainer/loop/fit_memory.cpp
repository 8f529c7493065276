// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/fit_memory.h"

#include <algorithm>

#include "core/arena.h"
#include "model/attention/entmax/entmax_over_pairs.h"
#include "trainer/loop/exact_supports.h"

namespace stipple::trainer {
namespace {

/// All sizes that the bytes follow from, as numbers that do not overflow.
class FitSizes {
 public:
  FitSizes(const Config& config, const data::TaskInfo& info, int num_ranks)
      : tokens_(static_cast<double>(info.max_length)),
        head_dim_(static_cast<double>(config.model.width / config.model.heads)) {
    const model::SparsefinderConfig& sparsefinder = config.attention.sparsefinder;
    const int64_t dim = config.model.width / config.model.heads;
    const int64_t leaves = leaves_of_examples(config, sparsefinder.refresh_examples).size();
    const int64_t rows = config.train.micro_batch * info.fields.sequences;
    const int64_t heads = config.model.layers * config.model.heads;
    const auto share = [&](int64_t all) {
      return static_cast<double>((all + num_ranks - 1) / num_ranks);
    };
    ranks_ = num_ranks;
    heads_ = static_cast<double>(heads);
    own_heads_ = share(heads);
    layer_heads_ = static_cast<double>(config.model.heads);
    leaf_rows_ = static_cast<double>(rows);
    sequences_ = static_cast<double>(leaves * rows);
    own_sequences_ = share(leaves) * static_cast<double>(rows);
    pairs_ = config.model.causal ? tokens_ * (tokens_ + 1) / 2 : tokens_ * tokens_;
    content_ = static_cast<double>(sparsefinder.content_channels(dim));
    compared_ = static_cast<double>(sparsefinder.compared_channels(dim));
    hidden_ = static_cast<double>(sparsefinder.hidden_channels(dim));
    clusters_ = static_cast<double>(sparsefinder.cluster.clusters);
  }

  double bytes() const {
    const double told = heads_ * own_sequences_ * example(head_dim_);
    const double own = own_heads_ * sequences_ * example(head_dim_);
    const double contents = own_heads_ * sequences_ * example(content_);
    const double exchanged = ranks_ == 1 ? 0 : own + std::max(told, own);
    return std::max({told + telling(), exchanged,
                     contents + example(content_) + std::max(fitting(), clustering())});
  }

 private:
  static constexpr double kNumber = 4, kWide = 8;  ///< bytes
  static constexpr double kArrays = 256;           ///< their own bytes, and what allocation adds

  /// Queries, keys and the support of a head of a sequence.
  double example(double channels) const {
    return 2 * tokens_ * channels * kNumber + tokens_ * kWide + edges() + kArrays;
  }
  double edges() const { return pairs_ * kNumber; }
  /// A layer tells the supports of a sequence, one head after the other.
  double telling() const {
    const double features = tokens_ * layer_heads_ * head_dim_ * kNumber;
    return 2 * (leaf_rows_ + 2) * features + layer_heads_ * (edges() + tokens_ * kWide) +
           3 * tokens_ * tokens_ * kNumber;
  }
  /// One example at a time, in double precision.
  double fitting() const {
    const double map = (content_ + 1 + compared_) * std::max(hidden_, compared_);
    return 4 * tokens_ * compared_ * kWide + 3 * tokens_ * hidden_ * kWide + 2 * edges() +
           2 * tokens_ * kWide + 12 * map * kWide;
  }
  double clustering() const {
    const double points = 2 * tokens_ * sequences_;
    return points * (compared_ * kNumber + 2 * kWide) + tokens_ * compared_ * kWide +
           4 * clusters_ * (compared_ + 1) * kWide;
  }

  int ranks_ = 1;
  double tokens_, head_dim_;
  double heads_ = 0, own_heads_ = 0, layer_heads_ = 0;
  double leaf_rows_ = 0, sequences_ = 0, own_sequences_ = 0;
  double pairs_ = 0, content_ = 0, compared_ = 0, hidden_ = 0, clusters_ = 0;
};

/// Of a head of a sequence, with room for all keys: made on the device for supports that are long.
size_t row_bytes(const Config& config, const data::TaskInfo& info) {
  const int64_t n = info.max_length, d = config.model.width / config.model.heads;
  Arena plan("graph");
  model::EntmaxOverPairs::alloc_rows(plan, {nullptr, Shape({1, 1, n, d}), config.precision}, n);
  return plan.peak();
}

}  // namespace

size_t fit_bytes(const Config& config, const data::TaskInfo& info, int num_ranks,
                 size_t parameters) {
  const size_t rows = row_bytes(config, info);
  if (config.device != DeviceChoice::kCpu) return rows;
  constexpr double kMost = 1e18;  // no machine has it, and sums do not overflow
  return rows + parameters +
         static_cast<size_t>(std::min(FitSizes(config, info, num_ranks).bytes(), kMost));
}

}  // namespace stipple::trainer
