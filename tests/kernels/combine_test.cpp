// SPDX-License-Identifier: Apache-2.0
// Combiner attention against its definition in double precision: values, gradients by central
// differences, and what a wrong implementation would give.
#include "kernels/combine.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/kernels/combine_reference.h"
#include "tests/support/op_checks.h"

namespace stipple::test {
namespace {

constexpr double kTolerance = 2e-5;

Array<double> oracle_output(const CombineSetup& s) {
  Array<double> o(s.tokens());
  auto at = o.values().begin();
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const Doubles own = kernels::reference::combine(combine_oracle(s, b, h)).o;
      at = std::copy(own.begin(), own.end(), at);
    }
  }
  return o;
}

/// The largest difference of o from the oracle's.
double distance(const CombineSetup& s, const Combined& actual) {
  const Array<double> expected = oracle_output(s);
  double worst = 0;
  for (int64_t x = 0; x < expected.numel(); ++x)
    worst = std::max(worst, std::abs(expected[x] - static_cast<double>(actual.o[x])));
  return worst;
}

/// d (dout . o) / d x, x one of the arrays of s, by central differences of the oracle.
Array<double> oracle_gradient(const CombineSetup& s, Doubles kernels::reference::Combiner::*which) {
  constexpr double kStep = 1e-5;
  Array<double> gradient(s.tokens());
  auto out = gradient.values().begin();
  for (int64_t p = 0; p < s.batch * s.heads; ++p) {
    kernels::reference::Combiner c = combine_oracle(s, p / s.heads, p % s.heads);
    const float* dout = &s.dout[p * s.n() * s.d];
    const auto loss = [&] {
      const Doubles o = kernels::reference::combine(c).o;
      double sum = 0;
      for (size_t x = 0; x < o.size(); ++x) sum += o[x] * static_cast<double>(dout[x]);
      return sum;
    };
    for (double& x : c.*which) {
      const double middle = x;
      x = middle + kStep;
      const double above = loss();
      x = middle - kStep;
      *out++ = (above - loss()) / (2 * kStep);
      x = middle;
    }
  }
  return gradient;
}

void check_values(const CombineSetup& s) {
  SCOPED_TRACE(describe(s.partition));
  const Array<double> o = oracle_output(s);
  with_every_backend([&] { expect_close(run_combine(s).o, o, kTolerance); });
}

void check_gradients(const CombineSetup& s) {
  using kernels::reference::Combiner;
  SCOPED_TRACE(describe(s.partition));
  const Array<double> o = oracle_output(s), dq = oracle_gradient(s, &Combiner::q),
                      dk = oracle_gradient(s, &Combiner::k), dv = oracle_gradient(s, &Combiner::v);
  with_every_backend([&] {
    const Combined run = run_combine(s);
    expect_close(run.o, o, kTolerance);
    expect_close(run.dq, dq, 5 * kTolerance);
    expect_close(run.dk, dk, 5 * kTolerance);
    expect_close(run.dv, dv, 5 * kTolerance);
  });
}

TEST(Combine, IsTheDenseMatrixOfItsDefinition) {
  for (int64_t n : {1, 2, 5, 13, 16}) {
    for (const Partition& p : partitions_of(n)) check_values(make_combine(p, 1));
  }
  for (const Partition& p : partitions_of(150, 40, 50)) check_values(make_combine(p, 2, 17, 1, 1));
}

TEST(Combine, PaddingTakesNoPart) {
  for (int64_t n : {5, 13, 40}) {
    for (const Partition& p : partitions_of(n, 4, 6)) {
      CombineSetup s = make_combine(p, 3);
      add_padding(s);
      check_values(s);
    }
  }
}

TEST(Combine, GradientsAreThoseOfTheDefinition) {
  for (const Partition& p : partitions_of(13)) {
    CombineSetup s = make_combine(p, 4, 3);
    check_gradients(s);
    add_padding(s);
    check_gradients(s);
  }
}

