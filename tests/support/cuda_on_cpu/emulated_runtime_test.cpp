// SPDX-License-Identifier: Apache-2.0
// The emulated runtime: devices and their memory, captured graphs, and the errors that a real one
// gives.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "core/cuda/runtime.h"
#include "core/error.h"
#include "core/stream.h"
#include "cuda_on_cpu/host.h"
#include "kernels/cuda/device.cuh"
#include "on_device.h"

namespace stipple::kernels::cuda {
namespace {

using cuda_on_cpu::OnDevice;

/// Sets a variable of the environment for one test.
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Setting() { unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
};

// --- devices

TEST(EmulatedDevices, AreAsManyAsTheEnvironmentSays) {
  EXPECT_EQ(stipple::cuda::device_count(), 1);
  const Setting three("STIPPLE_CUDA_ON_CPU_DEVICES", "3");
  EXPECT_EQ(stipple::cuda::device_count(), 3);
  EXPECT_NE(stipple::cuda::device_info(1).bus_id, stipple::cuda::device_info(2).bus_id);
  EXPECT_TRUE(stipple::cuda::can_access_peer(0, 2));
  EXPECT_THROW(stipple::cuda::use_device(3), CudaError);
  stipple::cuda::use_device(0);
}

TEST(EmulatedDevices, CanBeNone) {
  const Setting none("STIPPLE_CUDA_ON_CPU_DEVICES", "0");
  EXPECT_EQ(stipple::cuda::device_count(), 0);
  EXPECT_NE(stipple::cuda::why_no_device(), "");
  EXPECT_EQ(cudaSetDevice(0), cudaErrorNoDevice);
  cudaGetLastError();
}

TEST(EmulatedDevices, HaveTheComputeCapabilityAskedFor) {
  EXPECT_EQ(stipple::cuda::device_info(0).compute_major, 9);
  const Setting old("STIPPLE_CUDA_ON_CPU_COMPUTE", "7.5");
  EXPECT_EQ(stipple::cuda::device_info(0).compute_major, 7);
  EXPECT_EQ(stipple::cuda::device_info(0).compute_minor, 5);
}

TEST(EmulatedMemory, RunsOut) {
  const Setting small("STIPPLE_CUDA_ON_CPU_MEMORY", "1048576");
  const size_t free_bytes = stipple::cuda::device_info(0).free_bytes;
  ASSERT_EQ(free_bytes, 1048576u);
  {
    const OnDevice<std::byte> most(1000000);
    EXPECT_LE(stipple::cuda::device_info(0).free_bytes, 48576u);
    EXPECT_THROW(OnDevice<std::byte>(100000), ConfigError);
  }
  EXPECT_EQ(stipple::cuda::device_info(0).free_bytes, free_bytes);
}

TEST(EmulatedMemory, IsClearedAndCopied) {
  constexpr size_t kCount = (5 << 20) + 3;  // two large pages, and the ends of two others
  const OnDevice<uint8_t> memory(std::vector<uint8_t>(kCount, 5));
  stipple::cuda::fill_zero(memory.data() + 3, kCount - 10, nullptr);
  const std::vector<uint8_t> got = memory.get();
  for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(got[i], i < 3 || i >= kCount - 7 ? 5 : 0) << i;
}

TEST(EmulatedEvents, KeepTime) {
  const Stream stream(cuda_device(0));
  Event begin(cuda_device(0)), end(cuda_device(0));
  stream.record(begin);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  stream.record(end);
  end.synchronize();
  EXPECT_GE(end.ms_since(begin), 1.9);
  EXPECT_TRUE(end.has_passed());
}

TEST(EmulatedEvents, AreNotReadyWhenFirstAskedFor) {
  const Stream stream(cuda_device(0));
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  const auto record = [&] { cudaEventRecord(event, static_cast<cudaStream_t>(stream.native())); };
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);  // never recorded
  record();
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotReady);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  record();
  stream.synchronize();
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  record();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  record();
  EXPECT_EQ(cudaEventSynchronize(event), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
}

// --- errors

__global__ void nothing_kernel() {}

TEST(EmulatedErrors, BelongToTheCallThatFailed) {
  const Stream stream(cuda_device(0));
  EXPECT_THROW(stipple::cuda::use_device(1), CudaError);
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  EXPECT_EQ(cudaSetDevice(1), cudaErrorInvalidDevice);
  EXPECT_NO_THROW(launch(stream, {.grid = 1, .block = 1}, nothing_kernel));
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidDevice);
  EXPECT_THROW(launch(stream, {.grid = 1, .block = 1025}, nothing_kernel), CudaError);
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
}

