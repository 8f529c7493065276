// SPDX-License-Identifier: Apache-2.0
#include "kernels/entmax.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/cpu/isa.h"
#include "core/error.h"
#include "tests/kernels/entmax_reference.h"
#include "tests/support/arrays.h"

namespace stipple::test {
namespace {

/// Above alpha 2 weights rise steeply at the edge of the support: what is rounded of x shows, there
/// and through their sum everywhere.
double tolerance_of_weights(float alpha) {
  return alpha > 2.0f ? 2 * std::pow(1e-6, 1 / (double{alpha} - 1)) : 4e-6;
}

constexpr float kAlphas[] = {1.05f, 1.33f, 1.5f, 1.7f, 2.0f, 2.5f, 4.0f};

struct Solved {
  Array<float> p, tau;
  Array<int32_t> size;
  Array<uint32_t> columns;
};

class Entmax : public ::testing::TestWithParam<cpu::Isa> {
 protected:
  Entmax() : before_(cpu::isa()) { cpu::set_isa(GetParam()); }
  ~Entmax() override { cpu::set_isa(before_); }

  static Solved solve(const Array<float>& z, const Array<float>& alpha, int threads = 1,
                      int64_t room = 32) {
    const int64_t rows = z.shape()[0];
    Solved s{Array<float>(z.shape()), Array<float>({rows}), Array<int32_t>({rows}),
             Array<uint32_t>({rows, room})};
    Arena scratch("scratch", kCpuDevice, size_t{4} << 20);
    kernels::entmax(Stream(kCpuDevice, {.threads = threads}),
                    {.p = s.p,
                     .tau = s.tau,
                     .support = {.size = s.size, .columns = s.columns},
                     .z = z,
                     .alpha = alpha,
                     .scratch = &scratch});
    return s;
  }
  static Solved solve(const Array<float>& z, float alpha) {
    return solve(z, Array<float>({1}, {alpha}));
  }

  struct Differentiated {
    Array<float> dz, dalpha;
  };
  static Differentiated differentiate(const Array<float>& p, const Array<float>& dp, float alpha) {
    Differentiated d{Array<float>(p.shape()), Array<float>({p.shape()[0]})};
    Arena scratch("scratch", kCpuDevice, size_t{4} << 20);
    kernels::entmax_backward(Stream(kCpuDevice), {.dz = d.dz,
                                                  .dalpha = d.dalpha,
                                                  .p = p,
                                                  .dp = dp,
                                                  .alpha = Array<float>({1}, {alpha}),
                                                  .scratch = &scratch});
    return d;
  }

  static std::vector<double> row_of(const Array<float>& a, int64_t i) {
    const int64_t length = a.shape()[1];
    return {&a[i * length], &a[i * length] + length};
  }

 private:
  cpu::Isa before_;
};
std::string name_of_isa(const ::testing::TestParamInfo<cpu::Isa>& isa) {
  return std::string(cpu::isa_name(isa.param));
}
INSTANTIATE_TEST_SUITE_P(Isa, Entmax, ::testing::ValuesIn(cpu::available_isas()), name_of_isa);

TEST_P(Entmax, GivesThePublishedNumbers) {
  const Array<float> z({1, 3}, {-2.0f, 0.0f, 0.5f});
  const auto expect = [&](float alpha, std::vector<float> p) {
    const Solved s = solve(z, alpha);
    for (int64_t j = 0; j < 3; ++j) EXPECT_NEAR(s.p[j], p[static_cast<size_t>(j)], 5e-5f) << alpha;
  };
  expect(1.5f, {0.0f, 0.3260f, 0.6740f});
  expect(2.0f, {0.0f, 0.25f, 0.75f});
  expect(1.0001f, {0.0486f, 0.3592f, 0.5922f});
}

TEST_P(Entmax, AgreesWithSortingAndWithBisection) {
  for (const int64_t length : {1, 2, 3, 15, 16, 17, 33, 64, 100, 257, 1000, 5000}) {
    for (const double sigma : {0.01, 0.3, 1.0, 2.45, 30.0}) {
      const Array<float> z = random_normal({4, length}, 1 + static_cast<uint64_t>(length), sigma);
      for (const float alpha : kAlphas) {
        SCOPED_TRACE(testing::Message() << length << " of sigma " << sigma << " at " << alpha);
        const Solved s = solve(z, alpha);
        for (int64_t i = 0; i < 4; ++i) {
          const std::vector<double> expected = entmax_by_definition(row_of(z, i), double{alpha});
          double sum = 0;
          for (int64_t j = 0; j < length; ++j) {
            const double p = s.p[i * length + j];
            ASSERT_NEAR(p, expected[static_cast<size_t>(j)], tolerance_of_weights(alpha)) << j;
            ASSERT_GE(p, 0.0);
            sum += p;
          }
          ASSERT_NEAR(sum, 1.0, 1e-6);
        }
      }
    }
  }
}

}  // namespace
}  // namespace stipple::test
