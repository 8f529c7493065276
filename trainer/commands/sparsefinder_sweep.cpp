// SPDX-License-Identifier: Apache-2.0
// `stipple sparsefinder sweep`: many ways to predict the graph of one trained model, each evaluated with
// the attention of all layers and heads restricted to what it predicts.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "core/log.h"
#include "kernels/group_edges.h"
#include "model/attention/registry.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/exact_run.h"
#include "trainer/commands/load_parameters.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/open_split.h"
#include "trainer/loop/predictor_fit.h"
#include "trainer/record/page.h"
#include "trainer/record/sweep_record.h"

namespace stipple::trainer {
namespace {

constexpr std::string_view kSection = "attention.sparsefinder.";

/// A way to predict, and what its figures are told under.
struct Candidate {
  SweepPoint point;
  Config config;
};

class Candidates {
 public:
  explicit Candidates(const Config& base) : base_(base) {}

  /// The keys stand below attention.sparsefinder. ConfigError for what cannot be.
  void add(const char* predictor, const std::string& setting, int64_t window,
           std::vector<std::string> keys) {
    keys.push_back(fmt::format("window={}", window));
    for (std::string& key : keys) key.insert(0, kSection);
    const Config config = base_.with({}, keys);
    model::attention_row(config.attention.kind).validate(config.attention);
    all.push_back({{.predictor = predictor, .setting = setting, .window = window}, config});
  }

  std::vector<Candidate> all;

 private:
  const Config& base_;
};

/// No pair is nearer than nothing: the pairs that are always there remain.
const std::vector<std::string> kNothing = {"predictor=distance", "distance.threshold=0"};

const std::string kNoProjection = "it needs the few channels of a projection";

/// Says once, of all windows, that there can be no such way.
void leave_out(const SweepOptions& options, int64_t window, const std::string& setting,
               const std::string& why) {
  if (window == options.windows.front()) log::info(fmt::format("{} is left out: {}", setting, why));
}

void add_clusters(Candidates& candidates, const SweepOptions& options, int64_t window,
                  int64_t longest) {
  for (const int64_t clusters : options.clusters) {
    for (const int64_t top : options.tops) {
      const std::string setting = fmt::format("clusters={} top={}", clusters, top);
      if (clusters > longest || top > clusters) {
        leave_out(options, window, setting,
                  top > clusters ? "a token has no more clusters than there are"
                                 : fmt::format("sequences have at most {} tokens", longest));
        continue;
      }
      candidates.add(top == 1 ? "cluster" : "cluster several", setting, window,
                     {"predictor=cluster", fmt::format("cluster.clusters={}", clusters),
                      fmt::format("cluster.top={}", top)});
    }
  }
}

/// Of others' clusters and hashes, over the same projections.
void add_other_clusters(Candidates& candidates, const SweepOptions& options, int64_t window,
                        int64_t longest, bool projects, bool is_causal) {
  for (const int64_t clusters : options.clusters) {
    if (clusters > longest) continue;
    const std::string count = fmt::format("cluster.clusters={}", clusters);
    for (const int64_t hashes : options.hashes) {
      const std::string setting = fmt::format("buckets={} hashes={}", clusters, hashes);
      if (clusters % 2 != 0) {
        leave_out(options, window, "reformer " + setting, "buckets are even in number");
        continue;
      }
      candidates.add(
          "reformer", setting, window,
          {"predictor=reformer", "cluster.top=1", count, fmt::format("cluster.rounds={}", hashes)});
    }
    const std::string setting = fmt::format("clusters={}", clusters);
    if (!projects || is_causal || clusters > kernels::kMostGroupsOfToken) {
      leave_out(options, window, "routing " + setting,
                !projects ? kNoProjection
                : is_causal
                    ? "it ranks the whole sequence, and the model is causal"
                    : fmt::format("it has at most {} clusters", kernels::kMostGroupsOfToken));
      continue;
    }
    candidates.add("routing", setting, window,
                   {"predictor=routing", "cluster.top=1", "cluster.rounds=1", count});
  }
}

/// Graphs that do not look at tokens.
void add_places(Candidates& candidates, const SweepOptions& options, int64_t window) {
  const auto add = [&](const char* predictor, const char* key, int64_t value,
                       std::vector<std::string> more = {}) {
    const std::string setting = fmt::format("{}={}", key, value);
    more.push_back(fmt::format("predictor={}", predictor));
    more.push_back("places." + setting);
    candidates.add(predictor, setting, window, more);
  };
  for (const int64_t blocks : options.random_blocks)
    add("bigbird", "random_blocks", blocks, {"global_tokens=1"});
  for (const int64_t tokens : options.random_tokens) add("longformer", "random_tokens", tokens);
  for (const int64_t stride : options.strides) {
    add("fixed", "stride", stride,
        {fmt::format("places.summary={}", std::min<int64_t>(2, stride))});
    add("strided", "stride", stride);
  }
}

std::vector<Candidate> candidates_of(const Config& base, const SweepOptions& options,
                                     int64_t longest) {
  Candidates candidates(base);
  for (const int64_t window : options.windows) {
    candidates.add("window", "", window, kNothing);
    for (const int64_t globals : options.globals) {
      std::vector<std::string> keys = kNothing;
      keys.push_back(fmt::format("global_tokens={}", globals));
      candidates.add("global", keys.back(), window, keys);
    }
    add_clusters(candidates, options, window, longest);
    for (const int64_t buckets : options.buckets) {
      if (!base.attention.sparsefinder.projects()) {
        leave_out(options, window, fmt::format("quantize buckets={}", buckets), kNoProjection);
        continue;
      }
      std::vector<std::string> keys = {"predictor=quantize",
                                       fmt::format("quantize.buckets={}", buckets)};
      if (base.model.causal) keys.emplace_back("quantize.kind=interval");
      candidates.add("quantize", fmt::format("buckets={}", buckets), window, keys);
    }
    for (const double threshold : options.thresholds) {
      candidates.add("distance", fmt::format("threshold={}", threshold), window,
                     {"predictor=distance", fmt::format("distance.threshold={}", threshold)});
    }
    add_other_clusters(candidates, options, window, longest, base.attention.sparsefinder.projects(),
                       base.model.causal);
    add_places(candidates, options, window);
  }
  return candidates.all;
}

/// Evaluates the run's model with this attention; fixed: what of it is not learned.
EvalResult evaluate_with(comm::Communicator& communicator, const OpenedRun& run,
                         const Config& config, const data::Dataset& dataset,
                         const model::ParameterStore* fixed) {
  const auto [replica, meta] = load_model(communicator, run, config);
  require_same_data(meta, run, config.eval.split, dataset);
  if (fixed != nullptr) fixed->copy_fixed_to(replica->stream(), replica->parameters());
  const auto never = [] { return false; };
  return evaluate(*replica, communicator, dataset, run.task->info(), config, /*seeds=*/1, never)
      .value();
}

void put(const EvalResult& result, const data::Metric& metric, SweepPoint& point) {
  const auto figure = [&](const char* name) { return value_of(result.figures, name); };
  point.density = figure("density");
  point.recall = figure("recall");
  point.precision = figure("precision");
  point.exact = figure("exact");
  point.dropped_mass = figure("dropped_mass");
  point.loss = result.loss;
  point.metric = result.metric(std::string(metric.name));
}

SweepPoint exact_point(comm::Communicator& communicator, const OpenedRun& run,
                       const data::Dataset& dataset, const data::Metric& metric) {
  SweepPoint exact{.predictor = "exact attention"};
  const Config config = with_attention(run.config, model::AttentionKind::kEntmax);
  put(evaluate_with(communicator, run, config, dataset, nullptr), metric, exact);
  exact.recall = exact.precision = exact.exact = 1;
  exact.dropped_mass = 0;
  return exact;
}

/// The two files of a sweep, whole after each point.
class SweepFiles {
 public:
  /// ConfigError where they cannot be written, or are somebody else's.
  explicit SweepFiles(const std::string& out)
      : csv_(expand_path(out, "--out") + "/sweep.csv"),
        page_(expand_path(out, "--out") + "/sweep.html") {
    const std::string folder = std::filesystem::path(csv_).parent_path();
    std::error_code code;
    std::filesystem::create_directories(folder, code);
    STIPPLE_CHECK_AS(ConfigError, !code && std::filesystem::is_directory(folder), "--out: ", folder,
                     " is no folder that can be written to",
                     code ? ": " + code.message() : std::string());
    require_own_sweep(csv_);
    require_own_page(page_);
  }

