// SPDX-License-Identifier: Apache-2.0
// The only door to the hardware: every instruction that C++ has no word for goes through a named
// wrapper here, and every kernel is started by launch(). So the same kernels compile for a GPU and,
// against tests/support/cuda_on_cpu, for the CPU.
//
// Warp-wide functions need all 32 lanes of the warp. Shared memory comes from shared_memory(); its
// contents are undefined at first.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <utility>

#include "core/bf16.h"
#include "core/cuda/check.h"
#include "core/stream.h"

#if !defined(__CUDACC__)
#include "cuda_on_cpu/device.h"
#endif

namespace stipple::kernels::cuda {

inline constexpr int kWarpSize = 32;

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x % kWarpSize); }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x / kWarpSize); }

#if defined(__CUDACC__)

/// All threads of the block have come here, and see what the others wrote to shared memory.
__device__ inline void sync_threads() { __syncthreads(); }
/// The same for the lanes of a warp.
__device__ inline void sync_warp() { __syncwarp(); }

/// The block's dynamic shared memory, aligned to 128 bytes.
__device__ inline std::byte* shared_memory() {
  extern __shared__ __align__(128) unsigned char stipple_shared_memory[];
  return reinterpret_cast<std::byte*>(stipple_shared_memory);
}

// --- exchange between the lanes of a warp; T is an arithmetic type of 4 or 8 bytes
template <class T>
__device__ inline T shuffle(T value, int lane) {
  return __shfl_sync(0xFFFFFFFFu, value, lane);
}
template <class T>
__device__ inline T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
/// From `delta` lanes below; the lowest lanes keep their own.
template <class T>
__device__ inline T shuffle_up(T value, int delta) {
  return __shfl_up_sync(0xFFFFFFFFu, value, static_cast<unsigned>(delta));
}
/// Bit l is lane l's flag.
__device__ inline uint32_t ballot(bool flag) { return __ballot_sync(0xFFFFFFFFu, flag); }

// --- atomics on shared or global memory; return the old value. Use only where the order cannot
// show in a result.
__device__ inline uint32_t atomic_or(uint32_t* p, uint32_t bits) { return atomicOr(p, bits); }
__device__ inline int32_t atomic_add(int32_t* p, int32_t value) { return atomicAdd(p, value); }
__device__ inline uint32_t atomic_add(uint32_t* p, uint32_t value) { return atomicAdd(p, value); }
__device__ inline int64_t atomic_add(int64_t* p, int64_t value) {
  return static_cast<int64_t>(
      atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(value)));
}
__device__ inline uint64_t atomic_add(uint64_t* p, uint64_t value) {
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
  return atomicAdd(reinterpret_cast<unsigned long long*>(p), value);
}
/// Writes `desired` where `expected` stands.
__device__ inline uint32_t atomic_exchange_if(uint32_t* p, uint32_t expected, uint32_t desired) {
  return atomicCAS(p, expected, desired);
}
__device__ inline int32_t atomic_max(int32_t* p, int32_t value) { return atomicMax(p, value); }

// --- bits
__device__ inline int popcount(uint32_t x) { return __popc(x); }
__device__ inline int lowest_bit(uint32_t x) {
  return __ffs(static_cast<int>(x)) - 1;
}  ///< -1: none
__device__ inline uint64_t multiply_high(uint64_t a, uint64_t b) { return __umul64hi(a, b); }

// --- arithmetic
/// 2^x, relative error 2^-22; denormal results are 0.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// The nearest to x of [low, high]; a NaN stays one. Without a branch.
__device__ inline float clamp_or_nan(float x, float low, float high) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(low));
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(y) : "f"(high));
  return y;
}
/// Two floats as bf16, the first in the lower half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

