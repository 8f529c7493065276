// SPDX-License-Identifier: Apache-2.0
// Emulated kernels do what the PTX ISA says, and what a kernel forgets or oversteps shows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "core/bf16.h"
#include "core/error.h"
#include "core/stream.h"
#include "cuda_on_cpu/host.h"
#include "kernels/cuda/device.cuh"
#include "on_device.h"

namespace stipple::kernels::cuda {
namespace {

using cuda_on_cpu::OnDevice;
using cuda_on_cpu::random_floats;

constexpr int kSeeds = 20;

std::vector<bf16> random_bf16(size_t count, unsigned seed) {
  std::vector<bf16> values;
  for (const float x : random_floats(count, seed)) values.push_back(to_bf16(x));
  return values;
}

// --- barriers

__global__ void sum_block_kernel(const float* in, float* out, bool forgets_barrier) {
  auto* partial = reinterpret_cast<float*>(shared_memory());
  const auto i = threadIdx.x;
  partial[i] = in[blockIdx.x * blockDim.x + i];
  if (!forgets_barrier) sync_threads();
  for (unsigned stride = blockDim.x / 2; stride > 0; stride /= 2) {
    if (i < stride) partial[i] += partial[i + stride];
    sync_threads();
  }
  if (i == 0) out[blockIdx.x] = partial[0];
}

/// In how many of kSeeds runs some sum is wrong.
int count_wrong_runs(bool forgets_barrier) {
  constexpr unsigned kThreads = 128;
  constexpr unsigned kBlocks = 3;
  std::vector<float> values(kThreads * kBlocks);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 17);
  std::vector<float> expected;
  for (auto first = values.begin(); first != values.end(); first += kThreads) {
    expected.push_back(std::accumulate(first, first + kThreads, 0.0f));
  }
  const OnDevice<float> in(values);
  const OnDevice<float> out(kBlocks);
  const Stream stream(cuda_device(0));
  int wrong = 0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    cuda_on_cpu::set_seed(static_cast<uint64_t>(seed));
    launch(stream, {.grid = kBlocks, .block = kThreads, .shared_bytes = kThreads * sizeof(float)},
           sum_block_kernel, in.data(), out.data(), forgets_barrier);
    wrong += out.get() != expected ? 1 : 0;
  }
  return wrong;
}

TEST(EmulatedBarrier, BlockSumIsRightForEverySeed) { EXPECT_EQ(count_wrong_runs(false), 0); }

TEST(EmulatedBarrier, ForgottenBarrierGivesWrongSum) { EXPECT_GT(count_wrong_runs(true), 0); }

__global__ void leave_early_kernel(int* out, int stays) {
  auto* value = reinterpret_cast<int*>(shared_memory());
  if (static_cast<int>(threadIdx.x) >= stays) return;
  if (threadIdx.x == 0) *value = 7;
  sync_threads();
  out[threadIdx.x] = *value;
}

TEST(EmulatedBarrier, DoesNotWaitForThreadsThatReturned) {
  const OnDevice<int> out(64);
  const Stream stream(cuda_device(0));
  launch(stream, {.grid = 1, .block = 64, .shared_bytes = sizeof(int)}, leave_early_kernel,
         out.data(), 40);
  const std::vector<int> values = out.get();
  EXPECT_EQ(std::count(values.begin(), values.end(), 7), 40);
}

// --- warps

__global__ void exchange_kernel(int* out, uint32_t* votes) {
  const int lane = lane_index();
  int* own = out + 4 * static_cast<int>(threadIdx.x);
  own[0] = shuffle(lane * 10, (lane + 5) % 32);
  own[1] = shuffle_xor(lane * 10, 3);
  own[2] = shuffle_up(lane * 10, 2);
  own[3] = static_cast<int>(shuffle(static_cast<double>(lane) / 2, 9) * 2);
  votes[threadIdx.x] = ballot(lane % 3 == 0);
}

TEST(EmulatedWarp, ExchangesAndVotes) {
  constexpr int kThreads = 96;
  const OnDevice<int> out(4 * kThreads);
  const OnDevice<uint32_t> votes(kThreads);
  launch(Stream(cuda_device(0)), {.grid = 1, .block = kThreads}, exchange_kernel, out.data(),
         votes.data());
  const std::vector<int> got = out.get();
  for (int i = 0; i < kThreads; ++i) {
    const int lane = i % 32;
    const std::vector<int> own(got.begin() + 4 * i, got.begin() + 4 * i + 4);
    const int below = lane < 2 ? lane : lane - 2;
    EXPECT_EQ(own, (std::vector<int>{(lane + 5) % 32 * 10, (lane ^ 3) * 10, below * 10, 9}));
    EXPECT_EQ(votes.get()[static_cast<size_t>(i)], 0x49249249u);
  }
}

