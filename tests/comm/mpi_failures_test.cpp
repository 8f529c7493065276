// SPDX-License-Identifier: Apache-2.0
// Whole jobs over MPI in which a rank stops without dying: all ranks end, in time, with a message
// that names it; and none ends that only works for long.
#include <string_view>

#include "job.h"

namespace stipple::comm {
namespace {

test::Job run_steps(int ranks, const std::string& arguments) {
  return test::run_job(ranks, "", MPI_STEPS " " + arguments);
}

/// Start of the processes, one time-out of 5 s, the answers, the end of the job, on a busy machine.
constexpr double kSoon = 45;

TEST(MpiJob, EndsWellWithoutAFailure) {
  const test::Job job = run_steps(3, "nothing 5 0");
  EXPECT_EQ(job.exit_code, 0) << job.output;
  EXPECT_EQ(job.output, "");
}

TEST(MpiJob, ARankThatStopsIsNamed) {
  for (const int rank : {0, 2}) {
    const test::Job job = run_steps(3, "stop 5 " + std::to_string(rank));
    EXPECT_EQ(job.exit_code, 1) << job.output;
    EXPECT_LT(job.seconds, kSoon);
    test::expect_line(job, "fatal: rank \\d/3: all_reduce #5 has not ended after \\d\\S* s: rank " +
                               std::to_string(rank) +
                               " on \\S+ \\(process \\d+, stopped\\) is behind and silent; raise "
                               "comm.timeout_s");
    // Lines of ours: mpirun may have one of its own about a rank that is gone.
    const std::string_view output = job.output;
    const size_t first = output.find("fatal: ");
    EXPECT_EQ(output.rfind("fatal: "), first) << "told by more than one rank: " << output;
  }
}

TEST(MpiJob, ARankThatStopsBeforeMpiIsUpEndsTheJob) {
  const test::Job job = run_steps(2, "late 5 1");
  EXPECT_EQ(job.exit_code, 1) << job.output;
  EXPECT_LT(job.seconds, kSoon);
  test::expect_line(job, "fatal: MPI has not found all ranks after 5 s");
}

TEST(MpiJob, ARankThatStopsAfterTheLastExchangeIsNamed) {
  const test::Job job = run_steps(2, "end 5 1");
  EXPECT_EQ(job.exit_code, 1) << job.output;
  test::expect_line(job, "barrier #9 has not ended after \\d\\S* s: rank 1 on ");
}

TEST(MpiJob, ARankThatWorksAndSaysSoIsWaitedFor) {
  const test::Job job = run_steps(3, "work 5 1");
  EXPECT_EQ(job.exit_code, 0) << job.output;
  EXPECT_EQ(job.output, "");
}

TEST(MpiJob, AJobThatIsSuspendedGoesOn) {
  const test::Job job = run_steps(3, "suspend 5 0");
  EXPECT_EQ(job.exit_code, 0) << job.output;
  EXPECT_EQ(job.output, "");
}

}  // namespace
}  // namespace stipple::comm
