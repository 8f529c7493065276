// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/data_summary.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/record/svg_chart.h"

namespace stipple::trainer {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 20;

std::string share(int64_t part, double share_of_all) {
  return part == 0 ? "0" : fmt::format("{} ({:.2g}%)", part, 100 * share_of_all);
}

}  // namespace

std::string data_summary_to_json(const std::vector<SplitSummary>& splits) {
  Json list = Json::array();
  for (const SplitSummary& s : splits) {
    list.push_back({{"split", s.split},
                    {"examples", s.intake.examples},
                    {"tokens", s.intake.tokens},
                    {"cut_examples", s.intake.cut_examples},
                    {"cut_tokens", s.intake.cut_tokens},
                    {"skipped_rows", s.intake.skipped_rows}});
  }
  return list.dump(2) + "\n";
}

std::vector<SplitSummary> read_data_summary(const std::string& path) {
  std::vector<SplitSummary> splits;
  if (!std::filesystem::exists(path)) return splits;
  try {
    for (const Json& s : Json::parse(read_text(path, kMaxBytes))) {
      data::Intake intake;
      intake.examples = s.at("examples");
      intake.tokens = s.at("tokens");
      intake.cut_examples = s.at("cut_examples");
      intake.cut_tokens = s.at("cut_tokens");
      intake.skipped_rows = s.at("skipped_rows");
      splits.push_back({s.at("split"), intake});
    }
  } catch (const std::exception& e) {
    throw DataError(fmt::format("{}: not a list of splits: {}", path, e.what()));
  }
  return splits;
}

std::string data_table(const std::vector<SplitSummary>& splits) {
  std::string rows;
  for (const SplitSummary& s : splits) {
    const data::Intake& in = s.intake;
    if (in.examples == 0 && in.skipped_rows == 0) continue;
    const double cut = static_cast<double>(in.cut_examples) /
                       static_cast<double>(in.examples == 0 ? 1 : in.examples);
    rows += fmt::format(
        "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>"
        "<td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>"
        "</tr>\n",
        escape_html(s.split), in.examples, in.tokens, share(in.cut_examples, cut),
        share(in.cut_tokens, in.cut_share()), in.skipped_rows);
  }
  if (rows.empty()) return {};
  return "<h2>Data</h2>\n<table><tr><th>split</th><th>examples</th><th>tokens</th>"
         "<th>examples cut at data.max_length</th><th>tokens lost</th><th>bad rows left out</th>"
         "</tr>\n" +
         rows + "</table>\n";
}

}  // namespace stipple::trainer
