// SPDX-License-Identifier: Apache-2.0
// The stand-ins of CUB's scans and sorts, and what they notice.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cub/block/block_scan.cuh>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <numeric>
#include <vector>

#include "core/cuda/runtime.h"
#include "kernels/cuda/device.cuh"
#include "on_device.h"

namespace stipple::kernels::cuda {
namespace {

using cuda_on_cpu::OnDevice;

Stream stream_of_device() { return Stream(cuda_device(0)); }

std::vector<int> some_numbers(size_t count) {
  std::vector<int> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<int>(i * i % 13) - 3;
  return values;
}

/// The sums of the elements before each, and of all.
std::vector<int> sums_before(const std::vector<int>& values) {
  std::vector<int> sums = {0};
  for (int value : values) sums.push_back(sums.back() + value);
  return sums;
}

// --- threads of a block

constexpr int kThreads = 96;
constexpr int kEach = 3;
using Scan = cub::BlockScan<int, kThreads>;

struct Sums {
  int *inclusive, *exclusive, *totals;
};

__global__ void scan_kernel(const int* in, Sums out) {
  auto& storage = *reinterpret_cast<Scan::TempStorage*>(shared_memory());
  const auto thread = static_cast<int>(threadIdx.x);
  Scan(storage).InclusiveSum(in[thread], out.inclusive[thread]);
  sync_threads();
  Scan(storage).ExclusiveSum(in[thread], out.exclusive[thread], out.totals[thread]);
}

TEST(EmulatedBlockScan, SumsOneValueOfAThread) {
  const std::vector<int> values = some_numbers(kThreads);
  const std::vector<int> sums = sums_before(values);
  const OnDevice<int> in(values), inclusive(kThreads), exclusive(kThreads), totals(kThreads);
  launch(stream_of_device(),
         {.grid = 2, .block = kThreads, .shared_bytes = sizeof(Scan::TempStorage)}, scan_kernel,
         in.data(), Sums{inclusive.data(), exclusive.data(), totals.data()});
  EXPECT_EQ(inclusive.get(), std::vector<int>(sums.begin() + 1, sums.end()));
  EXPECT_EQ(exclusive.get(), std::vector<int>(sums.begin(), sums.end() - 1));
  EXPECT_EQ(totals.get(), std::vector<int>(kThreads, sums.back()));
}

/// In place, in variables that outlive the block.
__global__ void scan_several_kernel(const int* in, Sums out) {
  __shared__ Scan::TempStorage storage;
  const auto first = static_cast<int>(threadIdx.x) * kEach;
  int inclusive[kEach], exclusive[kEach];
  for (int i = 0; i < kEach; ++i) inclusive[i] = exclusive[i] = in[first + i];
  Scan(storage).InclusiveSum(inclusive, inclusive, out.totals[threadIdx.x]);
  sync_threads();
  Scan(storage).ExclusiveSum(exclusive, exclusive);
  for (int i = 0; i < kEach; ++i) {
    out.inclusive[first + i] = inclusive[i];
    out.exclusive[first + i] = exclusive[i];
  }
}

TEST(EmulatedBlockScan, SumsSeveralValuesOfAThread) {
  constexpr size_t kNumbers = kThreads * kEach;
  const std::vector<int> values = some_numbers(kNumbers);
  const std::vector<int> sums = sums_before(values);
  const OnDevice<int> in(values), inclusive(kNumbers), exclusive(kNumbers), totals(kThreads);
  launch(stream_of_device(), {.grid = 3, .block = kThreads}, scan_several_kernel, in.data(),
         Sums{inclusive.data(), exclusive.data(), totals.data()});
  EXPECT_EQ(inclusive.get(), std::vector<int>(sums.begin() + 1, sums.end()));
  EXPECT_EQ(exclusive.get(), std::vector<int>(sums.begin(), sums.end() - 1));
  EXPECT_EQ(totals.get(), std::vector<int>(kThreads, sums.back()));
}

__global__ void hurry_kernel(int* out) {
  auto& storage = *reinterpret_cast<Scan::TempStorage*>(shared_memory());
  Scan(storage).InclusiveSum(1, out[threadIdx.x]);
  Scan(storage).InclusiveSum(1, out[threadIdx.x]);
}

__global__ void stay_away_kernel(int* out) {
  auto& storage = *reinterpret_cast<Scan::TempStorage*>(shared_memory());
  if (threadIdx.x >= 64) return;
  Scan(storage).InclusiveSum(1, out[threadIdx.x]);
}

void run(void (*kernel)(int*), int threads) {
  const OnDevice<int> out(128);
  launch(stream_of_device(),
         {.grid = 1,
          .block = dim3(static_cast<unsigned>(threads)),
          .shared_bytes = sizeof(Scan::TempStorage)},
         kernel, out.data());
}

TEST(EmulatedBlockScanDeathTest, MissingBarrierBetweenTwoIsReported) {
  EXPECT_DEATH(run(hurry_kernel, kThreads), "hurry_kernel.*used again without a barrier");
}

TEST(EmulatedBlockScanDeathTest, MissingThreadsAreReported) {
  EXPECT_DEATH(run(stay_away_kernel, kThreads), "stay_away_kernel.*not all threads");
  EXPECT_DEATH(run(hurry_kernel, 128), "another shape than its BlockScan");
}

// --- arrays

/// What `call` needs, and its second call with so much storage.
template <class Call>
cudaError_t call_with_storage(const Call& call) {
  size_t bytes = 0;
  if (const cudaError_t error = call(nullptr, bytes)) return error;
  const OnDevice<std::byte> storage(bytes);
  return call(storage.data(), bytes);
}

TEST(EmulatedDeviceScan, SumsInPlaceWhatComesBefore) {
  const std::vector<int> values = some_numbers(5000);
  const OnDevice<int> array(values);
  ASSERT_EQ(call_with_storage([&](void* storage, size_t& bytes) {
              return cub::DeviceScan::ExclusiveSum(storage, bytes, array.data(), array.data(),
                                                   static_cast<int>(values.size()));
            }),
            cudaSuccess);
  std::vector<int> expected = sums_before(values);
  expected.pop_back();
  EXPECT_EQ(array.get(), expected);
}

std::vector<int> numbers(size_t count) {
  std::vector<int> values(count);
  std::iota(values.begin(), values.end(), 0);
  return values;
}

struct Pairs {
  explicit Pairs(const std::vector<int>& keys)
      : count(keys.size()),
        keys_in(keys),
        values_in(numbers(count)),
        keys_out(count),
        values_out(count) {}
  cudaError_t sort(int begin_bit, int end_bit, void* storage, size_t& bytes,
                   cudaStream_t stream = nullptr) const {
    return cub::DeviceRadixSort::SortPairs(storage, bytes, keys_in.data(), keys_out.data(),
                                           values_in.data(), values_out.data(),
                                           static_cast<int>(count), begin_bit, end_bit, stream);
  }
  cudaError_t sort(int begin_bit, int end_bit) const {
    return call_with_storage(
        [&](void* storage, size_t& bytes) { return sort(begin_bit, end_bit, storage, bytes); });
  }
  size_t count;
  OnDevice<int> keys_in, values_in, keys_out, values_out;
};

/// By `digits` of the keys, equal ones in their old order.
template <class Digits>
void expect_sorted(const Pairs& pairs, const Digits& digits) {
  const std::vector<int> keys = pairs.keys_in.get(), values = pairs.values_in.get();
  std::vector<size_t> order(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return digits(keys[a]) < digits(keys[b]); });
  const std::vector<int> sorted_keys = pairs.keys_out.get();
  const std::vector<int> sorted_values = pairs.values_out.get();
  for (size_t i = 0; i < order.size(); ++i) {
    ASSERT_EQ(sorted_keys[i], keys[order[i]]) << i;
    ASSERT_EQ(sorted_values[i], values[order[i]]) << i;
  }
}

TEST(EmulatedDeviceRadixSort, SortsStablyByTheBitsAskedFor) {
  const Pairs pairs(some_numbers(300));
  ASSERT_EQ(pairs.sort(0, 32), cudaSuccess);
  expect_sorted(pairs, [](int key) { return key; });
  ASSERT_EQ(pairs.sort(1, 3), cudaSuccess);
  expect_sorted(pairs, [](int key) { return key >> 1 & 3; });
  ASSERT_EQ(pairs.sort(2, 2), cudaSuccess);
  expect_sorted(pairs, [](int) { return 0; });
}

TEST(EmulatedDeviceRadixSort, IsCapturedIntoAGraph) {
  const Pairs pairs(some_numbers(300));
  size_t bytes = 0;
  ASSERT_EQ(pairs.sort(0, 32, nullptr, bytes), cudaSuccess);
  const OnDevice<std::byte> storage(bytes);
  const Stream stream = stream_of_device();
  const auto native = static_cast<cudaStream_t>(stream.native());
  stipple::cuda::begin_capture(stream.native());
  ASSERT_EQ(pairs.sort(0, 32, storage.data(), bytes, native), cudaSuccess);
  void* graph = stipple::cuda::end_capture(stream.native());
  stipple::cuda::launch_graph(graph, stream.native());
  expect_sorted(pairs, [](int key) { return key; });
  stipple::cuda::destroy_graph(graph);
}

TEST(EmulatedDeviceRadixSort, RefusesTooLittleStorageAndWrongBits) {
  const Pairs pairs(some_numbers(300));
  size_t bytes = 0;
  ASSERT_EQ(pairs.sort(0, 32, nullptr, bytes), cudaSuccess);
  const OnDevice<std::byte> storage(bytes);
  size_t less = bytes - 1;
  EXPECT_EQ(pairs.sort(0, 32, storage.data(), less), cudaErrorInvalidValue);
  EXPECT_EQ(pairs.sort(0, 33, storage.data(), bytes), cudaErrorInvalidValue);
}

TEST(EmulatedDeviceRadixSort, ReportsErrorsThatOthersLeft) {
  const Pairs pairs(some_numbers(300));
  EXPECT_EQ(cudaFuncSetAttribute(nullptr, cudaFuncAttributeMaxDynamicSharedMemorySize, -1),
            cudaErrorInvalidValue);
  EXPECT_EQ(pairs.sort(0, 32), cudaErrorInvalidValue);
  cudaGetLastError();
  EXPECT_EQ(pairs.sort(0, 32), cudaSuccess);
}

TEST(EmulatedDeviceRadixSort, NeedsADevice) {
  const Pairs pairs(some_numbers(300));
  size_t bytes = 0;
  setenv("STIPPLE_CUDA_ON_CPU_DEVICES", "0", 1);
  EXPECT_EQ(pairs.sort(0, 32, nullptr, bytes), cudaErrorNoDevice);
  unsetenv("STIPPLE_CUDA_ON_CPU_DEVICES");
  cudaGetLastError();
}

}  // namespace
}  // namespace stipple::kernels::cuda
