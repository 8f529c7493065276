// SPDX-License-Identifier: Apache-2.0
#include "comm/watchdog.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

#include "comm/threads/thread_group.h"
#include "core/error.h"
#include "tests/support/refused_threads.h"

namespace stipple::comm {
namespace {

constexpr auto kNoIdle = [] { FAIL() << "the recorder was full"; };

TEST(FlightRecorder, NumbersOperationsAndReusesTheirSlots) {
  const Stream stream(kCpuDevice);
  FlightRecorder recorder(stream, 4);
  for (int64_t i = 1; i <= 10; ++i) {
    EXPECT_EQ(recorder.begin("exchange", 40, kNoIdle), i);
    const Pending pending = recorder.end(i);
    recorder.wait(stream, pending, "rank 0");
    EXPECT_THROW(recorder.wait(stream, pending, "rank 0"), CommError);
  }
  EXPECT_THROW(recorder.wait(stream, Pending{}, "rank 0"), CommError);
  EXPECT_EQ(recorder.poll()->position, (Position{10, 10, 10}));
  EXPECT_EQ(recorder.poll()->open.sequence, 0);
}

TEST(FlightRecorder, MakesRoomForOperationsThatNobodyHasWaitedFor) {
  const Stream stream(kCpuDevice);
  FlightRecorder recorder(stream, 4);
  for (int64_t i = 1; i <= 100; ++i) recorder.end(recorder.begin("exchange", i, kNoIdle));
  for (int64_t i = 100; i >= 1; --i) EXPECT_NO_THROW(recorder.wait(stream, Pending{i}, "rank 0"));
}

TEST(FlightRecorder, KnowsTheOldestOperationThatIsUnderWay) {
  const Stream stream(kCpuDevice);
  FlightRecorder recorder(stream, 4);
  recorder.end(recorder.begin("exchange", 40, kNoIdle));
  recorder.begin("all_reduce_sum", 80, kNoIdle);
  EXPECT_EQ(recorder.poll()->position, (Position{2, 2, 1}));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const FlightRecorder::Open open = recorder.poll()->open;
  EXPECT_STREQ(open.kind, "all_reduce_sum");
  EXPECT_EQ(open.sequence, 2);
  EXPECT_EQ(open.bytes, 80);
  EXPECT_GE(open.seconds, 0.02);
}

TEST(RankBoard, ShowsEveryRankToEveryRank) {
  run_ranks(3, [](Communicator& c) {
    RankBoard board(c);
    board.publish({10 + c.rank(), 5 + c.rank(), c.rank()});
    c.barrier();
    const auto positions = board.read();
    ASSERT_EQ(positions.size(), 3u);
    for (int r = 0; r < 3; ++r) {
      EXPECT_EQ(positions[static_cast<size_t>(r)], (Position{10 + r, 5 + r, r}));
    }
    c.barrier();
  });
}

std::optional<Position> at(int64_t reached) { return Position{reached, reached, reached - 1}; }

TEST(WhoIsBehind, NamesTheRankThatDidNotCome) {
  const std::optional<Position> positions[] = {at(12), at(11), at(12), at(12)};
  EXPECT_EQ(who_is_behind(positions), "rank 1 is at operation 11, all others at 12");
}

TEST(WhoIsBehind, NamesSeveral) {
  const std::optional<Position> positions[] = {at(3), at(12), at(3)};
  EXPECT_EQ(who_is_behind(positions), "ranks 0, 2 are at operation 3, all others at 12");
}

TEST(WhoIsBehind, SaysHowFarTheFastestIsWhereAllDiffer) {
  const std::optional<Position> positions[] = {at(5), at(3), at(12)};
  EXPECT_EQ(who_is_behind(positions), "rank 1 is at operation 3, all others at up to 12");
}

TEST(WhoIsBehind, NamesTheRankThatDoesNotFinishWhatTheOthersHave) {
  const std::optional<Position> positions[] = {Position{7, 7, 7}, Position{7, 7, 6}};
  EXPECT_EQ(who_is_behind(positions), "rank 1 has not finished operation 7, all others have");
}

TEST(WhoIsBehind, SaysWhenNobodyIsAndWhatIsNotKnown) {
  const std::optional<Position> equal[] = {at(7), at(7)};
  EXPECT_EQ(who_is_behind(equal), "all ranks are at operation 7");
  const std::optional<Position> partly[] = {at(7), std::nullopt, at(7)};
  EXPECT_EQ(who_is_behind(partly),
            "all ranks that are known are at operation 7; of rank 1 on other machines nothing is "
            "known");
  const std::optional<Position> nobody[] = {std::nullopt, std::nullopt};
  EXPECT_EQ(who_is_behind(nobody), "where the ranks are is not known");
}

/// A transport of one rank whose operations end, or do not, as the test likes.
struct Transport {
  Stream stream{kCpuDevice};
  std::unique_ptr<Communicator> alone = make_single_communicator();
  FlightRecorder recorder{stream, 4};
  RankBoard board{*alone};
  std::shared_ptr<std::atomic<int>> aborts = std::make_shared<std::atomic<int>>(0);
  std::shared_ptr<Deadline> deadline = std::make_shared<Deadline>(42);
  std::string fault;

