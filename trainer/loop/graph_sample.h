// SPDX-License-Identifier: Apache-2.0
// What an evaluation looks at besides its result: the graphs of a few examples, always the same
// ones, so that figures and picture can be followed over the run.
#pragma once

#include <optional>
#include <vector>

#include "trainer/loop/draw_graphs.h"
#include "trainer/record/metrics.h"

namespace stipple::trainer {

struct GraphSample {
  std::vector<LayerRecord> layers = {};   ///< model::graph_figures(): means over the examples
  std::optional<GraphFile> picture = {};  ///< the longest of them that takes less than 32 MB
};

/// The split's first examples, at most 8 and fewer where they are long, by one rank alone:
/// parameters and random numbers of the run are not touched. Takes a forward of them, and time
/// linear in edges, tokens times groups and the picture.
GraphSample sample_graphs(Replica&, const data::Dataset&, const data::TaskInfo&, const Config&);

}  // namespace stipple::trainer
