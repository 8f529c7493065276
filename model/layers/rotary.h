// SPDX-License-Identifier: Apache-2.0
// Rotary positions of queries and keys (kernels/positions.h). No parameters. The cosines and sines
// of a leaf are made once and serve all layers: head_dim floats per position, saved.
//
//   const RotaryTable table = RotaryTable::make(ctx, length, head_dim);
//   table.apply(ctx, q, rotated);         // rotated may be q
//   table.gradient(ctx, dq);              // in place: by the rotated q -> by q
#pragma once

#include "kernels/positions.h"
#include "model/context.h"
#include "model/rows.h"

namespace stipple::model {

struct RotaryTable {
  View<float> cosines, sines;  // [N, D / 2]; empty: positions are not rotary

  static RotaryTable make(Context& ctx, int64_t length, int64_t head_dim) {
    const int64_t first = ctx.first_position();
    const Shape shape{first + length, head_dim / 2};
    const RotaryTable all{ctx.saved.alloc<float>(shape), ctx.saved.alloc<float>(shape)};
    kernels::rotary_angles(ctx.stream, {.cosines = all.cosines, .sines = all.sines});
    return {rows_from(all.cosines, first), rows_from(all.sines, first)};
  }

  bool empty() const { return cosines.empty(); }

  /// x, y [B, H, N, D].
  void apply(Context& ctx, ConstRealView x, RealView y) const {
    kernels::rotate(ctx.stream, {.y = y, .x = x, .cosines = cosines, .sines = sines});
  }
  void gradient(Context& ctx, RealView dx) const {
    kernels::rotate(ctx.stream,
                    {.y = dx, .x = dx, .cosines = cosines, .sines = sines, .inverse = true});
  }
};

}  // namespace stipple::model
