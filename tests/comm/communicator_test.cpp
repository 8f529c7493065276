// SPDX-License-Identifier: Apache-2.0
#include "comm/communicator.h"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "comm/threads/thread_group.h"
#include "communicator_checks.h"
#include "tests/support/refused_threads.h"

namespace stipple::comm {
namespace {

class OneRank : public ::testing::TestWithParam<test::Check> {};
TEST_P(OneRank, Does) { GetParam().body(*make_single_communicator(), nullptr); }
INSTANTIATE_TEST_SUITE_P(Communicator, OneRank, ::testing::ValuesIn(test::kChecks), test::claim_of);

class ThreadRanks : public ::testing::TestWithParam<test::Check> {};
TEST_P(ThreadRanks, Do) {
  for (const int size : {1, 2, 3, 5, 8}) {
    SCOPED_TRACE(size);
    run_ranks(size, [](Communicator& c) { GetParam().body(c, nullptr); });
  }
}
INSTANTIATE_TEST_SUITE_P(Communicator, ThreadRanks, ::testing::ValuesIn(test::kChecks),
                         test::claim_of);

TEST(ThreadGroup, EveryRankRunsOnce) {
  std::atomic<int> bodies = 0;
  std::atomic<int> sum_of_ranks = 0;
  run_ranks(7, [&](Communicator& c) {
    EXPECT_EQ(c.size(), 7);
    EXPECT_EQ(c.local_size(), 7);
    EXPECT_EQ(c.local_rank(), c.rank());
    ++bodies;
    sum_of_ranks += c.rank();
  });
  EXPECT_EQ(bodies, 7);
  EXPECT_EQ(sum_of_ranks, 21);
}

TEST(ThreadGroup, AnExceptionOfOneRankFreesTheOthersAndIsRethrown) {
  std::atomic<int> freed = 0;
  const auto body = [&](Communicator& c) {
    if (c.rank() == 1) throw std::out_of_range("rank 1 is broken");
    try {
      c.barrier();
    } catch (const CommError& error) {
      EXPECT_NE(std::string(error.what()).find("barrier #1"), std::string::npos) << error.what();
      ++freed;
      throw;
    }
  };
  EXPECT_THROW(run_ranks(4, body), std::out_of_range);
  EXPECT_EQ(freed, 3);
}

TEST(ThreadGroup, ARankThatEndsEarlyFreesTheOthers) {
  const auto body = [](Communicator& c) {
    if (c.rank() != 0) c.barrier();
  };
  EXPECT_THROW(run_ranks(3, body), CommError);
}

TEST(ThreadGroup, DifferentCallsAreAnError) {
  const auto kinds = [](Communicator& c) {
    if (c.rank() == 0) c.barrier();
    if (c.rank() == 1) c.all_gather("x");
  };
  EXPECT_THROW(run_ranks(2, kinds), CommError);
  const auto roots = [](Communicator& c) { c.broadcast(std::string("x"), c.rank()); };
  EXPECT_THROW(run_ranks(2, roots), CommError);
  const auto reductions = [](Communicator& c) {
    c.all_reduce(1.0, c.rank() == 0 ? Reduction::kSum : Reduction::kMax);
  };
  EXPECT_THROW(run_ranks(2, reductions), CommError);
}

TEST(ThreadGroup, DifferentSizesAreAnError) {
  const auto sums = [](Communicator& c) {
    std::vector<float> values(c.rank() == 0 ? 10 : 11);
    c.wait(c.all_reduce_sum(values));
  };
  EXPECT_THROW(run_ranks(2, sums), CommError);
  const auto exchanges = [](Communicator& c) {
    test::UnevenExchange e(c, c.rank());
    c.wait(c.exchange(e.send, e.recv));
  };
  EXPECT_THROW(run_ranks(2, exchanges), CommError);
}

TEST(ThreadGroup, WaitingTwiceIsAnError) {
  run_ranks(2, [](Communicator& c) {
    std::vector<float> values(10);
    const Pending sum = c.all_reduce_sum(values);
    c.wait(sum);
    EXPECT_THROW(c.wait(sum), CommError);
    EXPECT_THROW(c.wait(Pending{}), CommError);
  });
}

TEST(ThreadGroup, NamesTheRankThatDoesNotCome) {
  const auto late = [](Communicator& c) {
    c.barrier();
    c.set_timeout(0.1, "comm.timeout_s");
    if (c.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(400));
    c.barrier();
  };
  try {
    run_ranks(3, late);
    FAIL() << "nobody missed rank 1";
  } catch (const CommError& e) {
    EXPECT_NE(
        std::string(e.what()).find(
            "barrier #2: has not ended after 0.1 s: rank 1 is at operation 1, all others at 2"),
        std::string::npos)
        << e.what();
  }
}

TEST(ThreadGroup, EndsItsRanksWhenOneIsRefused) {
  const stipple::test::RefusedThreads refused(2);
  EXPECT_THROW(run_ranks(3, [](Communicator& c) { c.barrier(); }), ConfigError);
}

TEST(Communicator, SpansPerRankAreChecked) {
  const auto body = [](Communicator& c) {
    std::vector<std::span<const float>> send(static_cast<size_t>(c.size()) + 1);
    std::vector<std::span<float>> recv(static_cast<size_t>(c.size()) + 1);
    EXPECT_THROW(c.exchange(std::span(send).first(static_cast<size_t>(c.size())), recv), CommError);
    if (c.size() > 1) {
      EXPECT_THROW(c.exchange(send, recv), CommError);
    }
  };
  run_ranks(2, body);
  body(*make_single_communicator());
}

TEST(Communicator, AProcessWithoutLauncherIsOneRank) {
  const auto communicator = make_mpi_communicator();
  EXPECT_EQ(communicator->size(), 1);
  EXPECT_EQ(communicator->rank(), 0);
}

TEST(AbortJob, ExitsWithTheGivenCode) {
  EXPECT_EXIT(abort_job(75), ::testing::ExitedWithCode(75), "");
}

}  // namespace
}  // namespace stipple::comm
