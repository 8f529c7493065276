// SPDX-License-Identifier: Apache-2.0
// Whole jobs on emulated devices in which something fails: all ranks end, in time, with a message
// that names the guilty one.
#include "job.h"

namespace stipple::comm {
namespace {

using test::expect_line;
using test::Job;

Job run_job(int ranks, const std::string& environment, const std::string& arguments) {
  return test::run_job(ranks, "STIPPLE_CUDA_ON_CPU_DEVICES=8 " + environment,
                       NCCL_STEPS " " + arguments);
}

// Start of the processes, one timeout, and the end of the job: far below what mpirun waits.
constexpr double kSoon = 30;

TEST(NcclJob, EndsWellWithoutAFailure) {
  for (const int ranks : {1, 2, 4}) {
    const Job job = run_job(ranks, "", "20 30 30");
    EXPECT_EQ(job.exit_code, 0) << job.output;
    EXPECT_EQ(job.output, "");
  }
}

TEST(NcclJob, AnErrorThatNcclReportsEndsAllRanks) {
  const Job job = run_job(2, "STIPPLE_NCCL_FAIL=async_error@12:1", "20 30 30");
  EXPECT_EQ(job.exit_code, 1) << job.output;
  EXPECT_LT(job.seconds, kSoon);
  expect_line(job,
              R"(rank 1/2 \(.*, GPU 1, 0000:\S+\): exchange #12 of 8 bytes; .*injected failure)");
}

TEST(NcclJob, ARankThatDoesNotComeBackIsNamed) {
  const Job job = run_job(4, "STIPPLE_NCCL_FAIL=stall@11:1", "20 2 30");
  EXPECT_EQ(job.exit_code, 1) << job.output;
  EXPECT_LT(job.seconds, kSoon);
  expect_line(job, R"(fatal: rank \d/4 \(.*, GPU \d, 0000:\S+\): \w+ #1[12] of .* after 2)");
  expect_line(job, "rank 1 is at operation 11, all others at 12");
}

TEST(NcclJob, ARankThatDoesNotComeToAnOperationIsNamed) {
  const Job job = run_job(4, "", "20 2 30 2:7");
  EXPECT_EQ(job.exit_code, 1) << job.output;
  EXPECT_LT(job.seconds, kSoon);
  expect_line(job, R"(rank [013]/4 .*: all_reduce_sum #7 of 256 bytes has not ended after 2)");
  expect_line(job, "rank 2 is at operation 6, all others at 7");
}

TEST(NcclJob, ARankThatNeverJoinsIsNotWaitedForLongerThanAsked) {
  const Job job = run_job(2, "STIPPLE_NCCL_FAIL=init_stall:1", "20 30 2");
  EXPECT_EQ(job.exit_code, 1) << job.output;
  EXPECT_LT(job.seconds, kSoon);
  expect_line(job, R"(rank \d/2 \(.*, GPU \d, .*\): NCCL has not found all 2 ranks after 2 s)");
}

// The second of the three events of an operation: recorded under the recorder's lock.
TEST(NcclJob, ACallOfTheDriverThatNeverComesBackEndsTheJob) {
  const Job job = run_job(2, "STIPPLE_CUDA_ON_CPU_HANG=41", "20 2 30");
  EXPECT_EQ(job.exit_code, 1) << job.output;
  EXPECT_LT(job.seconds, kSoon);
  expect_line(job,
              R"(fatal: rank \d/2 .*: an operation is being enqueued, and the call to the device )"
              R"(has not come back after 2)");
}

TEST(NcclJob, MoreRanksThanGpusAreRefusedOnce) {
  const Job job = run_job(3, "STIPPLE_CUDA_ON_CPU_DEVICES=2", "20 30 30");
  EXPECT_EQ(job.exit_code, 2) << job.output;
  expect_line(job,
              "^\\[rank 0/3 .*\\] error: ranks 0 and 2 on .*: 3 ranks were started there and it "
              "has 2 GPUs; "
              "start at most 2 ranks per node\n$");
}

TEST(NcclJob, AnOldGpuIsRefused) {
  const Job job = run_job(2, "STIPPLE_CUDA_ON_CPU_COMPUTE=7.5", "20 30 30");
  EXPECT_EQ(job.exit_code, 2) << job.output;
  expect_line(job, "compute capability 8.0 or later");
}

}  // namespace
}  // namespace stipple::comm
