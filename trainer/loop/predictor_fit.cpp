// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/predictor_fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "model/attention/sparsefinder/kmeans.h"
#include "trainer/loop/replica.h"

namespace stipple::trainer {
namespace {

std::vector<double> doubles_of(View<float> x) { return {x.data, x.data + x.numel()}; }

void put_doubles(const std::vector<double>& from, View<float> to) {
  std::transform(from.begin(), from.end(), to.data, [](double x) { return static_cast<float>(x); });
}

bool are_finite(View<float> x) {
  return std::all_of(x.data, x.data + x.numel(), [](float value) { return std::isfinite(value); });
}

/// How many points are nearest to each centroid.
std::vector<int64_t> sizes_of(const model::Points& points, std::span<const float> centroids) {
  std::vector<int64_t> sizes(centroids.size() / static_cast<size_t>(points.dim));
  for (int64_t i = 0; i < points.count(); ++i)
    ++sizes[static_cast<size_t>(model::nearest(points.at(i), centroids, points.dim))];
  return sizes;
}

}  // namespace

PredictorFit::PredictorFit(const Config& config, const data::TaskInfo& info, uint64_t turn)
    : config_(config), turn_(turn) {
  config_.attention.sparsefinder.gate = 0;  // who has switched is not fitted
  model::FactTable facts(config_.model.layers);
  const model::Model model(parameters_, facts, config_.model, config_.attention, model_task(info));
  parameters_.allocate(kCpuDevice);
  parameters_.initialize(Stream(kCpuDevice), static_cast<uint64_t>(config.run.seed));
}

template <class Visit>
void PredictorFit::for_each_head(const Visit& visit) const {
  for (int64_t layer = 0; layer < config_.model.layers; ++layer)
    for (int64_t head = 0; head < config_.model.heads; ++head) visit(layer, head);
}

View<float> PredictorFit::tensor(int64_t layer, const char* what) const {
  return parameters_.value(
      parameters_.find(fmt::format("encoder.{}.attention.{}", layer, what)).value());
}

View<float> PredictorFit::projection(int64_t layer, bool of_keys, int64_t head) const {
  const char* name = config_.attention.sparsefinder.projection.shared ? "project"
                     : of_keys                                        ? "project_key"
                                                                      : "project_query";
  return tensor(layer, name).at(head);
}

const std::vector<model::ProjectionExample>& PredictorFit::of_head(const ExactSupports& supports,
                                                                   int64_t layer,
                                                                   int64_t head) const {
  return supports.at(static_cast<size_t>(layer * config_.model.heads + head));
}

uint64_t PredictorFit::seed_of(int64_t layer, int64_t head) const {
  const auto number = static_cast<uint64_t>(layer * config_.model.heads + head);
  const uint64_t seed = static_cast<uint64_t>(config_.run.seed) ^ splitmix64(number);
  return splitmix64(turn_ == 0 ? seed : seed ^ splitmix64(~turn_));
}

/// Calls fit() with what is projected or compared: with its coordinate of mips where it has one.
template <class Fit>
PredictorFit::ByHead PredictorFit::with_contents(const ExactSupports& supports,
                                                 const Fit& fit) const {
  const model::SparsefinderConfig& sparsefinder = config_.attention.sparsefinder;
  if (!sparsefinder.compares() || !sparsefinder.projection.mips) return fit(supports);
  ExactSupports contents = supports;
  for (std::vector<model::ProjectionExample>& of_head : contents)
    for (model::ProjectionExample& example : of_head)
      example = model::with_mips(std::move(example), config_.model.width / config_.model.heads);
  return fit(contents);
}

PredictorFit::ByHead PredictorFit::fit_projections(const ExactSupports& supports,
                                                   const model::ProjectionFitOptions& options) {
  return with_contents(supports, [&](const ExactSupports& contents) {
    return fit_projections_to(contents, options);
  });
}

PredictorFit::ByHead PredictorFit::fit_projections_to(const ExactSupports& supports,
                                                      const model::ProjectionFitOptions& options) {
  if (!config_.attention.sparsefinder.projects()) return {};
  const bool is_shared = config_.attention.sparsefinder.projection.shared;
  ByHead losses(static_cast<size_t>(config_.model.layers));
  for_each_head([&](int64_t layer, int64_t head) {
    const View<float> query = projection(layer, false, head), key = projection(layer, true, head);
    model::Projection w{.d = query.shape[0],
                        .r = query.shape[1],
                        .is_shared = is_shared,
                        .query = doubles_of(query)};
    if (!is_shared) w.key = doubles_of(key);
    model::ProjectionFitOptions own = options;
    own.is_causal = config_.model.causal;
    own.seed = seed_of(layer, head);
    const double loss = model::fit_projection(of_head(supports, layer, head), own, w);
    put_doubles(w.query, query);
    if (!is_shared) put_doubles(w.key, key);
    STIPPLE_CHECK_AS(ConfigError, std::isfinite(loss) && are_finite(query) && are_finite(key),
                     "--learning-rate: at ", options.lr, " the projection of layer ", layer,
                     ", head ", head, " became no number; lower it");
    losses[static_cast<size_t>(layer)].push_back(loss);
  });
  return losses;
}

void PredictorFit::take_projections(const PredictorFit& other) {
  if (!config_.attention.sparsefinder.projects()) return;
  for_each_head([&](int64_t layer, int64_t head) {
    for (const bool of_keys : {false, true}) {
      const View<float> from = other.projection(layer, of_keys, head);
      std::copy_n(from.data, from.numel(), projection(layer, of_keys, head).data);
    }
  });
}

std::vector<float> PredictorFit::compared(
    int64_t layer, int64_t head, std::span<const model::ProjectionExample> examples) const {
  std::vector<float> points;
  if (!config_.attention.sparsefinder.projects()) {
    for (const model::ProjectionExample& example : examples)
      for (const std::vector<float>* x : {&example.q, &example.k})
        points.insert(points.end(), x->begin(), x->end());
    return points;
  }
  const View<float> query = projection(layer, false, head), key = projection(layer, true, head);
  const std::vector<double> query_weight = doubles_of(query), key_weight = doubles_of(key);
  for (const model::ProjectionExample& example : examples) {
    model::append_projected(example.q, query_weight, query.shape[0], query.shape[1], points);
    model::append_projected(example.k, key_weight, query.shape[0], query.shape[1], points);
  }
  return points;
}

PredictorFit::ByHead PredictorFit::fit_centroids(const ExactSupports& supports) {
  using model::SparsefinderPredictor;
  const SparsefinderPredictor predictor = config_.attention.sparsefinder.predictor;
  return with_contents(supports, [&](const ExactSupports& contents) {
    ByHead occupancy;
    if (predictor == SparsefinderPredictor::kRouting)
      for_each_head([&](int64_t layer, int64_t head) { fit_routing(contents, layer, head); });
    if (predictor != SparsefinderPredictor::kCluster) return occupancy;
    occupancy.resize(static_cast<size_t>(config_.model.layers));
    for_each_head([&](int64_t layer, int64_t head) {
      occupancy[static_cast<size_t>(layer)].push_back(fit_clusters(contents, layer, head));
    });
    return occupancy;
  });
}

double PredictorFit::fit_clusters(const ExactSupports& supports, int64_t layer, int64_t head) {
  const model::SparsefinderConfig& sparsefinder = config_.attention.sparsefinder;
  const std::vector<float> values = compared(layer, head, of_head(supports, layer, head));
  const model::Points points{
      .values = values,
      .dim = sparsefinder.compared_channels(config_.model.width / config_.model.heads)};
  double entropy = 0;
  for (int64_t round = 0; round < sparsefinder.cluster.rounds; ++round) {
    const std::vector<float> centroids =
        model::kmeans(points,
                      {.clusters = sparsefinder.cluster.clusters,
                       .seed = seed_of(layer, head) + static_cast<uint64_t>(round)},
                      model::Ranks());
    std::copy(centroids.begin(), centroids.end(),
              tensor(layer, "centroids").at(round).at(head).data);
    entropy += model::occupancy_entropy(sizes_of(points, centroids));
  }
  return entropy / static_cast<double>(sparsefinder.cluster.rounds);
}

void PredictorFit::fit_routing(const ExactSupports& supports, int64_t layer, int64_t head) {
  const int64_t dim = config_.attention.sparsefinder.projection.dim;
  const int64_t clusters = config_.attention.sparsefinder.cluster.clusters;
  std::vector<float> values = compared(layer, head, of_head(supports, layer, head));
  for (auto first = values.begin(); first != values.end(); first += dim)
    model::to_length_one({first, first + dim});
  const std::vector<float> centroids = model::kmeans(
      {.values = values, .dim = dim},
      {.clusters = clusters, .seed = seed_of(layer, head), .is_spherical = true}, model::Ranks());
  const View<float> routing = tensor(layer, "routing").at(head);
  for (int64_t c = 0; c < clusters; ++c)
    for (int64_t e = 0; e < dim; ++e)
      routing[e * clusters + c] = -centroids[static_cast<size_t>(c * dim + e)];
}

}  // namespace stipple::trainer
