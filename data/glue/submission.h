// SPDX-License-Identifier: Apache-2.0
// What GLUE's leaderboard takes: a flat zip of files of predictions, a file a task.
#pragma once

#include <string>
#include <vector>

#include "data/glue/benchmark.h"

namespace stipple::data::glue {

struct Submission {
  struct File {
    const Published* task;
    std::string text;  ///< as it was read
  };
  std::vector<File> files;  ///< in the order of the benchmark
  std::vector<std::string>
      remarks;  ///< tasks that are missing; numbers of rows that are not the published ones
};

/// Reads files that `stipple predict` wrote, named as the leaderboard names them: CoLA.tsv, SST-2.tsv,
/// MRPC.tsv, QQP.tsv, STS-B.tsv, MNLI-m.tsv, MNLI-mm.tsv, QNLI.tsv, RTE.tsv, WNLI.tsv, AX.tsv.
/// DataError for another name, a task that is there twice, a header, index or prediction that is not
/// what that task has, with file and row.
Submission read_submission(const std::vector<std::string>& paths);

/// The bytes of the zip: the same for the same files.
std::string zip_of(const Submission&);

}  // namespace stipple::data::glue
