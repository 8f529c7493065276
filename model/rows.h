// SPDX-License-Identifier: Apache-2.0
// Some rows of an array.
#pragma once

#include "core/range.h"
#include "core/view.h"

namespace stipple::model {

/// Rows [begin, end) of [rows] or [rows, columns].
template <class T>
View<T> rows_of(View<T> x, Range rows) {
  const bool is_matrix = x.shape.rank() == 2;
  return {x.at(rows.begin).data, is_matrix ? Shape{rows.size(), x.shape[1]} : Shape{rows.size()}};
}

/// Rows [begin, ...).
template <class T>
View<T> rows_from(View<T> x, int64_t begin) {
  return rows_of(x, {begin, x.shape[0]});
}

}  // namespace stipple::model
