// SPDX-License-Identifier: Apache-2.0
#include "data/tsv/read.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.h"
#include "core/text.h"

namespace stipple::data::tsv {
namespace {

using Fields = std::vector<std::string_view>;

constexpr float kNoLabel = std::numeric_limits<float>::quiet_NaN();

/// So that nobody looks for a missing quote.
constexpr std::string_view kNoQuoting =
    "a line is a row, tabs end its fields, and quotes have no meaning";

void check_name(const Column& column, const Fields& header) {
  const auto n = static_cast<size_t>(column.number);
  if (n >= header.size()) {
    throw DataError(fmt::format("the header has {} columns, and column {}{} is needed",
                                header.size(), column.number,
                                column.name.empty() ? "" : " ('" + column.name + "')"));
  }
  if (!column.name.empty() && header[n] != column.name) {
    throw DataError(fmt::format("the header calls column {} '{}', and '{}' is expected there",
                                column.number, one_line(header[n]), column.name));
  }
}

class Reader {
 public:
  Reader(const Layout& layout, const Labels& labels) : layout_(layout), labels_(labels) {}

  /// How wide rows are, by the header or else the first row.
  void begin(const Fields& fields) {
    width_ = layout_.num_columns > 0 ? static_cast<size_t>(layout_.num_columns) : fields.size();
    if (layout_.label && layout_.label_is_last)
      label_ = width_ - 1;
    else if (layout_.label)
      label_ = static_cast<size_t>(layout_.label->number);
    if (!layout_.has_header) return;
    check_name(layout_.first, fields);
    if (layout_.second) check_name(*layout_.second, fields);
    if (layout_.label)
      check_name({.number = static_cast<int64_t>(label_), .name = layout_.label->name}, fields);
  }

  bool is_short(const Fields& fields) const { return fields.size() < needed(); }

  /// DataError where it is bad.
  Text read(const Fields& fields) const {
    if (is_short(fields)) {
      throw DataError(
          fmt::format("the row has {} of {} fields; {}", fields.size(), needed(), kNoQuoting));
    }
    if (layout_.more_fields_are_bad && fields.size() != width_) {
      throw DataError(fmt::format("the row has {} fields, and {} {}; {}", fields.size(),
                                  layout_.num_columns > 0 ? "is to have"
                                  : layout_.has_header    ? "the header has"
                                                          : "the first row has",
                                  width_, kNoQuoting));
    }
    return {.first = fields[static_cast<size_t>(layout_.first.number)],
            .second = layout_.second ? fields[static_cast<size_t>(layout_.second->number)]
                                     : std::string_view(),
            .label = layout_.label ? label_of(fields[label_], labels_) : kNoLabel};
  }

 private:
  size_t needed() const {
    size_t most = static_cast<size_t>(layout_.first.number);
    if (layout_.second) most = std::max(most, static_cast<size_t>(layout_.second->number));
    if (layout_.label) most = std::max(most, label_);
    return most + 1;
  }

  const Layout& layout_;
  const Labels& labels_;
  size_t width_ = 0;
  size_t label_ = 0;
};

}  // namespace

float label_of(std::string_view field, const Labels& labels) {
  if (!labels.names.empty()) {
    const auto found = std::ranges::find(labels.names, field);
    if (found == labels.names.end()) {
      throw DataError(fmt::format("the label '{}' is none of {}", one_line(field),
                                  fmt::join(labels.names, ", ")));
    }
    return static_cast<float>(found - labels.names.begin());
  }
  float value = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (error != std::errc() || end != field.data() + field.size() || !std::isfinite(value))
    throw DataError(fmt::format("the label '{}' is no number", one_line(field)));
  if (value < labels.range.low || value > labels.range.high) {
    throw DataError(fmt::format("the label {} is not between {} and {}", field, labels.range.low,
                                labels.range.high));
  }
  return value;
}

Texts read_texts(const Layout& layout, const Labels& labels,
                 FunctionRef<bool(const Fields&)> is_wanted) {
  Texts texts;
  RowReader& rows = *texts.files.emplace_back(std::make_unique<RowReader>(layout.path));
  Reader reader(layout, labels);
  Fields fields;
  const auto told = [&](const DataError& e) {
    return DataError(fmt::format("{}: {}", rows.place(), e.what()));
  };
  for (bool is_first = true; rows.next(fields); is_first = false) {
    BadRow bad = layout.bad_row;
    try {
      if (is_first) {
        bad = BadRow::kError;
        reader.begin(fields);
        if (layout.has_header) continue;
        bad = layout.bad_row;
      }
      if (reader.is_short(fields)) bad = layout.short_row;
      if (!reader.is_short(fields) && !is_wanted(fields)) continue;
      texts.rows.push_back(reader.read(fields));
    } catch (const DataError& e) {
      if (bad == BadRow::kError) throw told(e);
      if (texts.bad_rows++ == 0) texts.first_bad_row = told(e).what();
      if (bad == BadRow::kBlank)
        texts.rows.push_back({.first = {}, .second = {}, .label = kNoLabel});
    }
  }
  STIPPLE_CHECK_AS(DataError, !texts.rows.empty(), layout.path, ": there is no example");
  return texts;
}

Texts read_texts(const Layout& layout, const Labels& labels) {
  return read_texts(layout, labels, [](const Fields&) { return true; });
}

void append(Texts& texts, Texts more) {
  std::ranges::move(more.files, std::back_inserter(texts.files));
  texts.rows.insert(texts.rows.end(), more.rows.begin(), more.rows.end());
  if (texts.bad_rows == 0) texts.first_bad_row = std::move(more.first_bad_row);
  texts.bad_rows += more.bad_rows;
}

}  // namespace stipple::data::tsv
