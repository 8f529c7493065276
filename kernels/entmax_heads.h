// SPDX-License-Identifier: Apache-2.0
// What entmax attention does once a head: alpha and temperature of learned parameters and back, an
// alpha that follows the training step, and what supports amount to. All of it stays in the memory
// of the device, so that captured steps are replayed with other numbers.
//
// Deterministic: yes. Cost: O(H), of the gradients and the statistics O(B H N).
#pragma once

#include "core/rng.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// Nearer to 1 the root of entmax has fewer digits than its weights; a learned or annealed alpha
/// stays above, within 1e-3 of softmax's weights.
inline constexpr float kEntmaxHeldAbove = 1.001f;

/// alpha_h = max(low + (high - low) sigmoid(alpha_weight_h), kEntmaxHeldAbove)
/// temperature_h = exp(temperature_weight_h)
struct SetEntmaxHeads {
  View<float> alpha{};                     // [H]  written; empty: not asked
  View<float> temperature{};               // [H]  written; empty: not asked
  View<const float> alpha_weight{};        // [H]  empty: alpha = low
  View<const float> temperature_weight{};  // [H]  empty: temperature = 1
  float low = 1.0f, high = 1.0f;
};
void set_entmax_heads(const Stream&, const SetEntmaxHeads&);
namespace cpu {
void set_entmax_heads(const Stream&, const SetEntmaxHeads&);
}
namespace cuda {
void set_entmax_heads(const Stream&, const SetEntmaxHeads&);
}

/// From each row's share to the parameters. Where alpha is held at kEntmaxHeldAbove the gradient
/// passes, so that it can leave.
struct SetEntmaxHeadsBackward {
  View<float> dalpha_weight{};             // [H]  +=; empty: not asked
  View<float> dtemperature_weight{};       // [H]  +=; empty: not asked
  View<const float> dalpha{};              // [B, H, N]
  View<const float> dtemperature{};        // [B, H, N]
  View<const float> alpha_weight{};        // [H]
  View<const float> temperature_weight{};  // [H]
  float low = 1.0f, high = 1.0f;
};
void set_entmax_heads_backward(const Stream&, const SetEntmaxHeadsBackward&);
namespace cpu {
void set_entmax_heads_backward(const Stream&, const SetEntmaxHeadsBackward&);
}
namespace cuda {
void set_entmax_heads_backward(const Stream&, const SetEntmaxHeadsBackward&);
}

/// values = from + (to - from) min(1, step / steps), of the step that `rng` names.
struct Anneal {
  View<float> values;  // [n]  written
  double from = 0.0, to = 0.0;
  int64_t steps = 1;
  RngKey rng;
};
void anneal(const Stream&, const Anneal&);
namespace cpu {
void anneal(const Stream&, const Anneal&);
}
namespace cuda {
void anneal(const Stream&, const Anneal&);
}

/// What supports amount to, per head, summed over the real queries of the batch.
struct SupportStatistics {
  View<int64_t> edges;  // [H]  written: keys in supports
  View<int64_t> pairs;  // [H]  written: real queries x real keys, those with j <= i where causal
  View<int64_t> rows;   // [H]  written: real queries
  View<const int32_t> size;    // [B, H, N]
  View<const uint8_t> mask{};  // [B, N]  of queries and keys; empty: all real
  bool is_causal = false;
};
void support_statistics(const Stream&, const SupportStatistics&);
namespace cpu {
void support_statistics(const Stream&, const SupportStatistics&);
}
namespace cuda {
void support_statistics(const Stream&, const SupportStatistics&);
}

}  // namespace stipple::kernels
