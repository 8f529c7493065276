// SPDX-License-Identifier: Apache-2.0
// The graphs of chosen examples, drawn once more to be looked at.
#pragma once

#include <span>

#include "core/function_ref.h"
#include "trainer/loop/replica.h"
#include "trainer/record/graph_file.h"

namespace stipple::trainer {

/// Whether the attention of this configuration draws any.
bool has_graphs(const Config&);
GraphSizes graph_sizes(const Config&);

/// What the tensors of one example take in a file.
int64_t graph_bytes(const Config&, const data::TaskInfo&, const data::Dataset&, int64_t example);

/// Runs the examples as the evaluation does under its first sampling seed, and hands each with its
/// graphs to `take`, in the order given. A function of the parameters, run.seed and the examples:
/// not of ranks, one of which does it alone.
void draw_graphs(Replica&, const data::Dataset&, const data::TaskInfo&, const Config&,
                 std::span<const int64_t> examples, FunctionRef<void(const DrawnExample&)> take);

}  // namespace stipple::trainer
