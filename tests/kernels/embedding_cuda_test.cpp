// SPDX-License-Identifier: Apache-2.0
// What embedding_backward promises on CUDA alone: it asks CUB for what was planned, and is captured
// into a graph.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "kernels/cuda/embedding.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::random_normal;

constexpr int64_t kBatch = 2, kTokens = 300, kChannels = 4, kVocabulary = 20;

class EmbeddingOnCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (test::test_devices().size() < 2) GTEST_SKIP() << "no CUDA device";
    for (int64_t i = 0; i < ids.numel(); ++i) ids[i] = static_cast<int32_t>(i * i % kVocabulary);
  }

  EmbeddingBackward put(DeviceMemory& memory) const {
    return {.dtable = memory.zeros<float>({kVocabulary, kChannels}),
            .dpositions = memory.zeros<float>({kTokens, kChannels}),
            .dy = memory.put(dy),
            .ids = memory.put(ids),
            .scratch = &memory.scratch()};
  }

  Array<float> dy = random_normal({kBatch, kTokens, kChannels}, 1);
  Array<int32_t> ids = Array<int32_t>({kBatch, kTokens});
};

TEST_F(EmbeddingOnCuda, BackwardSaysThatCubAsksForMoreThanIsPlanned) {
  DeviceMemory memory(cuda_device(0));
  const int64_t tokens = kBatch * kTokens;
  const cuda::TokensById by_id{.numbers = memory.fresh<int32_t>({tokens}),
                               .sorted_ids = memory.fresh<int32_t>({tokens}),
                               .order = memory.fresh<int32_t>({tokens}),
                               .first = memory.fresh<int32_t>({kVocabulary + 1}),
                               .first_run = memory.fresh<int32_t>({kVocabulary + 1}),
                               .temporary = memory.scratch().alloc<std::byte>({0}),
                               .partials = memory.fresh<float>({tokens, kChannels})};
  try {
    cuda::embedding_backward(memory.stream(), put(memory), by_id);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("0 are planned"), std::string::npos) << error.what();
  }
}

TEST_F(EmbeddingOnCuda, BackwardRunsFromAGraphWithTheSameBits) {
  DeviceMemory memory(cuda_device(0));
  const EmbeddingBackward at_once = put(memory), captured = put(memory);
  embedding_backward(memory.stream(), at_once);  // the first call loads kernels
  memory.stream().synchronize();
  void* const stream = memory.stream().native();
  stipple::cuda::begin_capture(stream);
  embedding_backward(memory.stream(), captured);
  void* const graph = stipple::cuda::end_capture(stream);
  EXPECT_EQ(memory.get(captured.dtable).values(), Array<float>({kVocabulary, kChannels}).values());
  stipple::cuda::launch_graph(graph, stream);
  memory.stream().synchronize();
  stipple::cuda::destroy_graph(graph);
  EXPECT_EQ(memory.get(captured.dtable).values(), memory.get(at_once.dtable).values());
  EXPECT_EQ(memory.get(captured.dpositions).values(), memory.get(at_once.dpositions).values());
}

TEST_F(EmbeddingOnCuda, BackwardIsNotBlamedForErrorsOfOthers) {
  DeviceMemory memory(cuda_device(0));
  const EmbeddingBackward args = put(memory);
  ASSERT_NE(cudaSetDevice(-1), cudaSuccess);
  EXPECT_NO_THROW(embedding_backward(memory.stream(), args));
  memory.stream().synchronize();
}

}  // namespace
}  // namespace stipple::kernels
