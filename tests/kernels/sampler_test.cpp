// SPDX-License-Identifier: Apache-2.0
// What one graph shows of a sampler: its bits, on any instruction set, of any part of a batch, and the same as yesterday; limits, plans and
// cost. That many graphs follow the law is in sampler_law_test.cpp.
#include <gtest/gtest.h>

#include <cmath>

#include "core/cpu/isa.h"
#include "kernels/cpu/sample/rows.h"
#include "kernels/cpu/sample/scratch.h"
#include "kernels/math/thinning.h"
#include "tests/support/alias_tables.h"
#include "tests/support/sampler_checks.h"

namespace stipple::test {
namespace {

namespace math = kernels::math;

// Different numbers for every problem, a width that fills no vector, ragged padding.
SbmCase large_case(int64_t batch, int64_t heads, int64_t n, int64_t k) {
  SbmCase c{.batch = batch, .heads = heads, .n = n, .m = n, .k = k};
  for (int64_t e = 0; e < batch * heads * n * k; ++e) {
    c.mu.push_back(static_cast<float>(scatter(e, 0, 5) * 0.5 / static_cast<double>(k)));
    c.z.push_back(static_cast<float>(scatter(e, 1, 5)));
  }
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < n; ++i) {
      c.query_mask.push_back(scatter(b, i, 6) < 0.8 ? 1 : 0);
      c.key_mask.push_back(scatter(b, i, 7) < 0.8 ? 1 : 0);
    }
  }
  return c;
}

/// Everything an EdgeSet says about problem p, in one comparable piece.
std::vector<uint32_t> contents(const kernels::EdgeSet& edges, int64_t p) {
  std::vector<uint32_t> all{static_cast<uint32_t>(edges.form[p])};
  for (int64_t i = 0; i <= edges.num_queries; ++i) {
    all.push_back(static_cast<uint32_t>(edges.row_ptr.at(p)[i]));
  }
  const int64_t words = edges.form[p] == kernels::EdgeForm::kBits
                            ? edges.num_queries * edges.words_per_row()
                            : edges.num_edges(p);
  all.insert(all.end(), edges.storage.at(p).data, edges.storage.at(p).data + words);
  for (int64_t e = 0; edges.capacity.multiplicity && e < words; ++e) {
    all.push_back(edges.multiplicity.at(p)[e]);
  }
  return all;
}

std::vector<std::vector<uint32_t>> all_contents(const kernels::EdgeSet& edges) {
  std::vector<std::vector<uint32_t>> all;
  for (int64_t p = 0; p < edges.num_problems(); ++p) all.push_back(contents(edges, p));
  return all;
}

TEST(Thinning, OversamplingAndRatioUndoEachOther) {
  for (double bound : {1e-9, 1e-4, 0.01, 0.3, 0.9, 0.98}) {
    const double c = math::oversampling(bound);
    EXPECT_NEAR(c, -std::log1p(-bound) / bound, 1e-8 * c);
    EXPECT_GE(c, -std::log1p(-bound) / bound);
    for (double fraction : {1e-3, 0.1, 0.5, 1.0}) {
      const double p = fraction * bound;
      EXPECT_NEAR(math::thinning_ratio(p, c), p / -std::expm1(-c * p), 1e-9) << bound << " " << p;
      EXPECT_LE(math::thinning_ratio(p, c), 1.0 + 1e-9);
    }
  }
}

TEST(Thinning, CertainWordsAreBelowEveryRatio) {
  EXPECT_EQ(math::certain_word(0.0), 0u);
  for (double bound : {1e-9, 1e-4, 0.01, 0.3, 0.9, 0.98}) {
    const double c = math::oversampling(bound);
    const auto certain = static_cast<double>(math::certain_word(c));
    EXPECT_NEAR(certain, 0x1p32 / c, 8.0);
    for (double fraction : {0.0, 1e-9, 1e-6, 1e-3, 0.1, 0.5, 1.0}) {
      EXPECT_LT(certain, math::thinning_ratio(fraction * bound, c) * 0x1p32) << bound;
    }
  }
}

