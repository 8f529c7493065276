// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/evaluate.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "core/stopwatch.h"
#include "model/attention/graph_figures.h"
#include "model/attention/registry.h"
#include "trainer/loop/fact_sums.h"
#include "trainer/loop/step_observer.h"

namespace stipple::trainer {
namespace {

/// Keeps evaluation's draws apart from those of any training step.
constexpr uint64_t kEvaluationStream = 0x8000'0000'0000'0000ull;

/// How many leaves a rank computes between two looks at `stop`.
constexpr int64_t kRoundsBetweenLooks = 8;

/// Whether it came to its end.
bool evaluate_once(Replica& replica, comm::Communicator& communicator,
                   const data::EvalBatches& batches, const RngKey& rng, FactSums& sums,
                   AnswerSheet& answers, FunctionRef<bool()> stop) {
  sums.clear();
  answers.clear();
  const int64_t outputs = num_answer_outputs(answers.info());
  std::vector<float> said;
  data::Leaf leaf;
  StepObserver nobody;
  const Buffer memory = Buffer::staging(replica.stream().device(), replica.facts().bytes());
  const int64_t num_leaves = batches.num_leaves();
  for (int64_t first = 0, round = 0; first < num_leaves; first += communicator.size(), ++round) {
    if (round % kRoundsBetweenLooks == 0 && communicator.any(stop())) return false;
    const int64_t i = first + communicator.rank();
    if (i >= num_leaves) continue;
    batches.load(i, leaf);
    replica.feed().put(round, 0, leaf);
    replica.forward(0, rng, false, nobody);
    replica.fetch_facts(1, memory.data());
    if (outputs > 0) {
      said.resize(static_cast<size_t>(leaf.sizes.batch * outputs));
      replica.fetch_outputs(said);
    }
    replica.stream().synchronize();
    sums.add(i, {replica.facts(), memory.data()});
    if (outputs > 0) answers.add(leaf, said);
    communicator.progress();
  }
  sums.all_reduce(communicator);
  answers.all_reduce(communicator);
  sums.require_limits();
  return true;
}

/// Of sums over all that is evaluated; NaN where there is nothing to divide by.
struct Ratio {
  double over = 0, under = 0;
  double value() const {
    return under == 0 ? std::numeric_limits<double>::quiet_NaN() : over / under;
  }
};

/// Figures over several passes: sums first, ratios last.
class FigureTotals {
 public:
  explicit FigureTotals(const model::FactTable& table) : table_(table) {
    for (const model::Figure& figure : table.figures()) {
      totals_.emplace_back();
      heads_.emplace_back(static_cast<size_t>(table.layers() * table.fact(figure.over).size));
    }
  }
  void add(const FactSums& pass) {
    for (size_t f = 0; f < totals_.size(); ++f) {
      const model::Figure& figure = table_.figures()[f];
      const bool has_under = figure.under.exists();
      totals_[f].over += pass.total(figure.over);
      totals_[f].under += has_under ? pass.total(figure.under) : 1.0;
      const model::Fact& fact = table_.fact(figure.over);
      if (!fact.per_layer) continue;
      for (size_t at = 0; at < heads_[f].size(); ++at) {
        const int64_t layer = static_cast<int64_t>(at) / fact.size;
        const int64_t i = static_cast<int64_t>(at) % fact.size;
        heads_[f][at].over += pass.value(figure.over, layer, i);
        heads_[f][at].under += has_under ? pass.value(figure.under, layer, i) : 1.0;
      }
    }
  }
  Named<double> values() const {
    Named<double> values;
    for (size_t f = 0; f < totals_.size(); ++f) {
      const model::Figure& figure = table_.figures()[f];
      if (figure.has_total) values.emplace_back(figure.name, totals_[f].value());
    }
    return values;
  }
  std::vector<LayerRecord> layers() const {
    return layer_records(table_, [&](const model::Figure& figure, int64_t layer, int64_t i) {
      const auto f = static_cast<size_t>(&figure - table_.figures().data());
      return heads_[f][static_cast<size_t>(layer * table_.fact(figure.over).size + i)].value();
    });
  }

 private:
  const model::FactTable& table_;
  std::vector<Ratio> totals_;              // by figure
  std::vector<std::vector<Ratio>> heads_;  // by figure: [layers, size]
};

/// The task's profiles over several passes.
class ProfileTotals {
 public:
  ProfileTotals(const model::FactTable& table, const std::vector<data::Profile>& profiles)
      : table_(table), profiles_(profiles) {
    for (const data::Profile& profile : profiles)
      sums_.emplace_back(static_cast<size_t>(table.fact(table.find(profile.over)).size));
  }
  void add(const FactSums& pass) {
    for (size_t p = 0; p < profiles_.size(); ++p) {
      const model::FactId over = table_.find(profiles_[p].over);
      const model::FactId under = table_.find(profiles_[p].under);
      for (size_t i = 0; i < sums_[p].size(); ++i) {
        sums_[p][i].over += pass.value(over, 0, static_cast<int64_t>(i));
        sums_[p][i].under += pass.value(under, 0, static_cast<int64_t>(i));
      }
    }
  }
  Named<std::vector<double>> values() const {
    Named<std::vector<double>> values;
    for (size_t p = 0; p < profiles_.size(); ++p) {
      values.emplace_back(profiles_[p].name, 0);
      for (const Ratio& sum : sums_[p])
        values.back().second.push_back(profiles_[p].scale * sum.value());
    }
    return values;
  }

