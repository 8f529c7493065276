// SPDX-License-Identifier: Apache-2.0
#include "data/mlm/packed.h"

#include <xxhash.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace stipple::data::mlm {
namespace {

/// Numbers of examples, the longest first, equal ones in order.
std::vector<int64_t> by_falling_length(const std::vector<int32_t>& lengths, int64_t row_length) {
  std::vector<int64_t> ends(static_cast<size_t>(row_length) + 1);
  for (const int32_t length : lengths) ++ends[static_cast<size_t>(row_length - length)];
  std::exclusive_scan(ends.begin(), ends.end(), ends.begin(), int64_t{0});
  std::vector<int64_t> order(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    int64_t& place = ends[static_cast<size_t>(row_length - lengths[i])];
    order[static_cast<size_t>(place++)] = static_cast<int64_t>(i);
  }
  return order;
}

/// The row of each example, in the order of `order`, and how many there are.
std::vector<int64_t> rows_of_examples(const std::vector<int64_t>& order,
                                      const std::vector<int32_t>& lengths, int64_t row_length,
                                      int64_t& num_rows) {
  std::vector<std::vector<int64_t>> with_room(static_cast<size_t>(row_length) + 1);
  std::vector<int64_t> row_of(order.size());
  num_rows = 0;
  for (size_t k = 0; k < order.size(); ++k) {
    const int64_t length = lengths[static_cast<size_t>(order[k])];
    int64_t room = length;
    while (room < row_length && with_room[static_cast<size_t>(room)].empty()) ++room;
    std::vector<int64_t>& rows = with_room[static_cast<size_t>(room)];
    if (rows.empty()) rows.push_back(num_rows++);
    row_of[k] = rows.back();
    rows.pop_back();
    if (room > length) with_room[static_cast<size_t>(room - length)].push_back(row_of[k]);
  }
  return row_of;
}

/// Elements [begin, begin + count); of what is not wanted, none.
template <class T>
std::span<T> part_of(std::span<T> array, size_t begin, size_t count) {
  return array.empty() ? array : array.subspan(begin, count);
}

}  // namespace

Rows best_fit(const std::vector<int32_t>& lengths, int64_t row_length) {
  const std::vector<int64_t> order = by_falling_length(lengths, row_length);
  int64_t num_rows = 0;
  const std::vector<int64_t> row_of = rows_of_examples(order, lengths, row_length, num_rows);
  Rows rows;
  rows.begins.resize(static_cast<size_t>(num_rows) + 1);
  for (const int64_t row : row_of) ++rows.begins[static_cast<size_t>(row) + 1];
  std::inclusive_scan(rows.begins.begin(), rows.begins.end(), rows.begins.begin());
  std::vector<int64_t> next = rows.begins;
  rows.members.resize(order.size());
  for (size_t k = 0; k < order.size(); ++k) {
    int64_t& place = next[static_cast<size_t>(row_of[k])];
    rows.members[static_cast<size_t>(place++)] = order[k];
  }
  return rows;
}

PackedDataset::PackedDataset(std::unique_ptr<const Dataset> examples, int64_t row_length)
    : examples_(std::move(examples)) {
  std::vector<int32_t> lengths(static_cast<size_t>(examples_->size()));
  for (size_t i = 0; i < lengths.size(); ++i) {
    lengths[i] = static_cast<int32_t>(examples_->length({.example = static_cast<int64_t>(i)}, 0));
  }
  rows_ = best_fit(lengths, row_length);
}

std::span<const int64_t> PackedDataset::members(int64_t row) const {
  STIPPLE_CHECK(row >= 0 && row < size(), "mlm: no row ", row, " of ", size());
  const auto at = static_cast<size_t>(row);
  const auto begin = static_cast<size_t>(rows_.begins[at]);
  return std::span(rows_.members).subspan(begin, static_cast<size_t>(rows_.begins[at + 1]) - begin);
}

int64_t PackedDataset::length(Draw draw, int64_t) const {
  int64_t tokens = 0;
  for (const int64_t i : members(draw.example)) tokens += examples_->length({i, draw.epoch}, 0);
  return tokens;
}

int64_t PackedDataset::num_labels(Draw draw) const {
  int64_t labels = 0;
  for (const int64_t i : members(draw.example)) labels += examples_->num_labels({i, draw.epoch});
  return labels;
}

void PackedDataset::get(Draw draw, int64_t, const ExampleSpans& to) const {
  size_t begin = 0;
  int32_t piece = 0;
  for (const int64_t i : members(draw.example)) {
    const Draw of{i, draw.epoch};
    const auto n = static_cast<size_t>(examples_->length(of, 0));
    examples_->get(of, 0,
                   {.ids = part_of(to.ids, begin, n),
                    .segments = part_of(to.segments, begin, n),
                    .labels = part_of(to.labels, begin, n)});
    std::ranges::fill(part_of(to.pieces, begin, n), piece++);
    const std::span<int32_t> positions = part_of(to.positions, begin, n);
    std::iota(positions.begin(), positions.end(), 0);
    begin += n;
  }
}

uint64_t PackedDataset::fingerprint() const {
  return XXH3_64bits_withSeed(rows_.members.data(), rows_.members.size() * sizeof(int64_t),
                              examples_->fingerprint());
}

Intake PackedDataset::intake() const {
  Intake intake = examples_->intake();
  intake.examples = size();
  return intake;
}

}  // namespace stipple::data::mlm