constexpr int kRowBytes = 48;  // rows need not lie close to each other

__global__ void load_matrices_kernel(const bf16* matrices, uint32_t* plain, uint32_t* transposed) {
  std::byte* rows = shared_memory();
  const int lane = lane_index();
  std::memcpy(rows + kRowBytes * lane, matrices + 8 * lane, 16);
  sync_warp();
  uint32_t r[4];
  load_matrices(r, rows + kRowBytes * lane);
  for (int m = 0; m < 4; ++m) plain[4 * lane + m] = r[m];
  load_matrices_transposed(r, rows + kRowBytes * lane);
  for (int m = 0; m < 4; ++m) transposed[4 * lane + m] = r[m];
}

TEST(EmulatedWarp, LoadsMatricesAsThePtxManualSays) {
  const std::vector<bf16> matrices = random_bf16(4 * 8 * 8, 1);  // [matrix][row][column]
  const OnDevice<bf16> in(matrices);
  const OnDevice<uint32_t> plain(4 * 32);
  const OnDevice<uint32_t> transposed(4 * 32);
  launch(Stream(cuda_device(0)), {.grid = 1, .block = 32, .shared_bytes = 32 * kRowBytes},
         load_matrices_kernel, in.data(), plain.data(), transposed.data());
  const auto element = [&](int m, int row, int column) {
    return uint32_t{matrices[static_cast<size_t>(64 * m + 8 * row + column)].bits};
  };
  for (int i = 0; i < 4 * 32; ++i) {
    const int lane = i / 4, m = i % 4;
    // Figure "mma .m8n8 fragment layout": thread 0 holds (0, 0..1), thread 1 (0, 2..3), ... thread
    // 4 (1, 0..1).
    const int row = lane / 4, column = lane % 4 * 2;
    EXPECT_EQ(plain.get()[static_cast<size_t>(i)],
              element(m, row, column) | element(m, row, column + 1) << 16);
    EXPECT_EQ(transposed.get()[static_cast<size_t>(i)],
              element(m, column, row) | element(m, column + 1, row) << 16);
  }
}

__global__ void multiply_add_kernel(const uint32_t* a, const uint32_t* b, const float* c,
                                    float* d) {
  const int lane = lane_index();
  uint32_t own_a[4], own_b[2];
  float own_c[4];
  for (int i = 0; i < 4; ++i) own_a[i] = a[4 * lane + i];
  for (int i = 0; i < 2; ++i) own_b[i] = b[2 * lane + i];
  for (int i = 0; i < 4; ++i) own_c[i] = c[4 * lane + i];
  multiply_add(own_c, own_a, own_b);
  for (int i = 0; i < 4; ++i) d[4 * lane + i] = own_c[i];
}

/// Position of element i of a lane's fragment, from the tables of "Matrix fragments for
/// mma.m16n8k16".
struct Position {
  int row, column;
};
Position a_position(int lane, int i) {
  const int row = i < 2 || (i >= 4 && i < 6) ? lane / 4 : lane / 4 + 8;
  return {row, lane % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}
Position b_position(int lane, int i) {
  return {lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8), lane / 4};
}
Position c_position(int lane, int i) {
  return {i < 2 ? lane / 4 : lane / 4 + 8, lane % 4 * 2 + (i & 1)};
}

/// Spreads a row-major matrix over the lanes: `count` elements each.
template <class T, class Where>
std::vector<T> spread(const std::vector<T>& matrix, int columns, int count, Where where) {
  std::vector<T> fragments;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < count; ++i) {
      const Position p = where(lane, i);
      fragments.push_back(matrix[static_cast<size_t>(p.row * columns + p.column)]);
    }
  }
  return fragments;
}

TEST(EmulatedWarp, MultipliesAsThePtxManualSays) {
  const std::vector<bf16> a = random_bf16(16 * 16, 2);
  const std::vector<bf16> b = random_bf16(16 * 8, 3);
  const std::vector<float> c = random_floats(16 * 8, 4);
  std::vector<float> expected(c.size());
  for (size_t i = 0; i < c.size(); ++i) {
    double sum = c[i];
    for (size_t k = 0; k < 16; ++k) {
      sum += double{to_float(a[i / 8 * 16 + k])} * double{to_float(b[k * 8 + i % 8])};
    }
    expected[i] = static_cast<float>(sum);
  }
  const OnDevice<bf16> on_a(spread(a, 16, 8, a_position));
  const OnDevice<bf16> on_b(spread(b, 8, 4, b_position));
  const OnDevice<float> on_c(spread(c, 8, 4, c_position));
  const OnDevice<float> on_d(c.size());
  launch(Stream(cuda_device(0)), {.grid = 1, .block = 32}, multiply_add_kernel,
         reinterpret_cast<const uint32_t*>(on_a.data()),
         reinterpret_cast<const uint32_t*>(on_b.data()), on_c.data(), on_d.data());
  const std::vector<float> wanted = spread(expected, 8, 4, c_position);
  const std::vector<float> got = on_d.get();
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], wanted[i], 1e-5f) << i;
}

