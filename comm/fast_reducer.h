// SPDX-License-Identifier: Apache-2.0
// The fast policy of comm/gradient_reducer.h: one running sum per rank, buckets all-reduced by the
// transport.
#pragma once

#include "comm/gradient_reducer.h"

namespace stipple::comm {

std::unique_ptr<GradientReducer> make_fast_reducer(Communicator&, const ReducerOptions&);
size_t fast_reducer_bytes(const ReducerOptions&);

}  // namespace stipple::comm