TEST(Thinning, PositiveProbabilityIsOneMinusExp) {
  for (float rate : {0.0f, 1e-7f, 1e-3f, 0.25f, 1.0f, 3.0f, 10.0f, 40.0f}) {
    const double expected = -std::expm1(-static_cast<double>(rate));
    EXPECT_NEAR(static_cast<double>(math::positive_probability(rate)), expected, 1e-6 * expected);
  }
}

TEST(SumTree, FindsTheFirstSumAboveAnyNumberAtEveryDepth) {
  for (int64_t count : {1, 2, 7, 8, 9, 63, 64, 65, 129, 513, 5000}) {
    SCOPED_TRACE(count);
    const kernels::cpu::SumTree tree(count);
    std::vector<uint64_t> sums(static_cast<size_t>(tree.size));
    uint64_t sum = 0;
    for (int64_t e = 0; e < count; ++e) {
      // Every third weight is 0: its entry must never be found.
      sums[static_cast<size_t>(e)] = sum += e % 3 == 1 ? 0 : 1 + static_cast<uint64_t>(e % 5);
    }
    const std::vector<uint64_t> plain(sums.begin(), sums.begin() + count);
    tree.build(sums.data());
    for (uint64_t x = 0; x < sum; ++x) {
      const auto expected = std::upper_bound(plain.begin(), plain.end(), x) - plain.begin();
      ASSERT_EQ(kernels::math::first_above(tree, sums.data(), x), expected) << x;
    }
  }
}

/// Few distinct weights and rates, so that many draws fall on a boundary. Odd keys and odd clusters
/// have weight 0.
struct SmallTables {
  static constexpr int64_t kClusters = 20;
  static constexpr int64_t kKeys = 1200;

  SmallTables() {
    for (int64_t v = 0; v < kClusters; ++v) {
      Weights weights;
      for (int64_t j = 0; j < kKeys; ++j) {
        weights.push_back(j % 2 == 0 ? static_cast<uint32_t>((j + v) % 7 / 2) : 0);
      }
      const AliasTable table = make_alias_table(weights);
      entries.insert(entries.end(), table.begin(), table.end());
      rates[static_cast<size_t>(v)] = static_cast<uint64_t>(v / 2 + 1);
    }
    rates[kClusters] = kClusters / 2;  // no exploration
    rate_tree.build(rates.data());
  }

  std::vector<uint32_t> draw(const kernels::cpu::SampleKernels& sampler) {
    const kernels::cpu::KeyTables tables{
        .num_clusters = kClusters, .num_keys = kKeys, .entries = entries.data()};
    const kernels::cpu::RowDraws row{&tables, rate_tree, rates.data(), {5, 6}, {}};
    std::vector<uint32_t> keys(20001);
    sampler.draw_keys(row, static_cast<int64_t>(keys.size()), keys.data());
    return keys;
  }

  AliasTable entries;
  kernels::cpu::SumTree rate_tree{kClusters + 1};
  std::vector<uint64_t> rates = std::vector<uint64_t>(static_cast<size_t>(rate_tree.size));
};

TEST(KeyTables, EveryInstructionSetDrawsTheSameKeys) {
  SmallTables tables;
  const stipple::cpu::Isa before = stipple::cpu::isa();
  const std::vector<uint32_t> expected = tables.draw(kernels::cpu::kSampleScalar);
  for (uint32_t key : expected) ASSERT_EQ(key % 2, 0u);
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    EXPECT_EQ(tables.draw(kernels::cpu::sample_kernels()), expected) << isa_name(isa);
  }
  stipple::cpu::set_isa(before);
}

TEST(KeySet, ReturnsWhatWasInsertedInOrderAndOnlyOnce) {
  constexpr int64_t kKeys = 300000;
  std::vector<uint64_t> words(static_cast<size_t>(kernels::cpu::KeySet::num_words(kKeys)),
                              ~uint64_t{0});
  kernels::cpu::KeySet set(words.data(), kKeys);
  for (uint32_t key : {299999u, 64u, 0u, 4096u, 63u, 64u, 262144u, 0u}) set.insert(key);
  uint32_t keys[8] = {};
  int64_t seen = 0;
  ASSERT_EQ(set.take(keys, seen), 6);
  EXPECT_EQ(std::vector<uint32_t>(keys, keys + 6),
            (std::vector<uint32_t>{0, 63, 64, 4096, 262144, 299999}));
  EXPECT_EQ(set.take(keys, seen), 0);
}

