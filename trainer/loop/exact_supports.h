// SPDX-License-Identifier: Apache-2.0
// Queries, keys and the supports of exact entmax attention of chosen examples, by layer and head: what
// a predictor of graphs is fitted to.
#pragma once

#include <vector>

#include "core/range.h"
#include "data/dataset.h"
#include "model/attention/sparsefinder/projection_fit.h"
#include "trainer/loop/replica.h"

namespace stipple::trainer {

/// Of every head of every layer (layer * heads + head), its sequences.
using ExactSupports = std::vector<std::vector<model::ProjectionExample>>;

/// The leaves of the first `count` examples, or of a few more, in the order of training.
Range leaves_of_examples(const Config&, int64_t count);

/// Of these leaves, counted from the first of `first_step` on in the order of training, run as the
/// evaluation runs them, by a replica whose attention is entmax or sparsefinder. In host memory: per
/// sequence and head 2 tokens head_dim floats and the support.
ExactSupports exact_supports(Replica&, const data::Dataset& training, const data::TaskInfo&,
                             const Config&, Range leaves, int64_t first_step = 0);

}  // namespace stipple::trainer