  WatchdogOptions options() {
    return {.who = "rank 0/1 (n1)",
            .operation_timeout_s = 0.2,
            .poll_s = 0.01,
            .grace_s = 3600,
            .fault = [this] { return fault; },
            .abort = [counter = aborts] { ++*counter; }};
  }
};

std::string message_of(Watchdog& watchdog) {
  for (int i = 0; i < 1000; ++i) {
    try {
      watchdog.check();
    } catch (const CommError& e) {
      return e.what();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return "the watchdog saw nothing";
}

TEST(Watchdog, LeavesOperationsThatEndAlone) {
  Transport transport;
  Watchdog watchdog(transport.recorder, transport.board, transport.deadline, transport.options());
  for (int i = 0; i < 50; ++i) {
    const Pending pending = transport.recorder.end(transport.recorder.begin("x", 4, kNoIdle));
    transport.recorder.wait(transport.stream, pending, "");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_NO_THROW(watchdog.check());
  }
  EXPECT_EQ(*transport.aborts, 0);
}

TEST(Watchdog, TellsOfAnOperationThatDoesNotEnd) {
  Transport transport;
  Watchdog watchdog(transport.recorder, transport.board, transport.deadline, transport.options());
  transport.recorder.end(transport.recorder.begin("exchange", 40, kNoIdle));
  transport.recorder.begin("all_reduce_sum", 80, kNoIdle);
  const std::string text = message_of(watchdog);
  EXPECT_EQ(text.find("rank 0/1 (n1): all_reduce_sum #2 of 80 bytes has not ended after 0."), 0u)
      << text;
  EXPECT_NE(text.find("all ranks are at operation 2"), std::string::npos) << text;
  for (int i = 0; i < 1000 && *transport.aborts == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(*transport.aborts, 1);
}

TEST(Watchdog, TellsWhatTheTransportReports) {
  Transport transport;
  transport.fault = "the network is down";
  Watchdog watchdog(transport.recorder, transport.board, transport.deadline, transport.options());
  const std::string text = message_of(watchdog);
  EXPECT_NE(text.find("the network is down"), std::string::npos) << text;
}

TEST(Watchdog, IsNotHadWhereItsThreadIsRefused) {
  Transport transport;
  const stipple::test::RefusedThreads refused(0);
  EXPECT_THROW(
      Watchdog(transport.recorder, transport.board, transport.deadline, transport.options()),
      ConfigError);
  EXPECT_THROW(Deadline(1), ConfigError);
}

TEST(Deadline, EndsNothingBeforeItsTimeNorOnceLifted) {
  Deadline deadline(42);
  for (int i = 0; i < 20; ++i) {
    deadline.set(0.5, "moved away again and again");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  deadline.set(3600, "far");
  deadline.set(0.5, "near");
  deadline.lift();
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
}

constexpr auto kForEver = std::chrono::seconds(30);

/// A process whose operation does not end, with this abort; then `program` runs. It ends with the
/// diagnosis, and with these words.
template <class Program>
void expect_end(const Program& program, std::function<void()> abort, const char* words) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [&] {
    Transport transport;
    WatchdogOptions options = transport.options();
    options.grace_s = 0.2;
    options.abort = abort;
    auto watchdog = std::make_unique<Watchdog>(transport.recorder, transport.board,
                                               transport.deadline, options);
    transport.deadline.reset();
    transport.recorder.begin("exchange", 40, kNoIdle);
    program(watchdog);
  };
  EXPECT_EXIT(run(), ::testing::ExitedWithCode(42), words);
}

constexpr const char* kDiagnosis = "exchange #1 of 40 bytes has not ended";

constexpr auto kIgnore = [](auto&) { std::this_thread::sleep_for(kForEver); };
/// What check() throws ends the program's work, and then something never comes back.
constexpr auto kHangOnceTold = [](auto& watchdog) {
  message_of(*watchdog);
  std::this_thread::sleep_for(kForEver);
};
/// The same, but what hangs is freed after the watchdog.
constexpr auto kHangWithoutWatchdog = [](auto& watchdog) {
  message_of(*watchdog);
  watchdog.reset();
  std::this_thread::sleep_for(kForEver);
};
const auto kAbort = [] {};
const auto kAbortHangs = [] { std::this_thread::sleep_for(kForEver); };
const auto kAbortThrows = [] { throw CommError("NCCL cannot be aborted"); };

TEST(WatchdogDeathTest, EndsAProcessThatDoesNotReact) {
  expect_end(kIgnore, kAbort, kDiagnosis);
  expect_end(kIgnore, kAbortHangs, kDiagnosis);
}

TEST(WatchdogDeathTest, EndsAProcessWhoseAbortThrowsAndSaysWhatItThrew) {
  expect_end(kIgnore, kAbortThrows, kDiagnosis);
  expect_end(kIgnore, kAbortThrows, "aborting failed, too: NCCL cannot be aborted");
}

TEST(WatchdogDeathTest, EndsAProcessThatHangsOnceItWasTold) {
  expect_end(kHangOnceTold, kAbort, kDiagnosis);
  expect_end(kHangOnceTold, kAbortHangs, kDiagnosis);
  expect_end(kHangOnceTold, kAbortThrows, kDiagnosis);
}

TEST(WatchdogDeathTest, EndsAProcessThatHangsAfterTheWatchdog) {
  expect_end(kHangWithoutWatchdog, kAbort, kDiagnosis);
  expect_end(kHangWithoutWatchdog, kAbortHangs, kDiagnosis);
}

}  // namespace
}  // namespace stipple::comm