  void write(const Sweep& sweep, const std::string& run_name) const {
    replace_durably(csv_, sweep_csv(sweep));
    replace_durably(page_, sweep_page(sweep, run_name));
  }
  std::string names() const { return csv_ + " " + page_; }

 private:
  std::string csv_, page_;
};

void print(const SweepPoint& p) {
  fmt::print("{:<17} {:<22} {:>6} {:>8.4f} {:>7.4f} {:>7.4f} {:>8.4f} {:>10.4f}\n", p.predictor,
             p.setting, p.window, p.density, p.recall, p.exact, p.dropped_mass, p.metric);
  std::fflush(stdout);
}

}  // namespace

int sparsefinder_sweep(comm::Communicator& communicator, const std::string& run_dir,
                       const std::vector<std::string>& overrides, const SweepOptions& options) {
  const OpenedRun run = open_exact_run(communicator, "sweep", run_dir, overrides);
  Config base = with_attention(run.config, model::AttentionKind::kSparsefinder);
  base.attention.sparsefinder.mode = model::SparsefinderMode::kPredicted;
  base.attention.sparsefinder.measure = true;
  base.attention.sparsefinder.refresh_every = 0;
  // Projections are fitted once, for all, by a predictor that has them and nothing else.
  base.attention.sparsefinder.predictor = model::SparsefinderPredictor::kDistance;
  std::vector<Candidate> candidates = candidates_of(base, options, run.task->info().max_length);
  const SweepFiles files(options.out);

  const ExactSupports supports =
      contents_of(base, supports_of(communicator, run, options.fit.examples));
  PredictorFit projections(base, run.task->info());
  projections.fit_projections(supports, options.fit.projection);
  const auto dataset = open_split(communicator, *run.task, run.config.eval.split);
  Sweep sweep{.metric = run.task->info().metrics.front()};
  sweep.exact = exact_point(communicator, run, *dataset, sweep.metric);
  fmt::print("{:<17} {:<22} {:>6} {:>8} {:>7} {:>7} {:>8} {:>10}\n", "predictor", "setting",
             "window", "density", "recall", "exact", "dropped", sweep.metric.name);
  print(sweep.exact);
  for (Candidate& candidate : candidates) {
    PredictorFit fit(candidate.config, run.task->info());
    fit.take_projections(projections);
    fit.fit_centroids(supports);
    put(evaluate_with(communicator, run, candidate.config, *dataset, &fit.parameters()),
        sweep.metric, candidate.point);
    print(candidate.point);
    sweep.points.push_back(candidate.point);
    files.write(sweep, run_dir);
  }
  fmt::print("written      {}\n", files.names());
  return kDone;
}

}  // namespace stipple::trainer
