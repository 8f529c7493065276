// SPDX-License-Identifier: Apache-2.0
// Rows of a tsv file: a line is a row, a tab ends a field, and nothing else means anything. A quote
// is a character like any other, and so are the line ends of Unicode, which occur inside sentences.
// A byte order mark at the start of the file and one CR at the end of a line are left out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/mapped_file.h"

namespace stipple::data::tsv {

class RowReader {
 public:
  /// UnreadableFile where it cannot be read, DataError where it is empty.
  explicit RowReader(const std::string& path);

  /// The fields of the next line, as views of the file; false at its end. Nothing is trimmed, empty
  /// fields stay, and a line feed at the end of the file begins no line.
  bool next(std::vector<std::string_view>& fields);
  /// "path:line" of the row that next() gave.
  std::string place() const;

 private:
  std::string path_;
  MappedFile file_;
  std::string_view rest_;
  int64_t line_ = 0;
};

}  // namespace stipple::data::tsv
