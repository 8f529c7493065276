// SPDX-License-Identifier: Apache-2.0
#include "trainer/config/duration.h"

#include <gtest/gtest.h>

namespace stipple::trainer {
namespace {

TEST(Duration, IsReadAsSbatchReadsIt) {
  EXPECT_EQ(parse_duration("90"), 90 * 60);
  EXPECT_EQ(parse_duration("1:30"), 90);
  EXPECT_EQ(parse_duration("2:00:05"), 7205);
  EXPECT_EQ(parse_duration("1-12"), 36 * 3600);
  EXPECT_EQ(parse_duration("1-12:30"), 36 * 3600 + 1800);
  EXPECT_EQ(parse_duration("1-00:00:01"), 86401);
  EXPECT_EQ(parse_duration("0"), 0);
}

TEST(Duration, WhatIsNoneIsNotGuessed) {
  for (const char* text : {"", "2h", "1:", ":1", "-1", "1-", "1:2:3:4", "1-2:3:4:5", " 1", "1.5",
                           "1--2", "99999999999999999999", "1000001"})
    EXPECT_EQ(parse_duration(text), std::nullopt) << text;
}

TEST(Duration, IsShownInHoursMinutesAndSeconds) {
  EXPECT_EQ(duration_text(59.6), "1:00");
  EXPECT_EQ(duration_text(3599), "59:59");
  EXPECT_EQ(duration_text(90061), "25:01:01");
}

}  // namespace
}  // namespace stipple::trainer
