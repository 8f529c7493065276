// SPDX-License-Identifier: Apache-2.0
// Reads the published files of a task of GLUE.
#pragma once

#include <string>
#include <vector>

#include "data/glue/benchmark.h"
#include "data/tsv/read.h"

namespace stipple::data::glue {

/// Labels as the files spell them.
tsv::Labels labels_of(const Published&);

/// The files that read_split() reads, below `dir`. MRPC's may be those that its corpus comes as,
/// from which GLUE's are made: msr_paraphrase_train.txt, msr_paraphrase_test.txt, and dev_ids.tsv or
/// mrpc_dev_ids.tsv.
std::vector<std::string> split_files(const Published&, const std::string& dir, Split);

struct SplitTexts {
  tsv::Texts texts;
  std::vector<std::string>
      remarks;  ///< rows left out; a number of rows that is not the published one
};

/// `bad_row`: what is done about rows that are malformed. QQP's rows with missing fields, of which
/// the published file has some, are left out, and made blank in the test. DataError for files that
/// are missing, malformed (file and line), of another task, or of QNLI as it was before January 2019.
SplitTexts read_split(const Published&, const std::string& dir, Split, tsv::BadRow bad_row);

}  // namespace stipple::data::glue
