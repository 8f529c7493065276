// SPDX-License-Identifier: Apache-2.0
#include "comm/gradient_reducer.h"

#include "comm/leaf_order.h"
#include "comm/summation_tree.h"
#include "comm/threads/thread_group.h"
#include "core/error.h"
#include "reducer_checks.h"
#include "tests/support/allocation_count.h"

namespace stipple::comm {
namespace {

using test::Batch;
using test::Gradients;
using test::make_batch;
using test::run_step;

constexpr int kRanks[] = {1, 2, 3, 4, 5, 8};
constexpr int64_t kLeaves[] = {1, 2, 3, 7, 8, 12, 13, 32};
constexpr int64_t kNumel = 3001;  // not whole buckets, slices or vectors

ReducerOptions options_of(const Batch& batch, ReductionPolicy policy, int64_t bucket_bytes = 1000) {
  return {.policy = policy,
          .numel = batch.numel,
          .num_leaves = batch.num_leaves,
          .bucket_bytes = bucket_bytes};
}

ReducerOptions exact_options(const Batch& batch) {
  return options_of(batch, ReductionPolicy::kExact);
}

TEST(LeavesOfRank, AreContiguousAndEven) {
  for (const int ranks : kRanks) {
    for (const int64_t leaves : kLeaves) {
      int64_t next = 0;
      for (int r = 0; r < ranks; ++r) {
        const Range mine = leaves_of_rank(leaves, r, ranks);
        EXPECT_EQ(mine.begin, next);
        EXPECT_GE(mine.size(), leaves / ranks);
        EXPECT_LE(mine.size(), (leaves + ranks - 1) / ranks);
        next = mine.end;
      }
      EXPECT_EQ(next, leaves);
    }
  }
}

TEST(LeavesOfRank, AreNoneBeyondTheNumberOfLeaves) {
  EXPECT_EQ(leaves_of_rank(3, 2, 8), (Range{2, 3}));
  for (int r = 3; r < 8; ++r) EXPECT_EQ(leaves_of_rank(3, r, 8).size(), 0);
}

TEST(Buckets, CoverTheArenaAndEndWithASmallOne) {
  for (const int64_t bucket_bytes : {1, 128, 1000, 4096, 1 << 20}) {
    for (const int64_t numel : {1, 31, 32, 33, 250, 255, 256, 257, 1000, 3001, 300000}) {
      const Buckets buckets(ReducerOptions{.numel = numel, .bucket_bytes = bucket_bytes});
      int64_t next = 0;
      for (int64_t k = 0; k < buckets.count(); ++k) {
        EXPECT_EQ(buckets[k].begin, next);
        EXPECT_EQ(buckets[k].begin % kGranule, 0);
        EXPECT_GT(buckets[k].size(), 0);
        EXPECT_LE(buckets[k].size(), buckets[0].size());
        next = buckets[k].end;
      }
      EXPECT_EQ(next, numel);
      if (bucket_bytes >= 1000 && buckets.count() > 1) {
        EXPECT_LE(4 * buckets[buckets.count() - 1].size(), bucket_bytes / 4);
      }
    }
  }
}

TEST(SummationTree, LeavesOfAPowerOfTwoRanksAreOneNode) {
  for (int64_t leaves = 1; leaves <= 70; ++leaves) {
    for (const int ranks : {1, 2, 4, 8, 16}) {
      for (int r = 0; r < ranks; ++r) {
        const Range run = leaves_of_rank(leaves, r, ranks);
        const std::vector<TreeNode> nodes = SummationTree(leaves).cover(run);
        EXPECT_EQ(nodes.size(), run.size() > 0 ? 1u : 0u) << leaves << " on " << r << "/" << ranks;
      }
    }
  }
}

TEST(SummationTree, EveryNodeSplitsIntoTwo) {
  for (int64_t num_leaves = 1; num_leaves <= 200; ++num_leaves) {
    const SummationTree tree(num_leaves);
    std::vector<TreeNode> open{TreeNode{}};
    int64_t leaves = 0;
    while (!open.empty()) {
      const TreeNode node = open.back();
      open.pop_back();
      ASSERT_GE(tree.leaves(node).size(), 1);
      EXPECT_EQ(tree.leaves(node).size(),
                tree.leaves(node.left()).size() + tree.leaves(node.right()).size());
      if (tree.leaves(node).size() == 1) ++leaves;
      if (tree.leaves(node).size() > 1) open.insert(open.end(), {node.left(), node.right()});
    }
    EXPECT_EQ(leaves, num_leaves);
  }
}

TEST(ExactReducer, GivesTheBitsOfTheTreeForEveryNumberOfRanks) {
  for (const int64_t leaves : kLeaves) {
    // Three steps with one reducer: buffers are reused, nothing may remain from the step before.
    std::vector<Batch> batches;
    std::vector<Gradients> expected;
    for (uint64_t step = 0; step < 3; ++step) {
      batches.push_back(make_batch(kNumel, leaves, step));
      expected.push_back(test::tree_sum(batches.back()));
    }
    for (const int ranks : kRanks) {
      run_ranks(ranks, [&](Communicator& c) {
        const auto reducer = make_gradient_reducer(c, exact_options(batches[0]));
        for (size_t step = 0; step < batches.size(); ++step) {
          EXPECT_TRUE(test::same_bits(run_step(*reducer, c, batches[step]), expected[step]))
              << leaves << " leaves, rank " << c.rank() << "/" << ranks << ", step " << step;
        }
      });
    }
  }
}

TEST(ExactReducer, BucketsDoNotChangeTheBits) {
  const Batch batch = make_batch(kNumel, 7, 0);
  const Gradients expected = test::tree_sum(batch);
  for (const int64_t bucket_bytes : {1, 128, 999, 4096, 1 << 20}) {
    run_ranks(3, [&](Communicator& c) {
      const auto reducer =
          make_gradient_reducer(c, options_of(batch, ReductionPolicy::kExact, bucket_bytes));
      EXPECT_TRUE(test::same_bits(run_step(*reducer, c, batch), expected)) << bucket_bytes;
    });
  }
}

TEST(ExactReducer, SumsFewerElementsThanRanks) {
  Batch batch = make_batch(3, 5, 0);
  batch.ranges = {{0, 3}};
  const Gradients expected = test::tree_sum(batch);
  run_ranks(4, [&](Communicator& c) {
    const auto reducer = make_gradient_reducer(c, exact_options(batch));
    EXPECT_TRUE(test::same_bits(run_step(*reducer, c, batch), expected));
  });
}

// If this failed, the tests above could not tell the tree from any other order.
TEST(ExactReducer, IsToldFromARunningSumByItsBits) {
  for (const int64_t leaves : {7, 8, 13, 32}) {
    const Batch batch = make_batch(kNumel, leaves, 0);
    EXPECT_NE(test::tree_sum(batch), test::running_sum(batch)) << leaves;
  }
}

TEST(ExactReducer, KeepsAPartialSumPerLevelOfTheTree) {
  const Batch batch = make_batch(kNumel, 32, 0);
  const size_t partial = kNumel * sizeof(float);
  EXPECT_EQ(reducer_bytes(exact_options(batch), 0, 1), 6 * partial);
  // Four ranks: 8 leaves each in 4 partial sums, and for each of five buckets (7 * 32 floats) in
  // flight two granules from each of three peers.
  EXPECT_EQ(reducer_bytes(exact_options(batch), 2, 4), 4 * partial + 5 * 3 * 2 * 128);
}

TEST(ExactReducer, KnowsTheLargestShareOfManyRanks) {
  for (const int64_t leaves : {1, 7, 32}) {
    const Batch batch = make_batch(kNumel, leaves, 0);
    for (const int ranks : {1, 3, 8, 50}) {
      size_t largest = 0;
      for (int rank = 0; rank < ranks; ++rank)
        largest = std::max(largest, reducer_bytes(exact_options(batch), rank, ranks));
      EXPECT_EQ(largest_reducer_bytes(exact_options(batch), ranks), largest);
    }
  }
  // Quadratic time would be hours.
  EXPECT_GT(largest_reducer_bytes(exact_options(make_batch(kNumel, 64, 0)), 1'000'000), 0u);
}

TEST(FastReducer, IsCloseToTheTree) {
  for (const int64_t leaves : kLeaves) {
    std::vector<Batch> batches;
    std::vector<Gradients> expected;
    std::vector<Gradients> magnitudes;
    for (uint64_t step = 0; step < 2; ++step) {
      batches.push_back(make_batch(1003, leaves, step));
      expected.push_back(test::tree_sum(batches.back()));
      magnitudes.push_back(test::sum_of_magnitudes(batches.back()));
    }
    for (const int64_t bucket_bytes : {1, 999, 1 << 20}) {
      for (const int ranks : kRanks) {
        run_ranks(ranks, [&](Communicator& c) {
          const auto reducer = make_gradient_reducer(
              c, options_of(batches[0], ReductionPolicy::kFast, bucket_bytes));
          for (size_t step = 0; step < 2; ++step) {
            test::expect_close(run_step(*reducer, c, batches[step]), expected[step],
                               magnitudes[step]);
          }
        });
      }
    }
  }
}

class BothPolicies : public ::testing::TestWithParam<ReductionPolicy> {};
INSTANTIATE_TEST_SUITE_P(GradientReducer, BothPolicies,
                         ::testing::Values(ReductionPolicy::kExact, ReductionPolicy::kFast),
                         [](const auto& policy) {
                           return policy.param == ReductionPolicy::kExact ? "Exact" : "Fast";
                         });

TEST_P(BothPolicies, HoldWhatTheDryRunSays) {
  for (const int ranks : kRanks) {
    for (const int64_t leaves : kLeaves) {
      const ReducerOptions options = options_of(make_batch(kNumel, leaves, 0), GetParam());
      run_ranks(ranks, [&](Communicator& c) {
        EXPECT_EQ(make_gradient_reducer(c, options)->bytes(),
                  reducer_bytes(options, c.rank(), ranks));
      });
    }
  }
}

TEST_P(BothPolicies, SumWithoutAnyAnnouncedRange) {
  const Batch batch = make_batch(kNumel, 6, 0);
  run_ranks(2, [&](Communicator& c) {
    const auto reducer = make_gradient_reducer(c, options_of(batch, GetParam()));
    const Range leaves = leaves_of_rank(batch.num_leaves, c.rank(), c.size());
    for (int64_t leaf = leaves.begin; leaf < leaves.end; ++leaf) {
      reducer->begin_leaf(leaf);
      const Gradients gradients = test::leaf_gradients(batch, leaf);
      for (int64_t i = 0; i < batch.numel; ++i) {
        reducer->grads()[i] += gradients[static_cast<size_t>(i)];
      }
      reducer->end_leaf();
    }
    test::expect_close(reducer->finish(), test::tree_sum(batch), test::sum_of_magnitudes(batch));
  });
}

TEST_P(BothPolicies, AllocateNothingInASteadyStep) {
  // Gradients prepared: what is left between the counts are the calls of reducer and transport.
  const Batch batch = make_batch(kNumel, 13, 0);
  std::vector<Gradients> leaves;
  for (int64_t leaf = 0; leaf < 13; ++leaf) leaves.push_back(test::leaf_gradients(batch, leaf));
  run_ranks(3, [&](Communicator& c) {
    const auto reducer = make_gradient_reducer(c, options_of(batch, GetParam()));
    const Range mine = leaves_of_rank(13, c.rank(), 3);
    int64_t before = 0;
    for (int step = 0; step < 5; ++step) {
      c.barrier();
      if (step == 2) before = ::stipple::test::allocations;
      for (int64_t leaf = mine.begin; leaf < mine.end; ++leaf) {
        reducer->begin_leaf(leaf);
        test::backward(*reducer, batch, leaves[static_cast<size_t>(leaf)]);
        reducer->end_leaf();
      }
      reducer->finish();
    }
    EXPECT_EQ(::stipple::test::allocations, before);
    c.barrier();
  });
}

/// Passes everything on, counting the operations on bulk data.
class CountingCommunicator final : public Communicator {
 public:
  explicit CountingCommunicator(Communicator& inner) : inner_(inner) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  int local_rank() const override { return inner_.local_rank(); }
  int local_size() const override { return inner_.local_size(); }
  Pending all_reduce_sum(std::span<float> values) override {
    ++started;
    return inner_.all_reduce_sum(values);
  }
  Pending exchange(std::span<const std::span<const float>> send,
                   std::span<const std::span<float>> recv) override {
    ++started;
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != rank())
        floats_sent += static_cast<int64_t>(send[static_cast<size_t>(peer)].size());
    }
    return inner_.exchange(send, recv);
  }
  void wait(Pending pending) override { inner_.wait(pending); }
  void progress() override { inner_.progress(); }
  void barrier() override { inner_.barrier(); }
  void broadcast(std::span<std::byte> bytes, int root) override { inner_.broadcast(bytes, root); }
  void all_reduce(std::span<double> v, Reduction r) override { inner_.all_reduce(v, r); }
  void all_reduce(std::span<int64_t> v, Reduction r) override { inner_.all_reduce(v, r); }
  std::vector<std::string> all_gather(const std::string& t) override {
    return inner_.all_gather(t);
  }

