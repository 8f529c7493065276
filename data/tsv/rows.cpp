// SPDX-License-Identifier: Apache-2.0
#include "data/tsv/rows.h"

#include <fmt/format.h>

#include <algorithm>

namespace stipple::data::tsv {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

RowReader::RowReader(const std::string& path) : path_(path), file_(path), rest_(file_.text()) {
  if (rest_.starts_with(kByteOrderMark)) rest_.remove_prefix(kByteOrderMark.size());
  if (rest_.empty()) throw DataError(path + ": the file is empty");
}

bool RowReader::next(std::vector<std::string_view>& fields) {
  fields.clear();
  if (rest_.empty()) return false;
  ++line_;
  const size_t end = std::min(rest_.find('\n'), rest_.size());
  std::string_view line = rest_.substr(0, end);
  rest_.remove_prefix(std::min(end + 1, rest_.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  for (size_t tab; (tab = line.find('\t')) != line.npos; line.remove_prefix(tab + 1))
    fields.push_back(line.substr(0, tab));
  fields.push_back(line);
  return true;
}

std::string RowReader::place() const { return fmt::format("{}:{}", path_, line_); }

}  // namespace stipple::data::tsv
