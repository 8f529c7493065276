// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/start_log.h"

#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "trainer/checkpoint/durable_file.h"

namespace stipple::trainer {
namespace {

Start start_from_json(const Json& j) {
  return {.step = j.at("step"),
          .at_s = j.at("at_s"),
          .host = j.at("host"),
          .ranks = j.at("ranks"),
          .job = j.at("job")};
}

StartEnd end_from_json(const Json& j) {
  return {.step = j.at("step"),
          .at_s = j.at("at_s"),
          .exit_code = j.at("exit_code"),
          .why = j.at("why")};
}

void add_line(const std::string& line, std::vector<Start>& starts) {
  const Json j = Json::parse(line);
  const std::string kind = j.at("kind");
  if (kind == "start") starts.push_back(start_from_json(j));
  if (kind == "end" && !starts.empty()) starts.back().end = end_from_json(j);
}

}  // namespace

void write_start(const std::string& path, const Start& start) {
  const Json j{{"kind", "start"},    {"step", start.step},   {"at_s", start.at_s},
               {"host", start.host}, {"ranks", start.ranks}, {"job", start.job}};
  // A line end first: the line before may have been cut off.
  AppendFile(path).append("\n" + j.dump() + "\n");
}

void write_end(const std::string& path, const StartEnd& end) {
  const Json j{{"kind", "end"},
               {"step", end.step},
               {"at_s", end.at_s},
               {"exit_code", end.exit_code},
               {"why", end.why}};
  AppendFile(path).append(j.dump() + "\n");
}

std::vector<Start> read_starts(const std::string& path) {
  std::vector<Start> starts;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    try {
      if (!line.empty()) add_line(line, starts);
    } catch (const DataError&) {
      // Cut off by a crash: what it was about to say is told by what is missing.
    }
  }
  return starts;
}

}  // namespace stipple::trainer
