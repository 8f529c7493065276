// SPDX-License-Identifier: Apache-2.0
#include "core/stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/section_timer.h"

namespace stipple {
namespace {

TEST(Stream, CoversEachIndexOnceForAnyThreads) {
  for (int threads : {1, 2, 3, 4}) {
    const Stream stream(kCpuDevice, {.threads = threads});
    EXPECT_EQ(stream.threads(), threads);
    for (int64_t count : {0, 1, 2, 3, 7, 1000}) {
      std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
      stream.parallel_for(count, [&](int64_t i, int) { ++visits[static_cast<size_t>(i)]; });
      for (const auto& visit : visits) ASSERT_EQ(visit, 1) << threads << " threads, " << count;
    }
  }
}

TEST(Stream, NumbersItsWorkersBelowTheNumberOfThreads) {
  const Stream stream(kCpuDevice, {.threads = 3});
  std::atomic<int> bad{0};
  stream.parallel_for(1000, [&](int64_t, int worker) { bad += worker < 0 || worker >= 3 ? 1 : 0; });
  EXPECT_EQ(bad, 0);
}

TEST(Stream, GivesEachWorkerNumberToOneThreadAtATime) {
  const Stream stream(kCpuDevice, {.threads = 4});
  std::vector<std::atomic<int>> inside(4);
  std::atomic<int> collisions{0};
  stream.parallel_for(5000, [&](int64_t, int worker) {
    auto& mine = inside[static_cast<size_t>(worker)];
    if (++mine != 1) ++collisions;
    --mine;
  });
  EXPECT_EQ(collisions, 0);
}

TEST(Stream, SeesAllWritesOfItsWorkersWhenTheLoopEnds) {
  const Stream stream(kCpuDevice, {.threads = 4});
  std::vector<int64_t> values(997);
  for (int64_t round = 0; round < 200; ++round) {
    stream.parallel_for(997, [&](int64_t i, int) { values[static_cast<size_t>(i)] = round + i; });
    for (int64_t i = 0; i < 997; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], round + i);
  }
}

TEST(Stream, WaitsForWorkersThatAreSlowerThanTheCaller) {
  const Stream stream(kCpuDevice, {.threads = 2});
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> finished{0};
    stream.parallel_for(4, [&](int64_t, int worker) {
      std::this_thread::sleep_for(std::chrono::milliseconds(worker == 0 ? 1 : 3));
      ++finished;
    });
    ASSERT_EQ(finished, 4);
  }
}

TEST(Stream, RethrowsAnExceptionAndStaysUsable) {
  for (int threads : {1, 2, 4}) {
    const Stream stream(kCpuDevice, {.threads = threads});
    try {
      stream.parallel_for(100, [](int64_t i, int) {
        if (i == 57) throw Error("index 57");
      });
      FAIL() << "the exception was lost with " << threads << " threads";
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()), "index 57");
    }
    std::atomic<int64_t> sum{0};
    stream.parallel_for(100, [&](int64_t i, int) { sum += i; });
    EXPECT_EQ(sum, 4950);
  }
}

TEST(Stream, WorksAfterAMove) {
  Stream from(kCpuDevice, {.threads = 2});
  const Stream to = std::move(from);
  std::atomic<int64_t> sum{0};
  to.parallel_for(10, [&](int64_t i, int) { sum += i; });
  EXPECT_EQ(sum, 45);
}

TEST(Stream, OnMetaRemembersItsThreadsAndRunsNothing) {
  const Stream stream(kMetaDevice, {.threads = 5});
  EXPECT_EQ(stream.threads(), 5);
  EXPECT_TRUE(stream.is_plan());
  stream.parallel_for(1, [](int64_t, int) { FAIL() << "work on meta"; });
}

TEST(SectionTimer, AddsUpItsSections) {
  const Stream stream(kCpuDevice);
  constexpr auto kWork = std::chrono::milliseconds(2);
  SectionTimer timer(kCpuDevice, 2);
  EXPECT_EQ(timer.seconds(), 0);
  Event before(kCpuDevice), after(kCpuDevice);
  stream.record(before);
  for (int section = 0; section < 2; ++section) {
    timer.begin(stream);
    std::this_thread::sleep_for(kWork);
    timer.end(stream);
    std::this_thread::sleep_for(kWork);
  }
  stream.record(after);
  EXPECT_GE(timer.seconds(), 4e-3);
  EXPECT_LE(timer.seconds(), after.ms_since(before) * 1e-3 - 4e-3);
  EXPECT_THROW(timer.begin(stream), Error);
  timer.restart();
  EXPECT_EQ(timer.seconds(), 0);
  EXPECT_THROW(timer.end(stream), Error);
}

TEST(Stream, RefusesFewerThanOneThread) { EXPECT_THROW(Stream(kCpuDevice, {.threads = 0}), Error); }

}  // namespace
}  // namespace stipple