TEST(EmulatedErrors, AllowedSharedMemoryNeverShrinks) {
  const Stream stream(cuda_device(0));
  const auto with_shared = [&](size_t bytes) {
    launch(stream, {.grid = 1, .block = 1, .shared_bytes = bytes}, nothing_kernel);
  };
  with_shared(100 << 10);
  with_shared(50 << 10);
  EXPECT_EQ(cuda_on_cpu::launch({.grid = 1,
                                 .block = 1,
                                 .shared_bytes = 100 << 10,
                                 .kernel = reinterpret_cast<const void*>(nothing_kernel)},
                                nullptr, [] {}),
            cudaSuccess);
}

// --- graphs

__global__ void scale_kernel(float* values, float factor, float summand) {
  values[threadIdx.x] = values[threadIdx.x] * factor + summand;
}

constexpr unsigned kCount = 8;

void scale(const Stream& stream, const OnDevice<float>& values, float factor, float summand) {
  launch(stream, {.grid = 1, .block = kCount}, scale_kernel, values.data(), factor, summand);
}

std::vector<float> all(float value) { return std::vector<float>(kCount, value); }

TEST(EmulatedGraph, RecordsWithoutRunningAndReplaysInOrder) {
  const Stream stream(cuda_device(0)), side(cuda_device(0));
  Event forked(cuda_device(0), /*is_timed=*/false), joined(cuda_device(0), /*is_timed=*/false);
  const OnDevice<float> values(all(1)), copy(all(0));
  stipple::cuda::begin_capture(stream.native());
  scale(stream, values, 2, 1);
  stream.record(forked);
  side.wait(forked);
  scale(side, values, 3, 0);
  stipple::cuda::copy(copy.data(), values.data(), kCount * sizeof(float), side.native());
  side.record(joined);
  stream.wait(joined);
  stipple::cuda::fill_zero(values.data() + 4, 4 * sizeof(float), stream.native());
  void* graph = stipple::cuda::end_capture(stream.native());
  EXPECT_EQ(values.get(), all(1));

  stipple::cuda::launch_graph(graph, stream.native());
  EXPECT_EQ(copy.get(), all(9));
  EXPECT_EQ(values.get(), (std::vector<float>{9, 9, 9, 9, 0, 0, 0, 0}));
  stipple::cuda::launch_graph(graph, stream.native());
  EXPECT_EQ(copy.get(), (std::vector<float>{57, 57, 57, 57, 3, 3, 3, 3}));
  stipple::cuda::destroy_graph(graph);
}

TEST(EmulatedGraph, HoldsWorkOfStandIns) {
  const Stream stream(cuda_device(0));
  int runs = 0;
  stipple::cuda::begin_capture(stream.native());
  cuda_on_cpu::enqueue(static_cast<cudaStream_t>(stream.native()), [&runs] { ++runs; });
  void* graph = stipple::cuda::end_capture(stream.native());
  EXPECT_EQ(runs, 0);
  stipple::cuda::launch_graph(graph, stream.native());
  EXPECT_EQ(runs, 1);
  stipple::cuda::destroy_graph(graph);
}

/// What ends the capture of `work`.
template <class Work>
std::string capture_error(const Stream& stream, Work work) {
  stipple::cuda::begin_capture(stream.native());
  work();
  try {
    stipple::cuda::destroy_graph(stipple::cuda::end_capture(stream.native()));
  } catch (const CudaError& error) {
    return error.what();
  }
  return "no error";
}

