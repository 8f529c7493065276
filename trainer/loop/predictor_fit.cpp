// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/predictor_fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/rng.h"
#include "model/attention/sparsefinder/kmeans.h"
#include "trainer/loop/replica.h"

namespace stipple::trainer {
namespace {

using Parts = std::vector<View<float>>;

std::vector<double> doubles_of(const Parts& parts) {
  std::vector<double> all;
  for (const View<float>& x : parts) all.insert(all.end(), x.data, x.data + x.numel());
  return all;
}

/// Whether all are numbers.
bool put_doubles(const std::vector<double>& from, const Parts& parts) {
  auto next = from.begin();
  bool are_finite = true;
  for (const View<float>& to : parts) {
    for (float& x : to.span()) {
      x = static_cast<float>(*next++);
      are_finite = are_finite && std::isfinite(x);
    }
  }
  return are_finite;
}

/// How many points are nearest to each centroid.
std::vector<int64_t> sizes_of(const model::Points& points, std::span<const float> centroids) {
  std::vector<int64_t> sizes(centroids.size() / static_cast<size_t>(points.dim));
  for (int64_t i = 0; i < points.count(); ++i)
    ++sizes[static_cast<size_t>(model::nearest(points.at(i), centroids, points.dim))];
  return sizes;
}

}  // namespace

ExactSupports contents_of(const Config& config, ExactSupports supports) {
  const model::SparsefinderConfig& sparsefinder = config.attention.sparsefinder;
  const bool has_mips = sparsefinder.compares() && sparsefinder.projection.mips;
  if (!has_mips && !sparsefinder.joins_tokens()) return supports;
  const int64_t head_dim = config.model.width / config.model.heads;
  for (std::vector<model::ProjectionExample>& of_head : supports)
    for (model::ProjectionExample& example : of_head)
      example = has_mips ? model::with_mips(std::move(example), head_dim)
                         : model::joined(std::move(example), head_dim);
  return supports;
}

PredictorFit::PredictorFit(const Config& config, const data::TaskInfo& info,
                           PredictorFitOptions options)
    : config_(config), options_(std::move(options)) {
  config_.attention.sparsefinder.gate = 0;  // who has switched is not fitted
  model::FactTable facts(config_.model.layers);
  const model::Model model(parameters_, facts, config_.model, config_.attention, model_task(info));
  parameters_.allocate(kCpuDevice);
  parameters_.initialize(Stream(kCpuDevice), static_cast<uint64_t>(config.run.seed));
}

template <class Visit>
void PredictorFit::for_each_head(const Visit& visit) const {
  const int64_t heads = config_.model.heads;
  for (int64_t number = 0; number < config_.model.layers * heads; ++number) {
    if (!options_.share.owns(number)) continue;
    visit(number / heads, number % heads);
    if (options_.after_head) options_.after_head();
  }
}

View<float> PredictorFit::tensor(int64_t layer, const std::string& what) const {
  return parameters_.value(
      parameters_.find(fmt::format("encoder.{}.attention.{}", layer, what)).value());
}

Parts PredictorFit::map(int64_t layer, bool of_keys, int64_t head) const {
  const char* suffix = config_.attention.sparsefinder.projection.shared ? ""
                       : of_keys                                        ? "_key"
                                                                        : "_query";
  Parts parts;
  for (const char* what : {"hidden", "hidden_bias", "project"}) {
    if (map_shape().hidden == 0 && std::string_view(what) != "project") continue;
    parts.push_back(tensor(layer, std::string(what) + suffix).at(head));
  }
  return parts;
}

model::ProjectionShape PredictorFit::map_shape() const {
  const model::SparsefinderConfig& sparsefinder = config_.attention.sparsefinder;
  const int64_t head_dim = config_.model.width / config_.model.heads;
  return {.d = sparsefinder.content_channels(head_dim),
          .r = sparsefinder.projection.dim,
          .hidden = sparsefinder.hidden_channels(head_dim)};
}

const std::vector<model::ProjectionExample>& PredictorFit::of_head(const ExactSupports& contents,
                                                                   int64_t layer,
                                                                   int64_t head) const {
  return contents.at(static_cast<size_t>(layer * config_.model.heads + head));
}

uint64_t PredictorFit::seed_of(int64_t layer, int64_t head) const {
  const auto number = static_cast<uint64_t>(layer * config_.model.heads + head);
  const uint64_t seed = static_cast<uint64_t>(config_.run.seed) ^ splitmix64(number);
  return splitmix64(options_.turn == 0 ? seed : seed ^ splitmix64(~options_.turn));
}

PredictorFit::ByHead PredictorFit::fit_projections(const ExactSupports& contents,
                                                   const model::ProjectionFitOptions& options) {
  if (!config_.attention.sparsefinder.projects()) return {};
  const bool is_shared = config_.attention.sparsefinder.projection.shared;
  ByHead losses(static_cast<size_t>(config_.model.layers));
  for_each_head([&](int64_t layer, int64_t head) {
    const Parts query = map(layer, false, head), key = map(layer, true, head);
    model::Projection w{.shape = map_shape(), .is_shared = is_shared, .query = doubles_of(query)};
    if (!is_shared) w.key = doubles_of(key);
    model::ProjectionFitOptions own = options;
    own.is_causal = config_.model.causal;
    own.seed = seed_of(layer, head);
    const double loss = model::fit_projection(of_head(contents, layer, head), own, w);
    const bool are_finite = put_doubles(w.query, query) && (is_shared || put_doubles(w.key, key));
    STIPPLE_CHECK_AS(ConfigError, std::isfinite(loss) && are_finite, options_.diverged,
                     ": at a learning rate of ", options.lr, " the projection of layer ", layer,
                     ", head ", head, " became no number; ", options_.advice);
    losses[static_cast<size_t>(layer)].push_back(loss);
  });
  return losses;
}

void PredictorFit::take_projections(const PredictorFit& other) {
  if (!config_.attention.sparsefinder.projects()) return;
  for_each_head([&](int64_t layer, int64_t head) {
    for (const bool of_keys : {false, true}) {
      put_doubles(doubles_of(other.map(layer, of_keys, head)), map(layer, of_keys, head));
    }
  });
}

std::vector<float> PredictorFit::compared(
    int64_t layer, int64_t head, std::span<const model::ProjectionExample> examples) const {
  const int64_t channels =
      config_.attention.sparsefinder.compared_channels(config_.model.width / config_.model.heads);
  size_t tokens = 0;
  for (const model::ProjectionExample& example : examples)
    tokens += static_cast<size_t>(example.gold.num_queries());
  std::vector<float> points;
  points.reserve(2 * tokens * static_cast<size_t>(channels));
  if (!config_.attention.sparsefinder.projects()) {
    for (const model::ProjectionExample& example : examples)
      for (const std::vector<float>* x : {&example.q, &example.k})
        points.insert(points.end(), x->begin(), x->end());
    return points;
  }
  const std::vector<double> of_queries = doubles_of(map(layer, false, head));
  const std::vector<double> of_keys = doubles_of(map(layer, true, head));
  for (const model::ProjectionExample& example : examples) {
    model::append_projected(example.q, of_queries, map_shape(), points);
    // A token that has one place is one point.
    if (!config_.attention.sparsefinder.joins_tokens())
      model::append_projected(example.k, of_keys, map_shape(), points);
  }
  return points;
}

PredictorFit::ByHead PredictorFit::fit_centroids(const ExactSupports& contents) {
  using model::SparsefinderPredictor;
  const SparsefinderPredictor predictor = config_.attention.sparsefinder.predictor;
  ByHead occupancy;
  if (predictor == SparsefinderPredictor::kRouting)
    for_each_head([&](int64_t layer, int64_t head) { fit_routing(contents, layer, head); });
  if (predictor != SparsefinderPredictor::kCluster) return occupancy;
  occupancy.resize(static_cast<size_t>(config_.model.layers));
  for_each_head([&](int64_t layer, int64_t head) {
    occupancy[static_cast<size_t>(layer)].push_back(fit_clusters(contents, layer, head));
  });
  return occupancy;
}

double PredictorFit::fit_clusters(const ExactSupports& contents, int64_t layer, int64_t head) {
  const model::SparsefinderConfig& sparsefinder = config_.attention.sparsefinder;
  const std::vector<float> values = compared(layer, head, of_head(contents, layer, head));
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

void PredictorFit::fit_routing(const ExactSupports& contents, int64_t layer, int64_t head) {
  const int64_t dim = config_.attention.sparsefinder.projection.dim;
  const int64_t clusters = config_.attention.sparsefinder.cluster.clusters;
  std::vector<float> values = compared(layer, head, of_head(contents, layer, head));
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

// --- ranks ---------------------------------------------------------------------------------------

Parts PredictorFit::fitted(int64_t layer, int64_t head) const {
  const model::SparsefinderConfig& sparsefinder = config_.attention.sparsefinder;
  Parts parts;
  if (sparsefinder.projects()) {
    parts = map(layer, /*of_keys=*/false, head);
    const Parts of_keys = map(layer, /*of_keys=*/true, head);
    if (!sparsefinder.projection.shared) parts.insert(parts.end(), of_keys.begin(), of_keys.end());
  }
  if (sparsefinder.predictor == model::SparsefinderPredictor::kRouting)
    parts.push_back(tensor(layer, "routing").at(head));
  if (sparsefinder.predictor == model::SparsefinderPredictor::kCluster)
    for (int64_t round = 0; round < sparsefinder.cluster.rounds; ++round)
      parts.push_back(tensor(layer, "centroids").at(round).at(head));
  return parts;
}

void PredictorFit::share(comm::Communicator& communicator) {
  std::string own;
  for_each_head([&](int64_t layer, int64_t head) {
    for (const View<float>& part : fitted(layer, head))
      own.append(reinterpret_cast<const char*>(part.data), part.bytes());
  });
  const std::vector<std::string> of_rank = communicator.all_gather(own);
  std::vector<size_t> read(of_rank.size());
  const int64_t heads = config_.model.heads;
  for (int64_t number = 0; number < config_.model.layers * heads; ++number) {
    const auto owner = static_cast<size_t>(options_.share.owner(number));
    for (const View<float>& part : fitted(number / heads, number % heads)) {
      std::memcpy(part.data, of_rank[owner].data() + read[owner], part.bytes());
      read[owner] += part.bytes();
    }
  }
}

}  // namespace stipple::trainer