/// FNV-1a over the graphs of every law and sampler.
uint64_t hash_of(const std::vector<std::vector<uint32_t>>& graphs) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const std::vector<uint32_t>& graph : graphs) {
    for (uint32_t word : graph) {
      for (int byte = 0; byte < 4; ++byte)
        hash = (hash ^ (word >> 8 * byte & 0xff)) * 0x100000001b3;
    }
  }
  return hash;
}

// Graphs are the same on every instruction set, device and number of threads, so they are also the same as when the laws were last
// tested on thousands of them. A change that is meant: `ctest -L statistics` must pass with it; then the new hashes go in here.
TEST(Sampler, DrawsTheGraphsThatPassedTheStatistics) {
  constexpr uint64_t kHashes[] = {14942096987916245620u, 10918001817125709041u,
                                  2995071356476728820u,  13142352726052618997u,
                                  16686398183291446207u, 2228158556515205763u};
  SbmCase c = large_case(2, 2, 300, 21);
  c.delta = 0.01f;
  c.window_radius = 0;
  for (int64_t v = 0; v < 4 * c.k; ++v)
    c.mu[static_cast<size_t>(v)] = 1.0f;  // too dense to be thinned
  const uint64_t* expected = kHashes;
  for_each_sampler(c, [&](const SbmCase& any, const EdgeSampler& sampler) {
    EXPECT_EQ(hash_of(all_contents(sampler.sample(any, {.step = 7, .layer = 1}))), *expected++);
  });
}

TEST(Sampler, NoEdgeTouchesPadding) {
  SbmCase c = large_case(2, 2, 200, 20);
  c.delta = 0.02f;
  for (size_t i = 0; i < c.mu.size(); ++i) {
    const size_t token = i / static_cast<size_t>(c.k);
    const size_t b = token / static_cast<size_t>(c.n * c.heads),
                 t = token % static_cast<size_t>(c.n);
    if (c.query_mask[b * static_cast<size_t>(c.n) + t] == 0) c.mu[i] = i % 2 ? 9.0f : NAN;
    if (c.key_mask[b * static_cast<size_t>(c.n) + t] == 0) c.z[i] = i % 2 ? 9.0f : NAN;
  }
  for_each_sampler(c, [](const SbmCase& padded, const EdgeSampler& sampler) {
    std::vector<uint8_t> counts;
    sampler(padded, {}, counts);
    for (int64_t p = 0, e = 0; p < padded.problems(); ++p) {
      for (int64_t i = 0; i < padded.n; ++i) {
        for (int64_t j = 0; j < padded.m; ++j, ++e) {
          if (!padded.is_real(p, i, j)) {
            ASSERT_EQ(counts[static_cast<size_t>(e)], 0) << i << " " << j;
          }
        }
      }
    }
  });
}

TEST(Sampler, AnyNumberOfThreadsAndAnyReplayGivesTheSameBits) {
  for_each_sampler(large_case(2, 2, 800, 21), [](const SbmCase& c, const EdgeSampler& once) {
    const auto expected = all_contents(once.sample(c, {.step = 3}));
    EXPECT_EQ(all_contents(once.sample(c, {.step = 3})), expected);
    EXPECT_NE(all_contents(once.sample(c, {.step = 4})), expected);
    for (int threads : {2, 3}) {
      const EdgeSampler other(once.is_tiles() ? SamplerKind::kTiles : SamplerKind::kRows, threads);
      EXPECT_EQ(all_contents(other.sample(c, {.step = 3})), expected) << threads << " threads";
    }
  });
}

