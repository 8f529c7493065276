// SPDX-License-Identifier: Apache-2.0
// Bits of dropout that forward keeps for backward are those that either would make for itself, on
// every instruction set and route.
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/kernels/attend_reference.h"

namespace stipple::test {
namespace {

void expect_same(const Gradients<float>& a, const Gradients<float>& b) {
  EXPECT_EQ(a.dq.values(), b.dq.values());
  EXPECT_EQ(a.dk.values(), b.dk.values());
  EXPECT_EQ(a.dv.values(), b.dv.values());
  EXPECT_EQ(a.row_grad.values(), b.row_grad.values());
  EXPECT_EQ(a.column_grad.values(), b.column_grad.values());
}

void expect_same(const Attended& a, const Attended& b) {
  EXPECT_EQ(a.o.values(), b.o.values());
  EXPECT_EQ(a.lse.values(), b.lse.values());
}

class AttendDropout : public AttendTest {
 protected:
  static AttendPlace keeping(int threads = 1) {
    AttendPlace place = AttendTest::place(threads);
    place.keeps_dropout = true;
    return place;
  }

  static AttendSetup setup(const AttendSize& size) {
    AttendSetup s = make_setup(size, 31);
    s.dropout = 0.3f;
    s.regularizer = 1e-3f;
    s.use_key_mask = true;
    for (int64_t j = 3; j < s.m; j += 9) s.key_mask[j] = 0;
    for (int64_t j = 0; j < s.m; ++j) s.drawn[2 * s.m + j] = 0;
    return s;
  }
  /// Around the boundaries of words, tiles and sweeps, at densities on every route.
  static std::vector<AttendSetup> setups() {
    std::vector<AttendSetup> all;
    for (double density : {0.03, 0.3, 0.8}) {
      for (int64_t m : {1, 31, 64, 139}) {
        all.push_back(setup({.n = 37, .m = m, .d = 7, .clusters = 5, .density = density}));
      }
    }
    all.push_back(setup({.n = 70, .m = 139, .d = 32, .clusters = 70, .density = 0.2}));
    all.push_back(setup({.n = 530, .m = 45, .d = 32, .clusters = 3, .density = 0.2, .batch = 2}));
    all.push_back(setup({.n = 5, .m = 2101, .d = 16, .clusters = 3, .density = 0.1}));
    return all;
  }

