// SPDX-License-Identifier: Apache-2.0
// Projections and centroids of Sparsefinder, fitted to exact supports on the host. A function of the
// configuration, its run.seed and the supports; ranks may share its heads.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/dataset.h"
#include "model/parameter_store.h"
#include "trainer/config/config.h"
#include "trainer/loop/exact_supports.h"
#include "trainer/loop/head_share.h"

namespace stipple::trainer {

/// What is projected or compared in place of queries and keys: with their coordinate of mips where it
/// is asked for, or both together.
ExactSupports contents_of(const Config&, ExactSupports);

struct PredictorFitOptions {
  uint64_t turn = 0;     ///< fits of one run draw other numbers in another turn
  HeadShare share = {};  ///< the heads to fit; supports of others are not looked at
  std::function<void()> after_head = {};
  /// Around the word of a projection that became no number: which key, and what to do.
  std::string diverged = "--learning-rate", advice = "lower it";
};

/// What a model whose attention is sparsefinder has that is not learned, in host memory; at first as
/// training from scratch begins with it.
class PredictorFit {
 public:
  PredictorFit(const Config&, const data::TaskInfo&, PredictorFitOptions = {});

  using ByHead = std::vector<std::vector<double>>;  ///< by layer, of the heads of the share
  /// The loss of the last epoch; the configuration knows what is causal and which seed. Nothing where
  /// the predictor does not project. ConfigError, which names the key, where a fit leaves the numbers.
  ByHead fit_projections(const ExactSupports& contents, const model::ProjectionFitOptions&);
  /// All that a model has now.
  void take(const Stream& stream, const model::ParameterStore& from) {
    parameters_.copy_fixed_from(stream, from);
  }
  /// Those of another fit of the same model.
  void take_projections(const PredictorFit&);
  /// By k-means over projected queries and keys; how evenly these are spread over the clusters
  /// (model::occupancy_entropy, the mean of the rounds). Nothing where the predictor has none, or
  /// makes them equal.
  ByHead fit_centroids(const ExactSupports& contents);

  /// Of the ranks that share heads, each gets what the others fitted. Collective.
  void share(comm::Communicator&);

  const model::ParameterStore& parameters() const { return parameters_; }

 private:
  /// Of the share.
  template <class Visit>
  void for_each_head(const Visit& visit) const;
  /// What a head's map of queries or keys consists of, in the order of model::ProjectionShape.
  std::vector<View<float>> map(int64_t layer, bool of_keys, int64_t head) const;
  model::ProjectionShape map_shape() const;
  /// All that a fit of a head sets.
  std::vector<View<float>> fitted(int64_t layer, int64_t head) const;
  /// Of centroids [rounds, H, clusters, dim] all.
  View<float> tensor(int64_t layer, const std::string& what) const;
  /// What clusters are of: queries and keys, as projections or as they are.
  std::vector<float> compared(int64_t layer, int64_t head,
                              std::span<const model::ProjectionExample>) const;
  const std::vector<model::ProjectionExample>& of_head(const ExactSupports&, int64_t layer,
                                                       int64_t head) const;
  double fit_clusters(const ExactSupports& contents, int64_t layer, int64_t head);
  void fit_routing(const ExactSupports& contents, int64_t layer, int64_t head);
  uint64_t seed_of(int64_t layer, int64_t head) const;

  Config config_;
  PredictorFitOptions options_;
  model::ParameterStore parameters_;
};

}  // namespace stipple::trainer
