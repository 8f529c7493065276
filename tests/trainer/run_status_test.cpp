// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/run_status.h"

#include <gtest/gtest.h>

#include "trainer/exit_code.h"

namespace stipple::trainer {
namespace {

/// gtest's answer, with the text where it is not so.
testing::AssertionResult says(const std::string& text, const std::string& what) {
  const bool found = text.find(what) != std::string::npos;
  return (found ? testing::AssertionSuccess() : testing::AssertionFailure())
         << "'" << what << "' in:\n"
         << text;
}

constexpr double kNow = 1'700'000'000;

/// At step 250 of 1000, half a second a step, written 3 s ago.
RunStatus at_step_250() {
  return {.path = "runs/x",
          .steps = 1000,
          .trained = TrainRecord{.step = 250, .loss = 1.5, .seconds = {.step = 0.5}},
          .written_at_s = kNow - 3,
          .saved_step = 200,
          .saved_at_s = kNow - 125,
          .is_held = true,
          .starts = {{.step = 0, .at_s = kNow - 900, .host = "node1", .ranks = 4, .job = "17"}}};
}

StartEnd ended(int exit_code, const std::string& why) {
  return {.step = 250, .at_s = kNow - 2, .exit_code = exit_code, .why = why};
}

TEST(RunStatus, TellsOfARunThatGoesOn) {
  const std::string text = status_text(at_step_250(), kNow);
  EXPECT_TRUE(says(text, "state        training with 4 ranks on node1, Slurm job 17, since"));
  EXPECT_TRUE(says(text, "250 of 1000 (25.0 %), 0:03 ago"));
  EXPECT_TRUE(says(text, "ETA          6:15, at "));
  EXPECT_TRUE(says(text, "checkpoint   step 200, 2:05 ago"));
  EXPECT_TRUE(says(text, "until now"));
  EXPECT_FALSE(says(text, "nothing written"));
}

TEST(RunStatus, TellsOfSilence) {
  RunStatus status = at_step_250();
  status.written_at_s = kNow - 600;
  EXPECT_TRUE(says(status_text(status, kNow), "nothing written for 10:00"));
  status.trained->seconds.step = 60;
  EXPECT_FALSE(says(status_text(status, kNow), "nothing written")) << "its steps are long";
}

TEST(RunStatus, TellsHowItEnded) {
  RunStatus status = at_step_250();
  status.is_held = false;
  const auto state = [&](std::optional<StartEnd> end) {
    status.starts.back().end = std::move(end);
    return status_text(status, kNow);
  };
  EXPECT_TRUE(says(state(ended(kDone, "complete")), "state        complete\n"));
  EXPECT_TRUE(says(state(ended(kRequeue, "as a signal asked")),
                   "state        saved and stopped, as a signal asked\n"));
  EXPECT_TRUE(says(state(ended(kDoNotRestart, "loss is NaN")),
                   "state        failed with exit code 93: loss is NaN\n"));
  EXPECT_FALSE(says(state(ended(kDone, "complete")), "ETA"));
  status.written_at_s = kNow - 120;
  EXPECT_TRUE(says(state({}), "state        ended without a word"));
}

TEST(RunStatus, WhereLocksCannotBeSeenWritingIsASignOfLife) {
  RunStatus status = at_step_250();
  status.is_held = false;
  EXPECT_TRUE(says(status_text(status, kNow), "state        ended without a word"));
  status.is_elsewhere = true;
  EXPECT_TRUE(says(status_text(status, kNow), "state        training"));
}

TEST(RunStatus, ListsEveryStart) {
  RunStatus status = at_step_250();
  status.starts.insert(status.starts.begin(),
                       {{.step = 0, .host = "a", .ranks = 1},
                        {.step = 20,
                         .host = "b",
                         .ranks = 2,
                         .end = StartEnd{.step = 90, .exit_code = kFailed, .why = "disk full"}}});
  const std::string text = status_text(status, kNow);
  EXPECT_TRUE(says(text, "starts       3\n"));
  EXPECT_TRUE(says(text, "step 0  1 rank on a  until ended without a word"));
  EXPECT_TRUE(says(text, "step 20  2 ranks on b  until step 90, failed with exit code 1: disk"));
}

TEST(RunStatus, OfARunThatHasNotBegun) {
  const std::string text = status_text({.path = "x", .steps = 10, .is_held = true}, kNow);
  EXPECT_TRUE(says(text, "step         0 of 10\n"));
  EXPECT_TRUE(says(text, "checkpoint   none yet\n"));
}

}  // namespace
}  // namespace stipple::trainer
