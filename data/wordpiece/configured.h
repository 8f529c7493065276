// SPDX-License-Identifier: Apache-2.0
// The tokenizer that the section `data` of a configuration names.
#pragma once

#include "data/task_config.h"
#include "data/wordpiece/wordpiece.h"

namespace stipple::data::wordpiece {

/// ConfigError where data.vocab is empty or data.max_length has no room for [CLS], [SEP] and a text;
/// DataError where the file is no vocabulary.
WordPiece configured_tokenizer(const DataConfig&);

}  // namespace stipple::data::wordpiece
