// SPDX-License-Identifier: Apache-2.0
// `stipple eval --dump-graphs N`: the graphs of the first N examples of a split as a file of the
// run directory (trainer/record/graph_file.h has its contents).
#pragma once

#include <string>
#include <vector>

#include "trainer/loop/draw_graphs.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {

/// ConfigError where it cannot be done: an attention without graphs, fewer examples than asked for,
/// a file larger than the memory or the disk that are free. Tells its size. Before anything is
/// evaluated, so that nobody waits for a refusal.
void require_dump(const RunDirectory&, const Config&, const data::TaskInfo&, const data::Dataset&,
                  int64_t examples);

/// Writes the file, for one rank alone; its path. The same bytes whatever the number of ranks.
std::string dump_graphs(const RunDirectory&, const Config&, const data::TaskInfo&,
                        const data::Dataset&, Replica&, int64_t examples, int64_t step,
                        const std::vector<std::string>& overrides);

}  // namespace stipple::trainer
