// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include "core/dispatch.h"

namespace stipple::kernels {

void cross_entropy(const Stream& stream, const CrossEntropy& args) {
  STIPPLE_CHECK_AS(ShapeError, args.logits.shape.rank() == 2 && args.logits.shape[1] > 0,
                   "cross_entropy: logits are ", args.logits.shape.str(), ", expected [R, C]");
  const int64_t rows = args.logits.shape[0], classes = args.logits.shape[1];
  STIPPLE_CHECK_SHAPE("cross_entropy", args.labels, {rows});
  STIPPLE_CHECK_SHAPE("cross_entropy", args.scale, {1});
  STIPPLE_CHECK_SHAPE("cross_entropy", args.loss_sum, {1});
  STIPPLE_CHECK_SHAPE("cross_entropy", args.correct, {1});
  STIPPLE_CHECK_SHAPE("cross_entropy", args.count, {1});
  if (!args.dlogits.empty()) STIPPLE_CHECK_SHAPE("cross_entropy", args.dlogits, {rows, classes});
  if (!args.prediction.empty()) STIPPLE_CHECK_SHAPE("cross_entropy", args.prediction, {rows});
  if (!args.row_loss.empty()) STIPPLE_CHECK_SHAPE("cross_entropy", args.row_loss, {rows});
  STIPPLE_CHECK(args.scratch != nullptr, "cross_entropy: needs scratch");
  STIPPLE_DISPATCH(stream, cross_entropy, args);
}

void loss_by_place(const Stream& stream, const LossByPlace& args) {
  const int64_t places = args.loss_sum.numel();
  STIPPLE_CHECK_SHAPE("loss_by_place", args.loss_sum, {places});
  STIPPLE_CHECK_SHAPE("loss_by_place", args.count, {places});
  STIPPLE_CHECK_SHAPE("loss_by_place", args.row_loss, {args.labels.numel()});
  STIPPLE_CHECK_SHAPE("loss_by_place", args.labels, {args.labels.numel()});
  STIPPLE_CHECK(places >= 1 && places <= kMostPlaces && args.block >= 1 && args.sequence >= 1,
                "loss_by_place: ", places, " places of blocks of ", args.block, " in sequences of ",
                args.sequence);
  STIPPLE_DISPATCH(stream, loss_by_place, args);
}

}  // namespace stipple::kernels