TEST(Sampler, SplittingTheBatchOrTheHeadsChangesNothing) {
  const SbmCase whole = large_case(2, 2, 200, 20);
  for_each_sampler(whole, [](const SbmCase& c, const EdgeSampler& sampler) {
    const auto expected =
        all_contents(sampler.sample(c, {.step = 3, .layer = 1, .first_sample = 40}));
    for (int64_t p = 0; p < c.problems(); ++p) {
      const int64_t b = p / c.heads;
      SbmCase part{.n = c.n, .m = c.m, .k = c.k, .law = c.law};
      part.mu.assign(c.mu.begin() + p * c.n * c.k, c.mu.begin() + (p + 1) * c.n * c.k);
      part.z.assign(c.z.begin() + p * c.m * c.k, c.z.begin() + (p + 1) * c.m * c.k);
      part.query_mask.assign(c.query_mask.begin() + b * c.n, c.query_mask.begin() + (b + 1) * c.n);
      part.key_mask.assign(c.key_mask.begin() + b * c.m, c.key_mask.begin() + (b + 1) * c.m);
      const DrawName name{.step = 3,
                          .layer = 1,
                          .first_head = static_cast<int>(p % c.heads),
                          .first_sample = 40 + static_cast<uint32_t>(b)};
      EXPECT_EQ(contents(sampler.sample(part, name), 0), expected[static_cast<size_t>(p)]) << p;
    }
  });
}

void expect_same_bits_on_every_isa(const SbmCase& c) {
  const stipple::cpu::Isa before = stipple::cpu::isa();
  for_each_sampler(c, [](const SbmCase& any, const EdgeSampler& sampler) {
    stipple::cpu::set_isa(stipple::cpu::Isa::kScalar);
    const auto expected = all_contents(sampler.sample(any, {.step = 9}));
    for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
      stipple::cpu::set_isa(isa);
      for (bool vnni : {false, true}) {
        stipple::cpu::allow_vnni(vnni);
        EXPECT_EQ(all_contents(sampler.sample(any, {.step = 9})), expected)
            << isa_name(isa) << (vnni ? " with VNNI" : "");
      }
    }
  });
  stipple::cpu::set_isa(before);
}

TEST(Sampler, EveryInstructionSetGivesTheSameBits) {
  for (int64_t k : {1, 7, 16, 21, 64}) {
    SCOPED_TRACE(k);
    SbmCase c = large_case(1, 1, 203, k);
    c.delta = 0.003f;
    // Rows beyond what can be thinned are drawn pair by pair.
    for (int64_t v = 0; v < 4 * k; ++v) c.mu[static_cast<size_t>(v)] = 1.0f;
    expect_same_bits_on_every_isa(c);
  }
}

TEST(Sampler, EveryInstructionSetGivesTheSameBitsForManyKeys) {
  SbmCase c = large_case(1, 1, 9000, 9);
  c.n = 16;
  c.mu.resize(static_cast<size_t>(c.n * c.k));
  c.query_mask.resize(static_cast<size_t>(c.n));
  c.delta = 0.003f;
  expect_same_bits_on_every_isa(c);
}

TEST(Sampler, RowsAreSortedUniqueAndInBounds) {
  SbmCase c = large_case(1, 2, 301, 9);
  c.window_radius = 5;
  for_each_sampler(c, [](const SbmCase& any, const EdgeSampler& sampler) {
    const kernels::EdgeSet edges = sampler.sample(any, {});
    for (int64_t p = 0; p < edges.num_problems(); ++p) {
      EXPECT_EQ(edges.row_ptr.at(p)[0], 0);
      EXPECT_GT(edges.num_edges(p), any.n);
      for (int64_t i = 0; i < any.n; ++i) {
        ASSERT_GE(edges.degree(p, i), 0);
        if (edges.form[p] == kernels::EdgeForm::kBits) {
          int64_t bits = 0;
          for (int64_t w = 0; w < edges.words_per_row(); ++w) {
            bits += __builtin_popcount(edges.bits(p, i)[w]);
          }
          ASSERT_EQ(bits, edges.degree(p, i));
          ASSERT_EQ(edges.bits(p, i)[edges.words_per_row() - 1] >> (any.m % 32), 0u);
          continue;
        }
        for (int32_t e = edges.row_ptr.at(p)[i]; e < edges.row_ptr.at(p)[i + 1]; ++e) {
          ASSERT_LT(edges.columns(p)[e], any.m);
          if (e > edges.row_ptr.at(p)[i]) {
            ASSERT_LT(edges.columns(p)[e - 1], edges.columns(p)[e]);
          }
          if (edges.capacity.multiplicity) {
            ASSERT_GE(edges.multiplicity.at(p)[e], 1);
          }
        }
      }
    }
  });
}

