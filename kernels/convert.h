// SPDX-License-Identifier: Apache-2.0
// From one storage of real numbers to the other.
#pragma once

#include "core/real_view.h"
#include "core/stream.h"

namespace stipple::kernels {

/// y = x, rounded to nearest (ties to even) where y is bf16 and x is not. Equal storages copy.
struct Convert {
  RealView y;  // written; no part of x
  ConstRealView x;
};
void convert(const Stream&, const Convert&);
namespace cpu {
void convert(const Stream&, const Convert&);
}
namespace cuda {
void convert(const Stream&, const Convert&);
}

}  // namespace stipple::kernels
