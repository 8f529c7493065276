// SPDX-License-Identifier: Apache-2.0
#include "data/listops/published_file.h"

#include <fmt/format.h>

#include <string_view>

#include "core/error.h"
#include "data/listops/evaluator.h"
#include "data/listops/source.h"
#include "data/mapped_file.h"

namespace stipple::data::listops {
namespace {

constexpr std::string_view kHeader = "Source\tTarget";

/// Published lines hold 6.4 bytes per token: room for the tokens of a file without growing on the
/// way.
constexpr size_t kBytesPerToken = 6;

/// Takes the first line off `text`, without its LF or CR LF.
std::string_view take_line(std::string_view& text) {
  const size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == text.npos ? text.size() : end + 1);
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

void check_header(std::string_view line) {
  if (line != kHeader) {
    throw DataError(
        fmt::format("the header line Source<TAB>Target is missing; found {}", quoted(line)));
  }
}

int read_label(std::string_view word) {
  if (word.size() != 1 || word[0] < '0' || word[0] > '9') {
    throw DataError(fmt::format("label {} is not one of 0 to 9", quoted(word)));
  }
  return word[0] - '0';
}

class Reader {
 public:
  Reader(Rows& rows, int64_t max_length) : rows_(rows), max_length_(max_length) {}

  /// Appends a row; DataError when it is bad, and then the rows are as before.
  void read_row(std::string_view line) {
    const int label = read(line);
    const int64_t kept = rows_.intake.keep(static_cast<int64_t>(tokens_.size()), max_length_);
    rows_.tokens.insert(rows_.tokens.end(), tokens_.begin(), tokens_.begin() + kept);
    rows_.offsets.push_back(static_cast<int64_t>(rows_.tokens.size()));
    rows_.labels.push_back(static_cast<uint8_t>(label));
  }

 private:
  /// Makes tokens_ those of a line; its label, which is their value.
  int read(std::string_view line) {
    if (line.empty()) throw DataError("the line is empty");
    const size_t tab = line.find('\t');
    if (tab == line.npos) {
      throw DataError(fmt::format("no tab between expression and label in {}", quoted(line)));
    }
    const std::string_view source = line.substr(0, tab);
    tokens_.clear();
    if (const auto bad = append_tokens(source, tokens_)) {
      throw DataError(fmt::format("{} at byte {} of the line", describe(*bad), bad->position + 1));
    }
    const int value = value_of(source);
    const int label = read_label(line.substr(tab + 1));
    if (label != value) {
      throw DataError(fmt::format("the label is {}, the value of the expression {}", label, value));
    }
    return label;
  }

  int value_of(std::string_view source) {
    if (tokens_.empty()) throw DataError("there is no expression before the tab");
    try {
      return evaluator_.value(tokens_);
    } catch (const NoExpression& e) {
      throw DataError(fmt::format("{} (byte {} of the line)", e.what(),
                                  position_of_token(source, e.token()) + 1));
    }
  }

  Rows& rows_;
  int64_t max_length_;
  Evaluator evaluator_;
  std::vector<uint8_t> tokens_;  ///< of the row that is read
};

}  // namespace

Rows read_published_file(const std::string& path, int64_t max_length, bool skip_bad_rows) {
  const MappedFile file(path);
  std::string_view text = file.text();
  Rows rows;
  rows.tokens.reserve(text.size() / kBytesPerToken);
  Reader reader(rows, max_length);
  const auto at = [&](int64_t line, const DataError& e) {
    return fmt::format("{}:{}: {}", path, line, e.what());
  };
  try {
    if (text.empty()) throw DataError("the file is empty");
    check_header(take_line(text));
  } catch (const DataError& e) {
    throw DataError(at(1, e));
  }
  for (int64_t line = 2; !text.empty(); ++line) {
    try {
      reader.read_row(take_line(text));
    } catch (const DataError& e) {
      if (!skip_bad_rows) throw DataError(at(line, e));
      rows.intake.skip(at(line, e));
    }
  }
  return rows;
}

}  // namespace stipple::data::listops
