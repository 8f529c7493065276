// SPDX-License-Identifier: Apache-2.0
// What CUDA draws follows the law, with factors in either precision, and wrong samplers are
// rejected: the statistics of sampler_law_test in small, on the device itself. Nothing to do on
// machines without CUDA.
#include <gtest/gtest.h>

#include <string>

#include "tests/support/device_graphs.h"

namespace stipple::test {
namespace {

bool has_cuda() { return test_devices().size() > 1; }
Device cuda_under_test() { return test_devices().back(); }

class SamplerLawOnCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_cuda()) GTEST_SKIP() << "no CUDA device; emulated, there is one";
  }
};

constexpr int kDraws = 120;

TEST_F(SamplerLawOnCuda, DrawsWhatTheLawSays) {
  SbmCase c = structured_cases()[3].value;
  c.delta = 0.01f;
  for (MaskLaw law : kAllLaws) {
    c.law = law;
    for (SamplerKind sampler : kBothSamplers) {
      SCOPED_TRACE(std::string(law_name(law)) + ", sampler " +
                   std::to_string(static_cast<int>(sampler)));
      EXPECT_EQ(check_law(device_sampler(cuda_under_test(), sampler), c, kDraws), "");
    }
    if (law == MaskLaw::kPoissonMulti) continue;
    EXPECT_EQ(check_law(device_sampler(cuda_under_test(), SamplerKind::kTiles, Precision::kBf16), c,
                        kDraws),
              "");
  }
}

TEST_F(SamplerLawOnCuda, WrongSamplersAreRejected) {
  SbmCase c = structured_cases()[0].value;
  c.delta = 0.05f;
  for (SamplerKind sampler : kBothSamplers) {
    const GraphSampler real = device_sampler(cuda_under_test(), sampler);
    EXPECT_EQ(check_law(real, c, kDraws), "");
    const GraphSampler without_delta = [&](const SbmCase& x, const DrawName& name,
                                           std::vector<uint8_t>& counts) {
      SbmCase unexplored = x;
      unexplored.delta = 0.0f;
      real(unexplored, name, counts);
    };
    EXPECT_NE(check_law(without_delta, c, kDraws), "");
    const GraphSampler same_step = [&](const SbmCase& x, const DrawName&,
                                       std::vector<uint8_t>& counts) { real(x, {}, counts); };
    EXPECT_NE(check_law(same_step, c, kDraws), "");
  }
}

}  // namespace
}  // namespace stipple::test
