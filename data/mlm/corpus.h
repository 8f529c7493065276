// SPDX-License-Identifier: Apache-2.0
// The corpus that the section `data` of a configuration names: plain text, cut into tokens when it is
// read, or shards, which are read where they lie.
#pragma once

#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/mlm/dataset.h"
#include "data/task_config.h"
#include "data/wordpiece/wordpiece.h"

namespace stipple::data::mlm {

struct Corpus {
  std::vector<Source> sources;
  std::vector<std::string> remarks;  ///< what somebody should know of the files
};

/// A split, in instances of data.max_length, by `seed` where they are drawn. Of plain text (data/text/corpus.h), every token in
/// memory; of each shard its own 90, 5 and 5 in 100 of the tokens (data/held_out.h), shares in
/// training only. DataError where something cannot be read, is damaged, was made by another vocabulary
/// or other rules than the configuration says, has no tokens for the split, or no sentences where pairs
/// are to be made of them.
Corpus open_corpus(const DataConfig&, const wordpiece::WordPiece&, Split, uint64_t seed);

/// Whether data.mlm.shards has weights. ConfigError as parse_mixture().
bool has_weights(const std::string& shards);

/// The files that open_corpus() reads, or the one that is missing.
std::vector<std::string> files_of_corpus(const DataConfig&);

}  // namespace stipple::data::mlm
