// SPDX-License-Identifier: Apache-2.0
// The makers that data/registry.cpp lists: one per task, each in a file of its own.
#pragma once

#include <cstdint>
#include <memory>

#include "data/dataset.h"
#include "data/task_config.h"

namespace stipple::data::tasks {

/// Label of a nested list expression, read from the published files (data/listops.h).
std::unique_ptr<Task> make_listops(const DataConfig&, uint64_t seed);

/// Per token: does it occur again in the sequence? Made on the fly.
std::unique_ptr<Task> make_repeated_token(const DataConfig&, uint64_t seed);

/// Bytes of plain text, each told from those before it (data/text/corpus.h).
std::unique_ptr<Task> make_text_lm(const DataConfig&, uint64_t seed);

/// Values of pictures, each told from those before it; files as CIFAR-10's binary ones.
std::unique_ptr<Task> make_image_lm(const DataConfig&, uint64_t seed);

/// A task of GLUE, read from the published files (data/glue/files.h).
std::unique_ptr<Task> make_glue(const DataConfig&, uint64_t seed);

/// A class or a number for a text or two, read from tsv files (data/tsv/read.h).
std::unique_ptr<Task> make_tsv(const DataConfig&, uint64_t seed);

/// Masked tokens of plain text, cut by WordPiece (data/mlm/masking.h).
std::unique_ptr<Task> make_mlm(const DataConfig&, uint64_t seed);

}  // namespace stipple::data::tasks
