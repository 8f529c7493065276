// SPDX-License-Identifier: Apache-2.0
// Plain text files as one stream of tokens, cut into documents and splits. A token is a byte, as it
// stands in the file whatever its encoding, or the separator that stands before each document and
// behind the last:
//
//   separator, document 0, separator, document 1, ..., separator
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/range.h"
#include "data/dataset.h"
#include "data/task_config.h"

namespace stipple::data::text {

inline constexpr int32_t kSeparator = 256;  ///< bytes are 0 to 255
inline constexpr int64_t kVocabulary = 257;

/// The documents of one split. Bytes of all of them, without separators.
class TokenStream {
 public:
  /// document_ends: ascending, none empty, the last one is the number of bytes.
  TokenStream(std::vector<uint8_t> bytes, std::vector<int64_t> document_ends);

  int64_t num_bytes() const { return static_cast<int64_t>(bytes_.size()); }
  int64_t num_documents() const { return static_cast<int64_t>(begins_.size()) - 1; }
  int64_t size() const { return num_bytes() + num_documents() + 1; }  ///< tokens
  /// Where a document stands, its first separator included and its last one not.
  Range document(int64_t i) const;
  /// Tokens [begin, begin + to.size()). O(log documents + tokens)
  void copy(int64_t begin, std::span<int32_t> to) const;
  uint64_t fingerprint() const;

 private:
  std::vector<uint8_t> bytes_;
  std::vector<int64_t> begins_;  ///< of documents among the bytes; the last one is behind the end
};

struct Part {
  TokenStream stream;
  std::vector<std::string> remarks;  ///< what somebody should know of the files
};

/// The files below data.dir whose names, or paths from there where the pattern has a '/', match one
/// of data.files; sorted by path. DataError when there are none, or the folder cannot be read.
std::vector<std::string> files_of(const DataConfig&);

/// A split of what files_of() hold: by bytes, in the order of the files, 90, 5 and 5 in 100, cut at
/// the end of the document that is nearest where one is less than half of the smaller part away,
/// and within a document otherwise. DataError for a file that cannot be read, and for text too short
/// to be cut.
Part read_part(const DataConfig&, Split);

/// Documents of a text: whole, or between lines with nothing but blanks, which belong to none.
std::vector<Range> documents_of(std::string_view text, TextDocuments);

/// take(line), without its end, for every line of a text, empty ones too.
template <class Take>
void for_each_line(std::string_view text, Take take) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    take(text.substr(begin, end - begin));
    begin = end + 1;
  }
}

}  // namespace stipple::data::text
