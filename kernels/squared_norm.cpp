// SPDX-License-Identifier: Apache-2.0
#include "kernels/squared_norm.h"

#include "core/dispatch.h"
#include "kernels/runs.h"

namespace stipple::kernels {

void squared_norm(const Stream& stream, const SquaredNorm& args) {
  STIPPLE_CHECK_SHAPE("squared_norm", args.sum, {1});
  STIPPLE_CHECK(args.scratch != nullptr, "squared_norm: needs scratch");
  const Arena::Scope scope(*args.scratch);
  const View<double> partials = args.scratch->alloc<double>({num_runs(args.x.numel(), kNormRun)});
  STIPPLE_DISPATCH(stream, squared_norm, args, partials);
}

}  // namespace stipple::kernels
