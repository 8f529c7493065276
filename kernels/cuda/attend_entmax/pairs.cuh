// SPDX-License-Identifier: Apache-2.0
// Which keys a query meets, and which queries a key, ascending: by the rule of a pattern, or by a
// graph in any form.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/edges.h"
#include "kernels/cuda/masks.cuh"
#include "kernels/math/pattern.h"

namespace stipple::kernels::cuda {

/// Places 0 .. count - 1, each of which has a token or none.
struct Partners {
  const uint32_t* list = nullptr;  ///< of CSR or CSC
  const uint32_t* bits = nullptr;  ///< in lane order
  int64_t first = 0;               ///< else: tokens first, first + 1, ...
  int64_t count = 0;

  /// -1: none.
  __device__ int64_t at(int64_t place) const {
    if (place >= count) return -1;
    if (list != nullptr) return list[place];
    if (bits == nullptr) return first + place;
    const BitPlace bit = bit_place(BitOrder::kLanes, place);
    return (bits[bit.word] >> bit.bit & 1u) != 0 ? place : -1;
  }
};

struct EntmaxPairs {
  int64_t heads = 1, num_queries = 0, num_keys = 0;
  const uint8_t* key_mask = nullptr;  // [B, M]; null: all keys
  math::PatternRule rule{};
  WritableGraph graph{};  ///< form null: the pattern's pairs

  bool has_graph() const { return graph.form != nullptr; }

  __device__ Partners keys_of(int64_t problem, int64_t i) const {
    if (graph.form == nullptr) {
      const Range range = rule.keys_of(i, num_keys);
      return {.first = range.begin, .count = range.end - range.begin};
    }
    const uint32_t* stored = graph.by_query + problem * graph.query_stride;
    if (graph.form[problem] == EdgeForm::kBits)
      return {.bits = stored + i * graph.row_words, .count = num_keys};
    const int32_t* row = graph.row_ptr + problem * (num_queries + 1) + i;
    return {.list = stored + row[0], .count = row[1] - row[0]};
  }
  __device__ Partners queries_of(int64_t problem, int64_t j) const {
    if (graph.form == nullptr) {
      const Range range = rule.queries_of(j, num_queries);
      return {.first = range.begin, .count = range.end - range.begin};
    }
    const uint32_t* stored = graph.by_key + problem * graph.key_stride;
    if (graph.form[problem] == EdgeForm::kBits)
      return {.bits = stored + j * graph.column_words, .count = num_queries};
    const int32_t* column = graph.column_ptr + problem * (num_keys + 1) + j;
    return {.list = stored + column[0], .count = column[1] - column[0]};
  }
  __device__ bool is_key_real(int64_t problem, int64_t j) const {
    return is_real(key_mask == nullptr ? nullptr : key_mask + problem / heads * num_keys, j);
  }
  /// Of a place's token, or -1: whether the pair counts, but for the mask.
  __device__ bool has(int64_t problem, int64_t i, int64_t j) const {
    return i >= 0 && j >= 0 && (graph.form != nullptr || rule.has(problem, i, j));
  }
};

}  // namespace stipple::kernels::cuda
