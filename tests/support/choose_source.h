// SPDX-License-Identifier: Apache-2.0
// The tests of a folder are one program, and each of its files is a test of its own for ctest:
//
//   kernels_tests --source=matmul_test       the tests of matmul_test.cpp
#pragma once

namespace stipple::test {

/// Leaves of all tests those of the file that --source names, if any; call after InitGoogleTest.
/// --gtest_filter goes before. False, with a message, when no test stands in a file of that name.
bool choose_source(int argc, const char* const* argv);

}  // namespace stipple::test
