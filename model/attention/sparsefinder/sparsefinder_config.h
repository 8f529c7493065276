// SPDX-License-Identifier: Apache-2.0
// The `attention.sparsefinder` section. Meaning of the keys: README.md beside this file.
#pragma once

#include <cstdint>
#include <string>

#include "core/config.h"
#include "kernels/math/near.h"
#include "kernels/predict.h"

namespace stipple::model {

enum class SparsefinderMode : uint8_t { kFull, kPredicted };
enum class SparsefinderPredictor : uint8_t { kCluster, kQuantize, kDistance };
enum class SparsefinderCompat : uint8_t { kNone, kOfficial };

struct SparsefinderProjection {
  int64_t dim = 4;
  bool shared = true;
  void describe(ConfigVisitor&);
};

struct SparsefinderCluster {
  int64_t clusters = 16;
  int64_t top = 1;
  int64_t rounds = 1;
  void describe(ConfigVisitor&);
};

struct SparsefinderQuantize {
  int64_t buckets = 16;
  kernels::Quantisation kind = kernels::Quantisation::kEqual;
  double temperature = 1.0;
  void describe(ConfigVisitor&);
};

struct SparsefinderDistance {
  double threshold = 1.0;
  kernels::math::Nearness metric = kernels::math::Nearness::kSquaredDistance;
  void describe(ConfigVisitor&);
};

struct SparsefinderConfig {
  SparsefinderMode mode = SparsefinderMode::kPredicted;
  SparsefinderPredictor predictor = SparsefinderPredictor::kCluster;
  SparsefinderProjection projection = {};
  SparsefinderCluster cluster = {};
  SparsefinderQuantize quantize = {};
  SparsefinderDistance distance = {};
  int64_t window = 1;
  int64_t global_tokens = 0;
  SparsefinderCompat compat = SparsefinderCompat::kNone;
  std::string fitted = {};
  bool measure = true;
  double max_density = 1.0;

  void describe(ConfigVisitor&);
  /// ConfigError for keys that contradict each other.
  void validate() const;
  /// Groups that a token may be in.
  int64_t groups_of_token() const;
  /// In all.
  int64_t num_groups() const;
  /// Whether a token's groups depend on no later token.
  bool can_be_causal() const;
};

}  // namespace stipple::model
