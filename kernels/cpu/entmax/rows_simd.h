// SPDX-License-Identifier: Apache-2.0
// Vectorised rows of entmax.
#pragma once

#include "kernels/cpu/entmax/bodies.h"
#include "kernels/cpu/entmax/weights_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

inline constexpr int64_t kRowBlock = 512;  ///< scores between two looks at a row's limit

/// Calls body(curve) with what alpha makes cheap known.
template <class Body>
inline void with_curve(float alpha, const Body& body) {
  switch (power_of(alpha)) {
    case Power::kSquare:
      return body(EntmaxCurve<Power::kSquare>(alpha));
    case Power::kLinear:
      return body(EntmaxCurve<Power::kLinear>(alpha));
    case Power::kGeneral:
      return body(EntmaxCurve<Power::kGeneral>(alpha));
  }
}

inline void fill(float* x, int64_t count, float value) {
  for (int64_t e = 0; e < count; e += kWidth) store(x + e, splat(value), first_lanes(count - e));
}

/// x of the scores [first, first + count), -infinity up to whole vectors.
inline void load_block(const EntmaxRow& r, int64_t first, int64_t count, float* x) {
  const Floats factor = splat(r.alpha - 1.0f);
  for (int64_t e = 0; e < count; e += kWidth) {
    const Mask lanes = first_lanes(count - e);
    store(x + e, select(lanes, load(r.z + first + e, lanes) * factor, splat(-kEntmaxInfinity)));
  }
}

template <Power kPower>
inline void entmax_row_of(const EntmaxCurve<kPower>& curve, const EntmaxRow& r,
                          const EntmaxBuffers& b) {
  EntmaxStream stream{.scores = b.scores, .columns = b.columns};
  const auto all = [](int64_t) { return first_lanes(kWidth); };
  float x[kRowBlock];
  for (int64_t first = 0; first < r.length; first += kRowBlock) {
    const int64_t count = r.length - first < kRowBlock ? r.length - first : kRowBlock;
    load_block(r, first, count, x);
    if (stream.bound == -kEntmaxInfinity) {
      float lanes[kMostLanes];
      lane_maxima(lanes, x, count, all);
      start_streams(curve, &stream, 1, lanes);
    }
    stream_scores(stream, x, first, count, all);
    tighten_streams(curve, &stream, 1, [](const EntmaxStream& row) { return row.limit; });
  }
  EntmaxList list = {b.scores, b.columns, stream.count, b.spare_scores, b.spare_columns};
  float tau = stream.cut;
  settle(curve, &list, &tau, 1);
  *r.tau = tau;
  if (r.size != nullptr) {
    *r.size = static_cast<int32_t>(list.count);
    if (list.count <= r.room) {
      memcpy(r.columns, list.columns, static_cast<size_t>(list.count) * sizeof(uint32_t));
    }
  }
  if (r.p == nullptr) return;
  fill(r.p, r.length, isnan(tau) ? tau : 0.0f);
  entmax_weights(curve, list.scores, list.scores, b.spare_scores, list.count, tau);
  for (int64_t e = 0; e < list.count; ++e) r.p[list.columns[e]] = list.scores[e];
}

inline void entmax_row(const EntmaxRow& r, const EntmaxBuffers& b) {
  with_curve(r.alpha, [&](const auto& curve) { entmax_row_of(curve, r, b); });
}

/// u of weights, which are their own powers.
inline Floats u_of(Floats p, float alpha) {
  if (alpha == 2.0f) return select(less(splat(0.0f), p), splat(1.0f), splat(0.0f));
  return select(less(splat(0.0f), p), exp(logarithm(p) * splat(2.0f - alpha)), splat(0.0f));
}

inline void entmax_backward_row(const EntmaxBackwardRow& r, const EntmaxBuffers& b) {
  // The support alone, side by side: p and dp.
  int64_t count = 0;
  Mask odd = mask_from_bits(0);
  for (int64_t j = 0; j < r.length; j += kWidth) {
    const Mask lanes = first_lanes(r.length - j);
    const Floats p = load(r.p + j, lanes);
    const Mask own = exceeds(p, splat(0.0f)) & lanes;
    store(r.dz + j, splat(0.0f), lanes);
    if (mask_bits(own) == 0) continue;
    odd = odd | (own & !less(splat(0.0f), p));
    compress_store(b.columns + count, iota() + splat_words(static_cast<uint32_t>(j)), own);
    compress_store(b.spare_scores + count, load(r.dp + j, lanes), own);
    count += compress_store(b.scores + count, p, own);
  }
  if (mask_bits(odd) != 0) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    fill(r.dz, r.length, nan);
    if (r.dalpha != nullptr) *r.dalpha = nan;
    return;
  }
  Floats sum = splat(0.0f), products = splat(0.0f);
  for (int64_t e = 0; e < count; e += kWidth) {
    const Mask lanes = first_lanes(count - e);
    const Floats u = u_of(load(b.scores + e, lanes), r.alpha);
    sum = sum + u;
    products = fma(u, load(b.spare_scores + e, lanes), products);
  }
  const float delta = reduce_add(products) / reduce_add(sum);
  if (r.dalpha != nullptr) *r.dalpha = alpha_gradient(b.scores, b.spare_scores, count, r.alpha);
  for (int64_t e = 0; e < count; e += kWidth) {
    const Floats u = u_of(load(b.scores + e), r.alpha);
    store(b.scores + e, u * (load(b.spare_scores + e) - splat(delta)));
  }
  for (int64_t e = 0; e < count; ++e) r.dz[b.columns[e]] = b.scores[e];
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
