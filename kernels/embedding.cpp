// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include "core/dispatch.h"

namespace stipple::kernels {
namespace {

void check(const char* op, const Shape& tokens, const Shape& ids, const Shape& table,
           const Shape& positions) {
  STIPPLE_CHECK_AS(
      ShapeError,
      tokens.rank() == 3 && ids.rank() == 2 && table.rank() == 2 && positions.rank() == 2 &&
          ids[0] == tokens[0] && ids[1] == tokens[1] && table[1] == tokens[2] &&
          positions[1] == tokens[2] && positions[0] >= tokens[1],
      op, ": tokens ", tokens.str(), ", ids ", ids.str(), ", table ", table.str(), ", positions ",
      positions.str(), "; expected [B, N, C], [B, N], [V, C], [at least N, C]");
}

}  // namespace

void embedding(const Stream& stream, const Embedding& args) {
  check("embedding", args.y.shape, args.ids.shape, args.table.shape, args.positions.shape);
  STIPPLE_DISPATCH(stream, embedding, args);
}

void embedding_backward(const Stream& stream, const EmbeddingBackward& args) {
  check("embedding_backward", args.dy.shape, args.ids.shape, args.dtable.shape,
        args.dpositions.shape);
  STIPPLE_DISPATCH(stream, embedding_backward, args);
}

}  // namespace stipple::kernels
