// SPDX-License-Identifier: Apache-2.0
// Table lookups at the model's entrance.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// y[b, n] = table[ids[b, n]] + positions[n]. Ids outside the table throw Error (the data layer
/// promises they cannot be).
struct Embedding {
  View<float> y;                // [B, N, C]  written
  View<const int32_t> ids;      // [B, N]
  View<const float> table;      // [V, C]
  View<const float> positions;  // [Nmax, C], Nmax >= N
};
void embedding(const Stream&, const Embedding&);
namespace cpu {
void embedding(const Stream&, const Embedding&);
}

/// dtable[ids[b, n]] += dy[b, n];  dpositions[n] += sum_b dy[b, n]. Summed in ascending (b, n):
/// deterministic for any threads.
struct EmbeddingBackward {
  View<float> dtable;       // [V, C]     +=
  View<float> dpositions;   // [Nmax, C]  +=
  View<const float> dy;     // [B, N, C]
  View<const int32_t> ids;  // [B, N]
};
void embedding_backward(const Stream&, const EmbeddingBackward&);
namespace cpu {
void embedding_backward(const Stream&, const EmbeddingBackward&);
}

}  // namespace stipple::kernels
