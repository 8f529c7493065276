// SPDX-License-Identifier: Apache-2.0
#include "data/batch.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "data/shuffle.h"

namespace stipple::data {
namespace {

constexpr int64_t kLengthMultiple = 64;

void check(const BatchOptions& options) {
  STIPPLE_CHECK_AS(ConfigError, options.micro_batch >= 1, "micro_batch must be at least 1");
  STIPPLE_CHECK_AS(
      ConfigError, options.batch >= options.micro_batch && options.batch % options.micro_batch == 0,
      "batch ", options.batch, " must be a multiple of micro_batch ", options.micro_batch);
}

/// So that no later load allocates, whatever the lengths of its examples.
void reserve(const TaskInfo& info, int64_t rows, Leaf& leaf) {
  const LeafSizes largest{info.fields, rows, info.max_length};
  for_each_array(
      largest,
      [](const auto& array, auto& memory) {
        memory.reserve(static_cast<size_t>(array.shape.numel()));
      },
      leaf);
  leaf.examples.reserve(static_cast<size_t>(rows));
}

int64_t padded_length(const Dataset& dataset, const TaskInfo& info, bool is_fixed,
                      std::span<const int64_t> examples) {
  if (is_fixed) return info.max_length;
  int64_t longest = 1;
  for (int64_t example : examples) {
    if (example >= 0) longest = std::max(longest, dataset.length(example));
  }
  const int64_t rounded = (longest + kLengthMultiple - 1) / kLengthMultiple * kLengthMultiple;
  return std::min(rounded, info.max_length);
}

/// The arrays of leaf.examples, all but samples and scale.
void fill(const Dataset& dataset, const TaskInfo& info, bool is_fixed, Leaf& leaf) {
  leaf.sizes = {.fields = info.fields,
                .batch = static_cast<int64_t>(leaf.examples.size()),
                .length = padded_length(dataset, info, is_fixed, leaf.examples)};
  for_each_array(
      leaf.sizes,
      [](const auto& array, auto& memory) {
        memory.assign(static_cast<size_t>(array.shape.numel()), array.none);
      },
      leaf);
  const auto length = static_cast<size_t>(leaf.sizes.length);
  const bool per_token = info.fields.label == LabelKind::kTokenClass;
  const size_t labels_per_row = per_token ? length : 1;
  for (size_t row = 0; row < leaf.examples.size(); ++row) {
    const int64_t example = leaf.examples[row];
    if (example < 0) continue;
    const auto count = static_cast<size_t>(dataset.length(example));
    const size_t num_labels = per_token ? count : 1;
    dataset.get(example, std::span(leaf.ids).subspan(row * length, count),
                std::span(leaf.labels).subspan(row * labels_per_row, num_labels));
    std::fill_n(leaf.mask.data() + row * length, count, uint8_t{1});
  }
}

uint64_t reverse_bits(uint64_t x, int bits) {
  uint64_t reversed = 0;
  for (int i = 0; i < bits; ++i) reversed |= (x >> i & 1) << (bits - 1 - i);
  return reversed;
}

/// Calls place(group, leaf) for each group, which come by falling work. The bits of the group's
/// Gray code, lowest first, choose the half, then the quarter, and so on: at each level groups go
/// left, right, right, left, ..., so heavy ones are paired with light ones in aligned runs of any
/// size. Places past the last leaf are skipped when the number of leaves is no power of two.
template <class Place>
void deal(int64_t num_leaves, Place place) {
  const auto bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(num_leaves - 1)));
  int64_t group = 0;
  for (uint64_t i = 0; group < num_leaves; ++i) {
    const auto leaf = static_cast<int64_t>(reverse_bits(i ^ (i >> 1), bits));
    if (leaf < num_leaves) place(group++, leaf);
  }
}

}  // namespace

TrainBatches::TrainBatches(const Dataset& dataset, const TaskInfo& info,
                           const BatchOptions& options)
    : dataset_(dataset), info_(info), options_(options) {
  check(options);
  STIPPLE_CHECK_AS(DataError, dataset.size() > 0, info.name, ": there are no training examples");
  const auto batch = static_cast<size_t>(options.batch);
  examples_.resize(batch);
  by_length_.resize(batch);
  slots_.resize(batch);
}