/// Every element of one product with `summand` before; all of a are `of_a`, and b has `first` and
/// then `others` along the inner dimension.
float multiply_add_once(float summand, float of_a, float first, float others) {
  const OnDevice<bf16> a(std::vector<bf16>(16 * 16, to_bf16(of_a)));
  std::vector<bf16> b_matrix(16 * 8, to_bf16(others));
  std::fill_n(b_matrix.begin(), 8, to_bf16(first));
  const OnDevice<bf16> b(spread(b_matrix, 8, 4, b_position));
  const OnDevice<float> c(std::vector<float>(16 * 8, summand));
  const OnDevice<float> d(16 * 8);
  launch(Stream(cuda_device(0)), {.grid = 1, .block = 32}, multiply_add_kernel,
         reinterpret_cast<const uint32_t*>(a.data()), reinterpret_cast<const uint32_t*>(b.data()),
         c.data(), d.data());
  const std::vector<float> got = d.get();
  for (float x : got) EXPECT_TRUE(x == got[0] || std::isnan(got[0]));
  return got[0];
}

TEST(EmulatedWarp, ProductsAreCutOffBelowTheLargestSummand) {
  EXPECT_EQ(multiply_add_once(1, 0x1p-12f, 0, 0x1p-12f),
            1 + 7 * 0x1p-23f);                                   // the 8th is half there
  EXPECT_EQ(multiply_add_once(1, 0x1p-12f, 0, 0x1p-13f), 1.0f);  // each is less than is kept
  EXPECT_EQ(multiply_add_once(1, -0x1p-12f, 0, 0x1p-13f), 1.0f);
  EXPECT_EQ(multiply_add_once(0x1p-12f, 1, 1, 0x1p-25f), 1 + 0x1p-12f);
  EXPECT_EQ(multiply_add_once(0, 1, 0x1.8p0f, 0x1p-24f), 1.5f + 7 * 0x1p-23f);
  EXPECT_EQ(multiply_add_once(-1, 1, 1, 0x1p-24f), 15 * 0x1p-24f);
  EXPECT_EQ(multiply_add_once(0x1p-100f, 0x1p-50f, 0, 0x1p-50f), 16 * 0x1p-100f);
  EXPECT_EQ(multiply_add_once(0x1p120f, 1, -1, 0), 0x1p120f);
}

TEST(EmulatedWarp, ProductsKeepInfinityAndNan) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(multiply_add_once(-kInfinity, 1, 1, 1), -kInfinity);
  EXPECT_EQ(multiply_add_once(0, 1, kInfinity, 1), kInfinity);
  EXPECT_TRUE(std::isnan(multiply_add_once(-kInfinity, 1, kInfinity, 1)));
}

// --- asynchronous copies

/// Two groups of 16 bytes a thread; reads them when all but `left` have arrived, or at once.
__global__ void copy_kernel(const float* in, float* out, int left) {
  auto* shared = reinterpret_cast<float*>(shared_memory()) + 8 * threadIdx.x;
  for (int group = 0; group < 2; ++group) {
    copy_async_16(shared + 4 * group, in + 8 * threadIdx.x + 4 * group, true);
    commit_copies();
  }
  if (left == 0) wait_for_copies<0>();
  if (left == 1) wait_for_copies<1>();
  for (int i = 0; i < 8; ++i) out[8 * threadIdx.x + static_cast<unsigned>(i)] = shared[i];
}

/// How many of the two groups' elements came.
int count_arrived(int left) {
  const std::vector<float> values = random_floats(8 * 32, 5);
  const OnDevice<float> in(values);
  const OnDevice<float> out(values.size());
  launch(Stream(cuda_device(0)), {.grid = 1, .block = 32, .shared_bytes = 32 * 32}, copy_kernel,
         in.data(), out.data(), left);
  const std::vector<float> got = out.get();
  int arrived = 0;
  for (size_t i = 0; i < got.size(); ++i) arrived += got[i] == values[i] ? 1 : 0;
  return arrived;
}