TEST(Combine, GradientsOfEveryPool) {
  for (const RegionPool pool : {RegionPool::kMean, RegionPool::kSum}) {
    for (const Partition& p : partitions_of(11)) {
      CombineSetup s = make_combine(p, 5, 2, 2, 1);
      s.pool = pool;
      add_padding(s);
      check_gradients(s);
    }
  }
  for (const bool causal : {false, true}) {
    CombineSetup s = make_combine(
        {.kind = PartitionKind::kRowMajor, .is_causal = causal, .length = 14, .columns = 4}, 6, 3);
    s.key = RegionKey::kWeighted;
    check_gradients(s);
    add_padding(s);
    check_gradients(s);
  }
}

TEST(Combine, GradientsUnderDropoutOfEveryKind) {
  for (const Partition& p : partitions_of(12)) {
    CombineSetup s = make_combine(p, 7, 2);
    s.dropout = 0.3f;
    s.region_dropout = 0.4f;
    s.token_dropout = 0.5f;
    check_gradients(s);
  }
}

TEST(Combine, GradientsWithOptions) {
  for (const bool causal : {false, true}) {
    for (const PartitionKind kind : kPartitionKinds) {
      CombineSetup s = make_combine(
          {.kind = kind, .is_causal = causal, .length = 12, .globals = 2, .block = 4, .columns = 4},
          8, 2, 1, 2);
      s.mass = 1.0f;
      check_gradients(s);
      s.partition.globals = 0;
      s.partition.overlaps_own = true;
      check_gradients(s);
    }
    CombineSetup s =
        make_combine({.is_causal = causal, .length = 13, .block = 4, .shift = 2}, 9, 2, 1, 2);
    check_gradients(s);
  }
}

TEST(Combine, GradientOfAHeadsMass) {
  with_every_backend([] {
    CombineSetup s = make_combine({.length = 13, .block = 4}, 10, 3);
    add_padding(s);
    s.mass = 0.5f;
    s.head_mass = Array<float>({2}, {0.8f, -0.4f});
    const Combined run = run_combine(s);
    const auto loss = [&] {
      const Array<double> o = oracle_output(s);
      double sum = 0;
      for (int64_t x = 0; x < o.numel(); ++x) sum += o[x] * static_cast<double>(s.dout[x]);
      return sum;
    };
    for (int64_t h : {0, 1}) {
      const float at = s.head_mass[h];
      s.head_mass[h] = at + 0.0625f;
      const double above = loss();
      s.head_mass[h] = at - 0.0625f;
      const double below = loss();
      s.head_mass[h] = at;
      const double slope = (above - below) / 0.125;
      EXPECT_NEAR(static_cast<double>(run.dhead_mass[h]), slope, 1e-3 * std::abs(slope) + 1e-4);
    }
  });
}

TEST(Combine, TellsWhatIsSeenDirectlyAndHowRegionsShare) {
  with_every_backend([] {
    for (const Partition& p : partitions_of(75, 9, 12)) {
      SCOPED_TRACE(describe(p));
      CombineSetup s = make_combine(p, 11, 6, 3, 2);
      add_padding(s);
      s.mass = 1.0f;
      s.dropout = s.region_dropout = 0.5f;  // weights are told as they are before it
      const Combined run = run_combine(s);
      for (int64_t h : {0, 1}) {
        double direct = 0, entropy = 0;
        int64_t queries = 0, with_regions = 0;
        for (int64_t b = 0; b < s.batch; ++b) {
          const auto out = kernels::reference::combine(combine_oracle(s, b, h));
          for (int64_t i = 0; i < s.n(); ++i) {
            if (s.mask[b * s.n() + i] == 0) continue;
            ++queries;
            direct += out.direct[static_cast<size_t>(i)];
            if (out.entropy[static_cast<size_t>(i)] < 0) continue;
            ++with_regions;
            entropy += out.entropy[static_cast<size_t>(i)];
          }
        }
        EXPECT_EQ(run.queries[h], queries);
        EXPECT_EQ(run.with_regions[h], with_regions);
        EXPECT_NEAR(run.direct_weight[h], direct, 1e-5 * direct);
        EXPECT_NEAR(run.region_entropy[h], entropy, 1e-4 * entropy);
      }
    }
  });
}

