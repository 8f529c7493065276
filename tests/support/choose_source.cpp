// SPDX-License-Identifier: Apache-2.0
#include "tests/support/choose_source.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>

namespace stipple::test {
namespace {

/// The tests of one file as a filter of GoogleTest, which knows where each test stands.
std::string tests_of(std::string_view source) {
  std::string filter;
  const ::testing::UnitTest& all = *::testing::UnitTest::GetInstance();
  for (int s = 0; s < all.total_test_suite_count(); ++s) {
    const ::testing::TestSuite& suite = *all.GetTestSuite(s);
    for (int t = 0; t < suite.total_test_count(); ++t) {
      const ::testing::TestInfo& test = *suite.GetTestInfo(t);
      if (std::filesystem::path(test.file()).stem() == source)
        filter += std::string(suite.name()) + "." + test.name() + ":";
    }
  }
  return filter;
}

}  // namespace

bool choose_source(int argc, const char* const* argv) {
  constexpr std::string_view kFlag = "--source=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.substr(0, kFlag.size()) != kFlag) continue;
    const std::string filter = tests_of(argument.substr(kFlag.size()));
    if (filter.empty()) {
      std::fprintf(stderr, "%s: no test of this program stands in such a file\n", argv[i]);
      return false;
    }
    // A death test starts this program again with the same arguments and a filter of its own.
    if (GTEST_FLAG_GET(filter) == "*") GTEST_FLAG_SET(filter, filter);
  }
  return true;
}

}  // namespace stipple::test
