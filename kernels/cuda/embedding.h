// SPDX-License-Identifier: Apache-2.0
// The scratch of embedding_backward on CUDA, which puts the tokens of an id side by side.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/view.h"
#include "kernels/embedding.h"

namespace stipple::kernels::cuda {

/// Scratch of a stable sort of the tokens by id, and of sums over runs of 32 tokens of ids that
/// have more.
struct TokensById {
  View<int32_t> numbers{};      // [B * N]  0, 1, ...
  View<int32_t> sorted_ids{};   // [B * N]
  View<int32_t> order{};        // [B * N]  tokens by id, those of an id ascending
  View<int32_t> first{};        // [V + 1]  of an id in order
  View<int32_t> first_run{};    // [V + 1]  of an id in partials
  View<std::byte> temporary{};  ///< of the library that sorts
  View<float> partials{};       // [runs, C]
};

/// With scratch that is given: how a test finds out what happens when it is too small.
void embedding_backward(const Stream&, const EmbeddingBackward&, const TokensById&);

}  // namespace stipple::kernels::cuda
