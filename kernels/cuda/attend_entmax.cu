// SPDX-License-Identifier: Apache-2.0
#include "core/error.h"
#include "kernels/attend_entmax.h"

namespace stipple::kernels::cuda {

void attend_entmax(const Stream&, const AttendEntmax&) {
  throw Error("attend_entmax: not on CUDA yet");
}
void attend_entmax_backward(const Stream&, const AttendEntmaxBackward&) {
  throw Error("attend_entmax_backward: not on CUDA yet");
}

}  // namespace stipple::kernels::cuda