// --- asynchronous copies, 16 bytes a thread, from global to shared memory, both 16-byte aligned
/// Zeros instead where !is_valid; `global` is then not read.
__device__ inline void copy_async_16(void* shared, const void* global, bool is_valid) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = is_valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
               : "memory");
}
/// Closes the group of this thread's copies since the last call.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// All but the newest `kLeft` groups of this thread have arrived. Others' copies: sync_threads()
/// after it.
template <int kLeft>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// --- tensor cores: fragments of 16 x 8 x 16 products in bf16 (PTX ISA, mma.m16n8k16). g = lane /
// 4, t = lane % 4:
//   a[0] (g, 2t..2t+1)  a[1] (g+8, 2t..)  a[2] (g, 2t+8..)  a[3] (g+8, 2t+8..)    rows x inner
//   b[0] (2t..2t+1, g)  b[1] (2t+8.., g)                                          inner x columns
//   c[0..1] (g, 2t..2t+1)  c[2..3] (g+8, 2t..2t+1)                                rows x columns
/// Four 8 x 8 matrices of 16-bit elements; lane 8 m + r gives the address of row r (16 bytes) of
/// matrix m. Lane l gets elements (l / 4, 2 (l % 4)..+1) of each.
__device__ inline void load_matrices(uint32_t (&r)[4], const void* shared_row) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}
/// The same of the transposed matrices: lane l gets elements (2 (l % 4)..+1, l / 4).
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], const void* shared_row) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}
/// c += a b, summed in fp32.
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// c = start + a b, likewise.
__device__ inline void multiply_from(float (&c)[4], float start, const uint32_t (&a)[4],
                                     const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %10, %10, %10};"
      : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(start));
}

#endif  // __CUDACC__

/// How many threads, and where the call stands, for the message when it fails.
struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  ///< dynamic
  std::source_location where = std::source_location::current();
};

namespace detail {
/// Throws CudaError naming kernel and place, of a launch with that `status`; with
/// STIPPLE_SYNC_LAUNCH=1 in the environment waits for the kernel first, unless it is captured.
void check_launch(const Stream&, const void* kernel, cudaError_t status,
                  const std::source_location& where);
/// Lets the kernel use more than the default 48 KiB of shared memory on the stream's device.
void allow_shared_memory(const Stream&, const void* kernel, size_t bytes);

/// The launch's own status, not what the thread's last error happens to be. The arguments are of
/// the kernel's types and live until it has them.
template <class... Parameters>
cudaError_t enqueue_kernel(const Stream& stream, const LaunchShape& shape,
                           void (*kernel)(Parameters...), Parameters... arguments) {
  const auto* function = reinterpret_cast<const void*>(kernel);
  const auto on = static_cast<cudaStream_t>(stream.native());
#if defined(__CUDACC__)
  void* pointers[] = {static_cast<void*>(std::addressof(arguments))..., nullptr};
  return cudaLaunchKernel(function, shape.grid, shape.block, pointers, shape.shared_bytes, on);
#else
  return cuda_on_cpu::launch({shape.grid, shape.block, shape.shared_bytes, function, shape.where},
                             on, [kernel, arguments...] { kernel(arguments...); });
#endif
}
}  // namespace detail

/// Enqueues kernel(args...); on meta, and with a grid without blocks, does nothing. CudaError.
template <class... Parameters, class... Args>
void launch(const Stream& stream, const LaunchShape& shape, void (*kernel)(Parameters...),
            Args&&... args) {
  if (stream.is_plan() || shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  const auto* function = reinterpret_cast<const void*>(kernel);
  constexpr size_t kDefaultSharedBytes = 48 << 10;
  if (shape.shared_bytes > kDefaultSharedBytes) {
    detail::allow_shared_memory(stream, function, shape.shared_bytes);
  }
  const cudaError_t status = detail::enqueue_kernel<Parameters...>(
      stream, shape, kernel, static_cast<Parameters>(std::forward<Args>(args))...);
  detail::check_launch(stream, function, status, shape.where);
}

/// Blocks of `block` threads that cover `count` elements.
inline dim3 blocks_for(int64_t count, int64_t block) {
  return dim3(static_cast<unsigned>((count + block - 1) / block));
}

/// A thread for each of `count` elements, and which one it is.
inline LaunchShape thread_each(int64_t count, int threads = 256,
                               std::source_location where = std::source_location::current()) {
  return {.grid = blocks_for(count, threads),
          .block = dim3(static_cast<unsigned>(threads)),
          .where = where};
}
__device__ inline int64_t thread_of_grid() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

}  // namespace stipple::kernels::cuda
