// SPDX-License-Identifier: Apache-2.0
// Dense matrix products: projections, cluster memberships, and their gradients. On CUDA, factors
// and results are stored as fp32 or bf16, in any mixture: sums are fp32, and a bf16 result is
// rounded once. Factors of fp32 are rounded, in scratch, beside a factor that is bf16 and for a
// result that is bf16; so is the bias of the latter.
#pragma once

#include "core/arena.h"
#include "core/real_view.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// c[p] = alpha * op(a[p]) op(b[p]) + beta * c[p],  op = transpose where asked.
///   Arrays are [P, rows, cols], or [rows, cols] for P = 1. A factor with fewer matrices is
///   repeated: product p uses a[p % Pa] and b[p % Pb]. A result with fewer matrices sums: c[r]
///   collects all p with p % Pc == r, in an order fixed by the shapes. (So [H, K, D] weights serve
///   [B*H, N, D] activations, and [H, K, K] collects a gradient over the batch.)
/// c aliases neither factor. With beta = 0 c is not read. Deterministic: yes, for any number of
/// threads (work is cut by shape alone). Cost: 2 M N K P flop. Throws Error when partial sums are
/// needed and there is no scratch.
struct Matmul {
  RealView c;       // [Pc, M, N]  = or +=
  ConstRealView a;  // [Pa, M, K], transposed: [Pa, K, M]
  ConstRealView b;  // [Pb, K, N], transposed: [Pb, N, K]
  bool transpose_a = false;
  bool transpose_b = false;
  float alpha = 1.0f;
  float beta = 0.0f;
  Arena* scratch = nullptr;  ///< partial sums of long inner dimensions; factors to be rounded
};
void matmul(const Stream&, const Matmul&);
namespace cpu {
void matmul(const Stream&, const Matmul&);
}
namespace cuda {
void matmul(const Stream&, const Matmul&);
}

/// y = x wᵀ + b, the affine map of every projection; weight layout as in PyTorch.
struct Linear {
  RealView y;                // [N, O]  written
  ConstRealView x;           // [N, I]
  ConstRealView weight;      // [O, I]
  ConstRealView bias;        // [O]
  Arena* scratch = nullptr;  ///< what is to be rounded
};
void linear(const Stream&, const Linear&);
namespace cpu {
void linear(const Stream&, const Linear&);
}
namespace cuda {
void linear(const Stream&, const Linear&);
}

/// dx = dy w;  dweight += dyᵀ x;  dbias += column sums of dy, as the products read it.
struct LinearBackward {
  RealView dx{};         // [N, I]  written; empty: not wanted
  View<float> dweight;   // [O, I]  +=
  View<float> dbias;     // [O]     +=
  ConstRealView dy;      // [N, O]
  ConstRealView x;       // [N, I]
  ConstRealView weight;  // [O, I]
  Arena* scratch = nullptr;
};
void linear_backward(const Stream&, const LinearBackward&);
namespace cpu {
void linear_backward(const Stream&, const LinearBackward&);
}
namespace cuda {
void linear_backward(const Stream&, const LinearBackward&);
}

}  // namespace stipple::kernels
