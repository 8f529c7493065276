// SPDX-License-Identifier: Apache-2.0
#include "model/attention/registry.h"

#include <array>

#include "core/error.h"
#include "model/attention/combiner/combiner_attention.h"
#include "model/attention/entmax/entmax_attention.h"
#include "model/attention/none/none_attention.h"
#include "model/attention/sbm/sbm_attention.h"
#include "model/attention/softmax/softmax_attention.h"
#include "model/attention/sparsefinder/sparsefinder_attention.h"

namespace stipple::model {
namespace {

template <class T>
std::unique_ptr<Attention> make(const AttentionConfig& config, ParameterStore& store,
                                FactTable& facts, const AttentionShape& shape) {
  return std::make_unique<T>(config, store, facts, shape);
}

AttentionTraits of_softmax(const AttentionConfig&) {
  return {.can_be_causal = true, .can_be_packed = true};
}
AttentionTraits of_none(const AttentionConfig&) {
  return {.compares = false, .can_be_causal = true, .can_be_packed = true};
}
void anything_goes(const AttentionConfig&) {}

constexpr std::array kTable{
    AttentionRow{AttentionKind::kSoftmax, "softmax", "every query sees every key",
                 &make<SoftmaxAttention>, &of_softmax, &anything_goes},
    AttentionRow{AttentionKind::kSbm, "sbm",
                 "a graph sampled from a stochastic block model of the data", &make<SbmAttention>,
                 &SbmAttention::traits, &SbmAttention::validate},
    AttentionRow{AttentionKind::kNone, "none",
                 "every token sees itself only, to tell what a task is worth without attention",
                 &make<NoneAttention>, &of_none, &anything_goes},
    AttentionRow{AttentionKind::kCombiner, "combiner",
                 "some tokens are seen directly, all others through summaries of regions",
                 &make<CombinerAttention>, &CombinerAttention::traits,
                 &CombinerAttention::validate},
    AttentionRow{AttentionKind::kEntmax, "entmax",
                 "weights are exactly zero for all keys but a query's best few",
                 &make_entmax_attention, &EntmaxAttention::traits, &EntmaxAttention::validate},
    AttentionRow{AttentionKind::kSparsefinder, "sparsefinder",
                 "entmax over a graph that is predicted from projected queries and keys",
                 &make<SparsefinderAttention>, &SparsefinderAttention::traits,
                 &SparsefinderAttention::validate},
};

}  // namespace

std::span<const AttentionRow> attentions() { return kTable; }

const AttentionRow& attention_row(AttentionKind kind) {
  for (const AttentionRow& row : kTable) {
    if (row.kind == kind) return row;
  }
  throw ConfigError("attention.kind: no such attention");
}

namespace {

/// Of all attentions that can, under the other keys of a configuration.
std::string names_of(const AttentionConfig& config, bool AttentionTraits::*ability) {
  std::string names;
  for (const AttentionRow& row : kTable) {
    AttentionConfig other = config;
    other.kind = row.kind;
    if (row.traits(other).*ability) names += (names.empty() ? "" : ", ") + std::string(row.name);
  }
  return names;
}

}  // namespace

void require_can_be_packed(const AttentionConfig& config) {
  const AttentionRow& asked = attention_row(config.kind);
  STIPPLE_CHECK_AS(ConfigError, asked.traits(config).can_be_packed,
                   "data.mlm.share_rows: attention.kind=", asked.name,
                   " cannot keep texts of one row apart; use data.mlm.share_rows=false; those that "
                   "can: ",
                   names_of(config, &AttentionTraits::can_be_packed));
}

void require_can_be_causal(const AttentionConfig& config) {
  const AttentionRow& asked = attention_row(config.kind);
  const AttentionTraits traits = asked.traits(config);
  if (traits.can_be_causal) return;
  const std::string mended =
      traits.if_causal.empty() ? "" : ", unless " + std::string(traits.if_causal);
  throw ConfigError("model.causal: attention.kind=" + std::string(asked.name) +
                    " lets tokens see later ones and cannot be causal" + mended +
                    "; those that can: " + names_of(config, &AttentionTraits::can_be_causal));
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
  if (shape.is_causal) require_can_be_causal(config);
  if (shape.is_packed) require_can_be_packed(config);
  return attention_row(config.kind).make(config, store, facts, shape);
}

}  // namespace stipple::model