TEST(EmulatedGraph, RecordsTimedEventsAtEveryReplay) {
  const Stream stream(cuda_device(0));
  Event before(cuda_device(0)), begin(cuda_device(0)), end(cuda_device(0));
  stream.record(before);
  stipple::cuda::begin_capture(stream.native());
  stream.record(begin);
  cuda_on_cpu::enqueue(static_cast<cudaStream_t>(stream.native()),
                       [] { std::this_thread::sleep_for(std::chrono::milliseconds(2)); });
  stream.record(end);
  void* graph = stipple::cuda::end_capture(stream.native());
  double since_before = 0;
  for (int replay = 0; replay < 2; ++replay) {
    stipple::cuda::launch_graph(graph, stream.native());
    EXPECT_THROW(end.ms_since(begin), CudaError) << "nobody has waited";
    end.synchronize();
    EXPECT_GE(end.ms_since(begin), 1.9);
    EXPECT_GE(end.ms_since(before), since_before + 1.9);
    since_before = end.ms_since(before);
  }
  stipple::cuda::destroy_graph(graph);
}

TEST(EmulatedGraph, GivesNoTimesOfEventsThatAreNotItsOwnNodes) {
  const Stream stream(cuda_device(0));
  const auto native = static_cast<cudaStream_t>(stream.native());
  cudaEvent_t event = nullptr, other = nullptr;
  float ms = 0;
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDefault), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&other, cudaEventDefault), cudaSuccess);
  EXPECT_EQ(cudaEventRecordWithFlags(event, native, cudaEventRecordExternal), cudaErrorInvalidValue)
      << "outside of a capture";
  cudaEventRecord(other, native);
  EXPECT_EQ(cudaEventElapsedTime(&ms, event, other), cudaErrorInvalidResourceHandle) << "never";
  cudaEventRecord(event, native);
  EXPECT_EQ(cudaEventElapsedTime(&ms, event, other), cudaErrorNotReady);
  stipple::cuda::begin_capture(stream.native());
  cudaEventRecord(event, native);
  cudaEventRecordWithFlags(other, native, cudaEventRecordExternal);
  void* graph = stipple::cuda::end_capture(stream.native());
  stipple::cuda::launch_graph(graph, stream.native());
  stream.synchronize();
  EXPECT_EQ(cudaEventElapsedTime(&ms, event, other), cudaErrorInvalidValue) << "only an edge";
  EXPECT_EQ(cudaEventElapsedTime(&ms, other, other), cudaSuccess);
  stipple::cuda::destroy_graph(graph);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(other), cudaSuccess);
  cudaGetLastError();
}

TEST(EmulatedGraph, CaptureEndsInvalidAfterWhatIsForbidden) {
  const Stream stream(cuda_device(0));
  const auto is_invalid = [&](auto work) {
    return capture_error(stream, work).find("StreamCaptureInvalidated") != std::string::npos;
  };
  EXPECT_TRUE(is_invalid([] { EXPECT_THROW(OnDevice<int>(1), CudaError); }));
  EXPECT_TRUE(is_invalid([&] { EXPECT_THROW(stream.synchronize(), CudaError); }));
  EXPECT_TRUE(
      is_invalid([] { EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorStreamCaptureUnsupported); }));
  EXPECT_TRUE(is_invalid([&] {
    const Event uncaptured(cuda_device(0));
    EXPECT_THROW(stream.wait(uncaptured), CudaError);
  }));
  EXPECT_TRUE(is_invalid([&] {
    Event timed(cuda_device(0));  // a node, no edge
    stream.record(timed);
    EXPECT_THROW(stream.wait(timed), CudaError);
  }));
  EXPECT_FALSE(is_invalid([] {}));
}

TEST(EmulatedGraph, DestroyedStreamLeavesNoCaptureBehind) {
  {
    const Stream stream(cuda_device(0));
    stipple::cuda::begin_capture(stream.native());
  }
  EXPECT_EQ(OnDevice<float>(all(4)).get(), all(4));
}

TEST(EmulatedGraph, ForkedWorkMustBeJoined) {
  const Stream stream(cuda_device(0)), side(cuda_device(0));
  const OnDevice<float> values(all(1));
  const std::string error = capture_error(stream, [&] {
    Event forked(cuda_device(0), /*is_timed=*/false);
    stream.record(forked);
    side.wait(forked);
    scale(side, values, 2, 0);
  });
  EXPECT_NE(error.find("StreamCaptureUnjoined"), std::string::npos) << error;
  scale(side, values, 2, 0);
  EXPECT_EQ(values.get(), all(2));  // the stream is free again
}

}  // namespace
}  // namespace stipple::kernels::cuda
