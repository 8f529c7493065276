// SPDX-License-Identifier: Apache-2.0
// The table of attentions, one row each: registry.cpp. Configuration, planning, tests and documents
// walk over it and name none of them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/attention/attention.h"
#include "model/attention/attention_config.h"

namespace stipple::model {

struct AttentionRow {
  AttentionKind kind;
  std::string_view name;  ///< attention.kind
  std::string_view doc;
  std::unique_ptr<Attention> (*make)(const AttentionConfig&, ParameterStore&, FactTable&,
                                     const AttentionShape&);
  AttentionTraits (*traits)(const AttentionConfig&);
  /// ConfigError for keys of its own that contradict each other.
  void (*validate)(const AttentionConfig&);
};

std::span<const AttentionRow> attentions();
const AttentionRow& attention_row(AttentionKind);

/// ConfigError for an attention that cannot be causal, with the names of those that can.
void require_can_be_causal(const AttentionConfig&);
/// And for one that cannot keep the pieces of a packed row apart.
void require_can_be_packed(const AttentionConfig&);

/// Names in the order of the enumerators, for reading attention.kind, and what they mean.
std::vector<std::string_view> attention_names();
std::string attention_docs();

}  // namespace stipple::model
