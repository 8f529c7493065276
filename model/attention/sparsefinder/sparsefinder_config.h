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

enum class SparsefinderMode : uint8_t { kFull, kPredicted, kCertified };
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
enum class SparsefinderProjectionKind : uint8_t { kLinear, kMlp, kConcat, kNone };
enum class SparsefinderCompat : uint8_t { kNone, kOfficial };

struct SparsefinderProjection {
  SparsefinderProjectionKind kind = SparsefinderProjectionKind::kLinear;
  int64_t dim = 4;
  int64_t hidden = 0;
  bool shared = true;
  bool mips = false;
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
  int64_t refresh_every = 0;
  int64_t refresh_examples = 16;
  double gate = 0.0;
  bool measure = true;
  double max_density = 1.0;

  void describe(ConfigVisitor&);
  /// ConfigError for keys that contradict each other.
  void validate() const;
  /// Whether queries and keys are compared; otherwise a graph goes by places alone.
  bool compares() const { return predictor < SparsefinderPredictor::kBigbird; }
  /// Whether by projections of them.
  bool projects() const {
    return compares() && projection.kind != SparsefinderProjectionKind::kNone;
  }
  /// Whether a token has one place, as a query and as a key.
  bool joins_tokens() const {
    return projects() && projection.kind == SparsefinderProjectionKind::kConcat;
  }
  /// Channels of the hidden layer of a projection; 0: it has none.
  int64_t hidden_channels(int64_t head_dim) const {
    if (!projects() || projection.kind != SparsefinderProjectionKind::kMlp) return 0;
    return projection.hidden == 0 ? head_dim : projection.hidden;
  }
  /// Channels of what is projected, and of what is compared.
  int64_t content_channels(int64_t head_dim) const {
    return (joins_tokens() ? 2 : 1) * head_dim + (projection.mips ? 1 : 0);
  }
  int64_t compared_channels(int64_t head_dim) const {
    return projects() ? projection.dim : content_channels(head_dim);
  }
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
  /// Where compares() is false.
  kernels::math::PlaceRule place_rule(bool is_causal, int64_t longest) const;
  /// Whether attention is exact, whatever is predicted.
  bool is_exact() const { return mode != SparsefinderMode::kPredicted; }
  /// Whether heads may switch from exact attention to the predicted graph.
  bool switches_heads() const { return mode == SparsefinderMode::kFull && gate > 0; }
  /// Whether there are projections or centroids that fit a model.
  bool can_be_fitted() const { return projects() || predictor == SparsefinderPredictor::kCluster; }
  /// Whether a token's groups depend on no later token.
  bool can_be_causal() const;
  /// With which key it could be.
  std::string_view if_causal() const;

 private:
  void validate_groups() const;
};

}  // namespace stipple::model
