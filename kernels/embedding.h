// SPDX-License-Identifier: Apache-2.0
// Table lookups at the model's entrance.
#pragma once

#include "core/arena.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// y[b, n] = table[ids[b, n]] + positions[n] + segment_table[segments[b, n]], added in this order;
/// without what is not given. Ids outside their table throw Error on the CPU; on CUDA the caller
/// promises that there are none (the data layer checks). The gradient of segment_table is that of
/// another table: embedding_backward with segments as ids.
struct Embedding {
  View<float> y;                      // [B, N, C]  written
  View<const int32_t> ids;            // [B, N]
  View<const float> table;            // [V, C]
  View<const float> positions;        // [Nmax, C], Nmax >= N; empty: none
  View<const int32_t> segments{};     // [B, N]; empty: none
  View<const float> segment_table{};  // [T, C]; empty with segments
};
void embedding(const Stream&, const Embedding&);
namespace cpu {
void embedding(const Stream&, const Embedding&);
}
namespace cuda {
void embedding(const Stream&, const Embedding&);
}

/// dtable[ids[b, n]] += dy[b, n];  dpositions[n] += sum_b dy[b, n]. Summed in ascending (b, n)
/// on the CPU, over fixed runs of the tokens of an id on CUDA: deterministic on both. Cost: linear
/// in tokens and vocabulary.
struct EmbeddingBackward {
  View<float> dtable;        // [V, C]     +=
  View<float> dpositions;    // [Nmax, C]  +=; empty: not wanted
  View<const float> dy;      // [B, N, C]
  View<const int32_t> ids;   // [B, N]
  Arena* scratch = nullptr;  ///< the tokens sorted by id; used on CUDA
};
void embedding_backward(const Stream&, const EmbeddingBackward&);

namespace cpu {
void embedding_backward(const Stream&, const EmbeddingBackward&);
}
namespace cuda {
void embedding_backward(const Stream&, const EmbeddingBackward&);
}

}  // namespace stipple::kernels
