// SPDX-License-Identifier: Apache-2.0
// What happens when the machine refuses a thread: those that run end, and the message says what
// helps.
#include "core/thread.h"

#include <gtest/gtest.h>

#include <atomic>

#include "core/cpu/thread_pool.h"
#include "core/error.h"
#include "core/stream.h"
#include "tests/support/refused_threads.h"

namespace stipple {
namespace {

template <class Body>
std::string refusal(const Body& body) {
  try {
    body();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "no ConfigError";
}

TEST(Thread, SaysWhatCouldNotBeStarted) {
  const test::RefusedThreads refused(0);
  const std::string text = refusal([] { start_thread("the watchdog", [] {}); });
  EXPECT_EQ(text.find("cannot start the watchdog: Resource temporarily unavailable; "), 0u) << text;
}

TEST(ThreadPool, EndsItsThreadsWhenOneIsRefused) {
  for (const int allowed : {0, 1, 5}) {
    const test::RefusedThreads refused(allowed);
    const std::string text = refusal([] { const cpu::ThreadPool pool(200); });
    const std::string which = "thread " + std::to_string(allowed + 2) + " of 200";
    EXPECT_NE(text.find(which), std::string::npos) << text;
    EXPECT_NE(text.find("lower threads"), std::string::npos) << text;
  }
}

TEST(ThreadPool, CanBeHadOnceThreadsCan) {
  {
    const test::RefusedThreads refused(1);
    EXPECT_THROW(Stream(kCpuDevice, {.threads = 4}), ConfigError);
  }
  const Stream stream(kCpuDevice, {.threads = 4});
  std::atomic<int> visits{0};
  stream.parallel_for(100, [&](int64_t, int) { ++visits; });
  EXPECT_EQ(visits, 100);
}

}  // namespace
}  // namespace stipple
