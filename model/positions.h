// SPDX-License-Identifier: Apache-2.0
// How a model tells where a token stands (kernels/positions.h has the formulas).
#pragma once

#include <cstdint>

namespace stipple::model {

enum class Positions : uint8_t {
  kLearned,     ///< a vector per position, a parameter, added to the token's
  kSinusoidal,  ///< fixed sines, added to the token's vector
  kRotary,      ///< nothing is added; every attention rotates its queries and keys
};

}  // namespace stipple::model
