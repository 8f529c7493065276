// SPDX-License-Identifier: Apache-2.0
// What is true of Combiner attention whatever the numbers: of the matrix that it amounts to, of its
// softmax, of the order in which it is computed.
#include <gtest/gtest.h>

#include "kernels/combine.h"
#include "tests/kernels/combine_reference.h"

namespace stipple::test {
namespace {

constexpr RegionPool kPools[] = {RegionPool::kMax, RegionPool::kMean, RegionPool::kSum};

/// Every cut of n tokens with every pool, with padding and without, and some options.
std::vector<CombineSetup> setups_of(int64_t n, int64_t d) {
  std::vector<CombineSetup> all;
  const auto add = [&](const Partition& p, RegionPool pool) {
    for (const bool padded : {false, true}) {
      all.push_back(make_combine(p, 31 + all.size(), d));
      all.back().pool = pool;
      if (padded) add_padding(all.back());
    }
  };
  for (Partition p : partitions_of(n)) {
    for (const RegionPool pool : kPools) add(p, pool);
    p.globals = 2;
    p.shift = p.kind == PartitionKind::kFixed ? 2 : 0;
    add(p, RegionPool::kMax);
    p.globals = p.shift = 0;
    p.overlaps_own = true;
    add(p, RegionPool::kMax);
  }
  return all;
}

bool is_real_token(const CombineSetup& s, int64_t b, int64_t i) {
  return !is_given(s.mask) || s.mask[b * s.n() + i] != 0;
}

// --- the matrix ----------------------------------------------------------------------------------

/// [B, H, N, N]: the output where values are the rows of the unit matrix.
Array<float> matrix_of(CombineSetup s) {
  s.v.fill(0.0f);
  for (int64_t row = 0; row < s.batch * s.heads * s.n(); ++row) s.v[row * s.d + row % s.n()] = 1.0f;
  return run_combine(s).o;
}

TEST(CombineIdentities, WeightsArePositiveOnWhatMayBeSeenAndSumToOne) {
  constexpr int64_t kN = 14;
  with_every_backend([] {
    for (const CombineSetup& s : setups_of(kN, /*d=*/kN)) {
      SCOPED_TRACE(describe(s.partition));
      const Array<float> weights = matrix_of(s);
      for (int64_t row = 0; row < s.batch * s.heads * kN; ++row) {
        const int64_t i = row % kN, b = row / kN / s.heads;
        if (!is_real_token(s, b, i)) continue;  // nobody looks at what it sees
        double sum = 0;
        for (int64_t j = 0; j < kN; ++j) {
          const float weight = weights[row * kN + j];
          const bool may_see = is_real_token(s, b, j) && (!s.partition.is_causal || j <= i);
          ASSERT_EQ(weight > 0, may_see) << "query " << i << ", token " << j << ": " << weight;
          sum += static_cast<double>(weight);
        }
        ASSERT_NEAR(sum, 1.0, 1e-5) << "query " << i;
      }
    }
  });
}

TEST(CombineIdentities, ABlockSeesAnotherByAMatrixOfRankOne) {
  constexpr int64_t kN = 16, kBlock = 4;
  for (const bool causal : {false, true}) {
    for (const RegionPool pool : kPools) {
      CombineSetup s = make_combine({.is_causal = causal, .length = kN, .block = kBlock}, 33, kN);
      s.pool = pool;
      add_padding(s);
      const Array<float> weights = matrix_of(s);
      const auto at = [&](int64_t i, int64_t j) {
        return static_cast<double>(weights[i * kN + j]);
      };
      for (int64_t i = 0; i < kN; ++i) {
        for (int64_t j = 0; j < kN; ++j) {
          const int64_t i0 = i / kBlock * kBlock + 1, j0 = j / kBlock * kBlock + 1;
          if (i / kBlock == j / kBlock) continue;
          EXPECT_NEAR(at(i0, j0) * at(i, j) - at(i0, j) * at(i, j0), 0, 1e-7) << i << ' ' << j;
        }
      }
    }
  }
}

// --- the softmax ---------------------------------------------------------------------------------

/// What forward leaves, on the host.
struct Forward {
  Array<float> o, lse, key, value;
  Array<int32_t> tokens;

