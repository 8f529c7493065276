// SPDX-License-Identifier: Apache-2.0
#include "kernels/pattern.h"

#include "core/error.h"

namespace stipple::kernels {
namespace {

void check_groups(const char* op, const char* name, const Shape& shape, int64_t problems,
                  int64_t tokens) {
  STIPPLE_CHECK_AS(ShapeError, shape == Shape({tokens}) || shape == Shape({problems, tokens}), op,
                   ": pattern.", name, " has shape ", shape.str(), ", expected ",
                   Shape({tokens}).str(), " or ", Shape({problems, tokens}).str());
}

}  // namespace

void check_pattern(const char* op, const Pattern& pattern, int64_t problems, int64_t num_queries,
                   int64_t num_keys) {
  if (pattern.kind == PatternKind::kWindow) {
    STIPPLE_CHECK(pattern.radius >= 0 && pattern.dilation >= 1, op, ": a window of radius ",
                  pattern.radius, " and dilation ", pattern.dilation,
                  "; expected at least 0 and at least 1");
  }
  if (!pattern.has_groups()) return;
  check_groups(op, "query_group", pattern.query_group.shape, problems, num_queries);
  check_groups(op, "key_group", pattern.key_group.shape, problems, num_keys);
}

}  // namespace stipple::kernels