TEST(EmulatedCopy, ArrivesInGroupsAtTheWait) {
  EXPECT_EQ(count_arrived(0), 256);
  EXPECT_EQ(count_arrived(1), 128);
}

TEST(EmulatedCopy, ForgottenWaitReadsGarbage) { EXPECT_EQ(count_arrived(2), 0); }

__global__ void copy_nothing_kernel(float* out) {
  auto* shared = reinterpret_cast<float*>(shared_memory());
  copy_async_16(shared, nullptr, false);
  commit_copies();
  wait_for_copies<0>();
  for (int i = 0; i < 4; ++i) out[i] = shared[i];
}

TEST(EmulatedCopy, InvalidSourceGivesZeros) {
  const OnDevice<float> out(std::vector<float>(4, 1.0f));
  launch(Stream(cuda_device(0)), {.grid = 1, .block = 1, .shared_bytes = 16}, copy_nothing_kernel,
         out.data());
  EXPECT_EQ(out.get(), std::vector<float>(4, 0.0f));
}

// --- scalars

__global__ void scalar_kernel(uint32_t* bits, int* counter) {
  bits[0] = pack_bf16(1.0f, -2.0f);
  bits[1] = static_cast<uint32_t>(popcount(0xF0F0u));
  bits[2] = static_cast<uint32_t>(lowest_bit(0x50u));
  bits[3] = static_cast<uint32_t>(lowest_bit(0u));
  bits[4] = static_cast<uint32_t>(multiply_high(1ull << 40, 3ull << 30));
  bits[5] = std::bit_cast<uint32_t>(exp2_fast(-130.0f));
  bits[6] = std::bit_cast<uint32_t>(exp2_fast(3.0f));
  bits[7] = static_cast<uint32_t>(atomic_max(counter, 5));
  atomic_add(counter, 2);
}

TEST(EmulatedScalars, DoWhatDeviceCuhSays) {
  const OnDevice<uint32_t> bits(8);
  const OnDevice<int> counter(1);
  launch(Stream(cuda_device(0)), {.grid = 1, .block = 1}, scalar_kernel, bits.data(),
         counter.data());
  EXPECT_EQ(bits.get(),
            (std::vector<uint32_t>{0xC0003F80u, 8, 4, 0xFFFFFFFFu, 192, 0, 0x41000000u, 0}));
  EXPECT_EQ(counter.get()[0], 7);
}

// --- indices and threads

__global__ void indices_kernel(int* seen) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  seen[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1;
}

TEST(EmulatedLaunch, RunsEveryThreadOfEveryBlockOnce) {
  const OnDevice<int> seen(2 * 3 * 4 * 5 * 2 * 3);
  launch(Stream(cuda_device(0)), {.grid = dim3(2, 3, 4), .block = dim3(5, 2, 3)}, indices_kernel,
         seen.data());
  EXPECT_EQ(seen.get(), std::vector<int>(2 * 3 * 4 * 5 * 2 * 3, 1));
}