TEST(Combine, RegionsMayBeScoredAndPooledByOtherArrays) {
  using kernels::reference::Combiner;
  with_every_backend([] {
    CombineSetup s = make_combine({.length = 11, .block = 4}, 12, 3);
    s.region_q = random_normal(s.tokens(), 50);
    s.pooled_k = random_normal(s.tokens(), 51);
    const Combined run = run_combine(s);
    expect_close(run.o, oracle_output(s), kTolerance);
    expect_close(run.dregion_q, oracle_gradient(s, &Combiner::region_q), 5 * kTolerance);
    expect_close(run.dpooled_k, oracle_gradient(s, &Combiner::pooled_k), 5 * kTolerance);
    expect_close(run.dk, oracle_gradient(s, &Combiner::k), 5 * kTolerance);
  });
}

TEST(Combine, OfEqualValuesTheFirstTokensIsTheMaximum) {
  with_every_backend([] {
    for (const bool padded : {false, true}) {
      CombineSetup s = make_combine({.length = 8, .block = 4}, 13, 2, 1, 1);
      s.q.fill(0.5f);
      s.k.fill(0.25f);
      if (padded) {
        s.mask = Array<uint8_t>({1, 8}, {0, 1, 1, 1, 1, 1, 1, 0});
      }
      const Combined run = run_combine(s);
      for (int64_t x = 0; x < 2; ++x) {
        EXPECT_EQ(run.key_from[x], padded ? 1 : 0);
        EXPECT_EQ(run.key_from[2 + x], 4);
      }
      // Tokens of a region differ in nothing but in who got the gradient of the pooled key.
      const auto dk = [&](int64_t j) { return run.dk[2 * j]; };
      EXPECT_NE(dk(padded ? 1 : 0), dk(2));
    }
  });
}

TEST(Combine, TakesKeysOfTokensAndGivesTheirGradientsBack) {
  const Array<float> of_tokens({1, 1, 2, 2}, {1, 2, 3, 4}),
      dkeys({1, 1, 3, 2}, {5, 6, 7, 8, 9, 10});
  const Array<int32_t> from({1, 1, 3, 2}, {1, 0, -7, -7, 1, 1}), counts({1, 3}, {4, 0, 1});
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    const View<float> keys = memory.fresh<float>({1, 1, 3, 2});
    const View<float> dtokens = memory.zeros<float>({1, 1, 2, 2});
    const View<int32_t> taken_from = memory.put(from), tokens = memory.put(counts);
    kernels::take_keys(memory.stream(), {.key = keys,
                                         .token_key = memory.put(of_tokens),
                                         .from = taken_from,
                                         .region_tokens = tokens,
                                         .scratch = &memory.scratch()});
    EXPECT_EQ(memory.get(keys).values(), (std::vector<float>{3, 2, 0, 0, 3, 4}));
    kernels::take_keys_backward(memory.stream(), {.dtoken_key = dtokens,
                                                  .dkey = memory.put(dkeys),
                                                  .from = taken_from,
                                                  .region_tokens = tokens,
                                                  .scratch = &memory.scratch()});
    EXPECT_EQ(memory.get(dtokens).values(), (std::vector<float>{0, 6, 14, 10}));
  }
}

// --- CPU and CUDA --------------------------------------------------------------------------------

