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
  leaf.draws.reserve(static_cast<size_t>(rows));
}

int64_t padded_length(const Dataset& dataset, const TaskInfo& info, bool is_fixed,
                      std::span<const Draw> draws) {
  if (is_fixed) return info.max_length;
  int64_t longest = 1;
  for (const Draw& draw : draws) {
    if (draw.example >= 0) longest = std::max(longest, dataset.length(draw.example));
  }
  const int64_t rounded = (longest + kLengthMultiple - 1) / kLengthMultiple * kLengthMultiple;
  return std::min(rounded, info.max_length);
}

/// The row's first `count` tokens of an array.
template <class T>
std::span<T> tokens_of(std::vector<T>& array, int64_t row, int64_t length, int64_t count) {
  return std::span(array).subspan(static_cast<size_t>(row * length), static_cast<size_t>(count));
}

void fill_row(const Dataset& dataset, const TaskInfo& info, Leaf& leaf, int64_t row) {
  const Draw draw = leaf.draws[static_cast<size_t>(row)];
  const int64_t length = leaf.sizes.length, count = dataset.length(draw.example);
  const bool per_token = leaf.sizes.fields.label == LabelKind::kTokenClass;
  const std::span<int32_t> labels =
      per_token ? tokens_of(leaf.labels, row, length, count) : tokens_of(leaf.labels, row, 1, 1);
  const bool has_segments = !leaf.segments.empty();
  dataset.get(draw, {.ids = tokens_of(leaf.ids, row, length, count),
                     .segments = has_segments ? tokens_of(leaf.segments, row, length, count)
                                              : std::span<int32_t>{},
                     .labels = labels});
  std::ranges::fill(tokens_of(leaf.mask, row, length, count), uint8_t{1});
  const auto written =
      std::count_if(labels.begin(), labels.end(), [](int32_t x) { return x >= 0; });
  STIPPLE_CHECK(written == dataset.num_labels(draw), info.name, ": example ", draw.example,
                " of epoch ", draw.epoch, " was given ", written, " labels, but announced ",
                dataset.num_labels(draw));
}

/// The arrays of leaf.draws, all but samples and scale.
void fill(const Dataset& dataset, const TaskInfo& info, bool is_fixed, Leaf& leaf) {
  leaf.sizes = {.fields = info.fields,
                .batch = static_cast<int64_t>(leaf.draws.size()),
                .length = padded_length(dataset, info, is_fixed, leaf.draws)};
  for_each_array(
      leaf.sizes,
      [](const auto& array, auto& memory) {
        memory.assign(static_cast<size_t>(array.shape.numel()), array.none);
      },
      leaf);
  for (int64_t row = 0; row < leaf.sizes.batch; ++row) {
    if (leaf.draws[static_cast<size_t>(row)].example >= 0) fill_row(dataset, info, leaf, row);
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
  draws_.resize(batch);
  by_length_.resize(batch);
  slots_.resize(batch);
}

void TrainBatches::plan(int64_t step) {
  if (step == planned_step_) return;
  const auto size = static_cast<uint64_t>(dataset_.size());
  const uint64_t first = static_cast<uint64_t>(step) * static_cast<uint64_t>(options_.batch);
  int64_t labels = 0;
  for (size_t slot = 0; slot < draws_.size(); ++slot) {
    const uint64_t position = first + slot, epoch = position / size;
    const Shuffle shuffle(size, options_.seed, epoch);
    draws_[slot] = {static_cast<int64_t>(shuffle(position % size)), epoch};
    labels += dataset_.num_labels(draws_[slot]);
  }
  std::iota(by_length_.begin(), by_length_.end(), 0);
  std::sort(by_length_.begin(), by_length_.end(), [this](int32_t a, int32_t b) {
    const int64_t length_a = dataset_.length(draws_[static_cast<size_t>(a)].example);
    const int64_t length_b = dataset_.length(draws_[static_cast<size_t>(b)].example);
    return length_a != length_b ? length_a > length_b : a < b;
  });
  const int64_t micro = options_.micro_batch;
  deal(num_leaves(), [&](int64_t group, int64_t leaf) {
    std::copy_n(by_length_.begin() + group * micro, micro, slots_.begin() + leaf * micro);
  });
  loss_scale_ = 1.0f / static_cast<float>(std::max<int64_t>(1, labels));
  planned_step_ = step;
}

void TrainBatches::load(int64_t step, int64_t leaf_index, Leaf& leaf) {
  STIPPLE_CHECK(step >= 0 && leaf_index >= 0 && leaf_index < num_leaves(), "no training leaf ",
                leaf_index, " of step ", step);
  plan(step);
  reserve(info_, options_.micro_batch, leaf);
  const auto micro = static_cast<size_t>(options_.micro_batch);
  const auto slots = std::span(slots_).subspan(static_cast<size_t>(leaf_index) * micro, micro);
  leaf.draws.clear();
  for (int32_t slot : slots) leaf.draws.push_back(draws_[static_cast<size_t>(slot)]);
  fill(dataset_, info_, options_.fixed_length, leaf);
  std::copy(slots.begin(), slots.end(), leaf.samples.begin());
  leaf.loss_scale[0] = loss_scale_;
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
  leaf.draws.assign(rows, {.example = -1});
  for (size_t row = 0; row < present.size(); ++row) leaf.draws[row].example = present[row];
  fill(dataset_, info_, options_.fixed_length, leaf);
  std::copy(present.begin(), present.end(), leaf.samples.begin());
}

}  // namespace stipple::data
