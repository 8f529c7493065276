// SPDX-License-Identifier: Apache-2.0
// main of the tests of one folder.
#include <gtest/gtest.h>

#include "tests/support/choose_source.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (!stipple::test::choose_source(argc, argv)) return 2;
  return RUN_ALL_TESTS();
}
