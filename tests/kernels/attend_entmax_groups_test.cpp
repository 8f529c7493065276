// SPDX-License-Identifier: Apache-2.0
// Entmax attention over a graph whose groups are known: the order in which rows are walked, and by
// what way pairs within a group are computed, shows in no bit.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/group_edges.h"
#include "kernels/predict.h"
#include "tests/kernels/attend_entmax_setup.h"

namespace stipple::test {
namespace {

using kernels::EdgeSet;
using kernels::math::AlwaysThere;

/// Two samples with two heads; who is in which group at random.
struct GroupedCase {
  int64_t n = 150, d = 32, groups = 4;
  float alpha = 1.5f;
  float size = 1.0f;  ///< of scores
  AlwaysThere always{};
  bool is_causal = false;
  bool has_padding = false;
  float dropout = 0.0f;
};

struct GroupedResult {
  std::vector<float> o, o2, tau, dq, dk, dv, dalpha, dtemperature;
  double stray_share = 0.0;  ///< of the pairs in the support

  void expect_equal(const GroupedResult& other) const {
    // NaN compares as its own kind.
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return std::ranges::equal(
          a, b, [](float x, float y) { return x == y || (std::isnan(x) && std::isnan(y)); });
    };
    EXPECT_TRUE(same(o, other.o));
    EXPECT_TRUE(same(o2, other.o2));
    EXPECT_TRUE(same(tau, other.tau));
    EXPECT_TRUE(same(dq, other.dq));
    EXPECT_TRUE(same(dk, other.dk));
    EXPECT_TRUE(same(dv, other.dv));
    EXPECT_TRUE(same(dalpha, other.dalpha));
    EXPECT_TRUE(same(dtemperature, other.dtemperature));
  }
};

std::vector<float> values_of(View<const float> x) { return {x.data, x.data + x.numel()}; }

class GroupedProblem {
 public:
  explicit GroupedProblem(const GroupedCase& c, uint64_t seed) : c_(c), generator_(seed) {
    const Shape rows = {2, 2, c.n, c.d};
    for (auto* x : {&q_, &k_, &v_, &dout_}) *x = random_normal(rows, generator_());
    for (float& x : q_.values()) x *= c.size;
    alpha_ = Array<float>({2});
    alpha_.fill(c.alpha);
    mask_ = Array<uint8_t>({2, c.n});
    mask_.fill(1);
    for (int64_t i = 0; c.has_padding && i < c.n; ++i) mask_[i] = i % 5 == 3 ? 0 : 1;
    for (auto* groups : {&query_groups_, &key_groups_}) {
      *groups = Array<int32_t>({2, 2, c.n, 1});
      for (int64_t e = 0; e < groups->numel(); ++e) {
        const auto group = static_cast<int32_t>(generator_() % static_cast<uint64_t>(c.groups));
        const bool is_real = mask_[e / (2 * c.n) * c.n + e % c.n] != 0 && generator_() % 17 != 0;
        (*groups)[e] = is_real ? group : kernels::kNoGroup;
      }
    }
  }

  Array<float>& q() { return q_; }
  Array<float>& k() { return k_; }
  Array<float>& v() { return v_; }

  GroupedResult run(bool with_groups, int threads, bool learns_heads) const {
    Arena memory("test", kCpuDevice, size_t{32} << 20);
    const Stream stream(kCpuDevice, {.threads = threads});
    EdgeSet edges = kernels::alloc_edges(memory, 4, c_.n, c_.n, {.tile_density = 2.0});
    if (with_groups) edges.groups = kernels::alloc_edge_groups(memory, edges, c_.groups);
    kernels::write_group_edges(stream, {.edges = edges,
                                        .query_groups = query_groups_,
                                        .key_groups = key_groups_,
                                        .num_groups = c_.groups,
                                        .always = c_.always,
                                        .is_causal = c_.is_causal,
                                        .query_mask = mask_,
                                        .key_mask = mask_,
                                        .scratch = &memory});
    const auto rows = [&] { return memory.alloc<float>(q_.shape()); };
    const auto numbers = [&] { return memory.alloc<float>({2, 2, c_.n}); };
    const View<float> o = rows(), o2 = rows(), dq = rows(), dk = rows(), dv = rows();
    const View<float> tau = numbers(), dalpha = numbers(), dtemperature = numbers();
    for (const View<float>& share : {dalpha, dtemperature}) std::ranges::fill(share.span(), 0.0f);
    const kernels::EntmaxSupport support = kernels::alloc_entmax_support(memory, 2, 2, c_.n, 24);
    const View<uint32_t> samples = memory.alloc<uint32_t>({2});
    samples[0] = 5, samples[1] = 6;
    kernels::AttentionDropout dropout;
    dropout.rate = c_.dropout;
    dropout.samples = samples;
    kernels::attend_entmax(stream, {.o = o,
                                    .o2 = o2,
                                    .tau = tau,
                                    .support = support,
                                    .q = q_,
                                    .k = k_,
                                    .v = v_,
                                    .heads = {.alpha = alpha_},
                                    .edges = edges,
                                    .key_mask = mask_,
                                    .scale = 0.25f,
                                    .dropout = dropout,
                                    .scratch = &memory});
    kernels::attend_entmax_backward(stream,
                                    {.dq = dq,
                                     .dk = dk,
                                     .dv = dv,
                                     .dalpha = learns_heads ? dalpha : View<float>{},
                                     .dtemperature = learns_heads ? dtemperature : View<float>{},
                                     .q = q_,
                                     .k = k_,
                                     .v = v_,
                                     .o2 = o2,
                                     .dout = dout_,
                                     .tau = tau,
                                     .support = support,
                                     .heads = {.alpha = alpha_},
                                     .edges = edges,
                                     .key_mask = mask_,
                                     .scale = 0.25f,
                                     .dropout = dropout,
                                     .scratch = &memory});
    return {.o = values_of(o),
            .o2 = values_of(o2),
            .tau = values_of(tau),
            .dq = values_of(dq),
            .dk = values_of(dk),
            .dv = values_of(dv),
            .dalpha = values_of(dalpha),
            .dtemperature = values_of(dtemperature),
            .stray_share = stray_share(support)};
  }

