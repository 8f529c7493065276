// SPDX-License-Identifier: Apache-2.0
// Where the blocks of an encoder normalise.
#pragma once

#include <cstdint>

namespace stipple::model {

enum class NormPlace : uint8_t {
  kPre,   ///< the input of each branch; one more norm after the last block
  kPost,  ///< the sum of each branch and what it branched off from, as BERT; also the embedding
};

}  // namespace stipple::model