 private:
  const model::FactTable& table_;
  const std::vector<data::Profile>& profiles_;
  std::vector<std::vector<Ratio>> sums_;  // by profile: of each value
};

}  // namespace

double EvalResult::metric(std::string_view name) const {
  for (const auto& [key, seeds] : seed_metrics) {
    double mean = 0;
    for (const double value : seeds) mean += value / static_cast<double>(seeds.size());
    if (key == name) return mean;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

void EvalResult::add(const std::vector<LayerRecord>& more) {
  layers.resize(std::max(layers.size(), more.size()));
  Named<std::vector<double>> by_figure;  // of all layers and heads
  for (size_t layer = 0; layer < more.size(); ++layer) {
    for (const auto& [name, heads] : more[layer]) {
      layers[layer].emplace_back(name, heads);
      const auto known = std::find_if(by_figure.begin(), by_figure.end(),
                                      [&](const auto& entry) { return entry.first == name; });
      std::vector<double>& all =
          known != by_figure.end() ? known->second : by_figure.emplace_back(name, 0).second;
      all.insert(all.end(), heads.begin(), heads.end());
    }
  }
  for (const auto& [name, all] : by_figure) {
    figures.emplace_back(
        name, std::accumulate(all.begin(), all.end(), 0.0) / static_cast<double>(all.size()));
  }
}

double EvalResult::spread() const {
  if (seed_metrics.empty() || seed_metrics.front().second.empty()) return 0;
  const std::vector<double>& values = seed_metrics.front().second;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return *high - *low;
}

RngKey evaluation_rng(const Config& config, int64_t seed) {
  return {static_cast<uint64_t>(config.run.seed), kEvaluationStream + static_cast<uint64_t>(seed)};
}

std::optional<EvalResult> evaluate(Replica& replica, comm::Communicator& communicator,
                                   const data::Dataset& dataset, const data::TaskInfo& info,
                                   const Config& config, int64_t seeds, FunctionRef<bool()> stop) {
  Stopwatch watch;
  const data::EvalBatches batches(dataset, info, batch_options(config, /*is_captured=*/false));
  FactSums sums(replica.facts(), batches.num_leaves());
  AnswerSheet answers(info, dataset.size());
  FigureTotals figures(replica.facts());
  ProfileTotals profiles(replica.facts(), info.profiles);
  EvalResult result;
  result.examples = dataset.size();
  for (const data::Metric& metric : info.metrics) result.seed_metrics.emplace_back(metric.name, 0);
  for (int64_t seed = 0; seed < seeds; ++seed) {
    if (!evaluate_once(replica, communicator, batches, evaluation_rng(config, seed), sums, answers,
                       stop))
      return std::nullopt;
    if (seed == 0) result.answers = answers.answers();
    const double labels = std::max(1.0, sums.total(model::kLabels));
    result.loss += sums.total(model::kLossSum) / labels / static_cast<double>(seeds);
    for (size_t m = 0; m < info.metrics.size(); ++m) {
      const data::Metric& metric = info.metrics[m];
      const auto sum = [&](std::string_view name) { return sums.total(name); };
      result.seed_metrics[m].second.push_back(
          metric.of != nullptr ? metric.of(sum) : metric.of_answers(answers.answers()));
    }
    figures.add(sums);
    profiles.add(sums);
  }
  if (info.has_answers()) result.sameness = data::sameness(result.answers, info.class_names);
  result.figures = figures.values();
  result.layers = figures.layers();
  result.profiles = profiles.values();
  result.seconds = watch.lap();
  return result;
}

EvalRecord eval_record(const EvalResult& result, int64_t step, std::string_view split) {
  EvalRecord record{.step = step,
                    .split = std::string(split),
                    .loss = result.loss,
                    .examples = result.examples,
                    .seed_values = result.seed_metrics,
                    .seed_spread = result.spread(),
                    .profiles = result.profiles,
                    .layers = result.layers};
  size_t passes = 1;
  for (const auto& [name, seeds] : result.seed_metrics) {
    passes = seeds.size();
    record.values.emplace_back(name, result.metric(name));
  }
  record.values.insert(record.values.end(), result.figures.begin(), result.figures.end());
  record.examples_per_s = static_cast<double>(passes) * static_cast<double>(result.examples) /
                          std::max(1e-9, result.seconds);
  return record;
}

std::vector<ShownFigure> shown_figures(const Config& config, const data::TaskInfo& task,
                                       const model::FactTable& facts) {
  std::vector<ShownFigure> shown;
  for (const data::Metric& metric : task.metrics)
    shown.push_back({.name = std::string(metric.name),
                     .title = std::string(metric.title),
                     .is_share = metric.is_share,
                     .is_metric = true});
  for (const data::Profile& profile : task.profiles)
    shown.push_back({.name = std::string(profile.name),
                     .title = std::string(profile.title),
                     .unit = std::string(profile.unit)});
  for (const model::Figure& figure : facts.figures())
    shown.push_back({.name = figure.name,
                     .title = figure.title,
                     .unit = figure.unit,
                     .is_share = figure.is_share});
  const auto& attention = model::attention_row(config.attention.kind);
  if (attention.traits(config.attention).graph_groups == 0) return shown;
  for (const model::GraphFigure& figure : model::graph_figures())
    shown.push_back({.name = std::string(figure.name),
                     .title = std::string(figure.title),
                     .unit = std::string(figure.unit),
                     .baseline = std::string(figure.baseline)});
  return shown;
}

Ladder ladder_of(const data::Task& task, const data::Dataset& dataset) {
  const std::vector<data::Metric>& metrics = task.info().metrics;
  if (metrics.empty()) return {};
  return {std::string(metrics.front().name), task.ladder(dataset)};
}

}  // namespace stipple::trainer