 private:
  double stray_share(const kernels::EntmaxSupport& support) const {
    int64_t pairs = 0, strays = 0;
    for (int64_t row = 0; row < support.size.numel(); ++row) {
      if (support.size[row] > support.columns.shape[3]) continue;
      for (int64_t e = 0; e < support.size[row]; ++e, ++pairs) {
        const int64_t key = support.columns[row * support.columns.shape[3] + e];
        strays += query_groups_[row] != key_groups_[row / c_.n * c_.n + key] ? 1 : 0;
      }
    }
    return pairs == 0 ? 0.0 : static_cast<double>(strays) / static_cast<double>(pairs);
  }

  GroupedCase c_;
  std::mt19937_64 generator_;
  Array<float> q_, k_, v_, dout_, alpha_;
  Array<uint8_t> mask_;
  Array<int32_t> query_groups_, key_groups_;
};

class AttendEntmaxGroups : public AttendTest {};
INSTANTIATE_TEST_SUITE_P(Place, AttendEntmaxGroups, ::testing::ValuesIn(cpu_params()),
                         name_of_param);

void expect_no_difference(const GroupedProblem& problem) {
  for (const bool learns_heads : {false, true}) {
    const GroupedResult expected = problem.run(/*with_groups=*/false, 1, learns_heads);
    for (const int threads : {1, learns_heads ? 3 : 8}) {
      SCOPED_TRACE(testing::Message() << threads << " threads, learns " << learns_heads);
      problem.run(/*with_groups=*/true, threads, learns_heads).expect_equal(expected);
    }
  }
}

TEST_P(AttendEntmaxGroups, ShowInNoBitAtAnyWidthAlphaAndLengthOfSupports) {
  for (const int64_t d : {7, 16, 32, 64}) {
    for (const float alpha : {1.33f, 1.5f, 2.0f, 2.5f}) {
      if (d != 32 && alpha != 1.5f) continue;
      for (const float size : {3.0f, 0.05f}) {
        SCOPED_TRACE(testing::Message() << "d " << d << " alpha " << alpha << " size " << size);
        expect_no_difference(
            GroupedProblem({.d = d, .alpha = alpha, .size = size, .always = {.radius = 0}}, 1));
      }
    }
  }
}

TEST_P(AttendEntmaxGroups, ShowInNoBitWithPairsAcrossThem) {
  for (const AlwaysThere& always : {AlwaysThere{}, AlwaysThere{.radius = 2},
                                    AlwaysThere{.radius = 40}, AlwaysThere{.globals = 3}}) {
    for (const bool is_causal : {false, true}) {
      for (const bool has_padding : {false, true}) {
        for (const float size : {1.0f, 0.05f}) {
          if (size < 1.0f && is_causal != has_padding) continue;
          SCOPED_TRACE(testing::Message()
                       << "window " << always.radius << " global " << always.globals << " causal "
                       << is_causal << " padding " << has_padding << " size " << size);
          const GroupedProblem problem({.groups = 7,
                                        .size = size,
                                        .always = always,
                                        .is_causal = is_causal,
                                        .has_padding = has_padding},
                                       2);
          expect_no_difference(problem);
          // Some across groups, and with a wide window more than there is room for.
          const double strays = problem.run(true, 1, false).stray_share;
          if (size < 1.0f) continue;
          EXPECT_GE(strays, always.radius == 40 ? 0.5 : always.radius == 2 ? 0.05 : 0.0);
        }
      }
    }
  }
}

TEST_P(AttendEntmaxGroups, ShowInNoBitWhereWeightsAreDropped) {
  expect_no_difference(GroupedProblem({.size = 0.2f, .always = {.radius = 1}, .dropout = 0.3f}, 3));
}

TEST_P(AttendEntmaxGroups, ShowInNoBitWhereGroupsAreLongOrEmpty) {
  expect_no_difference(GroupedProblem({.n = 700, .groups = 2, .size = 0.05f}, 4));
  expect_no_difference(GroupedProblem({.n = 90, .groups = 300, .always = {.radius = 0}}, 5));
}

// What is not a number stays with those who see it.
TEST_P(AttendEntmaxGroups, ShowInNoBitWhereSomeAreNoNumbers) {
  for (const float odd :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    GroupedProblem problem({.size = 0.3f, .always = {.radius = 1}}, 6);
    problem.q()[40 * 32 + 3] = odd;
    problem.k()[90 * 32 + 5] = odd;
    problem.v()[(150 + 20) * 32 + 1] = odd;
    expect_no_difference(problem);
  }
}

}  // namespace
}  // namespace stipple::test
