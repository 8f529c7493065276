// SPDX-License-Identifier: Apache-2.0
// The `attention` section of a configuration.
#pragma once

#include "core/config.h"
#include "kernels/attend.h"
#include "model/attention/combiner/combiner_config.h"
#include "model/attention/entmax/entmax_config.h"
#include "model/attention/sbm/sbm_config.h"
#include "model/attention/sparsefinder/sparsefinder_config.h"

namespace stipple::model {

enum class AttentionKind : uint8_t { kSoftmax, kSbm, kNone, kCombiner, kEntmax, kSparsefinder };

struct AttentionConfig {
  AttentionKind kind = AttentionKind::kSbm;
  double dropout = 0.1;  ///< of normalised attention weights
  kernels::EdgesImplementation implementation = kernels::EdgesImplementation::kOurs;
  SbmConfig sbm = {};
  CombinerConfig combiner = {};
  EntmaxConfig entmax = {};
  SparsefinderConfig sparsefinder = {};
  void describe(ConfigVisitor&);
};

}  // namespace stipple::model
