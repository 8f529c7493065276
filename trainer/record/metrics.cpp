// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/metrics.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"

namespace stipple::trainer {
namespace {

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json numbers(const std::vector<double>& values) {
  Json list = Json::array();
  for (double value : values) list.push_back(number(value));
  return list;
}

double number_from(const Json& j) {
  return j.is_null() ? std::numeric_limits<double>::quiet_NaN() : j.get<double>();
}

std::vector<double> numbers_from(const Json& j) {
  std::vector<double> values;
  for (const auto& value : j) values.push_back(number_from(value));
  return values;
}

template <class Visit>
void visit_seconds(StepSeconds& s, Visit visit) {
  visit("step_s", s.step);
  visit("data_s", s.data);
  visit("forward_s", s.forward);
  visit("sampling_s", s.sampling);
  visit("backward_s", s.backward);
  visit("reduce_s", s.reduce);
  visit("optimizer_s", s.optimizer);
}

constexpr std::string_view kSeedPrefix = "seed_";
constexpr const char* kSeedSpread = "seed_spread";
constexpr const char* kOverrides = "overrides";
constexpr const char* kLayers = "layers";

Json layers_to_json(const std::vector<LayerRecord>& layers) {
  Json list = Json::array();
  for (const LayerRecord& layer : layers) {
    Json j = Json::object();
    for (const auto& [name, values] : layer) j[name] = numbers(values);
    list.push_back(std::move(j));
  }
  return list;
}

std::vector<LayerRecord> layers_from_json(const Json& list) {
  std::vector<LayerRecord> layers;
  for (const auto& j : list) {
    LayerRecord& layer = layers.emplace_back();
    for (const auto& [name, values] : j.members()) layer.emplace_back(name, numbers_from(values));
  }
  return layers;
}

void add_values(Json& j, const Named<double>& values) {
  for (const auto& [name, value] : values) j[name] = number(value);
}

/// All numbers of the record that `fixed` does not hold.
Named<double> values_from(const Json& j, const Json& fixed) {
  Named<double> values;
  for (const auto& [key, value] : j.members()) {
    if ((value.is_number() || value.is_null()) && !fixed.contains(key))
      values.emplace_back(key, number_from(value));
  }
  return values;
}

Json to_json(const TrainRecord& r) {
  Json j{{"kind", "train"}, {"step", r.step}, {"split", "train"}, {"loss", number(r.loss)}};
  add_values(j, r.values);
  j["examples_per_s"] = number(r.examples_per_s);
  j["tokens_per_s"] = number(r.tokens_per_s);
  j["learning_rate"] = number(r.learning_rate);
  j["grad_norm"] = number(r.grad_norm);
  j["skipped"] = r.skipped;
  j["auxiliary_loss"] = number(r.auxiliary_loss);
  StepSeconds seconds = r.seconds;
  visit_seconds(seconds, [&](const char* key, double& value) { j[key] = number(value); });
  j[kLayers] = layers_to_json(r.layers);
  return j;
}

Json to_json(const EvalRecord& r) {
  Json j{{"kind", "eval"}, {"step", r.step}, {"split", r.split}, {"loss", number(r.loss)}};
  add_values(j, r.values);
  j["examples"] = r.examples;
  j["examples_per_s"] = number(r.examples_per_s);
  for (const auto& [name, values] : r.seed_values)
    j[std::string(kSeedPrefix) + name] = numbers(values);
  j[kSeedSpread] = number(r.seed_spread);
  for (const auto& [name, values] : r.profiles) j[name] = numbers(values);
  Json& overrides = j[kOverrides] = Json::array();
  for (const std::string& override : r.overrides) overrides.push_back(override);
  j[kLayers] = layers_to_json(r.layers);
  return j;
}

TrainRecord train_from_json(const Json& j) {
  TrainRecord r;
  r.step = j.at("step");
  r.loss = number_from(j.at("loss"));
  r.values = values_from(j, to_json(r));
  r.examples_per_s = number_from(j.at("examples_per_s"));
  r.tokens_per_s = number_from(j.at("tokens_per_s"));
  r.learning_rate = number_from(j.at("learning_rate"));
  r.grad_norm = number_from(j.at("grad_norm"));
  r.skipped = j.at("skipped");
  r.auxiliary_loss = number_from(j.at("auxiliary_loss"));
  visit_seconds(r.seconds, [&](const char* key, double& value) { value = number_from(j.at(key)); });
  r.layers = layers_from_json(j.at(kLayers));
  return r;
}

EvalRecord eval_from_json(const Json& j) {
  EvalRecord r;
  r.step = j.at("step");
  r.split = j.at("split");
  r.loss = number_from(j.at("loss"));
  const Json fixed = to_json(r);
  r.values = values_from(j, fixed);
  r.examples = j.at("examples");
  r.examples_per_s = number_from(j.at("examples_per_s"));
  for (const auto& [key, value] : j.members()) {
    if (!value.is_array() || fixed.contains(key)) continue;
    if (key.starts_with(kSeedPrefix)) {
      r.seed_values.emplace_back(key.substr(kSeedPrefix.size()), numbers_from(value));
    } else {
      r.profiles.emplace_back(key, numbers_from(value));
    }
  }
  r.seed_spread = number_from(j.at(kSeedSpread));
  if (const Json* overrides = j.find(kOverrides))
    for (const Json& override : *overrides) r.overrides.push_back(override);
  if (const Json* layers = j.find(kLayers)) r.layers = layers_from_json(*layers);
  return r;
}

void add_record(const std::string& line, Metrics& metrics) {
  const auto j = Json::parse(line);
  const std::string kind = j.at("kind");
  if (kind == "train")
    metrics.train.push_back(train_from_json(j));
  else if (kind == "eval")
    metrics.eval.push_back(eval_from_json(j));
  else
    throw DataError("unknown kind '" + kind + "'");
}

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return {};
  std::ostringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

/// Complete lines only: what follows the last line end was cut off while it was written.
void for_each_line(const std::string& text,
                   const std::function<void(int64_t number, const std::string& line)>& visit) {
  int64_t count = 0;
  for (size_t at = 0, end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    visit(++count, text.substr(at, end - at));
}

/// The lines a run restored at `restored_step` may keep, unchanged.
std::string lines_to_keep(const std::string& path, int64_t restored_step) {
  std::string kept;
  for_each_line(read_all(path), [&](int64_t count, const std::string& line) {
    try {
      if (Json::parse(line).at("step").get<int64_t>() <= restored_step) kept += line + "\n";
    } catch (const Error& e) {
      // A resumed run must not stop for what a power failure left in a log.
      log::warn(fmt::format("{}:{}: dropped, no metrics record: {}", path, count, e.what()));
    }
  });
  return kept;
}

const std::string& truncated(const std::string& path, int64_t restored_step) {
  replace_durably(path, restored_step < 0 ? "" : lines_to_keep(path, restored_step));
  return path;
}

}  // namespace

double value_of(const Named<double>& values, std::string_view name) {
  for (const auto& [key, value] : values) {
    if (key == name) return value;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

std::vector<double> values_of(const Named<std::vector<double>>& lists, std::string_view name) {
  for (const auto& [key, values] : lists) {
    if (key == name) return values;
  }
  return {};
}

MetricsWriter::MetricsWriter(const std::string& path, int64_t restored_step)
    : file_(truncated(path, restored_step)) {}

void MetricsWriter::write(const TrainRecord& record) {
  file_.append(to_json(record).dump() + "\n");
}
void MetricsWriter::write(const EvalRecord& record) { file_.append(to_json(record).dump() + "\n"); }

Metrics read_metrics(const std::string& path) {
  Metrics metrics;
  for_each_line(read_all(path), [&](int64_t count, const std::string& line) {
    try {
      add_record(line, metrics);
    } catch (const std::exception& e) {
      throw DataError(fmt::format("{}:{}: no metrics record: {}", path, count, e.what()));
    }
  });
  return metrics;
}

}  // namespace stipple::trainer
