// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/figures.h"

#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "trainer/checkpoint/durable_file.h"

namespace stipple::trainer {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 20;
constexpr const char* kBaseline = "baseline";

}  // namespace

std::string figures_to_json(const std::vector<ShownFigure>& figures) {
  Json list = Json::array();
  for (const ShownFigure& f : figures) {
    Json j{{"name", f.name},
           {"title", f.title},
           {"unit", f.unit},
           {"share", f.is_share},
           {"metric", f.is_metric}};
    if (!f.baseline.empty()) j[kBaseline] = f.baseline;
    list.push_back(std::move(j));
  }
  return list.dump(2) + "\n";
}

std::vector<ShownFigure> read_figures(const std::string& path) {
  std::vector<ShownFigure> figures;
  if (!std::filesystem::exists(path)) return figures;
  try {
    for (const auto& f : Json::parse(read_text(path, kMaxFileBytes))) {
      figures.push_back({f.at("name"), f.at("title"), f.at("unit"), f.at("share"), f.at("metric")});
      if (const Json* baseline = f.find(kBaseline)) figures.back().baseline = *baseline;
    }
  } catch (const std::exception& e) {
    throw DataError(path + ": not a list of figures: " + e.what());
  }
  return figures;
}

}  // namespace stipple::trainer
