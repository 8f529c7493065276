// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/lamb_tables.h"

#include <algorithm>

#include "core/copy.h"
#include "kernels/runs.h"

namespace stipple::trainer {
namespace {

template <class T>
Buffer on_device(const Stream& stream, const std::vector<T>& values) {
  Buffer buffer(stream.device(), values.size() * sizeof(T));
  if (buffer.data() == nullptr) return buffer;  // a plan
  const auto count = static_cast<int64_t>(values.size());
  upload(stream, View<T>{reinterpret_cast<T*>(buffer.data()), Shape{count}},
         std::span<const T>(values));
  return buffer;
}

}  // namespace

LambTables::LambTables(std::span<const TensorRule> rules, bool exempt_do_not_adapt, Device device) {
  std::vector<kernels::LambTensor> tensors;
  std::vector<kernels::LambRun> runs;
  for (const TensorRule& rule : rules) {
    if (rule.is_frozen) continue;
    const int64_t count = kernels::num_runs(rule.range.size(), kernels::kNormRun);
    const auto tensor = static_cast<int32_t>(tensors.size());
    tensors.push_back({.first_run = static_cast<int64_t>(runs.size()),
                       .num_runs = count,
                       .weight_decay = static_cast<float>(rule.weight_decay),
                       .rate_factor = static_cast<float>(rule.rate_factor),
                       .adapts = exempt_do_not_adapt && rule.weight_decay == 0 ? 0 : 1});
    for (int64_t i = 0; i < count; ++i) {
      const Range run = kernels::nth_run(i, rule.range.size(), kernels::kNormRun);
      runs.push_back({rule.range.begin + run.begin, rule.range.begin + run.end, tensor});
    }
  }
  const Stream stream(device);
  tensors_ = on_device(stream, tensors);
  runs_ = on_device(stream, runs);
  ratios_ = on_device(stream, std::vector<float>(tensors.size(), 1.0F));
}

}  // namespace stipple::trainer
