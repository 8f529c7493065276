// SPDX-License-Identifier: Apache-2.0
// Text files become a shard: each document one sequence, or each of its lines, without special tokens,
// in the order of the files. The bytes do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/wordpiece/wordpiece.h"

namespace stipple::data::shards {

enum class DocumentRule : uint8_t {
  kBlankLine,  ///< documents lie between lines with nothing but blanks
  kLine,       ///< every line is one
  kFile        ///< every file is one
};

struct TokenizeOptions {
  DocumentRule documents = DocumentRule::kBlankLine;
  bool sentences = false;  ///< lines of a document are sequences of their own
  int threads = 1;
  bool replace = false;      ///< files that exist
  std::string command = {};  ///< for the meta file
};

struct TokenizeCounts {
  int64_t files = 0;
  int64_t empty_files = 0;
  int64_t text_bytes = 0;
  int64_t documents = 0;
  int64_t empty_documents = 0;  ///< without a token: left out
  int64_t sequences = 0;
  int64_t tokens = 0;
  int64_t unknown = 0;  ///< of them, [UNK]
};

/// Writes PREFIX.bin, PREFIX.meta.json and, last, PREFIX.idx: where it is, the shard is complete.
/// They take their names when all are on the disk, and an .idx that is replaced goes before the first
/// of them: whenever the writer is stopped, there is an old shard, a new one, or none. DataError for files that exist, cannot be read
/// or written, and for texts without a token. progress: bytes read, bytes in all; from the calling
/// thread. Memory: pieces of text and their tokens, and 16 bytes a document.
TokenizeCounts tokenize(const wordpiece::WordPiece&, const std::vector<std::string>& files,
                        const std::string& prefix, const TokenizeOptions&,
                        const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace stipple::data::shards
