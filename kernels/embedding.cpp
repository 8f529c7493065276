// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include <cstddef>
#include <limits>

#include "core/dispatch.h"
#include "kernels/runs.h"

namespace stipple::kernels {
namespace {

void check(const char* op, const Shape& tokens, const Shape& ids, const Shape& table,
           const Shape& positions) {
  const bool is_absent = positions.rank() == 0;
  const bool is_enough = positions.rank() == 2 && tokens.rank() == 3 && positions[1] == tokens[2] &&
                         positions[0] >= tokens[1];
  STIPPLE_CHECK_AS(
      ShapeError,
      tokens.rank() == 3 && ids.rank() == 2 && table.rank() == 2 && ids[0] == tokens[0] &&
          ids[1] == tokens[1] && table[1] == tokens[2] && (is_absent || is_enough),
      op, ": tokens ", tokens.str(), ", ids ", ids.str(), ", table ", table.str(), ", positions ",
      positions.str(), "; expected [B, N, C], [B, N], [V, C], [at least N, C] or none");
}

/// No less than CUB's sort and scan ask for on any GPU: they tell only where there is one, and
/// plans are made without. The sort copies ids and numbers once, 8 bytes a token, and keeps 1 KiB
/// of counts for each of its tiles, which have 8,064 tokens or more (sm_80 to sm_100, CUDA 13.0),
/// and for each of at most 4 passes over each 2^28 tokens: so 10 bytes a token and 64 KiB. The scan
/// keeps 8 bytes for each tile of hundreds of ids.
int64_t temporary_bytes(int64_t tokens, int64_t vocabulary) {
  constexpr int64_t kOfToken = 10, kOfId = 1, kAtLeast = 64 << 10;
  return kAtLeast + kOfToken * tokens + kOfId * vocabulary;
}

TokensById scratch_of_sort(const EmbeddingBackward& args) {
  const int64_t tokens = args.ids.numel(), vocabulary = args.dtable.shape[0];
  STIPPLE_CHECK(tokens <= std::numeric_limits<int32_t>::max(), "embedding_backward: ", tokens,
                " tokens are too many for one call; use smaller micro-batches");
  // An id of n > kTokenRun tokens has fewer than 2 n / kTokenRun runs.
  const int64_t runs = 2 * num_runs(tokens, kTokenRun);
  Arena& scratch = *args.scratch;
  return {.numbers = scratch.alloc<int32_t>({tokens}),
          .sorted_ids = scratch.alloc<int32_t>({tokens}),
          .order = scratch.alloc<int32_t>({tokens}),
          .first = scratch.alloc<int32_t>({vocabulary + 1}),
          .first_run = scratch.alloc<int32_t>({vocabulary + 1}),
          .temporary = scratch.alloc<std::byte>({temporary_bytes(tokens, vocabulary)}),
          .partials = scratch.alloc<float>({runs, args.dy.shape[2]})};
}

}  // namespace

void embedding(const Stream& stream, const Embedding& args) {
  check("embedding", args.y.shape, args.ids.shape, args.table.shape, args.positions.shape);
  STIPPLE_CHECK_AS(ShapeError, args.segments.empty() == args.segment_table.empty(),
                   "embedding: segments and their table are given together");
  if (!args.segments.empty()) {
    check("embedding of segments", args.y.shape, args.segments.shape, args.segment_table.shape, {});
  }
  STIPPLE_DISPATCH(stream, embedding, args);
}

void embedding_backward(const Stream& stream, const EmbeddingBackward& args) {
  check("embedding_backward", args.dy.shape, args.ids.shape, args.dtable.shape,
        args.dpositions.shape);
  STIPPLE_CHECK(args.scratch != nullptr, "embedding_backward: needs scratch");
  const Arena::Scope scope(*args.scratch);
  const bool needs_sort = stream.device().backend() == DeviceType::kCuda;
  const TokensById tokens_by_id = needs_sort ? scratch_of_sort(args) : TokensById{};
  STIPPLE_DISPATCH(stream, embedding_backward, args, tokens_by_id);
}

}  // namespace stipple::kernels
