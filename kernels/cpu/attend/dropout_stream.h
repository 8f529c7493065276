// SPDX-License-Identifier: Apache-2.0
// Dropout of a problem's weights as its body wants it. For the units that cut work into tasks: those
// of an instruction set include bodies.h only.
#pragma once

#include "kernels/cpu/attend/bodies.h"

namespace stipple::kernels::cpu {

inline DropoutStream dropout_stream(const AttentionDropout& dropout, int64_t sample, int64_t head) {
  DropoutStream d;
  d.on = dropout.rate > 0.0f;
  if (!d.on) return d;
  d.drop_below = static_cast<uint32_t>(static_cast<double>(dropout.rate) * 0x1p32);
  d.rescale = 1.0f / (1.0f - dropout.rate);
  d.key = dropout.rng.philox();
  d.sample = dropout.samples[sample];
  d.stream = stream_word(dropout.layer, dropout.first_head + static_cast<int>(head),
                         Purpose::kAttentionDropout);
  return d;
}

}  // namespace stipple::kernels::cpu