TEST(Sampler, TheWindowIsThereOfRealTokensAndChangesNothingElse) {
  SbmCase c = large_case(1, 1, 70, 5);
  for_each_sampler(c, [](const SbmCase& without, const EdgeSampler& sampler) {
    std::vector<uint8_t> plain, windowed;
    sampler(without, {.step = 1}, plain);
    for (const int64_t radius : {0, 1, 9, 33, 69, 1000}) {
      SbmCase with = without;
      with.window_radius = radius;
      sampler(with, {.step = 1}, windowed);
      for (int64_t i = 0; i < with.n; ++i) {
        for (int64_t j = 0; j < with.m; ++j) {
          const auto e = static_cast<size_t>(i * with.m + j);
          const uint8_t least = std::abs(i - j) <= radius && with.is_real(0, i, j) ? 1 : 0;
          ASSERT_EQ(windowed[e], std::max(plain[e], least)) << radius << " " << i << " " << j;
        }
      }
    }
  });
}

TEST(Sampler, NanProbabilitiesGiveNoEdges) {
  SbmCase c = large_case(1, 1, 70, 5);
  std::fill(c.mu.begin(), c.mu.end(), NAN);
  for_each_sampler(c, [](const SbmCase& broken, const EdgeSampler& sampler) {
    EXPECT_EQ(sampler.sample(broken, {}).num_edges(0), 0);
  });
  std::fill(c.mu.begin(), c.mu.end(), 0.1f);
  std::fill(c.z.begin(), c.z.end(), NAN);
  for_each_sampler(c, [](const SbmCase& broken, const EdgeSampler& sampler) {
    EXPECT_EQ(sampler.sample(broken, {}).num_edges(0), 0);
  });
}

// Mean probability 0.1 for problem 0, 0.4 for problem 1.
SbmCase two_densities() {
  SbmCase c{.heads = 2, .n = 64, .m = 64, .k = 1};
  c.mu.assign(64, 0.1f);
  c.mu.resize(128, 0.4f);
  c.z.assign(128, 1.0f);
  return c;
}

TEST(Sampler, AutoSplitsProblemsAtTheTileDensity) {
  const SbmCase c = two_densities();
  const EdgeSampler automatic(SamplerKind::kAuto);
  automatic.memory().rewind(0);
  const auto form_of = [&](const SbmCase& x, const kernels::EdgeCapacity& capacity, int64_t p) {
    return automatic
        .sample_into(kernels::alloc_edges(automatic.memory(), 2, 64, 64, capacity), x, {})
        .form[p];
  };
  using kernels::EdgeForm;
  EXPECT_EQ(form_of(c, {.tile_density = 0.25}, 0), EdgeForm::kCsr);
  EXPECT_EQ(form_of(c, {.tile_density = 0.25}, 1), EdgeForm::kBits);
  EXPECT_EQ(form_of(c, {.tile_density = 0.05}, 0), EdgeForm::kBits);
  EXPECT_EQ(form_of(c, {.tile_density = 0.5, .max_density = 0.45}, 1), EdgeForm::kCsr);
  SbmCase explored = c;
  explored.delta = 0.2f;
  EXPECT_EQ(form_of(explored, {.tile_density = 0.25}, 0), EdgeForm::kBits);
}

TEST(Sampler, TilesFallBackToRowsWhereNoBitsAreReserved) {
  const SbmCase c = two_densities();
  const EdgeSampler tiles(SamplerKind::kTiles);
  tiles.memory().rewind(0);
  const kernels::EdgeSet edges =
      kernels::alloc_edges(tiles.memory(), 2, 64, 64, {.tile_density = 0.9, .max_density = 0.8});
  EXPECT_EQ(all_contents(tiles.sample_into(edges, c, {})),
            all_contents(EdgeSampler(SamplerKind::kRows).sample(c, {})));
}

TEST(Sampler, TooManyEdgesForTheRoomAreRefused) {
  const SbmCase c = two_densities();
  const EdgeSampler rows(SamplerKind::kRows);
  rows.memory().rewind(0);
  const kernels::EdgeSet edges =
      kernels::alloc_edges(rows.memory(), 2, 64, 64, {.tile_density = 0.9, .max_density = 0.15});
  EXPECT_THROW(rows.sample_into(edges, c, {}), kernels::EdgeRoomError);
}