  /// The bit of the e-th edge of row i, to key j, by the layout that alloc_kept promises.
  static bool bit(const uint32_t* kept, const EdgeSet& edges, int64_t p, int64_t i, int64_t j,
                  int64_t e) {
    const bool is_csr = edges.form[p] == EdgeForm::kCsr;
    const int64_t row = is_csr ? edges.row_ptr.at(p)[i] / 32 + i : i * ((edges.num_keys + 31) / 32);
    const int64_t place = is_csr ? e : j;
    return (kept[row + place / 32] >> (place % 32) & 1u) != 0;
  }
};
INSTANTIATE_TEST_SUITE_P(Isa, AttendDropout, ::testing::ValuesIn(cpu_params()), name_of_param);

TEST_P(AttendDropout, LeavesTheBitsOfTheLawBehind) {
  for (const AttendSetup& s : setups()) {
    for (EdgeForm form : {EdgeForm::kBits, EdgeForm::kCsr}) {
      const HostGraph graph = graph_of(s, form, DeviceType::kCpu);
      const Array<uint32_t> kept = test::attend(s, form, keeping()).kept;
      for (int64_t p = 0; p < s.problems(); ++p) {
        const std::vector<double> factors = reference(s, p).keep;
        for (int64_t i = 0; i < s.n; ++i) {
          int64_t e = 0;
          for (int64_t j = 0; j < s.m; ++j) {
            if (s.drawn[(p * s.n + i) * s.m + j] == 0) continue;
            const int64_t edge = e++;
            if (s.key_mask[p / s.heads * s.m + j] == 0) continue;
            ASSERT_EQ(bit(&kept[p * kept.shape()[1]], graph.edges(), p, i, j, edge),
                      factors[static_cast<size_t>(i * s.m + j)] != 0.0)
                << "problem " << p << ", pair " << i << ", " << j << " of " << s.m;
          }
        }
      }
    }
  }
}

TEST_P(AttendDropout, GivesTheSameNumbersKeptAndMadeAgain) {
  for (const AttendSetup& s : setups()) {
    for (EdgeForm form : {EdgeForm::kBits, EdgeForm::kCsr}) {
      expect_same(test::attend(s, form, keeping()), attend(s, form));
      expect_same(test::differentiate(s, form, keeping()), differentiate(s, form));
      expect_same(test::differentiate(s, form, keeping(3)), differentiate(s, form));
    }
    expect_same(test::attend_dense(s, keeping()), attend_dense(s));
    expect_same(test::differentiate_dense(s, keeping(2)), differentiate_dense(s));
  }
}

TEST_P(AttendDropout, OfAPatternIsTheSameKeptAndMadeAgain) {
  AttendSetup s = setup({.n = 150, .m = 300, .d = 16});
  set_pattern(s, {.is_causal = true});
  expect_same(test::differentiate_dense(s, keeping()), differentiate_dense(s));
}

TEST_P(AttendDropout, IsReadByBackwardWhereItIsKept) {
  // Whoever made the bits again would not see that all weights are dropped.
  for (double density : {0.2, 0.8}) {
    const AttendSetup s = setup({.n = 40, .m = 70, .d = 16, .clusters = 3, .density = density});
    const Array<float> zeros(s.v.shape());
    for (EdgeForm form : {EdgeForm::kBits, EdgeForm::kCsr}) {
      Attended forward = test::attend(s, form, keeping());
      forward.kept.fill(0);
      const Gradients<float> gradients = test::differentiate(s, form, forward, keeping());
      EXPECT_EQ(gradients.dv.values(), zeros.values());
    }
    Attended forward = test::attend_dense(s, keeping());
    forward.kept.fill(0);
    const Gradients<float> gradients = test::differentiate_dense(s, forward, keeping());
    EXPECT_EQ(gradients.dv.values(), zeros.values());
  }
}

TEST_P(AttendDropout, WantsRoomForEveryBit) {
  const AttendSetup s = setup({.n = 10, .m = 70, .d = 4});
  AttendMemory memory(s, keeping());
  const RealView o = memory.room(s.q.shape());
  const View<float> lse = memory.room_for_lse();
  kernels::AttentionDropout dropout = memory.dropout();
  dropout.kept = memory.fresh<uint32_t>({s.problems(), 10});
  EXPECT_THROW(kernels::attend_dense(memory.stream(), {.o = o,
                                                       .lse = lse,
                                                       .q = memory.store(s.q),
                                                       .k = memory.store(s.k),
                                                       .v = memory.store(s.v),
                                                       .scale = s.scale,
                                                       .dropout = dropout,
                                                       .scratch = &memory.scratch()}),
               ShapeError);
}

class AttendDropoutOnCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test_devices().size() < 2) GTEST_SKIP() << "no CUDA device";
  }
  static std::vector<AttendPlace> places() {
    std::vector<AttendPlace> all;
    for (const Precision storage : {Precision::kFp32, Precision::kBf16}) {
      all.push_back({.device = test_devices().back(), .storage = storage});
    }
    return all;
  }
  static AttendPlace keeping(AttendPlace place) {
    place.keeps_dropout = true;
    return place;
  }
  /// Around the boundaries of tiles, of pairs of them and of row blocks.
  static std::vector<AttendSetup> setups() {
    std::vector<AttendSetup> all;
    for (const int64_t m : {1, 64, 139}) {
      all.push_back(make_setup({.n = 37, .m = m, .d = 7, .clusters = 5, .density = 0.3}, 31));
    }
    all.push_back(make_setup({.n = 140, .m = 200, .d = 32, .clusters = 20, .density = 0.1}, 32));
    for (AttendSetup& s : all) s.dropout = 0.3f;
    return all;
  }
};

TEST_F(AttendDropoutOnCuda, GivesTheSameNumbersKeptAndMadeAgain) {
  for (const AttendPlace& place : places()) {
    for (const AttendSetup& s : setups()) {
      for (EdgeForm form : {EdgeForm::kBits, EdgeForm::kCsr}) {
        EXPECT_EQ(attend(s, form, keeping(place)).o.values(), attend(s, form, place).o.values());
        expect_same(differentiate(s, form, keeping(place)), differentiate(s, form, place));
      }
      expect_same(differentiate_dense(s, keeping(place)), differentiate_dense(s, place));
    }
    AttendSetup s = make_setup({.n = 150, .m = 200, .d = 16}, 33);
    s.dropout = 0.3f;
    set_pattern(s, {.is_causal = true});
    expect_same(differentiate_dense(s, keeping(place)), differentiate_dense(s, place));
  }
}

TEST_F(AttendDropoutOnCuda, IsReadByBackwardWhereItIsKept) {
  // Whoever made the bits again would not see that all weights are dropped.
  const AttendSetup s = setups().back();
  const Array<float> zeros(s.v.shape());
  for (const AttendPlace& place : places()) {
    Attended forward = attend(s, EdgeForm::kBits, keeping(place));
    forward.kept.fill(0);
    EXPECT_EQ(differentiate(s, EdgeForm::kBits, forward, keeping(place)).dv.values(),
              zeros.values());
    forward = attend_dense(s, keeping(place));
    forward.kept.fill(0);
    EXPECT_EQ(differentiate_dense(s, forward, keeping(place)).dv.values(), zeros.values());
  }
}

}  // namespace
}  // namespace stipple::test
