// SPDX-License-Identifier: Apache-2.0
// Inverted dropout of activations. The keep bits are a function of (key, sample, token, channel,
// layer, site), so they are recomputed in backward instead of stored, and do not depend on how the
// batch was cut.
#pragma once

#include "core/real_view.h"
#include "core/rng.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// y[b, n, c] = x[b, n, c] keep / (1 - rate). Backward is the same operation on dy. y may be x.
/// rate = 0 copies.
///   Channel c of token n uses word c % 4 of Philox counter {c / 4, n, samples[b],
///   stream_word(layer, site, kDropout)} and is kept when to_unit_float(word) >= rate.
struct Dropout {
  RealView y;                    // [B, N, C]  written
  ConstRealView x;               // [B, N, C]  of either storage
  View<const uint32_t> samples;  // [B]  global sample of each row of the batch
  float rate = 0.0f;             ///< in [0, 1)
  RngKey rng{};
  int layer = 0;
  int site = 0;
};
void dropout(const Stream&, const Dropout&);
namespace cpu {
void dropout(const Stream&, const Dropout&);
}
namespace cuda {
void dropout(const Stream&, const Dropout&);
}

}  // namespace stipple::kernels
