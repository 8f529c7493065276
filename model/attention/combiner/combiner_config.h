// SPDX-License-Identifier: Apache-2.0
// The `attention.combiner` section. docs/attention/combiner.md explains each choice.
#pragma once

#include <string_view>
#include <vector>

#include "core/config.h"

namespace stipple::model {

enum class CombinerCompat : uint8_t { kNone, kOfficial, kPaper };
enum class CombinerVariant : uint8_t {
  kFixed,
  kLogsparse,
  kVertical,
  kHorizontal,
  kAxial,
  kMixture
};
enum class CombinerPool : uint8_t {
  kMax,
  kMean,
  kSum,
  kReluMax,
  kReluMean,
  kReluSum,
  kDeepsetMax,
  kDeepsetMean,
  kDeepsetSum
};
enum class CombinerRowKey : uint8_t { kProj, kNone, kWeighted, kWeightedProj };
enum class CombinerMix : uint8_t { kJoint, kAverage };
enum class CombinerMassBias : uint8_t { kNone, kLogSize, kLearned };

struct CombinerDropout {
  double direct = -1;  ///< -1: attention.dropout
  double local = 0;
  double region = 0;
  void describe(ConfigVisitor&);
};

struct CombinerConfig {
  CombinerCompat compat = CombinerCompat::kNone;  ///< a preset that overrides the keys it names
  CombinerVariant variant = CombinerVariant::kFixed;
  int64_t block = 64;
  int64_t rows = 0;     ///< of the grid; 0: near the square root of the length
  int64_t columns = 0;  ///< the same
  CombinerPool pool = CombinerPool::kMax;
  CombinerRowKey row_key = CombinerRowKey::kProj;
  CombinerMix mix = CombinerMix::kJoint;
  CombinerDropout dropout = {};
  bool overlap_own = false;
  CombinerMassBias mass_bias = CombinerMassBias::kNone;
  int64_t global_tokens = 0;
  bool shift_odd_layers = false;

  void describe(ConfigVisitor&);
  /// Keys of this section that the variant does not look at.
  std::vector<std::string_view> unused_keys() const;
  /// With the preset applied: what the module runs.
  CombinerConfig resolved() const;
};

}  // namespace stipple::model
