// SPDX-License-Identifier: Apache-2.0
// What the instruction-set specific bodies of entmax get to see: one row as plain pointers, and
// scratch already cut to size. No types with inline functions that might not be inlined, so that
// nothing compiled for one instruction set is linked into another.
#pragma once

#include <cstdint>

#include "kernels/entmax.h"

namespace stipple::kernels::cpu {

inline constexpr int64_t kEntmaxSlack = 64;  ///< behind arrays written by whole vectors

/// Scratch of one worker: candidates of a row, twice, with room for a vector behind the last.
struct EntmaxBuffers {
  float* scores;
  uint32_t* columns;
  float* spare_scores;
  uint32_t* spare_columns;
};

struct EntmaxRow {
  float alpha = 1.5f;
  int64_t length = 0;
  const float* z = nullptr;
  float* p = nullptr;  ///< null: not asked
  float* tau = nullptr;
  int32_t* size = nullptr;  ///< null: not asked
  uint32_t* columns = nullptr;
  int64_t room = 0;
};

struct EntmaxBackwardRow {
  float alpha = 1.5f;
  int64_t length = 0;
  float* dz = nullptr;
  float* dalpha = nullptr;  ///< null: not asked
  const float* p = nullptr;
  const float* dp = nullptr;
};

/// The bodies for one instruction set.
struct EntmaxBodies {
  void (*forward)(const EntmaxRow&, const EntmaxBuffers&);
  void (*backward)(const EntmaxBackwardRow&, const EntmaxBuffers&);
};
namespace scalar {
extern const EntmaxBodies kEntmax;
}
namespace avx2 {
extern const EntmaxBodies kEntmax;
}
namespace avx512 {
extern const EntmaxBodies kEntmax;
}

}  // namespace stipple::kernels::cpu
