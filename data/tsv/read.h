// SPDX-License-Identifier: Apache-2.0
// From a tsv file to texts and labels, by a layout that says which column holds what.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/function_ref.h"
#include "data/answers.h"
#include "data/tsv/rows.h"

namespace stipple::data::tsv {

/// What stands in the column of labels: one of `names`, whose place there is its id; or, where there
/// are none, a number within `range`.
struct Labels {
  std::vector<std::string> names{};
  ValueRange range{};
};
/// DataError where it is none, which says what may stand there.
float label_of(std::string_view field, const Labels&);

/// A column: its number, from 0, and, where its file has a header, how it is called there.
struct Column {
  int64_t number = 0;
  std::string name{};  ///< empty: the header may say what it likes
};

/// What is done about a row that has too few or too many fields, or a wrong label.
enum class BadRow : uint8_t {
  kError,  ///< the first one is told as DataError, with file and line
  kSkip,   ///< left out, and counted
  kBlank,  ///< an example of empty texts without a label: every row is an example
};

struct Layout {
  std::string path;
  bool has_header = true;
  int64_t num_columns = 0;  ///< of a file without a header; 0: those of its first row
  Column first{};
  std::optional<Column> second{};
  std::optional<Column> label{};
  bool label_is_last = false;       ///< whatever its number
  bool more_fields_are_bad = true;  ///< than the header has
  BadRow bad_row = BadRow::kError;
  BadRow short_row = BadRow::kError;  ///< of rows with too few fields
};

/// Views of the file; NaN: no label.
struct Text {
  std::string_view first, second;
  float label;
};

struct Texts {
  std::vector<std::unique_ptr<RowReader>> files;  ///< what the views look at
  std::vector<Text> rows;
  int64_t bad_rows = 0;       ///< skipped or blank
  std::string first_bad_row;  ///< "file:line: what"
};

/// Rows for which `is_wanted` says so; it sees their fields, at least as many as the layout names.
/// DataError as above, for a header that calls columns otherwise, and for a file without rows.
Texts read_texts(const Layout&, const Labels&,
                 FunctionRef<bool(const std::vector<std::string_view>&)> is_wanted);
Texts read_texts(const Layout&, const Labels&);

/// Appends the rows of another file.
void append(Texts& texts, Texts more);

}  // namespace stipple::data::tsv
