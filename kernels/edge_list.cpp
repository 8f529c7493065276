// SPDX-License-Identifier: Apache-2.0
#include "kernels/edge_list.h"

#include <algorithm>
#include <bit>
#include <span>

#include "core/copy.h"

namespace stipple::kernels {
namespace {

/// The first `count` elements, in host memory.
template <class T>
std::vector<std::remove_const_t<T>> first_of(const Stream& stream, View<T> from, int64_t count) {
  std::vector<std::remove_const_t<T>> to(static_cast<size_t>(count));
  download(stream, std::span<std::remove_const_t<T>>(to), View<T>{from.data, {count}});
  return to;
}

std::vector<int32_t> columns_of_bits(const EdgeSet& edges, const std::vector<uint32_t>& words) {
  std::vector<int32_t> columns;
  const auto per_row = static_cast<size_t>(edges.words_per_row());
  for (size_t row = 0; row * per_row < words.size(); ++row) {
    const auto begin = static_cast<std::ptrdiff_t>(columns.size());
    for (size_t w = 0; w < per_row; ++w) {
      for (uint32_t left = words[row * per_row + w]; left != 0; left &= left - 1) {
        const int64_t j =
            bit_column(edges.bit_order, {static_cast<int64_t>(w), std::countr_zero(left)});
        columns.push_back(static_cast<int32_t>(j));
      }
    }
    if (edges.bit_order != BitOrder::kRows) std::sort(columns.begin() + begin, columns.end());
  }
  return columns;
}

}  // namespace

EdgeList download_edges(const EdgeSet& edges, int64_t p, const Stream& stream) {
  const std::vector<int32_t> row_ptr = first_of(stream, edges.row_ptr.at(p), edges.num_queries + 1);
  const EdgeForm form = first_of(stream, View<EdgeForm>{edges.form.data + p, {1}}, 1).front();
  EdgeList list;
  list.row_ptr.assign(row_ptr.begin(), row_ptr.end());
  if (form == EdgeForm::kBits) {
    const int64_t words = edges.num_queries * edges.words_per_row();
    list.columns = columns_of_bits(edges, first_of(stream, edges.storage.at(p), words));
    return list;
  }
  const std::vector<uint32_t> columns = first_of(stream, edges.storage.at(p), row_ptr.back());
  list.columns.assign(columns.begin(), columns.end());
  if (edges.capacity.multiplicity)
    list.multiplicity = first_of(stream, edges.multiplicity.at(p), row_ptr.back());
  return list;
}

EdgeList subgraph(const EdgeList& edges, int64_t num_keys, const std::vector<int64_t>& queries,
                  const std::vector<int64_t>& keys) {
  constexpr int32_t kLeftOut = -1;
  std::vector<int32_t> number(static_cast<size_t>(num_keys), kLeftOut);
  for (size_t k = 0; k < keys.size(); ++k)
    number[static_cast<size_t>(keys[k])] = static_cast<int32_t>(k);
  EdgeList part;
  part.row_ptr.push_back(0);
  for (const int64_t query : queries) {
    const auto row = static_cast<size_t>(query);
    for (auto e = static_cast<size_t>(edges.row_ptr[row]);
         e < static_cast<size_t>(edges.row_ptr[row + 1]); ++e) {
      const int32_t column = number[static_cast<size_t>(edges.columns[e])];
      if (column == kLeftOut) continue;
      part.columns.push_back(column);
      if (!edges.multiplicity.empty()) part.multiplicity.push_back(edges.multiplicity[e]);
    }
    part.row_ptr.push_back(part.num_edges());
  }
  return part;
}

}  // namespace stipple::kernels