  explicit Forward(const CombineSetup& s) {
    using namespace kernels;
    DeviceMemory memory(combine_device(), {}, size_t{2} << 20);
    const RealView q = memory.put(s.q), k = memory.put(s.k), v = memory.put(s.v);
    const View<const uint8_t> mask = is_given(s.mask) ? memory.put(s.mask) : View<uint8_t>{};
    const View<const uint32_t> samples = memory.put(s.samples);
    const auto drop = [&](float rate) {
      AttentionDropout dropout = s.drop(rate);
      dropout.samples = samples;
      return dropout;
    };
    Arena& scratch = memory.scratch();
    const Summaries summaries = alloc_summaries(scratch, Precision::kFp32, s.batch, s.heads, s.d,
                                                s.partition, s.pool, s.key);
    summarize_regions(memory.stream(), {.out = summaries,
                                        .q = q,
                                        .k = k,
                                        .v = v,
                                        .mask = mask,
                                        .partition = s.partition,
                                        .pool = s.pool,
                                        .key = s.key,
                                        .scale = s.scale,
                                        .dropout = drop(s.token_dropout),
                                        .scratch = &scratch});
    const View<float> output = memory.fresh<float>(s.tokens());
    const View<float> sums = memory.fresh<float>({s.batch, s.heads, s.n()});
    combine(memory.stream(), {.o = output,
                              .lse = sums,
                              .q = q,
                              .k = k,
                              .v = v,
                              .region_key = summaries.key,
                              .region_value = summaries.value,
                              .region_tokens = summaries.tokens,
                              .mask = mask,
                              .partition = s.partition,
                              .mass = {s.mass, {}},
                              .scale = s.scale,
                              .dropout = drop(s.dropout),
                              .region_dropout = drop(s.region_dropout),
                              .scratch = &scratch});
    o = memory.get(output);
    lse = memory.get(sums);
    key = memory.get(summaries.key.floats());
    value = memory.get(summaries.value.floats());
    tokens = memory.get(summaries.tokens);
  }
};

double product(const float* a, const float* b, int64_t d) {
  double sum = 0;
  for (int64_t x = 0; x < d; ++x) sum += static_cast<double>(a[x]) * static_cast<double>(b[x]);
  return sum;
}

/// sum of P dP over all that query i of problem (b, h) sees, dP being the gradient by P.
double mean_of_gradients(const CombineSetup& s, const Forward& f, int64_t b, int64_t h, int64_t i) {
  const int64_t n = s.n(), regions = s.partition.num_regions(), problem = b * s.heads + h;
  const float* q = &s.q[(problem * n + i) * s.d];
  const float* dout = &s.dout[(problem * n + i) * s.d];
  const kernels::Line all{0, 1, n}, behind{n, 1, regions};
  const Doubles keep = combine_factors(s, s.dropout, b, h, all, all);
  const Doubles keep_region = combine_factors(s, s.region_dropout, b, h, all, behind);
  const auto factor = [](const Doubles& factors, int64_t at) {
    return factors.empty() ? 1.0 : factors[static_cast<size_t>(at)];
  };
  const auto lse = static_cast<double>(f.lse[problem * n + i]);
  const auto scale = static_cast<double>(s.scale);
  const kernels::reference::Seen seen = kernels::reference::seen_by(s.partition, i);
  double sum = 0;
  for (const int64_t j : seen.direct) {
    if (!is_real_token(s, b, j)) continue;
    const int64_t at = (problem * n + j) * s.d;
    sum += std::exp(scale * product(q, &s.k[at], s.d) - lse) * factor(keep, i * n + j) *
           product(dout, &s.v[at], s.d);
  }
  for (const auto& region : seen.regions) {
    const int32_t tokens = f.tokens[b * regions + region.number];
    if (region.tokens.empty() || tokens == 0) continue;
    const int64_t at = (problem * regions + region.number) * s.d;
    const double mass = static_cast<double>(s.mass) * std::log(static_cast<double>(tokens));
    sum += std::exp(scale * product(q, &f.key[at], s.d) + mass - lse) *
           factor(keep_region, i * regions + region.number) * product(dout, &f.value[at], s.d);
  }
  return sum;
}

TEST(CombineIdentities, TheGradientsByWeightsHaveTheMeanThatTheOutputTells) {
  with_every_backend([] {
    for (CombineSetup s : setups_of(14, 3)) {
      SCOPED_TRACE(describe(s.partition));
      s.mass = 0.5f;
      for (const float rate : {0.0f, 0.4f}) {
        s.dropout = s.region_dropout = s.token_dropout = rate;
        const Forward f(s);
        for (int64_t row = 0; row < s.batch * s.heads * s.n(); ++row) {
          const int64_t i = row % s.n(), problem = row / s.n(), b = problem / s.heads;
          if (!is_real_token(s, b, i)) continue;
          const double delta = product(&s.dout[row * s.d], &f.o[row * s.d], s.d);
          ASSERT_NEAR(mean_of_gradients(s, f, b, problem % s.heads, i), delta, 2e-5)
              << "query " << i << ", dropout " << rate;
        }
      }
    }
  });
}

// --- the order -----------------------------------------------------------------------------------

template <class T>
Array<T> reversed(const Array<T>& x, int64_t n, int64_t d) {
  if (!is_given(x)) return x;
  Array<T> y(x.shape());
  for (int64_t e = 0; e < x.numel(); ++e) {
    const int64_t row = e / d, i = row % n;
    y[(row - i + n - 1 - i) * d + e % d] = x[e];
  }
  return y;
}

/// Turned round, blocks, spans, rows and columns of a cut that has no rest come in the opposite
/// order, and so do tokens within them and regions of a query.
TEST(CombineIdentities, TheOrderOfBlocksAndRegionsDoesNotMatter) {
  constexpr int64_t kN = 16, kD = 5;
  with_every_backend([] {
    for (const PartitionKind kind : kPartitionKinds) {
      for (const RegionPool pool : kPools) {
        for (const bool padded : {false, true}) {
          CombineSetup s =
              make_combine({.kind = kind, .length = kN, .block = 4, .columns = 4}, 34, kD);
          SCOPED_TRACE(describe(s.partition));
          // Where a token that is padding would ask, its neighbour on one side does.
          if (padded && kind == PartitionKind::kRowMajor) continue;
          s.pool = pool;
          s.mass = 1.0f;
          if (padded) add_padding(s);
          CombineSetup turned = s;
          for (Array<float>* x : {&turned.q, &turned.k, &turned.v, &turned.dout})
            *x = reversed(*x, kN, kD);
          turned.mask = reversed(s.mask, kN, 1);
          const Combined a = run_combine(s), b = run_combine(turned);
          const auto expect_same = [&](const Array<float>& x, const Array<float>& y,
                                       float tolerance) {
            const Array<float> back = reversed(y, kN, kD);
            for (int64_t e = 0; e < x.numel(); ++e) ASSERT_NEAR(x[e], back[e], tolerance) << e;
          };
          expect_same(a.o, b.o, 2e-5f);
          expect_same(a.dq, b.dq, 1e-4f);
          expect_same(a.dk, b.dk, 1e-4f);
          expect_same(a.dv, b.dv, 1e-4f);
        }
      }
    }
  });
}

/// Problem (b, h) of a setup alone.
CombineSetup problem_alone(const CombineSetup& s, int64_t b, int64_t h) {
  CombineSetup one = s;
  one.batch = one.heads = 1;
  const auto part = [&](const Array<float>& x) {
    Array<float> y(one.tokens());
    std::copy_n(x.values().begin() + (b * s.heads + h) * s.n() * s.d, y.numel(),
                y.values().begin());
    return y;
  };
  one.q = part(s.q), one.k = part(s.k), one.v = part(s.v), one.dout = part(s.dout);
  if (is_given(s.mask)) {
    one.mask = Array<uint8_t>({1, s.n()});
    std::copy_n(s.mask.values().begin() + b * s.n(), s.n(), one.mask.values().begin());
  }
  return one;
}

TEST(CombineIdentities, AHeadOfASequenceAloneHasTheBitsThatItHasAmongOthers) {
  with_every_backend([] {
    for (const CombineSetup& s : setups_of(14, 5)) {
      SCOPED_TRACE(describe(s.partition));
      const Combined all = run_combine(s);
      for (int64_t problem : {0, 3}) {
        const Combined one = run_combine(problem_alone(s, problem / s.heads, problem % s.heads));
        const auto expect_same = [&](const Array<float>& x, const Array<float>& y) {
          for (int64_t e = 0; e < y.numel(); ++e) ASSERT_EQ(x[problem * y.numel() + e], y[e]) << e;
        };
        expect_same(all.o, one.o);
        expect_same(all.dq, one.dq);
        expect_same(all.dk, one.dk);
        expect_same(all.dv, one.dv);
      }
    }
  });
}

}  // namespace
}  // namespace stipple::test