  int64_t started = 0;
  int64_t floats_sent = 0;

 private:
  Communicator& inner_;
};

TEST_P(BothPolicies, SendWhileTheLastLeafsBackwardRuns) {
  const Batch batch = make_batch(kNumel, 4, 0);
  run_ranks(2, [&](Communicator& inner) {
    CountingCommunicator c(inner);
    const auto reducer = make_gradient_reducer(c, options_of(batch, GetParam()));
    const int64_t first = 2 * c.rank();
    reducer->begin_leaf(first);
    test::backward(*reducer, batch, test::leaf_gradients(batch, first));
    reducer->end_leaf();
    EXPECT_EQ(c.started, 0);
    reducer->begin_leaf(first + 1);
    test::backward(*reducer, batch, test::leaf_gradients(batch, first + 1));
    const int64_t in_backward = c.started;
    reducer->end_leaf();
    reducer->finish();
    EXPECT_GE(in_backward, c.started * 3 / 4);
    EXPECT_GT(reducer->times().exposed_s, 0);
  });
}

TEST(ExactReducer, SendsNoMoreThanARingOnAPowerOfTwoRanks) {
  for (const int64_t leaves : {8, 12, 32}) {
    const Batch batch = make_batch(4096, leaves, 0);
    for (const int ranks : {2, 4, 8}) {
      run_ranks(ranks, [&](Communicator& inner) {
        CountingCommunicator c(inner);
        const auto reducer =
            make_gradient_reducer(c, options_of(batch, ReductionPolicy::kExact, 4096));
        run_step(*reducer, c, batch);
        EXPECT_EQ(c.floats_sent, 2 * batch.numel * (ranks - 1) / ranks);
      });
    }
  }
}

