// SPDX-License-Identifier: Apache-2.0
// The `attention.sparsefinder` section. Meaning of the keys: README.md beside this file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/config.h"
#include "kernels/math/near.h"
#include "kernels/math/place_groups.h"
#include "kernels/predict.h"

namespace stipple::model {

enum class SparsefinderMode : uint8_t { kFull, kPredicted };
enum class SparsefinderPredictor : uint8_t {
  kCluster,
  kQuantize,
  kDistance,
  // What others do, to compare with.
  kReformer,
  kRouting,
  kBigbird,
  kLongformer,
  kFixed,
  kStrided,
};
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

/// Of graphs that do not look at tokens.
struct SparsefinderPlaces {
  int64_t random_blocks = 3;
  int64_t block = 1;
  int64_t random_tokens = 4;
  int64_t stride = 16;
  int64_t summary = 1;
  void describe(ConfigVisitor&);
};

struct SparsefinderConfig {
  SparsefinderMode mode = SparsefinderMode::kPredicted;
  SparsefinderPredictor predictor = SparsefinderPredictor::kCluster;
  SparsefinderProjection projection = {};
  SparsefinderCluster cluster = {};
  SparsefinderQuantize quantize = {};
  SparsefinderDistance distance = {};
  SparsefinderPlaces places = {};
  int64_t window = 1;
  int64_t global_tokens = 0;
  SparsefinderCompat compat = SparsefinderCompat::kNone;
  std::string fitted = {};
  bool measure = true;
  double max_density = 1.0;

  void describe(ConfigVisitor&);
  /// ConfigError for keys that contradict each other.
  void validate() const;
  /// Whether queries and keys are projected; otherwise a graph goes by places alone.
  bool projects() const { return predictor < SparsefinderPredictor::kBigbird; }
  /// Whether tokens are put into clusters, or the buckets of hashes.
  bool has_clusters() const {
    return predictor == SparsefinderPredictor::kCluster ||
           predictor == SparsefinderPredictor::kReformer ||
           predictor == SparsefinderPredictor::kRouting;
  }
  /// Groups that a token may be in.
  int64_t groups_of_token() const;
  /// In all; by places: kernels::num_place_groups() of a sequence.
  int64_t num_groups() const;
  /// Where projects() is false.
  kernels::math::PlaceRule place_rule(bool is_causal, int64_t longest) const;
  /// Whether a token's groups depend on no later token.
  bool can_be_causal() const;
  /// With which key it could be.
  std::string_view if_causal() const;

 private:
  void validate_groups() const;
};

}  // namespace stipple::model
