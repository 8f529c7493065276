// SPDX-License-Identifier: Apache-2.0
#include "kernels/place_groups.h"

#include <algorithm>

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {
namespace {

bool is_random(const math::PlaceRule& rule) {
  return rule.kind == math::PlaceRuleKind::kRandomBlocks ||
         rule.kind == math::PlaceRuleKind::kRandomTokens;
}

}  // namespace

int64_t groups_of_place(const math::PlaceRule& rule) {
  switch (rule.kind) {
    case math::PlaceRuleKind::kRandomBlocks:
      return rule.count;
    case math::PlaceRuleKind::kRandomTokens:
    case math::PlaceRuleKind::kFixed:
      return 2;
    case math::PlaceRuleKind::kStrided:
      return 1;
  }
  return 1;
}

int64_t num_place_groups(const math::PlaceRule& rule, int64_t n) {
  switch (rule.kind) {
    case math::PlaceRuleKind::kRandomBlocks:
      return std::max<int64_t>(1, math::PlaceRule::blocks(n, rule.size));
    case math::PlaceRuleKind::kRandomTokens:
      return 2;
    case math::PlaceRuleKind::kFixed:
      return math::PlaceRule::blocks(n, rule.size) + 1;
    case math::PlaceRuleKind::kStrided:
      return rule.size;
  }
  return 1;
}

void place_groups(const Stream& stream, const PlaceGroups& args) {
  constexpr const char* kOp = "place_groups";
  const Shape& shape = args.query_groups.shape;
  STIPPLE_CHECK_AS(ShapeError, shape.rank() == 4 && shape[1] > 0, kOp, ": query_groups has shape ",
                   shape.str(), ", expected [B, H, N, T]");
  STIPPLE_CHECK_SHAPE("place_groups", args.query_groups,
                      ({shape[0], shape[1], shape[2], groups_of_place(args.rule)}));
  STIPPLE_CHECK_SHAPE("place_groups", args.key_groups, ({shape[0], shape[1], shape[2], shape[3]}));
  if (is_random(args.rule)) STIPPLE_CHECK_SHAPE("place_groups", args.draws, ({shape[1]}));
  check_mask(kOp, "mask", args.mask, shape[0], shape[2]);
  const math::PlaceRule& rule = args.rule;
  STIPPLE_CHECK(rule.size >= 1, kOp, ": blocks of ", rule.size, " tokens");
  STIPPLE_CHECK(
      rule.kind != math::PlaceRuleKind::kFixed || (rule.summary >= 0 && rule.summary <= rule.size),
      kOp, ": the last ", rule.summary, " of ", rule.size, " keys");
  STIPPLE_CHECK(rule.count >= 0 && rule.count <= math::kMostRandomTokens, kOp, ": ", rule.count,
                " at random; at most ", math::kMostRandomTokens);
  STIPPLE_DISPATCH(stream, place_groups, args);
}

}  // namespace stipple::kernels
