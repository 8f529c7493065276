// SPDX-License-Identifier: Apache-2.0
// The `attention.entmax` section of a configuration. Meaning of the keys: README.md beside this
// file.
#pragma once

#include "core/config.h"

namespace stipple::model {

enum class EntmaxTemperature : uint8_t { kNone, kLearned };

struct EntmaxAlphaRange {
  double low = 1.0, high = 2.0;
  void describe(ConfigVisitor&);
};

struct EntmaxConfig {
  double alpha = 1.5;  ///< where a learned one starts and an annealed one ends
  bool learn_alpha = false;
  EntmaxAlphaRange alpha_range = {};
  double anneal_from = 0.0;  ///< 0: alpha stays
  int64_t anneal_steps = 0;
  EntmaxTemperature temperature = EntmaxTemperature::kNone;

  void describe(ConfigVisitor&);
  /// ConfigError for keys that contradict each other.
  void validate() const;
  bool is_annealed() const { return anneal_steps > 0; }
  /// alpha is 1 and stays so.
  bool is_softmax() const;
};

}  // namespace stipple::model
