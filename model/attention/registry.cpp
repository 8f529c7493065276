// SPDX-License-Identifier: Apache-2.0
#include "model/attention/registry.h"

#include <array>

#include "core/error.h"
#include "model/attention/none/none_attention.h"
#include "model/attention/sbm/sbm_attention.h"
#include "model/attention/softmax/softmax_attention.h"

namespace stipple::model {
namespace {

template <class T>
std::unique_ptr<Attention> make(const AttentionConfig& config, ParameterStore& store,
                                FactTable& facts, const AttentionShape& shape) {
  return std::make_unique<T>(config, store, facts, shape);
}

AttentionTraits no_traits(const AttentionConfig&) { return {}; }
AttentionTraits compares_nothing(const AttentionConfig&) { return {.compares = false}; }
void anything_goes(const AttentionConfig&) {}

constexpr std::array kTable{
    AttentionRow{AttentionKind::kSoftmax, "softmax", "every query sees every key",
                 &make<SoftmaxAttention>, &no_traits, &anything_goes},
    AttentionRow{AttentionKind::kSbm, "sbm",
                 "a graph sampled from a stochastic block model of the data", &make<SbmAttention>,
                 &SbmAttention::traits, &SbmAttention::validate},
    AttentionRow{AttentionKind::kNone, "none",
                 "every token sees itself only, to tell what a task is worth without attention",
                 &make<NoneAttention>, &compares_nothing, &anything_goes},
};

}  // namespace

std::span<const AttentionRow> attentions() { return kTable; }

const AttentionRow& attention_row(AttentionKind kind) {
  for (const AttentionRow& row : kTable) {
    if (row.kind == kind) return row;
  }
  throw ConfigError("attention.kind: no such attention");
}

std::vector<std::string_view> attention_names() {
  std::vector<std::string_view> names(kTable.size());
  for (const AttentionRow& row : kTable) names.at(static_cast<size_t>(row.kind)) = row.name;
  return names;
}

std::string attention_docs() {
  std::string docs;
  for (const AttentionRow& row : kTable) {
    if (!docs.empty()) docs += ' ';
    docs += std::string(row.name) + ": " + std::string(row.doc) + '.';
  }
  return docs;
}

std::unique_ptr<Attention> make_attention(const AttentionConfig& config, ParameterStore& store,
                                          FactTable& facts, const AttentionShape& shape) {
  return attention_row(config.kind).make(config, store, facts, shape);
}

}  // namespace stipple::model
