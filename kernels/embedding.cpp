// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include "core/dispatch.h"

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
  STIPPLE_DISPATCH(stream, embedding_backward, args);
}

}  // namespace stipple::kernels
