// SPDX-License-Identifier: Apache-2.0
// PREFIX.meta.json beside a shard: by which vocabulary and rules its tokens were made, and hashes of
// them. Other programs do not look at it; shards that others made have none.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/wordpiece/wordpiece.h"

namespace stipple::data::shards {

/// A hash tells for so many bytes whether they are what was written.
inline constexpr int64_t kBlockBytes = int64_t{16} << 20;

struct Meta {
  std::string vocabulary_hash;  ///< wordpiece::Vocabulary::hash()
  int64_t vocabulary_size = 0;
  wordpiece::SpecialTokens special;
  wordpiece::Options tokenizer;
  int64_t documents = 0;
  int64_t sequences = 0;
  int64_t tokens = 0;
  std::string index_hash;           ///< XXH3-64 of the .idx
  std::vector<std::string> blocks;  ///< XXH3-64 of each kBlockBytes of the .bin
  std::string command;              ///< that wrote the shard
};

std::string meta_text(const Meta&);
/// DataError, with `name`, for what is no such file.
Meta parse_meta(std::string_view text, const std::string& name);

/// 16 hexadecimal digits of XXH3-64.
std::string hash_of(std::string_view bytes);

}  // namespace stipple::data::shards
