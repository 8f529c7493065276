// SPDX-License-Identifier: Apache-2.0
// Parts are merged row by row, bound by memory.
#include <array>
#include <cmath>
#include <limits>

#include "kernels/attend.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

using Weights = std::array<float, MergeParts::kMostParts>;

/// What each part of row i weighs in the whole; writes lse.
Weights weigh(const MergeParts& args, int64_t i) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Weights weights{};
  float highest = -kInfinity;
  for (const AttendPart& part : args.parts) {
    const float lse = part.lse[i];
    if (lse > highest || std::isnan(lse)) highest = lse;  // NaN must not look like an empty part
  }
  if (highest == -kInfinity) {
    args.lse[i] = -kInfinity;
    return weights;
  }
  float sum = 0.0f;
  for (size_t k = 0; k < args.parts.size(); ++k) {
    weights[k] = std::exp(args.parts[k].lse[i] - highest);
    sum += weights[k];
  }
  for (float& weight : weights) weight /= sum;
  args.lse[i] = highest + std::log(sum);
  return weights;
}

void merge_row(const MergeParts& args, int64_t i) {
  const int64_t dim = args.o.shape[3];
  const Weights weights = weigh(args, i);
  float* o = args.o.floats().data + i * dim;
  for (int64_t x = 0; x < dim; ++x) {
    float sum = 0.0f;
    for (size_t k = 0; k < args.parts.size(); ++k) {
      if (weights[k] != 0.0f) sum += weights[k] * args.parts[k].o.floats().data[i * dim + x];
    }
    o[x] = sum;
  }
}

}  // namespace

void merge_parts(const Stream& stream, const MergeParts& args) {
  const int64_t rows = args.lse.numel();
  stream.parallel_for(num_runs(rows, kCopyRowRun), [&](int64_t run, int) {
    const Range own = nth_run(run, rows, kCopyRowRun);
    for (int64_t i = own.begin; i < own.end; ++i) merge_row(args, i);
  });
}

}  // namespace stipple::kernels::cpu