TEST(Sampler, MisshapenArgumentsAreRefused) {
  const EdgeSampler rows(SamplerKind::kRows);
  SbmCase c = two_densities();
  c.delta = 1.5f;
  EXPECT_THROW(rows.sample(c, {}), Error);
  c.delta = 0.0f;
  const kernels::EdgeSet small = kernels::alloc_edges(rows.memory(), 2, 63, 64, {});
  EXPECT_THROW(rows.sample_into(small, c, {}), ShapeError);
  c.law = MaskLaw::kPoissonMulti;
  EXPECT_THROW(rows.sample_into(kernels::alloc_edges(rows.memory(), 2, 64, 64, {}), c, {}), Error);
}

TEST(Sampler, PlanningCountsTheScratchThatIsUsed) {
  SbmCase c = two_densities();
  for_each_sampler(c, [](const SbmCase& any, const EdgeSampler& sampler) {
    const size_t before = sampler.scratch().peak();
    sampler.sample(any, {});
    Arena memory("graphs"), scratch("scratch");
    const Stream planning(kMetaDevice);
    kernels::sample_edges(
        planning,
        {.edges = kernels::alloc_edges(memory, 2, 64, 64,
                                       {.tile_density = sampler.is_tiles() ? 0.0 : 1.0,
                                        .multiplicity = any.law == MaskLaw::kPoissonMulti}),
         .mu = View<const float>{nullptr, {1, 2, 64, 1}},
         .z = View<const float>{nullptr, {1, 2, 64, 1}},
         .expected = {nullptr, {2}},
         .samples = {nullptr, {1}},
         .law = any.law,
         .sampler = sampler.is_tiles() ? SamplerKind::kTiles : SamplerKind::kRows,
         .scratch = &scratch});
    EXPECT_EQ(before, 0u);
    EXPECT_EQ(scratch.peak(), sampler.scratch().peak());
  });
}

struct RowCost {
  double steps = 0;
  double bytes = 0;
};

RowCost cost_at_degree_64(int64_t n, MaskLaw law) {
  constexpr int64_t k = 4;
  const std::vector<float> mu(static_cast<size_t>(n * k), 64.0f / static_cast<float>(n * k) * 2);
  const std::vector<float> z(static_cast<size_t>(n * k), 0.5f);
  Arena arena("scratch", kCpuDevice, size_t{1} << 25);
  kernels::EdgeSet graph;
  graph.num_queries = n;
  graph.num_keys = n;
  const kernels::SampleEdges args{.edges = graph,
                                  .mu = {mu.data(), {1, 1, n, k}},
                                  .z = {z.data(), {1, 1, n, k}},
                                  .expected = {},
                                  .samples = {},
                                  .law = law,
                                  .sampler = SamplerKind::kRows};
  const kernels::cpu::SampleScratch scratch =
      kernels::cpu::alloc_sample_scratch(arena, args, /*threads=*/1);
  const kernels::cpu::SampleProblem problem{.mu = mu.data(),
                                            .z = z.data(),
                                            .num_queries = n,
                                            .num_keys = n,
                                            .num_clusters = k,
                                            .law = law,
                                            .key = {}};
  kernels::cpu::RowSampler sampler(problem, scratch, 0);
  int64_t edges = 0;
  for (int64_t i = 0; i < n; ++i) edges += sampler.sample(i);
  EXPECT_NEAR(static_cast<double>(edges) / static_cast<double>(n), 64.0, 3.0);
  const kernels::cpu::RowSamplerWork& work = sampler.work();
  return {static_cast<double>(work.draws + work.candidates + work.words + work.preparation),
          static_cast<double>(arena.peak())};
}

TEST(Sampler, AtFixedDegreeStepsAndBytesAreLinearInTheTokens) {
  for (MaskLaw law : {MaskLaw::kBernoulli, MaskLaw::kPoissonCollapse}) {
    SCOPED_TRACE(law_name(law));
    const RowCost small = cost_at_degree_64(1 << 11, law);
    const RowCost large = cost_at_degree_64(1 << 17, law);
    const double doublings = 6;
    EXPECT_LE(std::log2(large.steps / small.steps) / doublings, 1.1);
    EXPECT_LE(std::log2(large.bytes / small.bytes) / doublings, 1.1);
  }
}

}  // namespace
}  // namespace stipple::test
