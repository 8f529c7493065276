// SPDX-License-Identifier: Apache-2.0
#include "kernels/entmax_heads.h"

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {
namespace {

void check_of_heads(const char* op, const char* name, const Shape& shape, int64_t heads) {
  STIPPLE_CHECK_AS(ShapeError, shape.rank() == 0 || shape == Shape({heads}), op, ": ", name,
                   " has shape ", shape.str(), ", expected ", Shape({heads}).str(), " or none");
}

}  // namespace

void set_entmax_heads(const Stream& stream, const SetEntmaxHeads& args) {
  const char* op = "set_entmax_heads";
  const Shape& asked = args.alpha.empty() ? args.temperature.shape : args.alpha.shape;
  STIPPLE_CHECK_AS(ShapeError, asked.rank() == 1, op, ": alpha or temperature has shape ",
                   asked.str(), ", expected [H]");
  const int64_t heads = asked[0];
  check_of_heads(op, "temperature", args.temperature.shape, heads);
  check_of_heads(op, "alpha_weight", args.alpha_weight.shape, heads);
  check_of_heads(op, "temperature_weight", args.temperature_weight.shape, heads);
  STIPPLE_DISPATCH(stream, set_entmax_heads, args);
}

void set_entmax_heads_backward(const Stream& stream, const SetEntmaxHeadsBackward& args) {
  const char* op = "set_entmax_heads_backward";
  const auto check = [&](const char* name, View<float> dweight, View<const float> weight,
                         View<const float> shares) {
    if (dweight.empty()) return;
    STIPPLE_CHECK_AS(ShapeError, shares.shape.rank() == 3, op, ": d", name, " has shape ",
                     shares.shape.str(), ", expected [B, H, N]");
    check_of_heads(op, name, dweight.shape, shares.shape[1]);
    STIPPLE_CHECK_AS(ShapeError, weight.shape == dweight.shape, op, ": ", name,
                     "_weight has shape ", weight.shape.str(), ", expected ", dweight.shape.str());
  };
  check("alpha", args.dalpha_weight, args.alpha_weight, args.dalpha);
  check("temperature", args.dtemperature_weight, args.temperature_weight, args.dtemperature);
  STIPPLE_DISPATCH(stream, set_entmax_heads_backward, args);
}

void anneal(const Stream& stream, const Anneal& args) {
  STIPPLE_CHECK(args.steps >= 1, "anneal: over ", args.steps, " steps, expected at least one");
  STIPPLE_DISPATCH(stream, anneal, args);
}

void support_statistics(const Stream& stream, const SupportStatistics& args) {
  const Shape& size = args.size.shape;
  STIPPLE_CHECK_AS(ShapeError, size.rank() == 3, "support_statistics: size has shape ", size.str(),
                   ", expected [B, H, N]");
  STIPPLE_CHECK_SHAPE("support_statistics", args.edges, ({size[1]}));
  STIPPLE_CHECK_SHAPE("support_statistics", args.pairs, ({size[1]}));
  STIPPLE_CHECK_SHAPE("support_statistics", args.rows, ({size[1]}));
  check_mask("support_statistics", "mask", args.mask, size[0], size[2]);
  STIPPLE_DISPATCH(stream, support_statistics, args);
}

}  // namespace stipple::kernels
