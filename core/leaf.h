// SPDX-License-Identifier: Apache-2.0
// What a leaf (a micro-batch) consists of: the one list of its arrays, by name, type and shape.
// data/ fills them in host memory, trainer/ carries them to the device, model/ reads them, and all
// three go through this list. A new array is a member of LeafArrays and its line in
// for_each_array().
#pragma once

#include <cstdint>
#include <limits>

#include "core/shape.h"

namespace stipple {

/// What a task has the model say.
enum class LabelKind : uint8_t {
  kClass,        ///< one class per example
  kTokenClass,   ///< one class per token
  kValue,        ///< one number per example
  kNextToken,    ///< the token that comes next, at every token
  kMaskedToken,  ///< the token that was masked, where one was
};

/// Labels stand at tokens.
constexpr bool is_per_token(LabelKind label) {
  return label == LabelKind::kTokenClass || label == LabelKind::kNextToken ||
         label == LabelKind::kMaskedToken;
}

/// What a task's examples consist of.
struct LeafFields {
  LabelKind label = LabelKind::kClass;
  int64_t sequences = 1;  ///< of an example, encoded apart from each other; 2: pairs
  int64_t segments = 0;   ///< kinds of tokens, say which of two sentences they are of; 0: no kinds
  bool has_relation = false;  ///< an example has a class, too, whatever its label: how its two
                              ///< texts belong together
  bool is_packed = false;     ///< rows hold several pieces, which do not see each other
  bool operator==(const LeafFields&) const = default;
};

struct LeafSizes {
  LeafFields fields{};
  int64_t batch = 0;   ///< B: examples
  int64_t length = 0;  ///< N: tokens of a row, padding included
  /// R: sequences. Those of an example stand side by side.
  int64_t rows() const { return batch * fields.sequences; }
};

/// `Array` is a vector, a view, ... of one element type.
template <template <class> class Array>
struct LeafArrays {
  Array<int32_t> ids{};        // [R, N]
  Array<int32_t> segments{};   // [R, N]  kinds of tokens, where the task has some
  Array<uint8_t> mask{};       // [R, N]  1 on tokens
  Array<int32_t> pieces{};     // [R, N]  of packed rows: which piece a token is of, counted from 0
  Array<int32_t> positions{};  // [R, N]  and where it stands in it
  Array<int32_t> labels{};     // [B] or [R, N], where they are classes; -1: none
  Array<int32_t>
      label_rows{};  // [R N], of kMaskedToken: which tokens have a label, ascending; then 0
  Array<int32_t> row_labels{};  // [R N], the labels of these; then -1
  Array<float> values{};        // [B], where labels are numbers; NaN: none
  Array<int32_t> relations{};   // [B], where there are some: 0 or 1; -1: none
  Array<float>
      relation_scale{};       // [1], with them: 1 / examples of the global batch; 1 in evaluation
  Array<uint32_t> samples{};  // [R]  names the row's random numbers within the global batch
  Array<float> loss_scale{};  // [1]  1 / labels of the global batch; 1 in evaluation
};

template <class T>
struct LeafArray {
  using Element = T;
  const char* name;
  Shape shape;
  T none;  ///< until something is written: on padding and in rows without an example
  size_t bytes() const { return static_cast<size_t>(shape.numel()) * sizeof(T); }
};

/// visit(LeafArray<T>, that array of each of `arrays`...) for every array of a leaf of these sizes.
template <class Visit, class... Arrays>
void for_each_array(const LeafSizes& sizes, Visit visit, Arrays&... arrays) {
  const Shape examples{sizes.batch};
  const Shape rows{sizes.rows()};
  const Shape tokens{sizes.rows(), sizes.length};
  const LabelKind label = sizes.fields.label;
  visit(LeafArray<int32_t>{"ids", tokens, 0}, arrays.ids...);
  if (sizes.fields.segments > 0) {
    visit(LeafArray<int32_t>{"segments", tokens, 0}, arrays.segments...);
  }
  visit(LeafArray<uint8_t>{"mask", tokens, 0}, arrays.mask...);
  if (sizes.fields.is_packed) {
    visit(LeafArray<int32_t>{"pieces", tokens, 0}, arrays.pieces...);
    visit(LeafArray<int32_t>{"positions", tokens, 0}, arrays.positions...);
  }
  if (label == LabelKind::kValue) {
    constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
    visit(LeafArray<float>{"values", examples, kNone}, arrays.values...);
  } else {
    const Shape& labels = is_per_token(label) ? tokens : examples;
    visit(LeafArray<int32_t>{"labels", labels, -1}, arrays.labels...);
    if (label == LabelKind::kMaskedToken) {
      const Shape flat{tokens.numel()};
      visit(LeafArray<int32_t>{"label_rows", flat, 0}, arrays.label_rows...);
      visit(LeafArray<int32_t>{"row_labels", flat, -1}, arrays.row_labels...);
    }
  }
  if (sizes.fields.has_relation) {
    visit(LeafArray<int32_t>{"relations", examples, -1}, arrays.relations...);
    visit(LeafArray<float>{"relation_scale", Shape{1}, 1.0f}, arrays.relation_scale...);
  }
  visit(LeafArray<uint32_t>{"samples", rows, 0}, arrays.samples...);
  visit(LeafArray<float>{"loss_scale", Shape{1}, 1.0f}, arrays.loss_scale...);
}

}  // namespace stipple
