// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "comm/gradient_reducer.h"
#include "reducer_checks.h"
#include "tests/support/allocation_count.h"

namespace stipple::comm {
namespace {

using test::Batch;
using test::Gradients;
using test::make_batch;
using test::run_step;

ReducerOptions options_of(const Batch& batch, ReductionPolicy policy) {
  return {.policy = policy,
          .numel = batch.numel,
          .num_leaves = batch.num_leaves,
          .bucket_bytes = 64 << 10};
}

/// FNV-1a of the bits.
uint64_t hash_of(View<const float> values) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto* bytes = reinterpret_cast<const unsigned char*>(values.data);
  for (size_t i = 0; i < values.bytes(); ++i) hash = (hash ^ bytes[i]) * 0x100000001b3;
  return hash;
}

TEST(ExactReducer, GivesTheHashOfTheTreeOnEveryRank) {
  const auto communicator = make_mpi_communicator();
  for (const int64_t leaves : {1, 3, 8, 12, 13, 32}) {
    const auto reducer = make_gradient_reducer(
        *communicator, options_of(make_batch(200003, leaves, 0), ReductionPolicy::kExact));
    for (uint64_t step = 0; step < 2; ++step) {
      const Batch batch = make_batch(200003, leaves, step);
      const uint64_t hash = hash_of(run_step(*reducer, *communicator, batch));
      const Gradients expected = test::tree_sum(batch);
      EXPECT_EQ(hash, hash_of({const_cast<float*>(expected.data()), {batch.numel}}));
      if (communicator->rank() == 0) {
        std::printf("%2d ranks, %2d leaves, step %d: %016llx\n", communicator->size(),
                    static_cast<int>(leaves), static_cast<int>(step),
                    static_cast<unsigned long long>(hash));
      }
    }
  }
}

TEST(FastReducer, IsCloseToTheTree) {
  const auto communicator = make_mpi_communicator();
  for (const int64_t leaves : {1, 3, 8, 13}) {
    const auto reducer = make_gradient_reducer(
        *communicator, options_of(make_batch(50003, leaves, 0), ReductionPolicy::kFast));
    for (uint64_t step = 0; step < 2; ++step) {
      const Batch batch = make_batch(50003, leaves, step);
      test::expect_close(run_step(*reducer, *communicator, batch), test::tree_sum(batch),
                         test::sum_of_magnitudes(batch));
    }
  }
}

TEST(GradientReducer, AllocatesNothingInASteadyStep) {
  const auto communicator = make_mpi_communicator();
  for (const ReductionPolicy policy : {ReductionPolicy::kExact, ReductionPolicy::kFast}) {
    const Batch batch = make_batch(200003, 13, 0);
    const Gradients gradients = test::leaf_gradients(batch, 0);
    const auto reducer = make_gradient_reducer(*communicator, options_of(batch, policy));
    const Range mine = leaves_of_rank(13, communicator->rank(), communicator->size());
    int64_t before = 0;
    for (int step = 0; step < 5; ++step) {
      if (step == 2) before = ::stipple::test::allocations;
      for (int64_t leaf = mine.begin; leaf < mine.end; ++leaf) {
        reducer->begin_leaf(leaf);
        test::backward(*reducer, batch, gradients);
        reducer->end_leaf();
      }
      reducer->finish();
    }
    EXPECT_EQ(::stipple::test::allocations, before);
  }
}

}  // namespace
}  // namespace stipple::comm
