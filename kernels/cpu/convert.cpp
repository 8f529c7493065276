// SPDX-License-Identifier: Apache-2.0
#include "kernels/convert.h"

#include "kernels/runs.h"

namespace stipple::kernels::cpu {

void convert(const Stream& stream, const Convert& args) {
  with_real_type(args.y.precision, [&](auto written) {
    with_real_type(args.x.precision, [&](auto read) {
      using Y = decltype(written);
      using X = decltype(read);
      Y* y = args.y.as<Y>().data;
      const X* x = args.x.as<X>().data;
      const int64_t count = args.x.numel();
      stream.parallel_for(num_runs(count, kElementRun), [&](int64_t i, int) {
        const Range run = nth_run(i, count, kElementRun);
        for (int64_t e = run.begin; e < run.end; ++e) y[e] = from_float<Y>(to_float(x[e]));
      });
    });
  });
}

}  // namespace stipple::kernels::cpu
