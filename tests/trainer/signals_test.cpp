// SPDX-License-Identifier: Apache-2.0
// Stops as the operating system asks for them. Each case runs in a child process with signals of
// its own.
#include "trainer/loop/signals.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <initializer_list>
#include <thread>
#include <vector>

#include "kernels/matmul.h"

namespace stipple::trainer {
namespace {

using namespace std::chrono_literals;

/// The wait status of a child that runs `body`; 0 when that returns true.
template <class Body>
int status_of_child(Body body) {
  const pid_t child = fork();
  if (child == 0) _exit(body() ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

bool stops_within(std::chrono::milliseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (!stop_requested() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(1ms);
  return stop_requested();
}

TEST(StopSignals, AskForAStop) {
  for (const int signal : {SIGINT, SIGHUP, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU}) {
    EXPECT_EQ(status_of_child([&] {
                catch_stop_signals();
                catch_stop_signals();
                if (stop_requested()) return false;
                kill(getpid(), signal);
                return stops_within(20s);
              }),
              0)
        << strsignal(signal);
  }
}

TEST(StopSignals, AHangupThatWasIgnoredStaysIgnored) {
  EXPECT_EQ(status_of_child([] {
              std::signal(SIGHUP, SIG_IGN);
              catch_stop_signals();
              kill(getpid(), SIGHUP);
              return !stops_within(100ms);
            }),
            0);
}

TEST(StopSignals, ASecondInterruptEndsTheProcess) {
  const int status = status_of_child([] {
    std::signal(SIGINT, SIG_IGN);  // as in a shell's background job
    catch_stop_signals();
    kill(getpid(), SIGINT);
    if (!stops_within(20s)) return false;
    kill(getpid(), SIGINT);
    std::this_thread::sleep_for(20s);
    return true;
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGINT);
}

TEST(StopSignals, AreNotBlockedInForkedPrograms) {
  EXPECT_EQ(status_of_child([] {
              catch_stop_signals();
              const int inner = status_of_child([] {
                sigset_t blocked;
                pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
                return sigismember(&blocked, SIGTERM) == 0;
              });
              return inner == 0;
            }),
            0);
}

/// One product whose inner dimension is long enough for oneDNN's kernel with its stack pointer
/// in the heap, where a frame on that stack overwrites other blocks.
class Product {
 public:
  Product(int64_t size, bool transpose_a, bool transpose_b)
      : size_(size), transpose_a_(transpose_a), transpose_b_(transpose_b) {
    for (size_t i = 0; i < a_.size(); ++i) a_[i] = static_cast<float>(i % 17) - 8;
    for (size_t i = 0; i < b_.size(); ++i) b_[i] = static_cast<float>(i % 13) - 6;
    expected_ = multiply();
  }
  /// Whether it has the same bits again.
  bool repeat() const { return multiply() == expected_; }

 private:
  static constexpr int64_t kInner = 200;

  std::vector<float> multiply() const {
    std::vector<float> c(static_cast<size_t>(size_ * size_));
    const Shape rows{size_, kInner};
    const Shape cols{kInner, size_};
    kernels::matmul(Stream(kCpuDevice),
                    {.c = View<float>{c.data(), {size_, size_}},
                     .a = View<const float>{a_.data(), transpose_a_ ? cols : rows},
                     .b = View<const float>{b_.data(), transpose_b_ ? rows : cols},
                     .transpose_a = transpose_a_,
                     .transpose_b = transpose_b_});
    return c;
  }

  int64_t size_;
  bool transpose_a_;
  bool transpose_b_;
  std::vector<float> a_ = std::vector<float>(static_cast<size_t>(size_ * kInner));
  std::vector<float> b_ = std::vector<float>(static_cast<size_t>(size_ * kInner));
  std::vector<float> expected_;
};

TEST(StopSignals, LeaveMatrixProductsAndTheHeapAlone) {
  constexpr size_t kSignals = 5000;
  const int status = status_of_child([] {
    catch_stop_signals();
    std::vector<Product> products;
    for (const int64_t size : {16, 64}) {
      for (const bool transpose_a : {false, true}) {
        for (const bool transpose_b : {false, true})
          products.emplace_back(size, transpose_a, transpose_b);
      }
    }
    std::atomic<bool> done = false;
    std::thread sender([&] {
      const int kinds[] = {SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGHUP};
      for (size_t i = 0; i < kSignals; ++i) {
        kill(getpid(), kinds[i % std::size(kinds)]);
        std::this_thread::sleep_for(100us);
      }
      done = true;
    });
    bool same = true;
    while (!done) {
      for (const Product& product : products) same &= product.repeat();
    }
    sender.join();
    return same && stop_requested();
  });
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace stipple::trainer