TEST(EmulatedLaunch, ServesSeveralHostThreads) {
  std::vector<int> wrong(3, -1);
  std::vector<std::thread> threads;
  for (int& count : wrong) threads.emplace_back([&count] { count = count_wrong_runs(false); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(3, 0));
}

std::string launch_error(const LaunchShape& shape) {
  const OnDevice<int> out(1);
  try {
    launch(Stream(cuda_device(0)), shape, leave_early_kernel, out.data(), 0);
  } catch (const CudaError& error) {
    cudaGetLastError();
    return error.what();
  }
  return "no error";
}

TEST(EmulatedLaunch, RefusesWhatAGpuWouldRefuseAndNamesTheKernel) {
  const std::string error = launch_error({.grid = 1, .block = 1025});
  EXPECT_NE(error.find("cudaErrorInvalidConfiguration"), std::string::npos) << error;
  EXPECT_NE(error.find("leave_early_kernel"), std::string::npos) << error;
  EXPECT_NE(error.find("emulation_test.cpp"), std::string::npos) << error;
  EXPECT_NE(launch_error({.grid = 1, .block = 0}), "no error");
  EXPECT_NE(launch_error({.grid = dim3(1, 65536), .block = 1}), "no error");
  EXPECT_NE(launch_error({.grid = 1, .block = 32, .shared_bytes = 228 << 10}), "no error");
  EXPECT_EQ(launch_error({.grid = 1, .block = 32, .shared_bytes = 227 << 10}), "no error");
}

TEST(EmulatedLaunch, NeedsPermissionForMoreSharedMemoryThanTheDefault) {
  const cuda_on_cpu::LaunchConfig config{.grid = 1,
                                         .block = 1,
                                         .shared_bytes = 49 << 10,
                                         .kernel = reinterpret_cast<const void*>(scalar_kernel)};
  bool has_run = false;
  EXPECT_EQ(cuda_on_cpu::launch(config, nullptr, [&has_run] { has_run = true; }),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_FALSE(has_run);
}

// --- what must not pass

enum class Fault { kShuffleAfterReturn, kShuffleAgainstBarrier, kTwoShuffles, kTwoBarriers };

__global__ void diverge_kernel(Fault fault) {
  const bool is_odd = threadIdx.x % 2 != 0;
  if (fault == Fault::kShuffleAfterReturn && is_odd) return;
  if (fault == Fault::kShuffleAgainstBarrier && is_odd) sync_threads();
  if (fault == Fault::kTwoShuffles && is_odd) shuffle(1, 0);
  if (fault == Fault::kTwoBarriers) {
    if (is_odd) sync_threads();
    if (!is_odd) {
      sync_threads();
    }
  }
  shuffle(1, 0);
}

void diverge(Fault fault, int threads = 64) {
  launch(Stream(cuda_device(0)), {.grid = 1, .block = dim3(static_cast<unsigned>(threads))},
         diverge_kernel, fault);
}

TEST(EmulationDeathTest, DivergenceIsReported) {
  EXPECT_DEATH(diverge(Fault::kShuffleAfterReturn), "diverge_kernel.*block.*thread.*has returned");
  EXPECT_DEATH(diverge(Fault::kShuffleAgainstBarrier), "whole warp.*waits at the barrier");
  EXPECT_DEATH(diverge(Fault::kTwoShuffles), "warp diverged");
  EXPECT_DEATH(diverge(Fault::kTwoBarriers), "sync_threads here.*while others");
  EXPECT_DEATH(diverge(Fault::kShuffleAfterReturn, 48), "has returned|only 16 lanes");
}

TEST(EmulationDeathTest, HostAccessToDeviceMemoryDies) {
  const OnDevice<float> values(100);
  EXPECT_DEATH(values.data()[10] = 1, "host code touched device memory at .*byte 40 of 400");
  const cuda_on_cpu::DeviceAccess access;
  values.data()[10] = 1;
}

__global__ void touch_kernel(float* p, int64_t offset) { p[offset] = 1; }

void touch(float* p, int64_t offset) {
  launch(Stream(cuda_device(0)), {.grid = 1, .block = 1}, touch_kernel, p, offset);
}

TEST(EmulationDeathTest, OutOfBoundsDies) {
  const OnDevice<float> values(1024);
  const OnDevice<float> others(1024);
  touch(values.data(), 1023);
  EXPECT_DEATH(touch(values.data(), 1024), "touch_kernel.*out of bounds of device memory");
  EXPECT_DEATH(touch(values.data(), -1), "out of bounds of device memory");
}

TEST(EmulationDeathTest, UseAfterFreeDies) {
  float* p = OnDevice<float>(1024).data();
  EXPECT_DEATH(touch(p, 0), "device memory");
}

__global__ void overstep_kernel(int64_t offset) { shared_memory()[offset] = std::byte{1}; }

void overstep(int64_t offset) {
  launch(Stream(cuda_device(0)), {.grid = 1, .block = 1, .shared_bytes = 256}, overstep_kernel,
         offset);
}

TEST(EmulationDeathTest, OutOfBoundsOfSharedMemoryDies) {
  overstep(255);
  EXPECT_DEATH(overstep(256),
               "overstep_kernel.*out of bounds of the block's 256 bytes of shared memory");
}

__global__ void overflow_kernel(float* out) {
  volatile float large[80 << 10];
  large[threadIdx.x] = 1;
  out[0] = large[threadIdx.x];
}

TEST(EmulationDeathTest, StackOverflowDies) {
  const OnDevice<float> out(1);
  EXPECT_DEATH(launch(Stream(cuda_device(0)), {.grid = 1, .block = 1}, overflow_kernel, out.data()),
               "overflow_kernel.*the stack of a thread overflowed");
}

__global__ void misaligned_kernel(const float* in) { copy_async_16(shared_memory(), in + 1, true); }

TEST(EmulationDeathTest, MisalignedCopyDies) {
  const OnDevice<float> in(8);
  EXPECT_DEATH(launch(Stream(cuda_device(0)), {.grid = 1, .block = 1, .shared_bytes = 16},
                      misaligned_kernel, in.data()),
               "source is not 16-byte aligned");
}

}  // namespace
}  // namespace stipple::kernels::cuda
