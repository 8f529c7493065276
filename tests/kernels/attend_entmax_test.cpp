// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend_entmax.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/kernels/attend_entmax_setup.h"
#include "tests/kernels/entmax_reference.h"

namespace stipple::test {
namespace {

TEST_P(AttendEntmax, AgreesWithTheDefinition) {
  for (const float alpha : {1.2f, 1.5f, 2.0f, 3.0f}) {
    const EntmaxSetup s = make_entmax_setup({.n = 19, .m = 147, .d = 33, .density = 1.0}, alpha, 1);
    expect_close(attend_entmax(s).o, entmax_reference_forward(s).o, alpha > 2 ? 1e-4 : 4e-6);
  }
}

}  // namespace
}  // namespace stipple::test
