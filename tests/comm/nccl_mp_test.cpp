// SPDX-License-Identifier: Apache-2.0
// The communicator and the reducers in device memory: a GPU per rank, or the emulation of one with
// NCCL over MPI. The other tests of both, on other memory.
#include <cstdlib>
#include <memory>
#include <utility>

#include "comm/gpu_assignment.h"
#include "communicator_checks.h"
#include "core/cuda/runtime.h"
#include "kernels/activation.h"
#include "reducer_checks.h"

namespace stipple::comm {
namespace {

using test::Batch;
using test::FloatArray;
using test::Gradients;
using test::make_batch;

constexpr int64_t kNumel = 3001;  // not whole buckets, slices or vectors

// Before anything asks for devices: one for each rank, if they are emulated.
const int kEmulatedDevices = setenv("STIPPLE_CUDA_ON_CPU_DEVICES", "8", 0);

/// The ranks of the world with their devices.
struct Ranks {
  std::unique_ptr<Communicator> control = make_mpi_communicator();
  Stream stream{cuda_device(choose_cuda_device(*control))};
  std::unique_ptr<Communicator> nccl =
      make_nccl_communicator(*control, stream, {.init_timeout_s = 60, .operation_timeout_s = 60});

  DeviceAddition addition() const {
    return [this](float* out, const float* left, const float* right, int64_t count) {
      kernels::add(stream, {.y = {out, {count}},
                            .a = {const_cast<float*>(left), {count}},
                            .b = {const_cast<float*>(right), {count}}});
    };
  }
  ReducerOptions options(const Batch& batch, ReductionPolicy policy) const {
    return {.policy = policy,
            .numel = batch.numel,
            .num_leaves = batch.num_leaves,
            .bucket_bytes = 1000,
            .stream = &stream,
            .add = addition()};
  }
};

bool has_devices() {
  (void)kEmulatedDevices;
  const auto control = make_mpi_communicator();
  return control->all_reduce(int64_t{cuda::device_count()}, Reduction::kMin) >=
         control->local_size();
}

#define REQUIRE_DEVICES() \
  if (!has_devices()) GTEST_SKIP() << "needs a GPU for every rank"

class NcclRanks : public ::testing::TestWithParam<test::Check> {};
TEST_P(NcclRanks, Do) {
  REQUIRE_DEVICES();
  const Ranks ranks;
  GetParam().body(*ranks.nccl, &ranks.stream);
}
INSTANTIATE_TEST_SUITE_P(Communicator, NcclRanks, ::testing::ValuesIn(test::kChecks),
                         test::claim_of);

TEST(NcclCommunicator, HasTheRanksOfItsControl) {
  REQUIRE_DEVICES();
  const Ranks ranks;
  EXPECT_EQ(ranks.nccl->rank(), ranks.control->rank());
  EXPECT_EQ(ranks.nccl->size(), ranks.control->size());
  EXPECT_EQ(ranks.nccl->local_rank(), ranks.control->local_rank());
  EXPECT_EQ(ranks.nccl->local_size(), ranks.control->local_size());
}

TEST(NcclCommunicator, WaitingTwiceIsAnError) {
  REQUIRE_DEVICES();
  const Ranks ranks;
  const FloatArray values(&ranks.stream, std::vector<float>(10, 1.0f));
  const Pending sum = ranks.nccl->all_reduce_sum(values.span());
  ranks.nccl->wait(sum);
  EXPECT_THROW(ranks.nccl->wait(sum), CommError);
  EXPECT_THROW(ranks.nccl->wait(Pending{}), CommError);
}

TEST(NcclCommunicator, SpansPerRankAreChecked) {
  REQUIRE_DEVICES();
  const Ranks ranks;
  std::vector<std::span<const float>> send(static_cast<size_t>(ranks.nccl->size()) + 1);
  std::vector<std::span<float>> recv(static_cast<size_t>(ranks.nccl->size()));
  EXPECT_THROW(ranks.nccl->exchange(send, recv), CommError);
}

TEST(NcclCommunicator, TakesManyMoreOperationsThanItRemembers) {
  REQUIRE_DEVICES();
  const Ranks ranks;
  const FloatArray values(&ranks.stream, std::vector<float>(2, 0.0f));
  for (int i = 0; i < 3000; ++i) ranks.nccl->wait(ranks.nccl->all_reduce_sum(values.span()));
  EXPECT_EQ(values.get(), std::vector<float>(2, 0.0f));
}

/// What backward does, in device memory.
auto adds_on(const Ranks& ranks) {
  return [&ranks, addition = ranks.addition()](View<float> grads, const Gradients& gradients,
                                               Range range) {
    const FloatArray part(&ranks.stream,
                          {gradients.begin() + range.begin, gradients.begin() + range.end});
    float* const to = grads.data + range.begin;
    addition(to, to, part.span().data(), range.size());
    ranks.stream.synchronize();
  };
}

Gradients step_on_device(GradientReducer& reducer, const Ranks& ranks, const Batch& batch) {
  return FloatArray::get(&ranks.stream,
                         test::run_step(reducer, *ranks.nccl, batch, adds_on(ranks)));
}

bool same_bits(const Gradients& actual, const Gradients& expected) {
  return actual.size() == expected.size() &&
         std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(float)) == 0;
}

TEST(ExactReducerOnDevices, GivesTheBitsOfTheTree) {
  REQUIRE_DEVICES();
  const Ranks ranks;
  for (const int64_t leaves : {1, 3, 8, 13}) {
    const auto reducer = make_gradient_reducer(
        *ranks.nccl, ranks.options(make_batch(kNumel, leaves, 0), ReductionPolicy::kExact));
    for (uint64_t step = 0; step < 2; ++step) {
      const Batch batch = make_batch(kNumel, leaves, step);
      EXPECT_TRUE(same_bits(step_on_device(*reducer, ranks, batch), test::tree_sum(batch)))
          << leaves << " leaves, step " << step;
    }
  }
}

TEST(FastReducerOnDevices, IsCloseToTheTree) {
  REQUIRE_DEVICES();
  const Ranks ranks;
  for (const int64_t leaves : {1, 3, 8}) {
    const auto reducer = make_gradient_reducer(
        *ranks.nccl, ranks.options(make_batch(kNumel, leaves, 0), ReductionPolicy::kFast));
    for (uint64_t step = 0; step < 2; ++step) {
      const Batch batch = make_batch(kNumel, leaves, step);
      Gradients sum = step_on_device(*reducer, ranks, batch);
      test::expect_close(View<const float>{sum.data(), {batch.numel}}, test::tree_sum(batch),
                         test::sum_of_magnitudes(batch));
    }
  }
}

class ReducersOnDevices : public ::testing::TestWithParam<ReductionPolicy> {};
INSTANTIATE_TEST_SUITE_P(Policies, ReducersOnDevices,
                         ::testing::Values(ReductionPolicy::kExact, ReductionPolicy::kFast),
                         [](const auto& policy) {
                           return policy.param == ReductionPolicy::kExact ? "Exact" : "Fast";
                         });

TEST_P(ReducersOnDevices, HoldWhatTheDryRunSays) {
  REQUIRE_DEVICES();
  const Ranks ranks;
  const ReducerOptions options = ranks.options(make_batch(kNumel, 12, 0), GetParam());
  EXPECT_EQ(make_gradient_reducer(*ranks.nccl, options)->bytes(),
            reducer_bytes(options, ranks.nccl->rank(), ranks.nccl->size()));
}

TEST_P(ReducersOnDevices, MeasureTheTimeThatBackwardDoesNotHide) {
  REQUIRE_DEVICES();
  const Ranks ranks;
  const Batch batch = make_batch(kNumel, 8, 0);
  const auto reducer = make_gradient_reducer(*ranks.nccl, ranks.options(batch, GetParam()));
  EXPECT_EQ(reducer->times().exposed_s, 0);
  for (int step = 0; step < 4; ++step) {
    step_on_device(*reducer, ranks, batch);
    const ReducerTimes times = reducer->times();
    EXPECT_GT(times.exposed_s, 0);
    EXPECT_LT(times.exposed_s, 60);
    EXPECT_GE(times.exposed_s, times.waited_in_backward_s);
    EXPECT_GE(times.waited_in_backward_s, 0);
  }
}

TEST_P(ReducersOnDevices, GiveTheSameBitsFromACapturedGraphAndItsTimes) {
  REQUIRE_DEVICES();
  const Ranks ranks;
  const Batch batch = make_batch(kNumel, 4, 0);
  ReducerOptions options = ranks.options(batch, GetParam());
  options.flights = 2;
  const auto reducer = make_gradient_reducer(*ranks.nccl, options);
  const Gradients eager = step_on_device(*reducer, ranks, batch);

  const Range mine = leaves_of_rank(batch.num_leaves, ranks.nccl->rank(), ranks.nccl->size());
  std::vector<FloatArray> gradients;
  for (int64_t leaf = mine.begin; leaf < mine.end; ++leaf)
    gradients.emplace_back(&ranks.stream, test::leaf_gradients(batch, leaf));
  const DeviceAddition addition = ranks.addition();

  reducer->choose_flight(1);
  cuda::begin_capture(ranks.stream.native());
  for (int64_t leaf = mine.begin; leaf < mine.end; ++leaf) {
    const float* const from = gradients[static_cast<size_t>(leaf - mine.begin)].span().data();
    reducer->begin_leaf(leaf);
    for (const Range range : batch.ranges) {
      float* const to = reducer->grads().data + range.begin;
      addition(to, to, from + range.begin, range.size());
      reducer->ready(range);
    }
    reducer->end_leaf();
  }
  const View<const float> sum = reducer->finish();
  void* const graph = cuda::end_capture(ranks.stream.native());

  for (int replay = 0; replay < 2; ++replay) {
    cuda::launch_graph(graph, ranks.stream.native());
    ranks.nccl->launched("step");
    EXPECT_TRUE(same_bits(FloatArray::get(&ranks.stream, sum), eager)) << replay;
    const ReducerTimes times = reducer->times(1);
    EXPECT_GT(times.exposed_s, 0);
    EXPECT_GE(times.exposed_s, times.waited_in_backward_s);
  }
  cuda::destroy_graph(graph);
  EXPECT_TRUE(same_bits(step_on_device(*reducer, ranks, batch), eager)) << "after the graph";
}

TEST(ReductionMemory, NeedsAnAdditionOnDevices) {
  REQUIRE_DEVICES();
  const Ranks ranks;
  ReducerOptions options = ranks.options(make_batch(kNumel, 4, 0), ReductionPolicy::kExact);
  options.add = nullptr;
  EXPECT_THROW(make_gradient_reducer(*ranks.nccl, options), Error);
}

}  // namespace
}  // namespace stipple::comm
