// SPDX-License-Identifier: Apache-2.0
// The `optimizer` section of a configuration.
#pragma once

#include <cstdint>
#include <string>

#include "core/config.h"
#include "trainer/optimizer/schedule.h"

namespace stipple::trainer {

enum class OptimizerKind : uint8_t { kAdamW, kLamb };

/// Two programs call themselves LAMB.
enum class LambVariant : uint8_t {
  kPaper,   ///< every tensor adapts (arXiv 1904.00962)
  kNvidia,  ///< NVIDIA's BERT: gradients are clipped first, tensors without decay do not adapt
};

struct LambConfig {
  LambVariant variant = LambVariant::kPaper;
  void describe(ConfigVisitor&);
};

/// Tensors with a decay or a learning rate of their own.
struct GroupConfig {
  std::string tensors{};     ///< patterns of their names
  double weight_decay = -1;  ///< -1: what they have without the group
  double rate_factor = 1;
  void describe(ConfigVisitor&);

  bool has_weight_decay() const { return weight_decay >= 0; }
};

/// What does not learn, besides what modules say.
struct FreezeConfig {
  bool embeddings = false;
  int64_t layers = 0;     ///< the lowest blocks of the encoder
  std::string tensors{};  ///< patterns of names
  void describe(ConfigVisitor&);
};

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::kAdamW;
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  bool bias_correction = true;
  double weight_decay = 0.0;
  double clip_norm = 0.0;  ///< 0: no clipping
  double layer_decay = 1.0;
  FreezeConfig freeze{};
  NamedSections<GroupConfig> groups{};
  LambConfig lamb{};
  ScheduleConfig schedule{};
  void describe(ConfigVisitor&);

  bool is_nvidia_lamb() const {
    return kind == OptimizerKind::kLamb && lamb.variant == LambVariant::kNvidia;
  }
  /// The global norm that gradients are scaled down to; 0: never.
  double max_norm() const { return clip_norm == 0 && is_nvidia_lamb() ? 1.0 : clip_norm; }
};

}  // namespace stipple::trainer
