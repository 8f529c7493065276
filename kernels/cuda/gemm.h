// SPDX-License-Identifier: Apache-2.0
// One dense product, or an evenly spaced batch of them, through cuBLASLt.
//
// Descriptors and the chosen algorithm are kept per device, shape, storage, precision and
// alignment: a repeated call neither allocates nor searches. Every stream has a workspace of 32
// MiB, created by its first product (which must therefore not be captured into a graph) and kept
// until the program ends.
#pragma once

#include <cstdint>

#include "core/stream.h"

namespace stipple::kernels::cuda {

/// c = alpha op(a) op(b) + beta c [+ bias in every row], row-major and dense, for each matrix of
/// the batch; matrix i of an array starts i * stride elements after the first. With beta = 0 c is
/// not read. Factors of fp32 have a result of fp32, those of bf16 one of either storage; sums are
/// fp32 always.
struct Gemm {
  int64_t m, n, k;
  void* c;
  const void* a;
  const void* b;
  const void* bias = nullptr;            ///< [n]; nullptr: none
  Precision factors = Precision::kFp32;  ///< storage of a and b
  Precision result = Precision::kFp32;   ///< storage of c and bias
  bool transpose_a = false;
  bool transpose_b = false;
  float alpha = 1.0f;
  float beta = 0.0f;
  int64_t batch = 1;
  int64_t c_stride = 0, a_stride = 0, b_stride = 0;
};
/// Deterministic: of equal arguments on equal devices come equal bits. Where cuBLASLt knows no
/// algorithm, it may also round partial sums to the storage of the result; where it knows none with
/// a bias, add_bias follows. CudaError where nothing helps.
void multiply(const Stream&, const Gemm&);

/// c += bias in every row (matmul.cu). One thread an element.
void add_bias(const Stream&, const Gemm&);

}  // namespace stipple::kernels::cuda
