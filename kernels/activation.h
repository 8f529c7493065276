// SPDX-License-Identifier: Apache-2.0
// Elementwise non-linearities and sums. All run over flat arrays of equal size; outputs may alias
// inputs.
#pragma once

#include "core/real_view.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

enum class ActivationKind : uint8_t { kGelu, kRelu, kSigmoid, kTanh };

/// y = f(x). kGelu is the exact form x Phi(x) (Hendrycks, Gimpel, arXiv 1606.08415).
struct Activation {
  RealView y;       // written
  ConstRealView x;  // stored as y
  ActivationKind kind = ActivationKind::kGelu;
};
void activation(const Stream&, const Activation&);
namespace cpu {
void activation(const Stream&, const Activation&);
}
namespace cuda {
void activation(const Stream&, const Activation&);
}

/// dx = dy f'. `saved` is x for kGelu and y for kRelu, kSigmoid, kTanh.
struct ActivationBackward {
  RealView dx;          // written; may be dy where they are stored alike
  ConstRealView dy;     // of either storage
  ConstRealView saved;  // stored as dx
  ActivationKind kind = ActivationKind::kGelu;
};
void activation_backward(const Stream&, const ActivationBackward&);
namespace cpu {
void activation_backward(const Stream&, const ActivationBackward&);
}
namespace cuda {
void activation_backward(const Stream&, const ActivationBackward&);
}

/// y = a + b: where branches, or their gradients, meet.
struct Add {
  RealView y;       // written
  ConstRealView a;  // stored as y
  ConstRealView b;  // of either storage, bf16 where y is
};
void add(const Stream&, const Add&);
namespace cpu {
void add(const Stream&, const Add&);
}
namespace cuda {
void add(const Stream&, const Add&);
}

/// x[b, n, :] *= mask[b, n]: rows of padding become exactly zero.
struct MaskRows {
  View<float> x;             // [B, N, C]  in place
  View<const uint8_t> mask;  // [B, N]
};
void mask_rows(const Stream&, const MaskRows&);
namespace cpu {
void mask_rows(const Stream&, const MaskRows&);
}
namespace cuda {
void mask_rows(const Stream&, const MaskRows&);
}

}  // namespace stipple::kernels
