// SPDX-License-Identifier: Apache-2.0
#include "kernels/entmax_heads.h"

#include <algorithm>

#include "kernels/cpu/masks.h"
#include "kernels/math/entmax_heads.h"

namespace stipple::kernels::cpu {
namespace {

/// The sum of head h over samples and queries.
double sum_of_head(View<const float> shares, int64_t h) {
  const int64_t heads = shares.shape[1], length = shares.shape[2];
  double sum = 0.0;
  for (int64_t b = 0; b < shares.shape[0]; ++b) {
    const float* row = shares.data + (b * heads + h) * length;
    for (int64_t i = 0; i < length; ++i) sum += static_cast<double>(row[i]);
  }
  return sum;
}

}  // namespace

void set_entmax_heads(const Stream& stream, const SetEntmaxHeads& args) {
  const int64_t heads = std::max(args.alpha.numel(), args.temperature.numel());
  stream.parallel_for(heads, [&](int64_t h, int) {
    if (!args.alpha.empty()) args.alpha[h] = math::entmax_alpha(args, h);
    if (!args.temperature.empty())
      args.temperature[h] = math::entmax_temperature(args.temperature_weight.data, h);
  });
}

void set_entmax_heads_backward(const Stream& stream, const SetEntmaxHeadsBackward& args) {
  const int64_t heads = std::max(args.dalpha_weight.numel(), args.dtemperature_weight.numel());
  stream.parallel_for(heads, [&](int64_t h, int) {
    if (!args.dalpha_weight.empty()) {
      args.dalpha_weight[h] +=
          static_cast<float>(sum_of_head(args.dalpha, h) * math::entmax_alpha_slope(args, h));
    }
    if (!args.dtemperature_weight.empty()) {
      const float slope = math::entmax_temperature(args.temperature_weight.data, h);
      args.dtemperature_weight[h] +=
          static_cast<float>(sum_of_head(args.dtemperature, h) * static_cast<double>(slope));
    }
  });
}

void anneal(const Stream&, const Anneal& args) {
  std::fill_n(args.values.data, args.values.numel(), math::annealed(args));
}

void support_statistics(const Stream& stream, const SupportStatistics& args) {
  const int64_t batch = args.size.shape[0], heads = args.size.shape[1], n = args.size.shape[2];
  stream.parallel_for(heads, [&](int64_t h, int) {
    int64_t edges = 0, pairs = 0, rows = 0;
    for (int64_t b = 0; b < batch; ++b) {
      const uint8_t* mask = mask_row(args.mask, b);
      const int32_t* size = args.size.data + (b * heads + h) * n;
      const int64_t real = count_real(mask, n);
      rows += real;
      pairs += math::pairs_among(real, args.is_causal);
      for (int64_t i = 0; i < n; ++i) edges += is_real(mask, i) ? size[i] : 0;
    }
    args.edges[h] = edges;
    args.pairs[h] = pairs;
    args.rows[h] = rows;
  });
}

}  // namespace stipple::kernels::cpu