void TrainBatches::plan(int64_t step) {
  if (step == planned_step_) return;
  const auto size = static_cast<uint64_t>(dataset_.size());
  const uint64_t first = static_cast<uint64_t>(step) * static_cast<uint64_t>(options_.batch);
  for (size_t slot = 0; slot < examples_.size(); ++slot) {
    const uint64_t position = first + slot;
    const Shuffle shuffle(size, options_.seed, position / size);
    examples_[slot] = static_cast<int64_t>(shuffle(position % size));
  }
  std::iota(by_length_.begin(), by_length_.end(), 0);
  std::sort(by_length_.begin(), by_length_.end(), [this](int32_t a, int32_t b) {
    const int64_t length_a = dataset_.length(examples_[static_cast<size_t>(a)]);
    const int64_t length_b = dataset_.length(examples_[static_cast<size_t>(b)]);
    return length_a != length_b ? length_a > length_b : a < b;
  });
  const int64_t micro = options_.micro_batch;
  deal(num_leaves(), [&](int64_t group, int64_t leaf) {
    std::copy_n(by_length_.begin() + group * micro, micro, slots_.begin() + leaf * micro);
  });
  loss_scale_ = 1.0f / static_cast<float>(std::max<int64_t>(1, num_labels()));
  planned_step_ = step;
}

void TrainBatches::load(int64_t step, int64_t leaf_index, Leaf& leaf) {
  STIPPLE_CHECK(step >= 0 && leaf_index >= 0 && leaf_index < num_leaves(), "no training leaf ",
                leaf_index, " of step ", step);
  plan(step);
  reserve(info_, options_.micro_batch, leaf);
  const auto micro = static_cast<size_t>(options_.micro_batch);
  const auto slots = std::span(slots_).subspan(static_cast<size_t>(leaf_index) * micro, micro);
  leaf.examples.clear();
  for (int32_t slot : slots) leaf.examples.push_back(examples_[static_cast<size_t>(slot)]);
  fill(dataset_, info_, options_.fixed_length, leaf);
  std::copy(slots.begin(), slots.end(), leaf.samples.begin());
  leaf.loss_scale[0] = loss_scale_;
}

/// Labels that count in the loss of the planned step's global batch.
int64_t TrainBatches::num_labels() const {
  if (info_.fields.label == LabelKind::kClass) return options_.batch;
  int64_t labels = 0;
  for (int64_t example : examples_) labels += dataset_.length(example);
  return labels;
}

EvalBatches::EvalBatches(const Dataset& dataset, const TaskInfo& info, const BatchOptions& options)
    : dataset_(dataset), info_(info), options_(options) {
  check(options);
  // Leaf::samples holds example numbers, which name the draws of each example.
  STIPPLE_CHECK_AS(ConfigError, dataset.size() <= std::numeric_limits<uint32_t>::max(), info.name,
                   ": ", dataset.size(),
                   " examples are too many to evaluate; choose a finite split");
  order_.resize(static_cast<size_t>(dataset.size()));
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.end(), [&dataset](int64_t a, int64_t b) {
    return dataset.length(a) > dataset.length(b);
  });
}

int64_t EvalBatches::num_leaves() const {
  const auto size = static_cast<int64_t>(order_.size());
  return (size + options_.micro_batch - 1) / options_.micro_batch;
}

void EvalBatches::load(int64_t leaf_index, Leaf& leaf) const {
  STIPPLE_CHECK(leaf_index >= 0 && leaf_index < num_leaves(), "no evaluation leaf ", leaf_index);
  reserve(info_, options_.micro_batch, leaf);
  const auto rows = static_cast<size_t>(options_.micro_batch);
  const size_t first = static_cast<size_t>(leaf_index) * rows;
  const auto present = std::span(order_).subspan(first, std::min(rows, order_.size() - first));
  leaf.examples.assign(rows, -1);
  std::copy(present.begin(), present.end(), leaf.examples.begin());
  fill(dataset_, info_, options_.fixed_length, leaf);
  for (size_t row = 0; row < present.size(); ++row)
    leaf.samples[row] = static_cast<uint32_t>(present[row]);
}

}  // namespace stipple::data