TEST(Combine, EveryDeviceTakesTheSameTokensAsMaxima) {
  for (const Partition& p : partitions_of(70, 8, 9)) {
    CombineSetup s = make_combine(p, 20, 6);
    add_padding(s);
    for (float& x : s.k.values()) x = std::round(2.0f * x) / 2.0f;  // many are equal
    const Array<int32_t> expected = run_combine(s).key_from;
    with_every_backend([&] {
      // A region that nobody sees is of no token.
      EXPECT_EQ(run_combine(s).key_from.values(), expected.values()) << describe(p);
    });
  }
}

/// Blocks that CUDA gives to tiles of tensor cores, larger than those of the oracle's tests: more
/// rows than a tile, blocks that fill one or not, other sizes of heads.
std::vector<CombineSetup> whole_blocks() {
  std::vector<CombineSetup> all;
  for (const bool causal : {false, true}) {
    for (const auto& [length, block, d] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
             {192, 64, 16}, {96, 32, 40}, {40, 1, 4}}) {
      CombineSetup s =
          make_combine({.is_causal = causal, .length = length, .block = block}, 22, d, 1, 2);
      all.push_back(s);
      add_padding(s);
      s.partition.overlaps_own = true;
      s.region_q = random_normal(s.tokens(), 52);
      all.push_back(s);
    }
  }
  return all;
}

TEST(Combine, TilesOfWholeBlocksGiveWhatTheCpuGives) {
  for (CombineSetup s : whole_blocks()) {
    SCOPED_TRACE(describe(s.partition));
    for (const Device device : test_devices()) {
      if (device == kCpuDevice) continue;
      for (const Precision storage : test_storages(device)) {
        const bool is_fp32 = storage == Precision::kFp32;
        for (Array<float>* x : {&s.q, &s.k, &s.v, &s.dout, &s.region_q})
          if (is_given(*x)) *x = rounded(*x, storage);
        const Combined expected = run_combine(s);
        DeviceMemory memory(device, {}, size_t{8} << 20);
        const Combined actual =
            run_combine(s, memory, memory.stream(), memory.scratch(), {}, storage);
        expect_close(actual.o, expected.o, is_fp32 ? 2e-5 : 0.03);
        expect_close(actual.dq, expected.dq, is_fp32 ? 1e-4 : 0.06);
        expect_close(actual.dk, expected.dk, is_fp32 ? 1e-4 : 0.06);
        expect_close(actual.dv, expected.dv, is_fp32 ? 1e-4 : 0.06);
        for (int64_t h : {0, 1}) {
          EXPECT_EQ(actual.queries[h], expected.queries[h]);
          EXPECT_EQ(actual.with_regions[h], expected.with_regions[h]);
          EXPECT_NEAR(actual.direct_weight[h], expected.direct_weight[h],
                      (is_fp32 ? 1e-5 : 0.02) * expected.direct_weight[h]);
          EXPECT_NEAR(actual.region_entropy[h], expected.region_entropy[h],
                      (is_fp32 ? 1e-4 : 0.02) * expected.region_entropy[h] + 1e-3);
        }
      }
    }
  }
}

TEST(Combine, StoredInHalfThePrecisionIsNear) {
  for (const Device device : test_devices()) {
    for (const Precision storage : test_storages(device)) {
      if (storage == Precision::kFp32) continue;
      for (const Partition& p : partitions_of(70, 8, 9)) {
        SCOPED_TRACE(describe(p));
        CombineSetup s = make_combine(p, 21, 40, 1, 2);
        for (Array<float>* x : {&s.q, &s.k, &s.v, &s.dout}) *x = rounded(*x, storage);
        add_padding(s);
        const Combined expected = run_combine(s);
        DeviceMemory memory(device);
        const Combined actual =
            run_combine(s, memory, memory.stream(), memory.scratch(), {}, storage);
        expect_close(actual.o, expected.o, 0.02);
        expect_close(actual.dq, expected.dq, 0.02);
        expect_close(actual.dk, expected.dk, 0.02);
        expect_close(actual.dv, expected.dv, 0.02);
      }
    }
  }
}

