// SPDX-License-Identifier: Apache-2.0
// The `attention.sbm` section: every choice in which the paper, its release and we differ.
// docs/attention/sbm.md explains each.
#pragma once

#include <limits>

#include "core/config.h"
#include "kernels/attend.h"
#include "kernels/sbm.h"

namespace stipple::model {

enum class SbmCompat : uint8_t { kNone, kOfficial, kPaper };
enum class ClusterInit : uint8_t { kOfficial, kSpread };
enum class SbmRegularizer : uint8_t { kExpected, kSte };
enum class SteClip : uint8_t { kOff, kUnscaled, kAmpCompat };
enum class Exploration : uint8_t { kFixed, kLinear };
enum class SbmPadding : uint8_t { kExcluded, kOfficial };

struct SbmConfig {
  SbmCompat compat = SbmCompat::kNone;  ///< a preset that overrides the keys below it names
  int64_t clusters = 128;
  ClusterInit cluster_init = ClusterInit::kSpread;
  kernels::MaskLaw law = kernels::MaskLaw::kBernoulli;
  kernels::SamplerKind sampler = kernels::SamplerKind::kAuto;
  double tile_density = 0.06;  ///< crossover between samplers and kernels
  double max_density = 1.0;
  Exploration exploration = Exploration::kLinear;
  double delta = 0.01;  ///< exploration probability; linear: min(delta, delta_keys / m)
  double delta_keys = 41;
  bool explore_eval = false;
  bool self_loop = false;
  int64_t window = 0;
  kernels::SteRule ste = kernels::SteRule::kScoreGradient;
  SteClip ste_clip = SteClip::kOff;
  double ste_clip_at = 1.0;
  double amp_scale = 65536.0;  ///< amp_compat clips at ste_clip_at / amp_scale
  SbmRegularizer regularizer = SbmRegularizer::kExpected;
  double sparsity_weight = 0.0;
  SbmPadding padding = SbmPadding::kExcluded;

  void describe(ConfigVisitor&);
  /// Keys on either side that a token always sees, itself besides; -1: not even itself.
  int64_t window_radius() const { return window > 0 ? window / 2 : (self_loop ? 0 : -1); }
  /// With the preset applied: what the module runs.
  SbmConfig resolved() const;
};

}  // namespace stipple::model
