// SPDX-License-Identifier: Apache-2.0
// Every attention that there is: tests that walk over it take in a new one by its row in the
// registry.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "model/attention/registry.h"

namespace stipple::test {

inline std::vector<model::AttentionKind> every_attention() {
  std::vector<model::AttentionKind> kinds;
  for (const model::AttentionRow& row : model::attentions()) kinds.push_back(row.kind);
  return kinds;
}

/// Those that can be causal as they are by default.
inline std::vector<model::AttentionKind> every_causal_attention() {
  std::vector<model::AttentionKind> kinds;
  for (const model::AttentionKind kind : every_attention()) {
    if (model::attention_row(kind).traits({.kind = kind}).can_be_causal) kinds.push_back(kind);
  }
  return kinds;
}

inline std::string name_of(model::AttentionKind kind) {
  return std::string(model::attention_row(kind).name);
}

}  // namespace stipple::test