// --- by hand -------------------------------------------------------------------------------------

/// The matrix of four tokens with equal scores: o where v is the unit matrix.
Array<float> weights_of_four(Partition p, float mass = 0.0f) {
  p.length = 4;
  CombineSetup s = make_combine(p, 1, 4, 1, 1);
  s.q.fill(0.0f);
  s.v.fill(0.0f);
  for (int64_t j = 0; j < 4; ++j) s.v[5 * j] = 1.0f;
  s.mass = mass;
  return run_combine(s).o;
}

void expect_weights(const Array<float>& actual, const std::vector<double>& expected) {
  for (size_t x = 0; x < expected.size(); ++x)
    EXPECT_NEAR(static_cast<double>(actual.values()[x]), expected[x], 1e-6) << x;
}

TEST(Combine, GivesTheWeightsThatAreFoundByHand) {
  constexpr double kThird = 1.0 / 3, kSixth = 1.0 / 6;
  with_every_backend([] {
    expect_weights(weights_of_four({.block = 2}),
                   {kThird, kThird, kSixth, kSixth, kThird, kThird, kSixth, kSixth,  //
                    kSixth, kSixth, kThird, kThird, kSixth, kSixth, kThird, kThird});
    expect_weights(weights_of_four({.is_causal = true, .block = 2}),
                   {1, 0, 0, 0, 0.5, 0.5, 0, 0, 0.25, 0.25, 0.5, 0,  //
                    kSixth, kSixth, kThird, kThird});
    expect_weights(weights_of_four({.kind = PartitionKind::kLogsparse}),
                   {kThird, kThird, kSixth, kSixth});
    for (const PartitionKind kind : {PartitionKind::kFixed, PartitionKind::kLogsparse})
      expect_weights(weights_of_four({.kind = kind, .block = 2}, 1.0f), Doubles(16, 0.25));
  });
}

// --- mutants -------------------------------------------------------------------------------------

CombineSetup padded_blocks(bool causal) {
  CombineSetup s = make_combine({.is_causal = causal, .length = 22, .block = 4}, 14);
  add_padding(s);
  return s;
}

TEST(CombineMutants, AreFarFromTheDefinition) {
  const CombineSetup s = padded_blocks(false);
  EXPECT_LT(distance(s, run_combine(s)), kTolerance);
  CombineSetup twice = s;
  twice.partition.overlaps_own = true;
  EXPECT_GT(distance(s, run_combine(twice)), 0.02) << "own block twice";
  EXPECT_GT(distance(s, run_combine(s, {.masks_regions = false})), 0.02) << "padded regions";
  EXPECT_GT(distance(s, run_combine(s, {.query_scale = s.scale})), 0.02)
      << "scale twice on the pooled query";
  CombineSetup future = padded_blocks(true), past = padded_blocks(false);
  EXPECT_GT(distance(future, run_combine(past)), 0.02) << "regions of the future";
}

TEST(CombineMutants, GradientOfTheWrongTokenShows) {
  const CombineSetup s = make_combine({.length = 13, .block = 4}, 15, 3);
  const Array<double> expected = oracle_gradient(s, &kernels::reference::Combiner::k);
  const Combined right = run_combine(s), wrong = run_combine(s, {.shift_from = 1});
  expect_close(right.dk, expected, 5 * kTolerance);
  double worst = 0;
  for (int64_t x = 0; x < expected.numel(); ++x)
    worst = std::max(worst, std::abs(expected[x] - static_cast<double>(wrong.dk[x])));
  EXPECT_GT(worst, 0.02);
}

// --- of every operation --------------------------------------------------------------------------

