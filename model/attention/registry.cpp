// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "core/error.h"
#include "model/attention/attention.h"
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

struct Row {
  AttentionKind kind;
  std::unique_ptr<Attention> (*make)(const AttentionConfig&, ParameterStore&, FactTable&,
                                     const AttentionShape&);
};

constexpr std::array kTable{
    Row{AttentionKind::kSoftmax, &make<SoftmaxAttention>},
    Row{AttentionKind::kSbm, &make<SbmAttention>},
    Row{AttentionKind::kNone, &make<NoneAttention>},
};

}  // namespace

std::unique_ptr<Attention> make_attention(const AttentionConfig& config, ParameterStore& store,
                                          FactTable& facts, const AttentionShape& shape) {
  for (const Row& row : kTable) {
    if (row.kind == config.kind) return row.make(config, store, facts, shape);
  }
  throw ConfigError("attention.kind: no such attention");
}

}  // namespace stipple::model
