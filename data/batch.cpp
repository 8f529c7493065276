// SPDX-License-Identifier: Apache-2.0
#include "data/batch.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "data/shuffle.h"

namespace stipple::data {
namespace {

void check(const BatchOptions& options) {
  STIPPLE_CHECK_AS(ConfigError, options.micro_batch >= 1, "micro_batch must be at least 1");
  STIPPLE_CHECK_AS(ConfigError, options.length_multiple >= 1, "length_multiple must be at least 1");
  STIPPLE_CHECK_AS(
      ConfigError, options.batch >= options.micro_batch && options.batch % options.micro_batch == 0,
      "batch ", options.batch, " must be a multiple of micro_batch ", options.micro_batch);
}

/// So that no later load allocates, whatever the lengths of its examples.
void reserve(const TaskInfo& info, int64_t batch, Leaf& leaf) {
  const LeafSizes largest{info.fields, batch, info.max_length};
  for_each_array(
      largest,
      [](const auto& array, auto& memory) {
        memory.reserve(static_cast<size_t>(array.shape.numel()));
      },
      leaf);
  leaf.draws.reserve(static_cast<size_t>(batch));
}

/// Tokens of the longest sequence.
int64_t longest(const Dataset& dataset, const TaskInfo& info, Draw draw) {
  int64_t tokens = 0;
  for (int64_t sequence = 0; sequence < info.fields.sequences; ++sequence) {
    tokens = std::max(tokens, dataset.length(draw, sequence));
  }
  return tokens;
}

int64_t padded_length(const Dataset& dataset, const TaskInfo& info, const BatchOptions& options,
                      std::span<const Draw> draws) {
  if (options.fixed_length) return info.max_length;
  int64_t tokens = 1;
  for (const Draw& draw : draws) {
    if (draw.example >= 0) tokens = std::max(tokens, longest(dataset, info, draw));
  }
  const int64_t multiple = options.length_multiple;
  const int64_t rounded = (tokens + multiple - 1) / multiple * multiple;
  return std::min(rounded, info.max_length);
}

/// Elements [begin, begin + count); of no array, none.
template <class T>
std::span<T> part(std::vector<T>& array, int64_t begin, int64_t count) {
  if (array.empty()) return {};
  return std::span(array).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
}

/// Where the `count` tokens of a sequence are written, and labels with them.
ExampleSpans spans_of(Leaf& leaf, int64_t place, int64_t sequence, int64_t count) {
  const int64_t begin = (place * leaf.sizes.fields.sequences + sequence) * leaf.sizes.length;
  const bool per_token = is_per_token(leaf.sizes.fields.label);
  const int64_t of_example = sequence == 0 ? 1 : 0;
  return {
      .ids = part(leaf.ids, begin, count),
      .segments = part(leaf.segments, begin, count),
      .pieces = part(leaf.pieces, begin, count),
      .positions = part(leaf.positions, begin, count),
      .labels = per_token ? part(leaf.labels, begin, count) : part(leaf.labels, place, of_example),
      .values = part(leaf.values, place, of_example),
      .relation = part(leaf.relations, place, of_example)};
}

/// The labels that stand at the leaf's example `place`.
int64_t count_labels(Leaf& leaf, int64_t place) {
  if (leaf.sizes.fields.label == LabelKind::kValue) {
    return std::isnan(leaf.values[static_cast<size_t>(place)]) ? 0 : 1;
  }
  const int64_t each = static_cast<int64_t>(leaf.labels.size()) / leaf.sizes.batch;
  return std::ranges::count_if(part(leaf.labels, place * each, each),
                               [](int32_t label) { return label >= 0; });
}

void fill_example(const Dataset& dataset, const TaskInfo& info, Leaf& leaf, int64_t place) {
  const Draw draw = leaf.draws[static_cast<size_t>(place)];
  const int64_t sequences = leaf.sizes.fields.sequences;
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t count = dataset.length(draw, s);
    dataset.get(draw, s, spans_of(leaf, place, s, count));
    std::ranges::fill(part(leaf.mask, (place * sequences + s) * leaf.sizes.length, count),
                      uint8_t{1});
  }
  const int64_t written = count_labels(leaf, place), announced = dataset.num_labels(draw);
  STIPPLE_CHECK(written == announced, info.name, ": example ", draw.example, " of epoch ",
                draw.epoch, " was given ", written, " labels, but announced ", announced);
}

/// Names the rows of the leaf's example `place`, which is the number-th of its collection.
void name_rows(Leaf& leaf, int64_t place, int64_t number) {
  const int64_t sequences = leaf.sizes.fields.sequences;
  for (int64_t s = 0; s < sequences; ++s) {
    leaf.samples[static_cast<size_t>(place * sequences + s)] =
        static_cast<uint32_t>(number * sequences + s);
  }
}

/// Where the labels stand that a masked language model is asked for.
void list_labels(Leaf& leaf) {
  size_t listed = 0;
  for (size_t i = 0; i < leaf.labels.size(); ++i) {
    if (leaf.labels[i] < 0) continue;
    leaf.label_rows[listed] = static_cast<int32_t>(i);
    leaf.row_labels[listed++] = leaf.labels[i];
  }
}

/// The arrays of leaf.draws, all but samples and scale.
void fill(const Dataset& dataset, const TaskInfo& info, const BatchOptions& options, Leaf& leaf) {
  leaf.sizes = {.fields = info.fields,
                .batch = static_cast<int64_t>(leaf.draws.size()),
                .length = padded_length(dataset, info, options, leaf.draws)};
  for_each_array(
      leaf.sizes,
      [](const auto& array, auto& memory) {
        memory.assign(static_cast<size_t>(array.shape.numel()), array.none);
      },
      leaf);
  leaf.num_labels = 0;
  for (int64_t place = 0; place < leaf.sizes.batch; ++place) {
    if (leaf.draws[static_cast<size_t>(place)].example < 0) continue;
    fill_example(dataset, info, leaf, place);
    leaf.num_labels += count_labels(leaf, place);
  }
  if (leaf.sizes.fields.label == LabelKind::kMaskedToken) list_labels(leaf);
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
  const auto first = static_cast<uint64_t>(options_.first_position +
                                           (step - options_.first_step) * options_.batch);
  int64_t labels = 0;
  for (size_t slot = 0; slot < draws_.size(); ++slot) {
    const uint64_t position = first + slot, epoch = options_.first_epoch + position / size;
    const Shuffle shuffle(size, options_.seed, epoch);
    draws_[slot] = {static_cast<int64_t>(shuffle(position % size)), epoch};
    labels += dataset_.num_labels(draws_[slot]);
  }
  std::iota(by_length_.begin(), by_length_.end(), 0);
  std::sort(by_length_.begin(), by_length_.end(), [this](int32_t a, int32_t b) {
    const int64_t length_a = longest(dataset_, info_, draws_[static_cast<size_t>(a)]);
    const int64_t length_b = longest(dataset_, info_, draws_[static_cast<size_t>(b)]);
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
  STIPPLE_CHECK(step >= options_.first_step && leaf_index >= 0 && leaf_index < num_leaves(),
                "no training leaf ", leaf_index, " of step ", step);
  plan(step);
  reserve(info_, options_.micro_batch, leaf);
  const auto micro = static_cast<size_t>(options_.micro_batch);
  const auto slots = std::span(slots_).subspan(static_cast<size_t>(leaf_index) * micro, micro);
  leaf.draws.clear();
  for (int32_t slot : slots) leaf.draws.push_back(draws_[static_cast<size_t>(slot)]);
  fill(dataset_, info_, options_, leaf);
  for (size_t i = 0; i < micro; ++i) name_rows(leaf, static_cast<int64_t>(i), slots[i]);
  leaf.loss_scale[0] = loss_scale_;
  if (info_.fields.has_relation) leaf.relation_scale[0] = 1.0f / static_cast<float>(options_.batch);
}

EvalBatches::EvalBatches(const Dataset& dataset, const TaskInfo& info, const BatchOptions& options)
    : dataset_(dataset), info_(info), options_(options) {
  check(options);
  // Leaf::samples holds the numbers of sequences, which name the random numbers of each.
  const int64_t most = std::numeric_limits<uint32_t>::max() / info.fields.sequences;
  STIPPLE_CHECK_AS(ConfigError, dataset.size() <= most, info.name, ": ", dataset.size(),
                   " examples are too many to evaluate; choose a finite split");
  order_.resize(static_cast<size_t>(dataset.size()));
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) {
    return longest(dataset, info, {.example = a}) > longest(dataset, info, {.example = b});
  });
}

int64_t EvalBatches::num_leaves() const {
  const auto size = static_cast<int64_t>(order_.size());
  return (size + options_.micro_batch - 1) / options_.micro_batch;
}

void EvalBatches::load(int64_t leaf_index, Leaf& leaf) const {
  STIPPLE_CHECK(leaf_index >= 0 && leaf_index < num_leaves(), "no evaluation leaf ", leaf_index);
  const auto batch = static_cast<size_t>(options_.micro_batch);
  const size_t first = static_cast<size_t>(leaf_index) * batch;
  load(std::span(order_).subspan(first, std::min(batch, order_.size() - first)), batch, leaf);
}

void EvalBatches::load(std::span<const int64_t> examples, Leaf& leaf) const {
  load(examples, examples.size(), leaf);
}

void EvalBatches::load(std::span<const int64_t> examples, size_t batch, Leaf& leaf) const {
  reserve(info_, options_.micro_batch, leaf);
  leaf.draws.assign(batch, {.example = -1});
  for (size_t i = 0; i < examples.size(); ++i) leaf.draws[i].example = examples[i];
  fill(dataset_, info_, options_, leaf);
  for (size_t i = 0; i < examples.size(); ++i) {
    name_rows(leaf, static_cast<int64_t>(i), examples[i]);
  }
}

}  // namespace stipple::data