TEST(Combine, SameBitsForAnyThreads) {
  with_every_backend([] {
    for (const Partition& p : partitions_of(40, 8, 6)) {
      CombineSetup s = make_combine(p, 16, 3, 1, 3);
      s.mass = 1.0f;
      s.head_mass = Array<float>({3}, {1.0f, 0.5f, 2.0f});
      s.dropout = s.region_dropout = s.token_dropout = 0.2f;
      if (combine_device() != kCpuDevice) {
        EXPECT_TRUE(run_combine(s) == run_combine(s)) << describe(p);
        continue;
      }
      DeviceMemory memory(kCpuDevice);
      expect_same_bits_for_any_threads([&](const Stream& stream, Arena& scratch) {
        return run_combine(s, memory, stream, scratch);
      });
    }
  });
}

/// d (dout . o) / d step, where q, k and v go along `along` by step, of the oracle of one problem.
double oracle_slope(const CombineSetup& s, const std::array<Array<float>, 3>& along) {
  constexpr double kStep = 1e-5;
  const auto loss_at = [&](double step) {
    using kernels::reference::Combiner;
    Combiner c = combine_oracle(s, 0, 0);
    size_t which = 0;
    for (Doubles Combiner::*rows : {&Combiner::q, &Combiner::k, &Combiner::v}) {
      for (size_t x = 0; x < (c.*rows).size(); ++x)
        (c.*rows)[x] += step * static_cast<double>(along[which].values()[x]);
      ++which;
    }
    return dot(s.dout, kernels::reference::combine(c).o);
  };
  return (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
}

/// A long sequence is cut into runs of queries, which threads share.
TEST(Combine, RunsOfQueriesAreOneAttention) {
  for (const bool causal : {false, true}) {
    for (const Partition& p : std::vector<Partition>{
             {.is_causal = causal, .length = 1300, .block = 48, .shift = 24},
             {.kind = PartitionKind::kLogsparse, .is_causal = causal, .length = 1300}}) {
      SCOPED_TRACE(describe(p));
      CombineSetup s = make_combine(p, 24, 3, 1, 1);
      add_padding(s);
      s.mass = 1.0f;
      s.head_mass = Array<float>({1}, {0.8f});
      const std::array<Array<float>, 3> along = {random_normal(s.tokens(), 60),
                                                 random_normal(s.tokens(), 61),
                                                 random_normal(s.tokens(), 62)};
      const Array<double> o = oracle_output(s);
      const double expected_slope = oracle_slope(s, along);
      const cpu::Isa before = cpu::isa();
      for (const cpu::Isa isa : cpu::available_isas()) {
        cpu::set_isa(isa);
        const Combined run = run_combine(s);
        expect_close(run.o, o, kTolerance);
        const double slope = dot(along[0], to_double(run.dq)) + dot(along[1], to_double(run.dk)) +
                             dot(along[2], to_double(run.dv));
        EXPECT_NEAR(slope, expected_slope, 1e-4 * std::abs(expected_slope) + 1e-3)
            << cpu::isa_name(isa);
      }
      cpu::set_isa(before);
      s.dropout = s.region_dropout = s.token_dropout = 0.2f;
      DeviceMemory memory(kCpuDevice);
      expect_same_bits_for_any_threads([&](const Stream& stream, Arena& scratch) {
        return run_combine(s, memory, stream, scratch);
      });
    }
  }
}

TEST(Combine, AShorterSequencePlansNoMoreScratch) {
  for (const Device device : test_devices()) {
    const Device meta = meta_device(device.type);
    for (const int64_t block : {1, 48, 1000}) {
      size_t before = 0;
      for (int64_t length : {100, 1000, 1024, 1100, 2049, 4000, 8000, 8192, 8193, 8255, 9000}) {
        DeviceMemory memory(device);
        Arena planned("scratch", meta);
        run_combine(make_combine({.length = length, .block = block}, 25, 2, 1, 1), memory,
                    Stream(meta, {.threads = 2}), planned);
        EXPECT_GE(planned.peak(), before) << length << " by blocks of " << block;
        before = planned.peak();
      }
    }
  }
}

TEST(Combine, MetaCountsScratch) {
  const CombineSetup s = make_combine({.length = 40, .block = 8}, 17);
  for (const Device device : test_devices()) {
    DeviceMemory memory(device);
    expect_meta_counts_scratch(device, [&](const Stream& stream, Arena& scratch) {
      run_combine(s, memory, stream, scratch);
    });
  }
}

/// Which way is taken depends on dropout and on the length: a plan of the longest sequence, with
/// dropout, must have room for all that a run may meet.
TEST(Combine, APlanOfTheLongestSufficesForShorterOnesAndForEvaluation) {
  constexpr int64_t kLongest = 43;  // no multiple of the block, 40 and less are
  for (const Device device : test_devices()) {
    for (const Precision storage : test_storages(device)) {
      for (Partition p : partitions_of(kLongest, 8, 7)) {
        DeviceMemory memory(device);
        const auto run = [&](int64_t length, float dropout, const Stream& stream, Arena& scratch) {
          p.length = length;
          CombineSetup s = make_combine(p, 23, 8, 1, 2);
          add_padding(s);
          s.dropout = dropout;
          run_combine(s, memory, stream, scratch, {}, storage);
          stream.synchronize();
        };
        const Device meta = meta_device(device.type);
        Arena planned("scratch", meta);
        run(kLongest, 0.3f, Stream(meta, {.threads = 2}), planned);
        const Stream stream(device, {.threads = 2});
        Arena scratch("scratch", device, planned.peak());
        const bool has_ways = p.kind == PartitionKind::kFixed;
        for (int64_t length :
             has_ways ? std::vector<int64_t>{43, 40, 16, 8} : std::vector<int64_t>{17}) {
          for (const float dropout : {0.0f, 0.3f})
            EXPECT_NO_THROW(run(length, dropout, stream, scratch))
                << describe(p) << ", dropout " << dropout << ", " << stipple::name_of(storage);
        }
      }
    }
  }
}

TEST(Combine, ASequenceOfPaddingGivesZerosAndNoGradient) {
  with_every_backend([] {
    for (const Partition& p : partitions_of(9)) {
      CombineSetup s = make_combine(p, 18);
      s.mask = Array<uint8_t>({s.batch, s.n()});
      const Combined run = run_combine(s);
      for (const Array<float>* x : {&run.o, &run.dq, &run.dk, &run.dv}) {
        for (float value : x->values()) ASSERT_EQ(value, 0.0f) << describe(p);
      }
      EXPECT_EQ(run.lse[0], -std::numeric_limits<float>::infinity());
    }
  });
}

TEST(Combine, RefusesWhatDoesNotFit) {
  CombineSetup s = make_combine({.length = 8, .block = 4}, 19);
  s.partition.length = 9;
  EXPECT_THROW(run_combine(s), ShapeError);
  s = make_combine({.length = 8, .block = 4, .shift = 4}, 19);
  EXPECT_THROW(run_combine(s), Error);
  s = make_combine({.length = 8, .block = 4}, 19);
  s.region_q = random_normal({2, 2, 7, 5}, 1);
  EXPECT_THROW(run_combine(s), ShapeError);
  Array<float> keys({1, 1, 2, 3}), of_tokens({1, 1, 4, 2});
  const Array<int32_t> from({1, 1, 2, 3}), counts({1, 2});
  Arena scratch("scratch", kCpuDevice, 1024);
  EXPECT_THROW(kernels::take_keys(Stream(kCpuDevice), {.key = keys,
                                                       .token_key = of_tokens,
                                                       .from = from,
                                                       .region_tokens = counts,
                                                       .scratch = &scratch}),
               ShapeError);
  s = make_combine({.length = 8, .block = 4}, 19);
  s.dropout = 1.0f;
  EXPECT_THROW(run_combine(s), Error);
}

}  // namespace
}  // namespace stipple::test
