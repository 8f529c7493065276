// SPDX-License-Identifier: Apache-2.0
// The exact policy of comm/gradient_reducer.h: leaves summed in the fixed tree of
// comm/summation_tree.h.
#pragma once

#include "comm/gradient_reducer.h"

namespace stipple::comm {

std::unique_ptr<GradientReducer> make_exact_reducer(Communicator&, const ReducerOptions&);
size_t exact_reducer_bytes(const ReducerOptions&, int rank, int num_ranks);
size_t largest_exact_reducer_bytes(const ReducerOptions&, int num_ranks);

}  // namespace stipple::comm
