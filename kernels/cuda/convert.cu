// SPDX-License-Identifier: Apache-2.0
// Between storages; bound by memory. A thread per 4 elements; equal storages are copied.
#include "core/copy.h"
#include "kernels/convert.h"
#include "kernels/cuda/elements.cuh"

namespace stipple::kernels::cuda {
namespace {

template <class Y, class X>
struct Store {
  Y* y;
  const X* x;

  template <int kWidth>
  __device__ void run(int64_t i) const {
    store(y + i, load<kWidth>(x + i));
  }
};

template <class Y, class X>
void convert(const Stream& stream, View<Y> y, View<const X> x) {
  for_each_element(stream, x.numel(), are_aligned(y.data, x.data), Store<Y, X>{y.data, x.data});
}

}  // namespace

void convert(const Stream& stream, const Convert& args) {
  if (args.y.precision == args.x.precision) {
    return copy_bytes(stream, args.y.data, args.x.data, args.x.bytes());
  }
  if (args.y.precision == Precision::kBf16)
    return convert(stream, args.y.as<bf16>(), args.x.floats());
  convert(stream, args.y.floats(), args.x.as<bf16>());
}

}  // namespace stipple::kernels::cuda
