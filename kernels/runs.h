// SPDX-License-Identifier: Apache-2.0
// How work is cut: into runs of fixed length, so that pieces, and the order in which their results
// are added, depend on shapes alone and never on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/range.h"

namespace stipple::kernels {

inline constexpr int64_t kElementRun = 8192;  ///< elementwise work: 32 KiB of floats
inline constexpr int64_t kCopyRowRun = 128;   ///< token rows that are copied, looked up or masked
inline constexpr int64_t kLayerNormRowRun =
    64;                                     ///< rows whose parameter gradients are summed in place
inline constexpr int64_t kNormRun = 4096;   ///< elements of one partial squared norm
inline constexpr int64_t kLossRowRun = 16;  ///< rows of one partial loss
inline constexpr int64_t kTokenRun = 32;    ///< tokens of one id whose gradients one thread adds
inline constexpr int64_t kMatmulRowRun = 256;  ///< rows of a result computed by one call
/// Inner dimension summed by one call: at 64 columns 30 us of work against 1 us to add its partial
/// result.
inline constexpr int64_t kMatmulInnerRun = 512;
inline constexpr int64_t kColumnSumRun = 512;  ///< CUDA: rows of one partial column sum

constexpr int64_t num_runs(int64_t count, int64_t run) { return (count + run - 1) / run; }

constexpr Range nth_run(int64_t i, int64_t count, int64_t run) {
  return {i * run, std::min(count, (i + 1) * run)};
}

}  // namespace stipple::kernels
