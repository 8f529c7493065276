// SPDX-License-Identifier: Apache-2.0
// `stipple sparsefinder sweep`: many ways to predict the graph of one trained model, each evaluated with
// the attention of all layers and heads restricted to what it predicts.
#include <fmt/format.h>

#include <filesystem>

#include "core/copy.h"
#include "model/attention/registry.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/exact_run.h"
#include "trainer/commands/load_parameters.h"
#include "trainer/exit_code.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/memory_check.h"
#include "trainer/loop/open_split.h"
#include "trainer/loop/predictor_fit.h"
#include "trainer/record/sweep_record.h"

namespace stipple::trainer {
namespace {

using model::SparsefinderPredictor;

/// A way to predict, and what its figures are told under.
struct Candidate {
  SweepPoint point;
  Config config;
};

/// No pair is nearer than nothing: the pairs that are always there remain.
void predict_nothing(model::SparsefinderConfig& c) {
  c.predictor = SparsefinderPredictor::kDistance;
  c.distance = {.threshold = 0};
}

std::vector<Candidate> candidates_of(const Config& base, const SweepOptions& options,
                                     int64_t longest) {
  std::vector<Candidate> all;
  for (const int64_t window : options.windows) {
    const auto add = [&](const char* predictor, const std::string& setting, const auto& change) {
      Candidate candidate{.point = {.predictor = predictor, .setting = setting, .window = window},
                          .config = base};
      model::SparsefinderConfig& c = candidate.config.attention.sparsefinder;
      c.window = window;
      change(c);
      all.push_back(std::move(candidate));
    };
    add("window", "", predict_nothing);
    for (const int64_t globals : options.globals) {
      add("global", fmt::format("global_tokens={}", globals), [&](auto& c) {
        predict_nothing(c);
        c.global_tokens = globals;
      });
    }
    for (const int64_t clusters : options.clusters) {
      for (const int64_t top : options.tops) {
        if (clusters > longest || top > clusters) continue;
        add(top == 1 ? "cluster" : "cluster several",
            fmt::format("clusters={} top={}", clusters, top), [&](auto& c) {
              c.predictor = SparsefinderPredictor::kCluster;
              c.cluster.clusters = clusters;
              c.cluster.top = top;
            });
      }
    }
    for (const int64_t buckets : options.buckets) {
      add("quantize", fmt::format("buckets={}", buckets), [&](auto& c) {
        c.predictor = SparsefinderPredictor::kQuantize;
        c.quantize.buckets = buckets;
        if (base.model.causal) c.quantize.kind = kernels::Quantisation::kInterval;
      });
    }
    for (const double threshold : options.thresholds) {
      add("distance", fmt::format("threshold={}", threshold), [&](auto& c) {
        c.predictor = SparsefinderPredictor::kDistance;
        c.distance.threshold = threshold;
      });
    }
  }
  return all;
}

/// Evaluates the run's model with this attention.
EvalResult evaluate_with(comm::Communicator& communicator, const OpenedRun& run,
                         const Config& config, const data::Dataset& dataset,
                         const model::ParameterStore* fixed) {
  const data::TaskInfo& info = run.task->info();
  const int threads = threads_per_rank(config, 1);
  const Device device = choose_device(config, communicator);
  const MemoryPlan plan = plan_memory(config, info, threads, 0, 1, PlanFor::kEvaluation);
  require_memory(plan, config, info, threads, device, communicator, PlanFor::kEvaluation);
  Replica replica(config, info, device, threads, 1, plan);
  load_parameters(run.directory.path(), communicator, config, replica.stream(),
                  replica.parameters());
  if (fixed != nullptr) fixed->copy_fixed_to(replica.stream(), replica.parameters());
  const auto never = [] { return false; };
  return evaluate(replica, communicator, dataset, info, config, /*seeds=*/1, never).value();
}

void put(const EvalResult& result, const std::string& metric, SweepPoint& point) {
  const auto figure = [&](const char* name) { return value_of(result.figures, name); };
  point.density = figure("density");
  point.recall = figure("recall");
  point.precision = figure("precision");
  point.exact = figure("exact");
  point.dropped_mass = figure("dropped_mass");
  point.loss = result.loss;
  point.metric = result.metric(metric);
}

void write(const std::string& out, const Sweep& sweep, const std::string& run_name) {
  std::filesystem::create_directories(out);
  replace_durably(out + "/sweep.csv", sweep_csv(sweep));
  replace_durably(out + "/sweep.html", sweep_page(sweep, run_name));
  fmt::print("written      {}/sweep.csv {}/sweep.html\n", out, out);
}

}  // namespace

int sparsefinder_sweep(comm::Communicator& communicator, const std::string& run_dir,
                       const std::vector<std::string>& overrides, const SweepOptions& options) {
  require_alone(communicator, "sweep");
  const OpenedRun run = open_run(communicator, run_dir, overrides);
  require_entmax(run.config, run_dir);
  Config base = with_attention(run.config, model::AttentionKind::kSparsefinder);
  base.attention.sparsefinder.measure = true;

  const ExactSupports supports = supports_of(communicator, run, options.fit.examples);
  PredictorFit projections(base, run.task->info());
  projections.fit_projections(supports, options.fit.projection);
  const auto dataset = open_split(communicator, *run.task, run.config.eval.split);
  Sweep sweep{.metric = ladder_of(*run.task, *dataset).metric};
  const Config exact = with_attention(run.config, model::AttentionKind::kEntmax);
  sweep.exact_metric =
      evaluate_with(communicator, run, exact, *dataset, nullptr).metric(sweep.metric);
  fmt::print("{:<17} {:<22} {:>6} {:>8} {:>7} {:>7} {:>8} {:>10}\n", "predictor", "setting",
             "window", "density", "recall", "exact", "dropped", sweep.metric);
  for (Candidate& candidate : candidates_of(base, options, run.task->info().max_length)) {
    model::attention_row(model::AttentionKind::kSparsefinder).validate(candidate.config.attention);
    PredictorFit fit(candidate.config, run.task->info());
    fit.take_projections(projections);
    fit.fit_centroids(supports);
    SweepPoint& p = candidate.point;
    put(evaluate_with(communicator, run, candidate.config, *dataset, &fit.parameters()),
        sweep.metric, p);
    fmt::print("{:<17} {:<22} {:>6} {:>8.4f} {:>7.4f} {:>7.4f} {:>8.4f} {:>10.4f}\n", p.predictor,
               p.setting, p.window, p.density, p.recall, p.exact, p.dropped_mass, p.metric);
    sweep.points.push_back(p);
  }
  fmt::print("exact attention: {} {:.4f}\n", sweep.metric, sweep.exact_metric);
  write(options.out, sweep, run_dir);
  return kDone;
}

}  // namespace stipple::trainer
