// SPDX-License-Identifier: Apache-2.0
// What the instruction-set specific bodies of entmax attention get to see: attention's problem and
// what entmax adds to it, and scratch already cut to size.
#pragma once

#include <cstdint>

#include "kernels/attend_entmax.h"
#include "kernels/cpu/attend/bodies.h"

namespace stipple::kernels::cpu {

/// `scale` is that of x: (alpha - 1) temperature scale.
struct EntmaxProblem : AttendProblem {
  float alpha = 1.5f;
  float temperature = 1.0f;
  float gradient_scale = 1.0f;  ///< temperature scale: of s

  float* o2 = nullptr;  ///< null in forward: no backward follows
  float* tau = nullptr;
  int32_t* size = nullptr;  ///< null in forward: not asked
  uint32_t* support = nullptr;
  int64_t room = 0;

  const float* final_o2 = nullptr;
  const float* final_tau = nullptr;
  const int32_t* final_size = nullptr;
  const uint32_t* final_support = nullptr;
  float* dalpha = nullptr;  ///< null: not asked
  float* dtemperature = nullptr;
};

/// Scratch of one worker in forward.
struct EntmaxForwardBuffers {
  float* packed_keys;
};

/// Scratch of one worker in backward.
struct EntmaxBackwardBuffers {
  float* packed_keys;
};

/// The bodies for one instruction set.
struct AttendEntmaxBodies {
  void (*forward)(const EntmaxProblem&, const EntmaxForwardBuffers&, int64_t first_row,
                  int64_t last_row);
  void (*backward)(const EntmaxProblem&, const EntmaxBackwardBuffers&, const BackwardPart&);
};
namespace scalar {
extern const AttendEntmaxBodies kAttendEntmax;
}
namespace avx2 {
extern const AttendEntmaxBodies kAttendEntmax;
}
namespace avx512 {
extern const AttendEntmaxBodies kAttendEntmax;
}

}  // namespace stipple::kernels::cpu
