// SPDX-License-Identifier: Apache-2.0
// Deferred streams: work waits for the host, runs in any order that streams and events allow, and
// so shows where a wait is missing.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <vector>

#include "core/buffer.h"
#include "core/cuda/runtime.h"
#include "core/stream.h"
#include "cuda_on_cpu/host.h"
#include "kernels/cuda/device.cuh"

namespace stipple::kernels::cuda {
namespace {

class DeferredStreams : public ::testing::Test {
 protected:
  void SetUp() override { cuda_on_cpu::defer_streams(true); }
  void TearDown() override { cuda_on_cpu::defer_streams(false); }

  static void enqueue(const Stream& stream, std::function<void()> work) {
    cuda_on_cpu::enqueue(static_cast<cudaStream_t>(stream.native()), std::move(work));
  }
  /// Work that leaves its letter.
  void leave(const Stream& stream, char letter) {
    enqueue(stream, [this, letter] { left_ += letter; });
  }
  /// What ten runs leave, all different ones.
  std::set<std::string> left_by(const std::function<void()>& run) {
    std::set<std::string> all;
    for (int i = 0; i < 10; ++i) {
      left_.clear();
      run();
      all.insert(left_);
    }
    return all;
  }

  std::string left_;
};

TEST_F(DeferredStreams, RunNothingBeforeTheHostWaits) {
  const Stream stream(cuda_device(0));
  leave(stream, 'a');
  EXPECT_EQ(left_, "");
  stream.synchronize();
  EXPECT_EQ(left_, "a");
}

TEST_F(DeferredStreams, KeepTheOrderOfAStreamAndNoOther) {
  const Stream stream(cuda_device(0)), other(cuda_device(0));
  const auto all = left_by([&] {
    leave(stream, 'a');
    leave(stream, 'b');
    leave(other, 'c');
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  });
  EXPECT_EQ(all, (std::set<std::string>{"abc", "acb", "cab"}));
}

TEST_F(DeferredStreams, WaitForEventsAndOnlyThen) {
  const Stream stream(cuda_device(0)), other(cuda_device(0));
  Event event(cuda_device(0));
  const auto run = [&](bool waits) {
    return left_by([&] {
      leave(stream, 'a');
      stream.record(event);
      if (waits) other.wait(event);
      leave(other, 'b');
      other.synchronize();
      stream.synchronize();
    });
  };
  EXPECT_EQ(run(true), (std::set<std::string>{"ab"}));
  EXPECT_EQ(run(false), (std::set<std::string>{"ab", "ba"})) << "a missing wait must show";
}

TEST_F(DeferredStreams, AWaitIsForTheRecordOfItsTime) {
  const Stream stream(cuda_device(0)), other(cuda_device(0));
  Event event(cuda_device(0));
  stream.record(event);
  other.wait(event);
  leave(stream, 'a');
  stream.record(event);
  leave(other, 'b');
  other.synchronize();
  EXPECT_NE(left_.find('b'), std::string::npos);
  event.synchronize();
  EXPECT_NE(left_.find('a'), std::string::npos);
}

TEST_F(DeferredStreams, EventsPassWhenTheyAreAskedForOften) {
  const Stream stream(cuda_device(0));
  Event event(cuda_device(0));
  leave(stream, 'a');
  stream.record(event);
  EXPECT_FALSE(event.has_passed());
  while (!event.has_passed()) {
  }
  EXPECT_EQ(left_, "a");
}

TEST_F(DeferredStreams, GraphsRunInAnyOrderThatTheirEventsAllow) {
  const Stream stream(cuda_device(0)), side(cuda_device(0));
  Event forked(cuda_device(0), /*is_timed=*/false), joined(cuda_device(0), /*is_timed=*/false);
  stipple::cuda::begin_capture(stream.native());
  leave(stream, 'a');
  stream.record(forked);
  side.wait(forked);
  leave(side, 's');
  leave(stream, 'b');
  side.record(joined);
  stream.wait(joined);
  leave(stream, 'c');
  void* graph = stipple::cuda::end_capture(stream.native());
  const auto all = left_by([&] {
    stipple::cuda::launch_graph(graph, stream.native());
    EXPECT_EQ(left_, "");
    stream.synchronize();
  });
  EXPECT_EQ(all, (std::set<std::string>{"asbc", "absc"}));
  stipple::cuda::destroy_graph(graph);
}

TEST_F(DeferredStreams, PageableMemoryIsCopiedAsOnAGpu) {
  const Stream stream(cuda_device(0));
  const Buffer memory(cuda_device(0), sizeof(int)),
      pinned = Buffer::staging(cuda_device(0), sizeof(int));
  auto& late = *reinterpret_cast<int*>(pinned.data());
  const auto copy = [&](void* to, const void* from) {
    stipple::cuda::copy(to, from, sizeof(int), stream.native());
  };
  int value = 5;
  copy(memory.data(), &value);  // staged at once
  value = 6;
  copy(pinned.data(), memory.data());
  EXPECT_EQ(late, 0);
  copy(&value, memory.data());  // waits
  EXPECT_EQ(value, 5);
  EXPECT_EQ(late, 5);
  late = 7;
  copy(memory.data(), pinned.data());  // when its turn comes
  late = 8;
  copy(&value, memory.data());
  EXPECT_EQ(value, 8);
}

}  // namespace
}  // namespace stipple::kernels::cuda
