// SPDX-License-Identifier: Apache-2.0
#include "trainer/exit_code.h"

#include <gtest/gtest.h>

#include <new>

#include "core/buffer.h"
#include "core/error.h"

namespace stipple::trainer {
namespace {

TEST(ExitCode, SaysWhetherStartingAgainWouldHelp) {
  EXPECT_EQ(exit_code_of(Error("x")), kFailed);
  EXPECT_EQ(exit_code_of(CommError("x")), kFailed);
  EXPECT_EQ(exit_code_of(CudaError("x")), kFailed);
  EXPECT_EQ(exit_code_of(std::runtime_error("x")), kFailed);
  EXPECT_EQ(exit_code_of(ConfigError("x")), kBadConfig);
  EXPECT_EQ(exit_code_of(MemoryError("x")), kBadConfig);
  EXPECT_EQ(exit_code_of(DataError("x")), kBadConfig);
  EXPECT_EQ(exit_code_of(std::bad_alloc()), kBadConfig);
  EXPECT_EQ(exit_code_of(DivergenceError("x")), kDoNotRestart);
}

TEST(ExitCode, LackOfMemoryIsToldWithTheKeysThatLowerTheNeed) {
  const std::string advice = "; lower train.micro_batch or data.max_length";
  EXPECT_EQ(message_of(MemoryError("no room")), "no room" + advice);
  EXPECT_EQ(message_of(std::bad_alloc()), "out of memory" + advice);
  EXPECT_EQ(message_of(ConfigError("else")), "else");
}

// Sanitizers end the process for such a size.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(ExitCode, ABufferThatCannotBeHadIsALackOfMemory) {
  const size_t more_than_there_is = size_t{1} << 62;
  try {
    const Buffer buffer(kCpuDevice, more_than_there_is);
    FAIL() << "4 EiB were there";
  } catch (const std::exception& e) {
    EXPECT_EQ(message_of(e),
              "out of memory: 4611686018427387904 bytes asked for; lower train.micro_batch or "
              "data.max_length");
    EXPECT_EQ(exit_code_of(e), kBadConfig);
  }
}
#endif

}  // namespace
}  // namespace stipple::trainer