TEST_P(BothPolicies, RefuseCallsOutOfOrder) {
  const Batch batch = make_batch(kNumel, 2, 0);
  const auto communicator = make_single_communicator();
  const auto reducer = make_gradient_reducer(*communicator, options_of(batch, GetParam()));
  EXPECT_THROW(reducer->finish(), Error);
  EXPECT_THROW(reducer->end_leaf(), Error);
  EXPECT_THROW(reducer->ready({0, 1}), Error);
  EXPECT_THROW(reducer->begin_leaf(1), Error);
  reducer->begin_leaf(0);
  EXPECT_THROW(reducer->begin_leaf(1), Error);
  EXPECT_THROW(reducer->finish(), Error);
  reducer->end_leaf();
  EXPECT_THROW(reducer->finish(), Error);
  reducer->begin_leaf(1);
  reducer->end_leaf();
  EXPECT_THROW(reducer->begin_leaf(2), Error);
  EXPECT_NO_THROW(reducer->finish());
}

TEST_P(BothPolicies, RefuseRangesOutOfOrder) {
  const Batch batch = make_batch(kNumel, 1, 0);
  const auto communicator = make_single_communicator();
  const auto reducer = make_gradient_reducer(*communicator, options_of(batch, GetParam()));
  reducer->begin_leaf(0);
  EXPECT_NO_THROW(reducer->ready({0, 100}));
  EXPECT_NO_THROW(reducer->ready({128, 200})) << "padding may be left out";
  EXPECT_THROW(reducer->ready({100, 128}), Error) << "descending";
  EXPECT_THROW(reducer->ready({190, 210}), Error) << "overlapping";
  EXPECT_THROW(reducer->ready({232, 300}), Error) << "a gap as long as a tensor";
  EXPECT_THROW(reducer->ready({200, kNumel + 1}), Error) << "beyond the end";
}

TEST_P(BothPolicies, RefuseNothingToSum) {
  const auto communicator = make_single_communicator();
  const ReducerOptions good = options_of(make_batch(kNumel, 2, 0), GetParam());
  ReducerOptions bad = good;
  bad.numel = 0;
  EXPECT_THROW(make_gradient_reducer(*communicator, bad), Error);
  bad = good;
  bad.num_leaves = 0;
  EXPECT_THROW(make_gradient_reducer(*communicator, bad), Error);
  bad = good;
  bad.bucket_bytes = 0;
  EXPECT_THROW(reducer_bytes(bad, 0, 1), Error);
}

}  // namespace
}  // namespace stipple::comm
