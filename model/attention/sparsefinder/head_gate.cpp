// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/head_gate.h"

#include "core/copy.h"

namespace stipple::model {

ParamId HeadGate::declare(ParameterStore& store, const std::string& name, int64_t heads) {
  return store.declare_fixed(name + std::string(kTensor), {heads}, Init::constant(0.0));
}

HeadGate::HeadGate(ParameterStore& store, FactTable& facts, const std::string& name, int64_t heads)
    : store_(store),
      switched_(declare(store, name, heads)),
      fact_(facts.declare_per_layer<float>("switched", heads, Unite::kSame)) {
  facts.show({.name = "switched",
              .title = "Switched heads",
              .unit = "1: computes the predicted graph alone",
              .over = fact_});
}

void HeadGate::read(Context& ctx, std::vector<uint8_t>& switched) const {
  const View<const float> values = store_.value(switched_);
  switched.assign(static_cast<size_t>(values.numel()), 0);
  copy_bytes(ctx.stream, ctx.facts.at<float>(fact_, ctx.layer).data, values.data, values.bytes());
  if (ctx.stream.is_plan()) return;
  const bool is_near = ctx.stream.device().type == DeviceType::kCpu;
  std::vector<float> fetched(is_near ? 0 : switched.size());
  if (!is_near) download(ctx.stream, std::span<float>(fetched), values);
  for (size_t head = 0; head < switched.size(); ++head)
    switched[head] = (is_near ? values.data[head] : fetched[head]) != 0 ? 1 : 0;
}

}  // namespace stipple::model
